"""The parts of :class:`cyoptim.LBFGS`."""
