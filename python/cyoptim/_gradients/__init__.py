"""Gradients: put in the order of the parameters, and added up over several batches."""
