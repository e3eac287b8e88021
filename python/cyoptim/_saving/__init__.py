"""State dicts: an optimizer's, as it is saved, and as one is matched, checked and loaded."""
