"""Trainers and wrappers of torch's world, with our optimizer in place of torch's: the same numbers.

Each framework is optional; what is not installed is skipped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import cyoptim

torch: Any = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore")  # the frameworks' own

X = torch.from_numpy(np.random.default_rng(0).standard_normal((32, 4)).astype("f4"))
Y = torch.sin(X.sum(dim=1, keepdim=True))
theirs = torch.optim.lr_scheduler


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def network() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))


def flat(model: Any) -> Any:
    return torch.cat([p.detach().ravel().clone() for p in model.parameters()])


def loss_of(model: Any) -> Any:
    return (model(X) - Y).square().mean()


def check(train: Callable[[Any], Any]) -> None:
    """Whether `train` comes to the same parameters with either library."""
    found, expected = train(cyoptim), train(torch.optim)
    assert not torch.equal(expected, flat(network()))
    # Up to 40 steps of float32, where torch rounds at other places; a step or a rate that is
    # missing would make 1e-2.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


# --- torch's own ----------------------------------------------------------------------------------


def sequence(optimizer: Any) -> Any:
    parts = [
        theirs.LinearLR(optimizer, 0.1, total_iters=3),
        theirs.CosineAnnealingLR(optimizer, 5),
    ]
    return theirs.SequentialLR(optimizer, parts, [3])


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "StepLR": lambda o: theirs.StepLR(o, 2),
    "CosineAnnealingLR": lambda o: theirs.CosineAnnealingLR(o, 5),
    "OneCycleLR": lambda o: theirs.OneCycleLR(o, 0.1, total_steps=20),
    "CyclicLR": lambda o: theirs.CyclicLR(o, 0.01, 0.1, cycle_momentum=False),
    "SequentialLR": sequence,
    "ChainedScheduler": lambda o: theirs.ChainedScheduler(
        [theirs.StepLR(o, 2), theirs.ExponentialLR(o, 0.9)]
    ),
    "LambdaLR": lambda o: theirs.LambdaLR(o, lambda epoch: 0.9**epoch),
    "CosineAnnealingWarmRestarts": lambda o: theirs.CosineAnnealingWarmRestarts(o, 3),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.01, 3),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEDULES)
def test_torch_schedules(name: str) -> None:
    def train(library: Any) -> Any:
        model = network()
        optimizer = library.AdamW(model.parameters(), lr=0.1)
        schedule = SCHEDULES[name](optimizer)
        for _ in range(8):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
            schedule.step()
        return torch.cat([flat(model), torch.tensor(schedule.get_last_lr())])

    check(train)


@pytest.mark.parametrize("fused", [None, True])
def test_grad_scaler(fused: bool | None) -> None:
    def train(library: Any) -> Any:
        model = network()
        optimizer = library.AdamW(model.parameters(), lr=0.1, fused=fused)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        for i in range(8):
            optimizer.zero_grad()
            scaler.scale(loss_of(model) * (1e38 if i == 3 else 1)).backward()
            if i % 2:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            scaler.step(optimizer)
            scaler.update()
        assert not hasattr(optimizer, "found_inf")
        return torch.cat([flat(model), torch.tensor([scaler.get_scale()])])

    check(train)


@pytest.mark.slow
def test_distributed_checkpoint(tmp_path: Path) -> None:
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    def steps(model: Any, optimizer: Any, n: int) -> None:
        for _ in range(n):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()

    def train(library: Any) -> Any:
        folder = tmp_path / library.__name__
        model = network()
        optimizer = library.AdamW(model.parameters(), lr=0.1)
        steps(model, optimizer, 3)
        weights, state = get_state_dict(model, optimizer)
        checkpoint.save({"model": weights, "optimizer": state}, checkpoint_id=folder)
        steps(model, optimizer, 3)
        again = network()
        other = library.AdamW(again.parameters(), lr=0.7)
        weights, state = get_state_dict(again, other)
        checkpoint.load({"model": weights, "optimizer": state}, checkpoint_id=folder)
        set_state_dict(again, other, model_state_dict=weights, optim_state_dict=state)
        steps(again, other, 3)
        assert torch.equal(flat(again), flat(model))
        return flat(model)

    check(train)


@pytest.mark.slow
def test_zero_redundancy_and_data_parallel(tmp_path: Path) -> None:
    from torch import distributed
    from torch.distributed.optim import ZeroRedundancyOptimizer
    from torch.nn.parallel import DistributedDataParallel

    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )

    def train(library: Any) -> Any:
        model = DistributedDataParallel(network())
        optimizer = ZeroRedundancyOptimizer(
            model.parameters(), optimizer_class=library.AdamW, lr=0.1
        )
        schedule = theirs.StepLR(optimizer, 2)
        for _ in range(6):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
            schedule.step()
        optimizer.consolidate_state_dict()
        assert len(optimizer.state_dict()["state"]) == 4
        return flat(model)

    try:
        check(train)
    finally:
        distributed.destroy_process_group()


@pytest.mark.slow
def test_compiled() -> None:
    # Not beside torch's, whose compiled step counts and corrects in float32.
    def train(compile_step: Callable[[Any], Any]) -> Any:
        model = network()
        optimizer = cyoptim.AdamW(model.parameters(), lr=0.1)

        @compile_step
        def step() -> None:
            optimizer.step()

        for _ in range(4):
            optimizer.zero_grad()
            loss_of(model).backward()
            step()
        return flat(model)

    assert torch.equal(train(torch.compile(backend="eager")), train(lambda step: step))


# --- trainers -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_accelerate(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")

    def train(library: Any) -> Any:
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        model = network()
        optimizer = library.AdamW(model.parameters(), lr=0.05)
        schedule = library.lr_scheduler.StepLR(optimizer, 1, 0.9)
        model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
        moved = []

        def steps(n: int) -> None:
            for _ in range(n):
                before = flat(model)
                with accelerator.accumulate(model):
                    accelerator.backward(loss_of(model))
                    accelerator.clip_grad_norm_(model.parameters(), 0.1)
                    optimizer.step()
                    schedule.step()
                    optimizer.zero_grad()
                moved.append(not torch.equal(before, flat(model)))

        steps(4)
        accelerator.save_state(str(tmp_path / library.__name__))
        steps(2)
        found = flat(model)
        accelerator.load_state(str(tmp_path / library.__name__))
        steps(2)
        assert torch.equal(found, flat(model))
        assert moved == [False, True] * 4
        names = {path.name for path in (tmp_path / library.__name__).iterdir()}
        assert {"optimizer.bin", "scheduler.bin"} <= names
        return found

    check(train)


LIGHTNING = ["alone", "list", "one cycle", "torch's", "plateau", "averaging", "resumed"]


def lightning_module(pl: ModuleType, library: str, kind: str) -> Any:
    class Module(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def training_step(self, batch: Any, number: int) -> Any:
            loss = (self.network(batch[0]) - batch[1]).square().mean()
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            optim = cyoptim if library == "cyoptim" else torch.optim
            optimizer = optim.AdamW(self.network.parameters(), lr=0.01)
            schedules = optim.lr_scheduler
            if kind in ("list", "resumed"):
                return [optimizer], [schedules.StepLR(optimizer, 1, 0.5)]
            if kind == "torch's":
                return [optimizer], [theirs.CosineAnnealingLR(optimizer, 5)]
            if kind == "one cycle":
                cycle = schedules.OneCycleLR(optimizer, 0.1, total_steps=40)
                return [optimizer], [{"scheduler": cycle, "interval": "step"}]
            if kind == "plateau":
                plateau = schedules.ReduceLROnPlateau(optimizer, patience=0)
                return [optimizer], [{"scheduler": plateau, "monitor": "loss"}]
            return optimizer

    return Module()


@pytest.mark.slow
@pytest.mark.parametrize("kind", LIGHTNING)
def test_lightning(kind: str, tmp_path: Path) -> None:
    pl = pytest.importorskip("lightning.pytorch")
    from torch.utils.data import DataLoader, TensorDataset

    def train(library: Any) -> Any:
        name = library.__name__
        options: dict[str, Any] = dict(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, default_root_dir=tmp_path, accumulate_grad_batches=2,
            gradient_clip_val=0.5,
        )  # fmt: skip
        if kind == "averaging":
            options["callbacks"] = [pl.callbacks.StochasticWeightAveraging(swa_lrs=0.01)]
        module = lightning_module(pl, name, kind)
        batches = DataLoader(TensorDataset(X, Y), batch_size=8)
        trainer = pl.Trainer(max_epochs=5, **options)
        trainer.fit(module, batches)
        if kind == "resumed":
            path = tmp_path / f"{name}.ckpt"
            trainer.save_checkpoint(path)
            module = lightning_module(pl, name, kind)
            pl.Trainer(max_epochs=8, **options).fit(module, batches, ckpt_path=path)
        return flat(module)

    check(train)


TRAINERS = ["accumulation", "schedule", "class", "plateau", "resumed"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", TRAINERS)
def test_transformers_trainer(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Model(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def forward(self, x: Any, labels: Any) -> Any:
            y = self.network(x)
            return {"loss": (y - labels).square().mean(), "logits": y}

    data = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]

    def train(library: Any) -> Any:
        more: dict[str, Any] = {"gradient_accumulation_steps": 2} if kind == "accumulation" else {}
        if kind == "plateau":
            more |= {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"}
        arguments = transformers.TrainingArguments(
            str(tmp_path / library.__name__), num_train_epochs=3, per_device_train_batch_size=8,
            report_to=[], save_strategy="epoch" if kind == "resumed" else "no", disable_tqdm=True,
            use_cpu=True, seed=1, learning_rate=0.01, **more,
        )  # fmt: skip

        def trainer() -> Any:
            model = Model()
            optimizer = library.AdamW(model.parameters(), lr=0.01)
            schedule: Any = None
            if kind in ("schedule", "resumed"):
                schedule = library.lr_scheduler.StepLR(optimizer, 2, 0.5)
            given: dict[str, Any] = {"optimizers": (optimizer, schedule)}
            if kind == "class":
                given = {"optimizer_cls_and_kwargs": (library.AdamW, {"lr": 0.01})}
            return transformers.Trainer(
                model, arguments, train_dataset=data, eval_dataset=data, **given
            )

        first = trainer()
        first.train()
        if kind != "resumed":
            return flat(first.model)
        arguments.num_train_epochs = 5
        second = trainer()
        second.train(resume_from_checkpoint=True)
        return flat(second.model)

    check(train)


@pytest.mark.slow
def test_transformers_schedules() -> None:
    transformers = pytest.importorskip("transformers")

    def train(library: Any) -> Any:
        model = network()
        optimizer = library.AdamW(model.parameters(), lr=0.01)
        schedule = transformers.get_scheduler("cosine_with_restarts", optimizer, 2, 10)
        for _ in range(8):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
            schedule.step()
        return flat(model)

    check(train)


def skorch_regressor(library: Any, kind: str) -> Any:
    skorch = pytest.importorskip("skorch")
    more: dict[str, Any] = {}
    if kind == "options":
        more["optimizer__weight_decay"] = 0.1
        more["optimizer__param_groups"] = [("*.bias", {"lr": 0.2})]
    if kind == "schedule":
        policy = library.lr_scheduler.StepLR
        more["callbacks"] = [skorch.callbacks.LRScheduler(policy=policy, step_size=1)]
    return skorch.NeuralNetRegressor(
        network, optimizer=library.AdamW, lr=0.05, max_epochs=4, verbose=0, train_split=None, **more
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "options", "schedule"])
def test_skorch(kind: str, tmp_path: Path) -> None:
    def train(library: Any) -> Any:
        net = skorch_regressor(library, kind)
        net.fit(X.numpy(), Y.numpy())
        path = str(tmp_path / library.__name__)
        net.save_params(f_params=path + ".params", f_optimizer=path + ".optimizer")
        again = skorch_regressor(library, kind).initialize()
        again.load_params(f_params=path + ".params", f_optimizer=path + ".optimizer")
        net.partial_fit(X.numpy(), Y.numpy())
        if kind != "schedule":  # whose state skorch does not save
            again.partial_fit(X.numpy(), Y.numpy())
            assert torch.equal(flat(net.module_), flat(again.module_))
        return flat(net.module_)

    check(train)


@pytest.mark.slow
def test_skorch_grid() -> None:
    GridSearchCV = pytest.importorskip("sklearn.model_selection").GridSearchCV

    def train(library: Any) -> Any:
        search = GridSearchCV(
            skorch_regressor(library, "plain"),
            {"optimizer": [library.SGD, library.AdamW], "lr": [0.1, 0.01]},
            cv=2, scoring="neg_mean_squared_error", error_score="raise",
        )  # fmt: skip
        search.fit(X.numpy(), Y.numpy())
        return torch.tensor(search.cv_results_["mean_test_score"])

    check(train)


@pytest.mark.parametrize("kind", ["ours", "torch's", "warm-up"])
def test_ignite(kind: str) -> None:
    pytest.importorskip("ignite")
    from ignite.engine import Events, create_supervised_trainer
    from ignite.handlers.param_scheduler import LRScheduler, create_lr_scheduler_with_warmup

    def train(library: Any) -> Any:
        model = network()
        optimizer = library.AdamW(model.parameters(), lr=0.1)
        trainer = create_supervised_trainer(model, optimizer, torch.nn.functional.mse_loss)
        if kind == "warm-up":
            schedule = library.lr_scheduler.ExponentialLR(optimizer, 0.9)
            handler = create_lr_scheduler_with_warmup(schedule, 0.0, 2)
        else:
            schedules = library.lr_scheduler if kind == "ours" else theirs
            handler = LRScheduler(schedules.StepLR(optimizer, 2, 0.5))
        trainer.add_event_handler(Events.ITERATION_STARTED, handler)
        trainer.run([(X, Y)] * 5, 2)
        return flat(model)

    check(train)


def test_timm() -> None:
    timm_optim = pytest.importorskip("timm.optim")
    timm_scheduler = pytest.importorskip("timm.scheduler")

    def train(library: Any) -> Any:
        model = network()
        groups = timm_optim.param_groups_weight_decay(model, 0.05)
        optimizer = timm_optim.Lookahead(library.AdamW(groups, lr=0.1))
        schedule = timm_scheduler.CosineLRScheduler(optimizer, 10, warmup_t=2)
        for i in range(14):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
            schedule.step(i + 1)
            optimizer.load_state_dict(optimizer.state_dict())
        return flat(model)

    check(train)
