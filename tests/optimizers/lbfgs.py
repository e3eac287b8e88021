"""L-BFGS with steps of fixed length: the two-loop recursion of Nocedal (1980), algorithm 7.4 of
Nocedal & Wright (2006), with the scaling of their equation 7.20."""

import numpy as np


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
