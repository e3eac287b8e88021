"""RMSprop: slide 29 of Hinton's lecture 6e (2012); centered, with momentum: equations 38 to 45 of
Graves (2013), with the epsilon outside of the root as in torch."""

import numpy as np


class RMSprop:
    def __init__(
        self,
        lr=1e-2,
        alpha=0.99,
        eps=1e-8,
        weight_decay=0,
        momentum=0,
        centered=False,
        maximize=False,
    ):
        self.lr, self.alpha, self.eps = lr, alpha, eps
        self.weight_decay, self.momentum = weight_decay, momentum
        self.centered, self.maximize = centered, maximize
        self.n, self.g, self.b = {}, {}, {}

    def step(self, params, grads):
        for i, (p, d) in enumerate(zip(params, grads, strict=True)):
            if d is None:
                continue
            zeros = np.zeros_like(p)
            d = -d if self.maximize else d
            if self.weight_decay:
                d = d + self.weight_decay * p
            variance = self.n[i] = self.alpha * self.n.get(i, zeros) + (1 - self.alpha) * d**2
            if self.centered:
                self.g[i] = self.alpha * self.g.get(i, zeros) + (1 - self.alpha) * d
                variance = variance - self.g[i] ** 2
            step = d / (np.sqrt(variance) + self.eps)
            if self.momentum:
                step = self.b[i] = self.momentum * self.b.get(i, zeros) + step
            p[...] = p - self.lr * step
