"""The state of an optimizer: what it keeps for a parameter, and in which form."""
