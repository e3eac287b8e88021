"""The frameworks: each a function that trains the network of `framework_tasks.py` in it, as its users write it."""

from __future__ import annotations

import importlib
import itertools
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support.framework_tasks import (
    BATCH,
    OF_BIASES,
    OF_WEIGHTS,
    SAVED,
    SCHEDULE,
    STEPS,
    Task,
    a_framework,
    alone,
    batches,
    data,
    dataset,
    flat,
    loader,
    loop,
    loss_of,
    network,
)

# --- torch --------------------------------------------------------------------------------------------


@a_framework("a loop, torch.save", "torch")
def a_loop(task: Task) -> Any:
    import torch

    model, first = network(), 0
    optimizer, path = task.make(model), task.folder / "state.pt"
    for last in task.parts:
        loop(task, model, optimizer, first, last)
        if task.resumes:
            torch.save([model.state_dict(), optimizer.state_dict()], path)
            model = network()
            optimizer = task.make(model)
            weights, state = torch.load(path)
            model.load_state_dict(weights)
            optimizer.load_state_dict(state)
        first = last
    task.eval(optimizer)
    return flat(model)


def _in_checkpoints(task: Task, new: Callable[[], Any]) -> Any:
    """A loop that is saved and resumed by torch.distributed.checkpoint."""
    # The model ends before the process group does. If a DistributedDataParallel is the last to hold the group, it waits for
    # a thread of gloo, which may wait for the GIL that the model's end holds.
    with alone(task.folder):
        return _trained_in_checkpoints(task, new)


def _trained_in_checkpoints(task: Task, new: Callable[[], Any]) -> Any:
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    model, first = new(), 0
    optimizer = task.make(model)
    for last in task.parts:
        loop(task, model, optimizer, first, last)
        if task.resumes:
            place = task.folder / f"at-{last}"
            weights, state = get_state_dict(model, optimizer)
            checkpoint.save({"model": weights, "optimizer": state}, checkpoint_id=place)
            model = new()
            optimizer = task.make(model)
            task.train(optimizer)  # to make a state, a step is taken
            weights, state = get_state_dict(model, optimizer)
            loaded = {"model": weights, "optimizer": state}
            checkpoint.load(loaded, checkpoint_id=place)
            set_state_dict(
                model,
                optimizer,
                model_state_dict=loaded["model"],
                optim_state_dict=loaded["optimizer"],
            )
        first = last
    task.eval(optimizer)
    return flat(model)


# It makes the state by a step with lr=0, in which the authors' own optimizer makes none.
UNMADE = ("AdamWScheduleFree",)


@a_framework(
    "torch.distributed.checkpoint", "torch", features=("save and resume",), not_resumed=UNMADE
)
def distributed_checkpoint(task: Task) -> Any:
    return _in_checkpoints(task, network)


@a_framework("DistributedDataParallel", "torch", not_resumed=UNMADE)
def data_parallel(task: Task) -> Any:
    from torch.nn.parallel import DistributedDataParallel

    return _in_checkpoints(task, lambda: DistributedDataParallel(network()))


def _has_fully_shard() -> bool:
    import torch

    return tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 7)


@a_framework(
    "fully_shard (FSDP2)",
    "torch",
    needs=_has_fully_shard,
    not_resumed=UNMADE,
    notes={
        "Prodigy": "raises in several processes",
        "MuonWithAuxAdam": "raises in several processes",
    },
)
def sharded(task: Task) -> Any:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    def new() -> Any:
        model = network()
        return fully_shard(model, mesh=init_device_mesh("cpu", (1,)))

    return _in_checkpoints(task, new)


