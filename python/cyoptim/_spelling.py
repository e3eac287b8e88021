"""Which name a misspelt one was meant to be."""

from __future__ import annotations

from collections.abc import Collection

# What other libraries call options, without underscores.
_ELSEWHERE = {
    "learningrate": "lr",
    "rate": "lr",
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
    "niter": "maxiter",
    "maxfun": "maxfev",
    "xtol": "ftol",
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


def nearest(name: str, known: Collection[str]) -> str | None:
    """The name of a class or a function that a misspelt one was meant to be, in any case."""
    from difflib import SequenceMatcher

    def score(other: str) -> float:
        a, b = (text.lower().replace("_", "") for text in (name, other))
        exchanged = sorted(a) == sorted(b)  # the commonest slip
        ratio = SequenceMatcher(None, a, b).ratio()
        return ratio + 0.1 * exchanged - 0.03 * abs(len(a) - len(b))

    best = max(known, key=score, default=None)
    return best if best is not None and score(best) >= 0.7 else None


def unexpected_argument(function: str, name: str, known: Collection[str]) -> TypeError:
    """Python's own error for an argument that a function does not have, with the name that was
    meant if one is near."""
    close = close_name(name, known)
    hint = f"; did you mean {close!r}?" if close else ""
    return TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}")


# Modules of torch, for whose names users look here.
_TORCH = {
    "optim": "cyoptim takes the place of torch.optim: write cyoptim.Adam, cyoptim.lr_scheduler",
    "nn": "cyoptim has optimizers alone; those of torch.nn.utils are cyoptim.clip_grad_norm_ and "
    "the like",
}


def missing_attribute(
    module: str, name: str, known: Collection[str], schedulers: Collection[str] = ()
) -> AttributeError:
    """The error for a name that a module does not have, with the name that was meant."""
    found = f"module {module!r} has no attribute {name!r}"
    if name.startswith("_"):  # asked for by programs, not written by users
        return AttributeError(found)
    if name in _TORCH and module == "cyoptim":
        return AttributeError(f"{found}: {_TORCH[name]}")
    if name in schedulers:
        return AttributeError(f"{found}: write {module}.lr_scheduler.{name}")
    close = nearest(name, [other for other in known if not other.startswith("_")])
    return AttributeError(f"{found}; did you mean {close!r}?" if close else found)
