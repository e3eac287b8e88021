"""What type checkers must find: under `mypy --strict` an ignore that is not needed is an error."""

from __future__ import annotations

import numpy as np

import cyoptim
from cyoptim.kernel import Kernel
from cyoptim.lr_scheduler import StepLR

w = cyoptim.Parameter(np.ones(3))
optimizer = cyoptim.Adam([w])

cyoptim.Adam([w], learning_rate=0.1)  # type: ignore[call-arg]
cyoptim.Adam([w], betas=0.9)  # type: ignore[arg-type]
cyoptim.SGD([w], lr="fast")  # type: ignore[arg-type]
cyoptim.AdamW([w], state_dtype="bf16")  # type: ignore[arg-type]
cyoptim.AdamW([w], state_dtype={"exp_avg": "half"})  # type: ignore[dict-item]
cyoptim.AdamW([w], master="full")  # type: ignore[arg-type]
cyoptim.AdamW([w], seeds=1)  # type: ignore[call-arg]
cyoptim.Muon([w], state_dtype="bfloat16")  # type: ignore[call-arg]
cyoptim.LBFGS([w], line_search="strong_wolfe")  # type: ignore[call-arg]
cyoptim.Parameter([1.0, 2.0])  # type: ignore[arg-type]
cyoptim.param_groups([("w", w)], no_decays=("bias",))  # type: ignore[call-arg]
cyoptim.Checkpoints("runs", keep="3")  # type: ignore[arg-type]
cyoptim.Checkpoints("runs", suffix=".pt")  # type: ignore[arg-type]
cyoptim.load("run.npz", rename=["w"])  # type: ignore[call-overload]
cyoptim.clip_grad_norm_([w], norm=1.0)  # type: ignore[call-arg]
cyoptim.swa_utils.AveragedModel([w], decay=0.9)  # type: ignore[call-arg]
optimizer.step(max_norm="large")  # type: ignore[arg-type]
optimizer.step(nonfinite="ignore")  # type: ignore[arg-type]
optimizer.step(grads=3)  # type: ignore[arg-type]
optimizer.step(grads={"w": {"b": 3.0}})  # type: ignore[dict-item]
optimizer.zero_grads()  # type: ignore[attr-defined]
StepLR(optimizer, step=3)  # type: ignore[call-arg]
Kernel(cyoptim.Adam, momentum=0.9)  # type: ignore[call-arg]
