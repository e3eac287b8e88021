"""Which name a misspelt one was meant to be."""

from __future__ import annotations

from collections.abc import Collection

# What other libraries call options, without underscores.
_ELSEWHERE = {
    "learningrate": "lr",
    "stepsize": "lr",
    "eta": "lr",
    "learningrateinit": "lr",
    "wd": "weight_decay",
    "l2": "weight_decay",
    "decay": "weight_decay",
    "epsilon": "eps",
    "beta": "betas",
    "beta1": "betas",
    "beta2": "betas",
    "nesterovsmomentum": "nesterov",
}


def close_name(name: str, known: Collection[str]) -> str | None:
    """The known name that a misspelt one was meant to be; None if none is near.

    Names are compared word by word: ``weigth_decay`` is near to ``weight_decay``, but ``no_decay``,
    ``lr_decay`` or ``sam_eps`` are names of their own.
    """
    from difflib import SequenceMatcher  # here, because it is slow to import

    def nearness(a: str, b: str) -> float:
        return SequenceMatcher(None, a, b).ratio()

    def score(other: str) -> float:
        words, others = name.lower().split("_"), other.lower().split("_")
        if len(words) == len(others):
            return min(map(nearness, words, others))
        joined = nearness("".join(words), "".join(others))
        return joined if joined > 0.9 else 0.0

    bare = name.lower().replace("_", "").replace("-", "")
    if _ELSEWHERE.get(bare) in known:
        return _ELSEWHERE[bare]
    best = max(known, key=score, default=None)
    return best if best is not None and score(best) >= 0.6 else None
