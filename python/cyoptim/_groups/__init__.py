"""Groups of parameters: what a constructor was given, their options and names."""
