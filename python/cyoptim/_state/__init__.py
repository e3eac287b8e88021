"""The state of an optimizer: the entries of a parameter, and their form."""
