"""One optimizer over many processes."""

from cyoptim.distributed._communicators import Communicator
from cyoptim.distributed._communicators.local import Local
from cyoptim.distributed._errors import RankError
from cyoptim.distributed._sharded import Sharded

__all__ = ["Communicator", "Local", "RankError", "Sharded"]
