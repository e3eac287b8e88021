"""Gradients: aligned with the parameters, and accumulated over several batches."""
