"""Averages of parameters."""
