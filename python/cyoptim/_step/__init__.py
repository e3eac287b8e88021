"""What surrounds a step: hooks, its receipt, and gradients that a scaler has scaled."""
