"""Schedule-Free SGD: algorithm 1 of Defazio et al. (2024), with the weights of their code."""

from tests.support.bad_options import COMMON, DECAY, RATE
from tests.support.cards import KERNEL, MODES, RULE, Card, Recipe, Source, Timed, Valley
from tests.support.schedule_free import BAD_NUMBERS, REMOVED, Average, in_training, trained


class SGDScheduleFree:
    def __init__(
        self, lr=1.0, momentum=0.9, weight_decay=0, warmup_steps=0, r=0.0, weight_lr_power=2,
        foreach=True, maximize=False,
    ):  # fmt: skip
        self.__dict__.update(locals())
        self.average = Average(warmup_steps, r, weight_lr_power)
        self.z = {}

    def step(self, params, grads):
        beta = self.momentum
        lr, c = self.average.step(self.lr)
        for i, (y, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            z = self.z.get(i, y.copy())
            x = (y - (1 - beta) * z) / beta
            d = (-g if self.maximize else g) + self.weight_decay * y
            z = self.z[i] = z - lr * d
            x = (1 - c) * x + c * z
            y[...] = (1 - beta) * z + beta * x


CARD = Card(
    "SGDScheduleFree",
    SGDScheduleFree,
    traits=RULE - {KERNEL} | {MODES},
    adapted=trained,
    variants=(
        {},
        {"lr": 0.1, "momentum": 0.6, "weight_decay": 0.1},
        {"lr": 0.1, "warmup_steps": 5, "r": 1.0, "weight_lr_power": 1.0, "foreach": False},
        {"lr": 0.2, "warmup_steps": 30, "maximize": True},
        {"lr": 0.0},
    ),
    states=("z",),
    kept={"z": "z"},
    averages=("z",),
    bad=(
        *RATE,
        *DECAY,
        *COMMON,
        *BAD_NUMBERS,
        ({"momentum": 0.0}, ValueError, "Momentum must be between 0 and 1 exclusive: 0.0"),
        ({"momentum": 1.0}, ValueError, "Momentum must be between 0 and 1 exclusive: 1.0"),
        ({"warmup_steps": -1}, ValueError, "Invalid warmup_steps value: -1"),
    ),
    source=Source(
        "schedulefree.SGDScheduleFree",
        "1.4.1",
        place="schedulefree",
        twin=in_training,
        removed=REMOVED,
    ),
    timed=(Timed(2, {"lr": 0.1}),),
    drawing=Recipe(
        "cyoptim.SGDScheduleFree([p], lr=0.02)",
        "Gradients are taken on the line; the average, dashed, is the result.",
    ),
    valley=Valley({"lr": 0.005, "momentum": 0.98, "r": 2.0}),
)