@a_framework("ZeroRedundancyOptimizer", "torch")
def zero_redundancy(task: Task) -> Any:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    def new() -> tuple[Any, Any]:
        model = network()
        return model, ZeroRedundancyOptimizer(
            task.groups(model), optimizer_class=task.cls, **task.options
        )

    def switch(optimizer: Any, trains: bool) -> None:
        (task.train if trains else task.eval)(optimizer.optim)
        for group in optimizer.param_groups if task.modes else ():
            group["train_mode"] = trains  # which a step would write into the wrapped optimizer

    with alone(task.folder):
        model, optimizer = new()
        first = 0
        for last in task.parts:
            switch(optimizer, True)
            loop(replace(task, modes=False), model, optimizer, first, last)
            if task.resumes:
                optimizer.consolidate_state_dict()
                state, weights = optimizer.state_dict(), model.state_dict()
                model, optimizer = new()
                model.load_state_dict(weights)
                optimizer.load_state_dict(state)
            first = last
        switch(optimizer, False)
        return flat(model)


# --- trainers -----------------------------------------------------------------------------------------


@a_framework("accelerate", "accelerate")
def in_accelerate(task: Task) -> Any:
    import accelerate

    def prepared() -> Any:
        accelerator = accelerate.Accelerator(
            cpu=True, gradient_accumulation_steps=task.accumulation
        )
        model = network()
        optimizer = task.make(model)
        return accelerator, accelerator.prepare(model, optimizer, task.schedule_of(optimizer))

    accelerator, (model, optimizer, schedule) = prepared()
    first = 0
    for last in task.parts:
        optimizer.train()
        for batch in itertools.islice(batches(first), (last - first) * task.accumulation):
            with accelerator.accumulate(model):
                accelerator.backward(loss_of(model, batch))
                if task.clip is not None:
                    accelerator.clip_grad_norm_(model.parameters(), task.clip)
                optimizer.step()
                if schedule is not None:
                    schedule.step()
                optimizer.zero_grad()
        if task.resumes:
            accelerator.save_state(str(task.folder / "state"))
            accelerator, (model, optimizer, schedule) = prepared()
            accelerator.load_state(str(task.folder / "state"))
        first = last
    optimizer.eval()
    return flat(model)


