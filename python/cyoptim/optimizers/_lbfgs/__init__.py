"""What :class:`cyoptim.LBFGS` is made of."""
