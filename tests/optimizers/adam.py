"""Adam, algorithm 1 of Kingma & Ba (2015); AMSGrad, algorithm 2 of Reddi et al. (2018), with
Adam's bias correction; AdamW, algorithm 2 of Loshchilov & Hutter (2019)."""

import numpy as np


class Adam:
    def __init__(
        self,
        lr=1e-3,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0,
        amsgrad=False,
        maximize=False,
        decoupled_weight_decay=False,
    ):
        self.lr, self.betas, self.eps = lr, betas, eps
        self.weight_decay, self.amsgrad, self.maximize = weight_decay, amsgrad, maximize
        self.decoupled = decoupled_weight_decay
        self.t, self.m, self.v, self.v_max = {}, {}, {}, {}

    def step(self, params, grads):
        beta1, beta2 = self.betas
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if g is None:
                continue
            zeros = np.zeros_like(p)
            g = -g if self.maximize else g
            t = self.t[i] = self.t.get(i, 0) + 1
            if self.weight_decay and self.decoupled:
                p[...] = p - self.lr * self.weight_decay * p
            elif self.weight_decay:
                g = g + self.weight_decay * p
            m = self.m[i] = beta1 * self.m.get(i, zeros) + (1 - beta1) * g
            v = self.v[i] = beta2 * self.v.get(i, zeros) + (1 - beta2) * g**2
            if self.amsgrad:
                v = self.v_max[i] = np.maximum(self.v_max.get(i, zeros), v)
            m_hat = m / (1 - beta1**t)
            v_hat = v / (1 - beta2**t)
            p[...] = p - self.lr * m_hat / (np.sqrt(v_hat) + self.eps)


class AdamW(Adam):
    def __init__(self, weight_decay=1e-2, **options):
        super().__init__(weight_decay=weight_decay, decoupled_weight_decay=True, **options)
