"""Code for other libraries, one file for each; imported only when needed."""
