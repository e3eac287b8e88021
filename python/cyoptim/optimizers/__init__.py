"""The optimizers, one file each: defaults, checks, and the scalars of a step."""

from cyoptim.optimizers.adagrad import Adagrad
from cyoptim.optimizers.adam import Adam
from cyoptim.optimizers.adamw import AdamW
from cyoptim.optimizers.rmsprop import RMSprop
from cyoptim.optimizers.sgd import SGD

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "RMSprop"]
