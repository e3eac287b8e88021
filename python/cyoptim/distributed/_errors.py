"""The error of ranks on which nothing is wrong."""

from __future__ import annotations


class RankError(RuntimeError):
    """Another rank has failed, so that this one could not go on; nothing has changed here.

    The rank that has failed raises its own error.

    Parameters
    ----------
    message : str
        What was to be done, and what has happened on which rank.
    ranks : tuple of int
        The ranks that have failed.
    """

    def __init__(self, message: str, ranks: tuple[int, ...] = ()) -> None:
        super().__init__(message, ranks)
        self.ranks = ranks

    def __str__(self) -> str:
        return str(self.args[0])


def told(error: BaseException) -> str:
    """An error as the other ranks are told of it: its type and its text."""
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
