"""How well a model trains, format by format: the loss on text that it has not seen.

AdamW of cyoptim trains a character model (characters.py) for 600 steps, with a rate that falls
along a cosine to zero. All formats begin with the same parameters and see the same batches. torch
computes losses and gradients in float32, from parameters as the format rounds them; gradients are
rounded to the type that the format has for them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from bench.formats import FORMATS, Format, dtype_of, optimizer_of
from bench.report import Run, about, environment, table
from bench.runner import Progress

BASE = "float32"
STEPS, SEEDS, LR = 600, 3, 1e-3


@dataclass
class Losses:
    """A format: the loss on held text, after training from each seed."""

    format: str
    losses: list[float]


@dataclass
class Study:
    """The results of a run, and its environment."""

    environment: dict[str, Any]
    results: list[Losses]

    def save(self, path: Path) -> None:
        """Write JSON, a format a line."""
        entries = ",\n".join(json.dumps(asdict(each)) for each in self.results)
        facts = json.dumps(self.environment, indent=1)
        path.write_text(f'{{"environment": {facts},\n"results": [\n{entries}\n]}}\n')

    @classmethod
    def load(cls, path: Path) -> Study:
        content = json.loads(path.read_text())
        return cls(content["environment"], [Losses(**each) for each in content["results"]])

    def text(self, markdown: bool) -> str:
        """A row per format: its loss, and how it differs from float32's with the same seeds."""
        base = next((each.losses for each in self.results if each.format == BASE), None)
        header = ["", "loss", "least", "largest", "more than float32", "least", "largest"]
        rows = [
            (each.format, *_cells(each.losses), *_differences(each.losses, base))
            for each in self.results
        ]
        return "\n".join(
            [*about(Run(self.environment, []), markdown), "", *table(header, rows, markdown)]
        )


def _cells(losses: Sequence[float]) -> list[str]:
    return [f"{value:.4f}" for value in (mean(losses), min(losses), max(losses))]


def _differences(losses: Sequence[float], base: Sequence[float] | None) -> list[str]:
    if base is None:
        return ["", "", ""]
    apart = [loss - against for loss, against in zip(losses, base, strict=True)]
    return [f"{value:+.4f}" for value in (mean(apart), min(apart), max(apart))]


# --- training -------------------------------------------------------------------------------------


def train(chosen: Format, seed: int, steps: int, text: Any) -> float:
    """The loss on held text after so many steps."""
    import torch

    from bench.characters import Characters, loss, loss_held
    from cyoptim.lr_scheduler import CosineAnnealingLR

    torch.manual_seed(seed)
    model = Characters(text.alphabet)
    shown = list(model.parameters())
    # In the order of C: a gradient may have another one.
    params = [p.detach().numpy().astype(dtype_of(chosen.param), order="C") for p in shown]
    optimizer = optimizer_of("AdamW", params, chosen, lr=LR)
    schedule = CosineAnnealingLR(optimizer, T_max=steps)
    generator = torch.Generator().manual_seed(seed)
    _show(params, shown)
    for _ in range(steps):
        model.zero_grad()
        loss(model, *text.batch(generator)).backward()
        dtype = dtype_of(chosen.grad)
        optimizer.step(grads=[p.grad.numpy().astype(dtype, order="C") for p in shown])
        schedule.step()
        _show(params, shown)
    return loss_held(model, text)


def _show(params: Sequence[Any], shown: Sequence[Any]) -> None:
    """Write the parameters into the model."""
    import torch

    with torch.no_grad():
        for param, tensor in zip(params, shown, strict=True):
            tensor.copy_(torch.from_numpy(param.astype(np.float32)))


def study(
    names: Sequence[str], seeds: int, steps: int, text: Any, progress: Progress
) -> list[Losses]:
    """Train with every format from every seed."""
    found = []
    for name in names:
        losses = [train(FORMATS[name], seed, steps, text) for seed in range(seeds)]
        progress(f"{name}: {' '.join(f'{loss:.4f}' for loss in losses)}")
        found.append(Losses(name, losses))
    return found


# --- the command ----------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m bench accuracy``."""
    add = parser.add_argument
    add("--threads", type=int, default=1, help="of torch and cyoptim (1)")
    add("--seeds", type=int, default=SEEDS, help=f"runs of each format ({SEEDS})")
    add("--steps", type=int, default=STEPS, help=f"steps of a run ({STEPS})")
    add("--format", action="append", choices=FORMATS, help="this one; repeatable")
    add("--json", type=Path, metavar="PATH", help="write the results")
    add("--markdown", action="store_true", help="print a table for GitHub")


def run(options: argparse.Namespace, progress: Progress) -> int:
    """Train, and print the table."""
    try:
        import ml_dtypes  # noqa: F401
        import torch
    except ImportError as error:
        sys.exit(f"no accuracy: {error} (pip install torch ml_dtypes)")
    import cyoptim
    from bench.characters import Text

    torch.set_num_threads(options.threads)
    cyoptim.set_num_threads(options.threads)
    text = Text.of_the_documentation()
    names = [name for name in FORMATS if name in (options.format or FORMATS)]
    words = f"python -m bench accuracy --seeds {options.seeds} --steps {options.steps}"
    facts = environment(options.threads, words) | text.facts
    done = Study(facts, study(names, options.seeds, options.steps, text, progress))
    if options.json:
        done.save(options.json)
    print(done.text(options.markdown))
    return 0
