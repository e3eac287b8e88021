"""AdamW: algorithm 2 of Loshchilov & Hutter (2019)."""

from tests.optimizers.adam import REFUSALS, STATES, VARIANTS, Adam, gain
from tests.support import draws
from tests.support.cards import FUSED, RULE, Card, Quotient, Recipe, Source, Timed, Valley


class AdamW(Adam):
    def __init__(self, weight_decay=1e-2, **options):
        super().__init__(weight_decay=weight_decay, decoupled_weight_decay=True, **options)


CARD = Card(
    "AdamW",
    AdamW,
    traits=RULE | {FUSED},
    torch="AdamW",
    variants=VARIANTS,
    **STATES,
    **REFUSALS,
    quotient=Quotient(gain, ()),
    draw=draws.adam,
    more_sources={
        "timm": Source(
            "timm.optim.AdamWLegacy",
            "1.0.31",
            place="timm",
            variants=(
                {"caution": True},
                {"lr": 0.05, "betas": (0.8, 0.95), "weight_decay": 0.1, "caution": True},
                {"lr": 0.05, "amsgrad": True, "maximize": True, "caution": True},
            ),
        ),
    },
    timed=(Timed(3), Timed(3, {"caution": True}, "-caution", ("gm", "gPMV"), source="timm")),
    drawing=Recipe(
        "cyoptim.AdamW([p], lr=0.1, weight_decay=0.1)",
        "Adam's path, ending short of the minimum: the decay draws both coordinates to zero.",
    ),
    valley=Valley({"lr": 0.02, "weight_decay": 0}),
)
