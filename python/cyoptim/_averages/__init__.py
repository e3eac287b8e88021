"""Averages of parameters: those of an optimizer, and the functions that update averages."""