@a_framework("Lightning", "lightning", imports="lightning.pytorch")
def in_lightning(task: Task) -> Any:
    import lightning.pytorch as pl

    class Module(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def training_step(self, batch: Any, number: int) -> Any:
            return loss_of(self.network, batch)

        def configure_optimizers(self) -> Any:
            optimizer = task.make(self.network)
            schedule = task.schedule_of(optimizer)
            if schedule is None:
                return optimizer
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    class Modes(pl.Callback):  # type: ignore[misc, name-defined]
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            for optimizer in trainer.optimizers:
                task.train(optimizer)

        def on_train_end(self, trainer: Any, *_: Any) -> None:
            for optimizer in trainer.optimizers:
                task.eval(optimizer)

    def trainer(steps: int) -> Any:
        return pl.Trainer(
            max_epochs=task.epochs_of(steps),
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            default_root_dir=task.folder,
            accumulate_grad_batches=task.accumulation,
            gradient_clip_val=task.clip,
            callbacks=[Modes()],
        )

    module, path = Module(), None
    for last in task.parts:
        training = trainer(last)
        module = Module()
        training.fit(module, loader(), ckpt_path=path)
        if task.resumes:
            path = task.folder / "state.ckpt"
            training.save_checkpoint(path)
    return flat(module)


@a_framework("transformers, Trainer", "transformers")
def in_transformers(task: Task) -> Any:
    import torch
    import transformers

    class Model(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def forward(self, x: Any, labels: Any) -> Any:
            return {"loss": loss_of(self.network, (x, labels))}

    class Trainer(transformers.Trainer):  # type: ignore[misc, name-defined]
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    rows = [{"x": x, "labels": y} for x, y in zip(*data(), strict=True)]

    def trainer() -> Any:
        arguments = transformers.TrainingArguments(
            str(task.folder),
            num_train_epochs=task.epochs,
            max_steps=-1,
            per_device_train_batch_size=BATCH,
            gradient_accumulation_steps=task.accumulation,
            max_grad_norm=task.clip or 0.0,
            lr_scheduler_type="constant",
            save_strategy="steps" if task.resumes else "no",
            save_steps=task.parts[0],
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        model = Model()
        optimizer = task.make(model.network)
        schedule = task.schedule_of(optimizer)
        return Trainer(model, arguments, train_dataset=rows, optimizers=(optimizer, schedule))

    training = trainer()
    training.train()
    if task.resumes:
        training = trainer()
        training.train(resume_from_checkpoint=str(task.folder / f"checkpoint-{task.parts[0]}"))
    task.eval(training.optimizer)
    return flat(training.model)


@a_framework(
    "skorch",
    "skorch",
    features=("optimizer", "schedule", "clipping", "save and resume"),
    notes={"accumulation": "by a subclass, as skorch's documentation shows"},
)
def in_skorch(task: Task) -> Any:
    import skorch

    class Modes(skorch.callbacks.Callback):  # type: ignore[misc, name-defined]
        def on_batch_begin(
            self, net: Any, batch: Any = None, training: bool = False, **_: Any
        ) -> None:
            (task.train if training else task.eval)(net.optimizer_)

        def on_train_end(self, net: Any, **_: Any) -> None:
            task.eval(net.optimizer_)

    def net(epochs: int) -> Any:
        callbacks: list[Any] = [Modes()]
        if task.clip is not None:
            callbacks.append(skorch.callbacks.GradientNormClipping(task.clip))
        if task.feature == "schedule":
            policy = type(task.schedule_of(task.make(network())))
            schedule = skorch.callbacks.LRScheduler(policy, step_every="batch", **SCHEDULE)
            callbacks.append(schedule)
        more: dict[str, Any] = {"optimizer__" + name: task.options[name] for name in task.options}
        if task.grouped:
            more["optimizer__param_groups"] = [("*weight", OF_WEIGHTS), ("*bias", OF_BIASES)]
        return skorch.NeuralNetRegressor(
            network,
            optimizer=(lambda params, lr: task.cls(params)) if task.grouped else task.cls,
            max_epochs=epochs,
            batch_size=BATCH,
            callbacks=callbacks,
            train_split=None,
            verbose=0,
            **more,
        )

    x, y = (t.numpy() for t in data())
    files = {f"f_{part}": str(task.folder / part) for part in ("params", "optimizer")}
    found = net(task.epochs_of(task.parts[0])).fit(x, y)
    if task.resumes:
        found.save_params(**files)
        found = net(task.epochs_of(STEPS - SAVED)).initialize()
        found.load_params(**files)
        found.partial_fit(x, y)
    return flat(found.module_)


@a_framework(
    "ignite",
    "pytorch-ignite",
    imports="ignite",
    notes={"clipping": "in a process function of one's own"},
    features=("optimizer", "schedule", "accumulation", "save and resume"),
)
def in_ignite(task: Task) -> Any:
    import torch
    from ignite.engine import Events, create_supervised_trainer
    from ignite.handlers import Checkpoint
    from ignite.handlers.param_scheduler import LRScheduler

    def training() -> Any:
        model = network()
        optimizer = task.make(model)
        engine = create_supervised_trainer(
            model,
            optimizer,
            torch.nn.functional.mse_loss,
            gradient_accumulation_steps=task.accumulation,
        )
        schedule = task.schedule_of(optimizer)
        if schedule is not None:
            engine.add_event_handler(Events.ITERATION_STARTED, LRScheduler(schedule))
        engine.add_event_handler(Events.ITERATION_STARTED, lambda: task.train(optimizer))
        engine.add_event_handler(Events.COMPLETED, lambda: task.eval(optimizer))
        return engine, {"engine": engine, "model": model, "optimizer": optimizer}

    engine, objects = training()
    if task.resumes:
        saver = Checkpoint(objects, str(task.folder))
        engine.add_event_handler(Events.EPOCH_COMPLETED(once=task.epochs_of(SAVED)), saver)
    engine.run(loader(), task.epochs)
    if task.resumes:
        engine, objects = training()
        Checkpoint.load_objects(objects, checkpoint=Path(saver.last_checkpoint))
        engine.run(loader(), task.epochs)
    return flat(objects["model"])


@a_framework(
    "timm",
    "timm",
    features=("optimizer", "schedule", "clipping", "save and resume"),
    notes={"accumulation": "in a loop of one's own"},
)
def in_timm(task: Task) -> Any:
    """Its factory, its schedule, and its checkpoints."""
    import timm.optim
    import torch
    from timm.optim._optim_factory import OptimInfo, default_registry
    from timm.scheduler import StepLRScheduler
    from timm.utils import dispatch_clip_grad

    name = f"trial{task.cls.__name__}".lower()
    default_registry.register(OptimInfo(name, task.cls, has_betas=True))

    def new() -> tuple[Any, Any]:
        model = network()
        if task.grouped:  # the factory gives every optimizer a weight decay of all groups
            return model, task.make(model)
        return model, timm.optim.create_optimizer_v2(
            model, opt=name, filter_bias_and_bn=False, **task.options
        )

    model, optimizer = new()
    schedule = None
    if task.feature == "schedule":
        schedule = StepLRScheduler(
            optimizer, decay_t=SCHEDULE["step_size"], decay_rate=SCHEDULE["gamma"]
        )
    first = 0
    for last in task.parts:
        task.train(optimizer)
        for step, batch in enumerate(itertools.islice(batches(first), last - first)):
            optimizer.zero_grad()
            loss_of(model, batch).backward()
            if task.clip is not None:
                dispatch_clip_grad(model.parameters(), task.clip)
            optimizer.step()
            if schedule is not None:
                schedule.step(step + 1)
        if task.resumes:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, task.folder / "state.pt")
            model, optimizer = new()
            state = torch.load(task.folder / "state.pt")
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        first = last
    task.eval(optimizer)
    return flat(model)


def _has_torch_of_composer() -> bool:
    with suppress(ImportError):
        importlib.import_module("composer.trainer")
        return True
    return False


@a_framework(
    "composer",
    "mosaicml",
    imports="composer",
    needs=_has_torch_of_composer,
    not_resumed=UNMADE,
)
def in_composer(task: Task) -> Any:
    os.environ.setdefault("MOSAICML_DISABLE_TELEMETRY", "1")
    import composer
    from torch.utils.data import DataLoader

    class Model(composer.ComposerModel):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.network = network()

        def forward(self, batch: Any) -> Any:
            return self.network(batch[0])

        def loss(self, outputs: Any, batch: Any) -> Any:
            return (outputs - batch[1]).square().mean()

    class Modes(composer.Callback):  # type: ignore[misc, name-defined]
        def batch_start(self, state: Any, logger: Any) -> None:
            for optimizer in state.optimizers:
                task.train(optimizer)

        def fit_end(self, state: Any, logger: Any) -> None:
            for optimizer in state.optimizers:
                task.eval(optimizer)

    def trainer(steps: int, path: Any = None) -> Any:
        model = Model()
        optimizer = task.make(model.network)
        task.train(optimizer)  # a resume makes a step first
        algorithms = []
        if task.clip is not None:
            clipping = composer.algorithms.GradientClipping("norm", task.clip)
            algorithms.append(clipping)
        schedule = task.schedule_of(optimizer)
        return model, composer.Trainer(
            model=model,
            train_dataloader=DataLoader(dataset(), batch_size=BATCH * task.accumulation),
            optimizers=optimizer,
            schedulers=schedule,
            step_schedulers_every_batch=True if schedule is not None else None,
            max_duration=f"{steps}ba",
            device_train_microbatch_size=BATCH,
            algorithms=algorithms,
            callbacks=[Modes()],
            device="cpu",
            precision="fp32",
            progress_bar=False,
            log_to_console=False,
            loggers=[],
            save_folder=str(task.folder) if task.resumes else None,
            save_interval=f"{SAVED}ba",
            save_overwrite=True,
            load_path=path,
            run_name="trial",
        )

    path, model = None, None
    for last in task.parts:
        model, training = trainer(last, path)
        training.fit()
        path = str(task.folder / "latest-rank0.pt")
        training.close()
    return flat(model)
