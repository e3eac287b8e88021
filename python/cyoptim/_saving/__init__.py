"""State dicts of optimizers: saved, matched, checked and loaded."""
