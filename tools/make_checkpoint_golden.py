"""Write ``tests/golden/checkpoint-VERSION.*``: files that later versions must still read.

Run it once before a release, and never again for that version::

    python tools/make_checkpoint_golden.py

``checkpoint-0.1.0.npz`` and ``.safetensors`` contain one run. The ``.json`` contains the expected
result of reading either: arrays, options and numbers as plain lists, and the parameters and their
averages after three more steps.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import cyoptim
from cyoptim.swa_utils import AveragedModel, get_ema_multi_avg_fn

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"


def make(start: float = 1.0) -> dict[str, Any]:
    """The objects of a run at its start: two optimizers with named parameters, and more."""
    params = {
        "layer.weight": np.linspace(-1, 1, 6, dtype="f4").reshape(2, 3) * np.float32(start),
        "layer.bias": np.full(3, start, "f4"),
        "head": np.full((), start, "f8"),
    }
    adam = cyoptim.Adam(
        [
            {"params": [("layer.weight", params["layer.weight"])], "lr": 0.1, "amsgrad": True},
            {"params": [("layer.bias", params["layer.bias"])], "betas": (0.8, 0.9)},
        ],
        lr=0.01,
    )
    adam.ema(0.75, warmup=True)
    sgd = cyoptim.SGD([("head", params["head"])], lr=0.5, momentum=0.9, nesterov=True)
    return {
        "params": params,
        "adam": adam,
        "sgd": sgd,
        "scheduler": cyoptim.lr_scheduler.StepLR(adam, step_size=2, gamma=0.5),
        "average": AveragedModel(params, multi_avg_fn=get_ema_multi_avg_fn(0.75)),
        "rng": np.random.default_rng(7),
    }


def train(run: dict[str, Any], steps: int) -> None:
    params = run["params"]
    for _ in range(steps):
        noise = run["rng"].standard_normal()
        grads = {name: (array + noise).astype(array.dtype) for name, array in params.items()}
        run["sgd"].step(grads={"head": grads.pop("head")})
        run["adam"].step(grads=grads)
        run["scheduler"].step()
        run["average"].update_parameters(params)


def arrays_of(run: dict[str, Any]) -> dict[str, Any]:
    """The parameters, and the averages of one optimizer."""
    average = run["adam"].ema(0.75, warmup=True)
    names = ("layer.weight", "layer.bias")
    return {**run["params"], **{f"average of {name}": average[name] for name in names}}


PLAIN = {"epoch": 5, "history": [0.5, 0.25, 1 / 3], "note": "bytes: é", "betas": (0.9, None)}


def plainly(value: Any) -> Any:
    """The value in JSON's types: arrays as lists, with their dtype."""
    if isinstance(value, dict):
        return {str(key): plainly(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plainly(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return {"dtype": str(value.dtype), "values": value.tolist()}
    return value


def main() -> None:
    name = f"checkpoint-{cyoptim.__version__}"
    if (GOLDEN / f"{name}.npz").exists():
        sys.exit(f"{name}.npz is there: a released version's files never change")
    run = make()
    train(run, 5)
    for suffix in (".npz", ".safetensors"):
        cyoptim.save(GOLDEN / (name + suffix), **run, **PLAIN)
    saved = plainly(cyoptim.load(GOLDEN / f"{name}.npz"))
    train(run, 3)
    expected = {"saved": saved, "later": plainly(arrays_of(run))}
    (GOLDEN / f"{name}.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
