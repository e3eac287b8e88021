"""L-BFGS with steps of fixed length: the two-loop recursion of Nocedal (1980), algorithm 7.4 of
Nocedal & Wright (2006), with the scaling of their equation 7.20."""

import numpy as np

from tests.support.bad_options import COMMON, NAN, RATE
from tests.support.cards import (
    CHECKED,
    CLOSURE,
    COMPLEX,
    DENSE,
    ONE_GROUP,
    SAME_BITS,
    Card,
    Recipe,
    Valley,
)


class LBFGS:
    def __init__(self, lr=1.0, history_size=100):
        self.lr, self.history_size = lr, history_size
        self.pairs = []  # (s, y), oldest first

    def direction(self, gradient):
        q = np.array(gradient, dtype=np.float64)
        if not self.pairs:
            return -q
        alphas = []
        for s, y in reversed(self.pairs):
            alpha = (s @ q) / (y @ s)
            q = q - alpha * y
            alphas.insert(0, alpha)
        s, y = self.pairs[-1]
        r = (s @ y) / (y @ y) * q
        for (s, y), alpha in zip(self.pairs, alphas, strict=True):
            r = r + s * (alpha - (y @ r) / (y @ s))
        return -r

    def minimize(self, gradient, x, iterations):
        """All points from `x` on."""
        points = [np.array(x, dtype=np.float64)]
        g = gradient(points[-1])
        length = min(1.0, 1.0 / np.abs(g).sum()) * self.lr
        for _ in range(iterations):
            points.append(points[-1] + length * self.direction(g))
            before, g = g, gradient(points[-1])
            s, y = points[-1] - points[-2], g - before
            if y @ s > 1e-10:
                self.pairs = [*self.pairs, (s, y)][-self.history_size :]
            length = self.lr
        return points


def satisfies_strong_wolfe(phi, slope, t, c1=1e-4, c2=0.9):
    """Equations 3.7 of Nocedal & Wright (2006), of a loss along a line and its derivative."""
    return phi(t) <= phi(0) + c1 * t * slope(0) and abs(slope(t)) <= c2 * abs(slope(0))


CARD = Card(
    "LBFGS",
    LBFGS,
    traits=frozenset({DENSE, COMPLEX, CLOSURE, ONE_GROUP, SAME_BITS, CHECKED}),
    torch="LBFGS",
    # Long steps without a line search, or many, only find rounding once a problem is solved.
    variants=(
        {"lr": 0.5, "max_iter": 3, "max_eval": 5, "history_size": 2, "tolerance_grad": 1e-9},
        {"lr": 0.3, "max_iter": 3},
        {"line_search_fn": "strong_wolfe", "max_iter": 3, "history_size": 2},
    ),
    states=(
        *("func_evals", "n_iter", "d", "t", "old_dirs", "old_stps", "ro", "H_diag"),
        *("prev_flat_grad", "prev_loss", "al"),
    ),
    bad_as_torch=RATE,
    bad=(
        *COMMON,
        ({"max_iter": -1}, ValueError, "Invalid max_iter value: -1"),
        ({"max_iter": "x"}, TypeError, "max_iter must be a number, got str: 'x'"),
        ({"max_eval": -2}, ValueError, "Invalid max_eval value: -2"),
        ({"tolerance_grad": NAN}, ValueError, "Invalid tolerance_grad value: nan"),
        ({"tolerance_change": None}, TypeError, "tolerance_change must be a number, got NoneType"),
        ({"history_size": 0}, ValueError, "Invalid history_size value: 0"),
        ({"history_size": 2.5}, TypeError, "history_size must be a whole number, got 2.5"),
        ({"line_search_fn": np.ones(2)}, RuntimeError, "only 'strong_wolfe' is supported, got"),
        (
            {"line_search_fn": "armijo"},
            RuntimeError,
            "only 'strong_wolfe' is supported, got line_search_fn='armijo'",
        ),
    ),
    drawing=Recipe(
        'cyoptim.LBFGS([p], max_iter=1, max_eval=20, line_search_fn="strong_wolfe")',
        "It learns the curvature from its last steps. A step may evaluate the loss several times.",
        closure=True,
    ),
    valley=Valley({}),
)
