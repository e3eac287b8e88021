"""Slow, obvious float64 NumPy, line for line from the papers."""
