"""The state of an optimizer: what it keeps for a parameter, saves and loads."""
