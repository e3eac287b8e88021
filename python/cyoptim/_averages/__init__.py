"""Averages of parameters: those that follow an optimizer, and how all of them move."""
