"""Arrays: what may be a parameter or a gradient, alone, sparse, or in nested containers."""
