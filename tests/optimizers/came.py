"""CAME: algorithm 2 of Luo et al. (2023)."""

from tests.optimizers.adafactor import rms
from tests.optimizers.adafactor_hf import factored
from tests.support.bad_options import COMMON, DECAY, RATE
from tests.support.cards import CHECKED, DENSE, SAME_BITS, Card, Recipe, Source, Timed, Valley


class CAME:
    def __init__(
        self, lr=2e-4, eps=(1e-30, 1e-16), clip_threshold=1.0, betas=(0.9, 0.999, 0.9999),
        weight_decay=0.0, maximize=False,
    ):  # fmt: skip
        self.__dict__.update(locals())
        self.state = {}

    def step(self, params, grads):
        beta1, beta2, beta3 = self.betas
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            g = -g if self.maximize else g
            state = self.state.setdefault(i, {})
            u = g * factored(state, "v", g**2 + self.eps[0], 1 - beta2)
            u = u / max(1.0, rms(u) / self.clip_threshold)
            m = state["m"] = beta1 * state.get("m", 0.0) + (1 - beta1) * u
            step = m
            if p.ndim > 1:
                step = m * factored(state, "s", (u - m) ** 2 + self.eps[1], 1 - beta3)
            p *= 1 - self.lr * self.weight_decay
            p -= self.lr * step


CARD = Card(
    "CAME",
    CAME,
    traits=frozenset({DENSE, SAME_BITS, CHECKED}),
    variants=(
        {"lr": 2e-4},
        {"lr": 1e-3, "betas": (0.8, 0.95, 0.99), "weight_decay": 0.1},
        {"lr": 1e-3, "eps": (1e-3, 1e-2), "clip_threshold": 0.5, "weight_decay": 0.1, "maximize": True},
    ),
    states=(
        "step", "exp_avg", "exp_avg_sq_row", "exp_avg_sq_col", "exp_avg_res_row", "exp_avg_res_col",
    ),
    state_shapes={
        "exp_avg_sq_row": (2,), "exp_avg_sq_col": (3,),
        "exp_avg_res_row": (2,), "exp_avg_res_col": (3,),
    },
    bad=(
        *RATE,
        *DECAY,
        *COMMON,
        ({"eps": 1e-3}, TypeError, "eps must be a pair of numbers, got 0.001"),
        ({"eps": (1.0, -1e-3)}, ValueError, "Invalid eps[1] value: -0.001"),
        ({"clip_threshold": 0.0}, ValueError, "Invalid clip_threshold value: 0.0"),
        ({"betas": (0.9, 0.99)}, TypeError, "betas must be three numbers, got (0.9, 0.99)"),
        ({"betas": (0.9, 0.99, 1.5)}, ValueError, "Invalid betas[2] value: 1.5"),
    ),
    source=Source("came_pytorch.CAME", "0.1.3", place="came-pytorch"),
    timed=(Timed(2, passes=("g", "g", "gm", "gPM"), matrices=True),),
    drawing=Recipe(
        "cyoptim.CAME([p], lr=0.01)",
        "A matrix of two rows. Steps are large where momentum and gradient agree.",
        shape=(2, 1),
    ),
    valley=Valley({"lr": 0.01}, 0.9997),
)  # fmt: skip
