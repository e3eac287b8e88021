"""What is wrong on one rank is an error on all, and changes nothing on any; what cannot be sharded is refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim.distributed import Local, RankError, Sharded
from tests.support.sharding import same

SIZE = 4
BAD = 2
"""The rank on which something is wrong."""
Program = Callable[[Any, list[Any]], Any]


def made(comm: Any, **options: Any) -> tuple[Any, list[Any], list[Any]]:
    """An optimizer that has stepped, its parameters, and gradients."""
    rng = np.random.default_rng(1)
    params = [rng.standard_normal(shape).astype("f4") for shape in ((150, 200), (3, 2), (20,))]
    grads = [rng.standard_normal(p.shape).astype("f4") for p in params]
    settings = {name: options.pop(name) for name in ("order", "reduce") if name in options}
    groups = [
        {"params": [("w", params[0]), ("v", params[1])]},
        {"params": [("u", params[2])], **options},
    ]
    optimizer: Any = Sharded(groups, comm=comm, lr=0.1, **settings)
    optimizer.ema(0.5)
    optimizer.step(grads=grads, max_norm=1.0)
    return optimizer, params, grads


def everything(optimizer: Any, params: list[Any]) -> list[bytes]:
    """The bytes of all that may not change."""
    inner = optimizer.shard
    state = [
        np.asarray(entries[name]).tobytes()
        for entries in inner.state.values()
        for name in sorted(entries)
    ]
    averages = [mean.tobytes() for _, mean in inner._average._entries.values()]
    steps = [repr((inner._average.steps, optimizer._sums.count, optimizer.last_step))]
    return [*(p.tobytes() for p in params), *state, *averages, *map(str.encode, steps)]


def fails(
    call: Callable[[Any, Any, list[Any], list[Any]], Any],
    kind: type[BaseException],
    message: str,
    on_others: str | None = None,
) -> None:
    """Where `call(comm, optimizer, params, grads)` raises an error of this kind on all ranks, or, with another
    message, a RankError on all but one, nothing has changed, and steps go on together."""

    def program(comm: Any) -> Any:
        optimizer, params, grads = made(comm)
        before = everything(optimizer, params)
        with pytest.raises((kind, RankError)) as caught:
            call(comm, optimizer, params, grads)
        options = [dict(group) for group in optimizer.param_groups]
        assert everything(optimizer, params)[: len(before) - 1] == before[:-1]
        optimizer.param_groups[0].update(lr=0.1, betas=(0.9, 0.999))
        optimizer.zero_grad()
        optimizer.step(grads=grads)
        return type(caught.value), str(caught.value), options, params

    found = Local(SIZE).run(program)
    for rank, (raised, text, *_) in enumerate(found):
        if on_others is None or rank == BAD:
            assert raised is kind
            assert message in text
        else:
            assert raised is RankError
            assert text == on_others
    for *_, params in found:
        same(params, found[0][-1])


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (
            lambda grads: [grads[0][:10], *grads[1:]],
            ValueError,
            "gradient of parameter 0 ('w') of group 0 has shape (10, 200), expected (150, 200): "
            "grads are in the order of the parameters",
        ),
        (
            lambda grads: [grads[0].astype(int), *grads[1:]],
            TypeError,
            "gradient of parameter 0 ('w') of group 0 has dtype int64, expected float32, bfloat16 "
            "or float16: write np.asarray(grad, np.float32)",
        ),
        (
            lambda grads: grads[:2],
            ValueError,
            "grads holds 2 gradients, expected 3: one for each parameter, None for one without",
        ),
        (
            lambda grads: [grads[0], (np.array([1]), grads[1][:1]), grads[2]],
            TypeError,
            "the gradient of parameter 1 ('v') of group 0 is sparse, which cannot be shared among "
            "ranks: give a dense one, grad.to_dense() or grad.toarray()",
        ),
    ],
)
@pytest.mark.parametrize("method", ["step", "closure"])
def test_a_bad_gradient(change: Any, kind: Any, message: str, method: str) -> None:
    def call(comm: Any, optimizer: Any, params: Any, grads: Any) -> None:
        own = change(grads) if comm.rank == BAD else grads
        if method == "step":
            optimizer.step(grads=own)
        else:
            optimizer.step(lambda: (1.0, own))

    on_others = f"step(): rank {BAD} raised {kind.__name__}: {message}"
    fails(call, kind, message, on_others)


def test_a_closure_that_raises() -> None:
    def call(comm: Any, optimizer: Any, params: Any, grads: Any) -> None:
        def closure() -> Any:
            if comm.rank == BAD:
                raise KeyError("mine")
            return 1.0, grads

        optimizer.step(closure)

    fails(call, KeyError, "mine", f"step(): rank {BAD} raised KeyError: 'mine'")


@pytest.mark.parametrize(
    ("own", "others", "message"),
    [
        ({"max_norm": 2.0}, {"max_norm": 1.0}, "max_norm=2.0, rank 0 max_norm=1.0"),
        ({"max_norm": 2.0}, {}, "max_norm=2.0, rank 0 max_norm=None"),
        ({"grad_scale": 2.0}, {}, "grad_scale=2.0, rank 0 grad_scale=None"),
        ({}, {"zero_grad": True}, "zero_grad=False, rank 0 zero_grad=True"),
        (
            {"nonfinite": "skip"},
            {"nonfinite": "raise"},
            "nonfinite='skip', rank 0 nonfinite='raise'",
        ),
    ],
)
def test_other_arguments(own: Any, others: Any, message: str) -> None:
    def call(comm: Any, optimizer: Any, params: Any, grads: Any) -> None:
        optimizer.step(grads=grads, **(own if comm.rank == BAD else others))

    fails(call, ValueError, f"step(): rank {BAD} has {message}")


def test_a_missing_gradient() -> None:
    def call(comm: Any, optimizer: Any, params: Any, grads: Any) -> None:
        optimizer.step(
            grads={"w": grads[0]} if comm.rank == BAD else {"w": grads[0], "u": grads[2]}
        )

    message = (
        f"step(): rank {BAD} has gradient of parameter 0 ('u') of group 1=None, "
        "rank 0 gradient of parameter 0 ('u') of group 1=float32"
    )
    fails(call, ValueError, message)


def test_another_type_of_gradient() -> None:
    def call(comm: Any, optimizer: Any, params: Any, grads: Any) -> None:
        kind = "f2" if comm.rank == BAD else "f4"
        optimizer.step(grads=[grads[0], grads[1], grads[2].astype(kind)])

    fails(
        call, ValueError, f"rank {BAD} has gradient of parameter 0 ('u') of group 1=float16, rank 0"
    )


def test_another_option() -> None:
    def call(comm: Any, optimizer: Any, params: Any, grads: Any) -> None:
        if comm.rank == BAD:
            optimizer.param_groups[0]["betas"] = (0.9, 0.99)
        optimizer.step(grads=grads)

    message = (
        f"step(): rank {BAD} has param_groups[0]['betas']=tuple(0.9, 0.99), "
        "rank 0 param_groups[0]['betas']=tuple(0.9, 0.999)"
    )
    fails(call, ValueError, message)


def test_an_option_out_of_range() -> None:
    """The step finds it when gradients have been exchanged."""

    def call(comm: Any, optimizer: Any, params: Any, grads: Any) -> None:
        optimizer.param_groups[0]["lr"] = "fast"
        optimizer.step(grads=grads)

    fails(call, TypeError, "options of param group 0: lr must be a number")


def test_another_number_of_lanes() -> None:
    def call(comm: Any, optimizer: Any, params: Any, grads: Any) -> None:
        optimizer.accumulate(grads)
        if comm.rank == BAD:
            optimizer.accumulate(grads)
        optimizer.step()

    message = (
        f"step(): rank {BAD} has the number of calls of accumulate()=2, "
        "rank 0 the number of calls of accumulate()=1"
    )
    fails(call, ValueError, message)


def test_another_call() -> None:
    def call(comm: Any, optimizer: Any, params: Any, grads: Any) -> None:
        if comm.rank == BAD:
            optimizer.ema(0.25)
        else:
            optimizer.step(grads=grads)

    fails(call, ValueError, f"rank {BAD}")


def test_gradients_that_wait() -> None:
    def call(comm: Any, optimizer: Any, params: Any, grads: Any) -> None:
        optimizer.accumulate(grads)
        optimizer.step(grads=grads if comm.rank == BAD else None)

    message = (
        "gradients of 1 calls of accumulate() wait to be averaged: call step() without a closure "
        "and without grads"
    )
    fails(call, ValueError, message, f"step(): rank {BAD} raised ValueError: {message}")


def test_gradients_that_are_read_only() -> None:
    def call(comm: Any, optimizer: Any, params: Any, grads: Any) -> None:
        grads = [grad.copy() for grad in grads]
        if comm.rank == BAD:
            grads[1].setflags(write=False)
        optimizer.step(grads=grads, zero_grad=True)

    message = (
        "gradient of parameter 1 ('v') of group 0 is read-only: it cannot be filled with zeros"
    )
    fails(call, ValueError, message, f"step(): rank {BAD} raised ValueError: {message}")


def test_parameters_that_were_edited() -> None:
    def call(comm: Any, optimizer: Any, params: Any, grads: Any) -> None:
        if comm.rank == BAD:
            members = optimizer.param_groups[0]["params"]
            members.reverse()
        try:
            optimizer.step(grads=grads)
        finally:
            if comm.rank == BAD:
                members.reverse()

    message = (
        "the parameters of param_groups were edited, and they are shared among the ranks: add a "
        "group by add_param_group(), or make a new Sharded"
    )
    fails(call, RuntimeError, message, f"step(): rank {BAD} raised RuntimeError: {message}")


def test_averages_inside_of_averages() -> None:
    def call(comm: Any, optimizer: Any, params: Any, grads: Any) -> None:
        before = [array.copy() for array in params]
        with optimizer.averaged():
            for method in (optimizer.step, optimizer.accumulate):
                with pytest.raises(
                    RuntimeError, match="parameters and averages have changed places"
                ):
                    method(grads=grads)
        same(params, before)
        with optimizer.averaged(), optimizer.averaged():
            pass

    fails(call, RuntimeError, "parameters and averages have changed places inside averaged()")


def test_averages_that_there_are_not() -> None:
    def program(comm: Any) -> None:
        optimizer: Any = Sharded([np.zeros(3)], comm=comm)
        with (
            pytest.raises(RuntimeError, match=r"averaged\(\) has no averages: call ema\(decay\)"),
            optimizer.averaged(),
        ):
            pass
        other: Any = Sharded([np.zeros(3)], cyoptim.SGDScheduleFree, comm=comm)
        with pytest.raises(TypeError, match="averages its parameters itself"):
            other.ema(0.5)
        with pytest.raises(ValueError, match=r"ema\(\): rank 1 has decay=0.25, rank 0 decay=0.5"):
            optimizer.ema(0.25 if comm.rank else 0.5)
        with pytest.raises(ValueError, match=r"decay must be in \[0, 1\], got 2"):
            optimizer.ema(2)
        with pytest.raises(RuntimeError, match="has no averages"):
            optimizer.averaged().__enter__()

    Local(2).run(program)


def test_scalers() -> None:
    def program(comm: Any) -> None:
        optimizer: Any = Sharded([np.zeros(3)], comm=comm)
        assert optimizer._step_supports_amp_scaling
        optimizer.grad_scale = 2.0
        with pytest.raises(TypeError, match=r"step\(grad_scale=scale, nonfinite='skip'\)"):
            optimizer.step(grads=[np.ones(3)])
        del optimizer.grad_scale
        optimizer.step(grads=[np.ones(3)])

    Local(2).run(program)


# --- construction -------------------------------------------------------------------------------------


def construct(comm: Any, values: Any = None, *args: Any, **options: Any) -> Any:
    params = [np.full((3, 2), comm.rank + 1.0), np.full(4, comm.rank + 1.0)]
    params = params if values is None else values(params)
    return Sharded(params, *args, comm=comm, **options)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"lr": 0.5}, "rank 1 has param_groups[0]['lr']=0.5, rank 0 param_groups[0]['lr']=0.001"),
        ({"order": "library"}, "rank 1 has order='library', rank 0 order='tree'"),
        ({"reduce": "sum"}, "rank 1 has reduce='sum', rank 0 reduce='mean'"),
        ({"comm_dtype": "bfloat16"}, "rank 1 has comm_dtype='bfloat16', rank 0 comm_dtype=None"),
        ({"bucket_size": 64}, "rank 1 has bucket_size=64, rank 0 bucket_size=16777216"),
        ({"optimizer": cyoptim.Adam}, "rank 1 has optimizer='Adam', rank 0 optimizer='AdamW'"),
        (
            {"values": lambda params: [*params, np.zeros(2)]},
            "rank 1 has the number of parameters=3, rank 0 the number of parameters=2",
        ),
        (
            {"values": lambda params: [params[0].T, params[1]]},
            "rank 1 has parameter 0 of group 0=float64 of shape (2, 3), "
            "rank 0 parameter 0 of group 0=float64 of shape (3, 2)",
        ),
        (
            {"values": lambda params: [params[0].astype("f4"), params[1]]},
            "rank 1 has parameter 0 of group 0=float32 of shape (3, 2), "
            "rank 0 parameter 0 of group 0=float64 of shape (3, 2)",
        ),
    ],
)
def test_ranks_that_differ(own: Any, message: str) -> None:
    def program(comm: Any) -> None:
        params: list[Any] = []

        def kept(made: list[Any]) -> list[Any]:
            params.extend(own.get("values", list)(made) if comm.rank == 1 else made)
            return params

        options = {k: v for k, v in own.items() if k != "values"} if comm.rank == 1 else {}
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            construct(comm, kept, **options)
        assert str(caught.value) == f"Sharded(): {message}"
        assert all((param == comm.rank + 1).all() for param in params[:2])

    Local(3).run(program)


def test_a_constructor_that_fails() -> None:
    def program(comm: Any) -> Any:
        with pytest.raises((ValueError, RankError)) as caught:
            construct(comm, lr=-1.0 if comm.rank == 1 else 0.1)
        return str(caught.value)

    message = "Invalid learning rate: -1.0 (expected >= 0)"
    found = Local(3).run(program)
    assert found[0] == found[2] == f"Sharded(): rank 1 raised ValueError: {found[1]}"
    assert found[1].startswith(message[:22])


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (
            {"order": "fast"},
            ValueError,
            "order must be 'tree' or 'library', got 'fast'",
        ),
        ({"reduce": None}, ValueError, "reduce must be 'mean' or 'sum', got None"),
        (
            {"comm_dtype": "float16"},
            ValueError,
            "comm_dtype must be None or 'bfloat16', got 'float16'",
        ),
        (
            {"comm_dtype": "bfloat16", "order": "library"},
            ValueError,
            "comm_dtype='bfloat16' is for order='tree': libraries add gradients up in the type in "
            "which they travel",
        ),
        ({"bucket_size": 1.5}, TypeError, "bucket_size must be a whole number, got 1.5"),
        ({"bucket_size": 0}, ValueError, "bucket_size is 0, expected at least 1 byte"),
        (
            {"optimizer": cyoptim.LBFGS},
            TypeError,
            "LBFGS has a step() of its own, which knows of no ranks: use an optimizer whose steps "
            "are rules, such as AdamW, or override update() instead of step()",
        ),
        (
            {"optimizer": cyoptim.SparseAdam},
            TypeError,
            "SparseAdam steps along sparse gradients, which cannot be shared among ranks: use Adam",
        ),
        (
            {"optimizer": "AdamW"},
            TypeError,
            "the optimizer is a str, expected a class of cyoptim's optimizers: write "
            "Sharded(params, cyoptim.AdamW, comm=comm, lr=0.1)",
        ),
        (
            {"optimizer": dict},
            TypeError,
            "the optimizer is builtins.dict, expected a class of cyoptim's optimizers: write "
            "Sharded(params, cyoptim.AdamW, comm=comm, lr=0.1)",
        ),
        ({"lrr": 0.1}, TypeError, "AdamW.__init__() got an unexpected keyword argument 'lrr'"),
    ],
)
def test_what_is_refused(arguments: Any, kind: Any, message: str) -> None:
    def program(comm: Any) -> None:
        with pytest.raises(kind) as caught:
            construct(comm, **arguments)
        assert str(caught.value).startswith(message)

    for size in (1, 2):
        Local(size).run(program)


def test_a_communicator_in_the_place_of_the_class() -> None:
    def program(comm: Any) -> None:
        with pytest.raises(TypeError, match=r"Member, expected .*, cyoptim.AdamW, comm=comm, "):
            Sharded([np.zeros(3)], comm, cyoptim.AdamW)

    Local(1).run(program)


def test_the_signature_is_that_of_the_constructor() -> None:
    names = ["params", "optimizer", "comm", "order", "reduce", "comm_dtype", "bucket_size"]
    assert [*inspect.signature(Sharded).parameters] == [*names, "options"]


def test_what_is_refused_of_torch() -> None:
    torch = pytest.importorskip("torch")
    message = "param group 0 has differentiable=True, and steps of ranks are no operations of torch"
    with pytest.raises(ValueError, match=message):
        Local(1).run(
            lambda comm: Sharded([torch.zeros(3)], cyoptim.Adam, comm=comm, differentiable=True)
        )


def test_a_parameter_twice() -> None:
    def program(comm: Any) -> None:
        with (
            pytest.warns(UserWarning, match="duplicate parameters"),
            pytest.raises(ValueError, match="param group 0 has a parameter twice"),
        ):
            construct(comm, lambda params: [params[0], params[0]])

    Local(1).run(program)


def test_a_communicator_is_needed() -> None:
    with pytest.raises(TypeError, match="required keyword-only argument: 'comm'"):
        Sharded([np.zeros(3)])  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="comm is None, expected a communicator"):
        Sharded([np.zeros(3)], comm=None)


def test_sharded_of_sharded() -> None:
    (one,) = Local(1).run(construct)
    with pytest.raises(TypeError, match="ShardedAdamW is sharded already: write AdamW"):
        Local(1).run(lambda comm: construct(comm, optimizer=type(one)))


def test_states_are_those_of_shards() -> None:
    (one,) = Local(1).run(construct)
    with pytest.raises(TypeError, match="the state of a Sharded is that of its parts"):
        one.state = {}
    with pytest.raises(TypeError, match="ShardedAdamW is not called"):
        one()


class Meddler:
    """A communicator during whose last exchange before the step another thread might run: it resizes arrays."""

    def __init__(self, member: Any, arrays: Callable[[], list[Any]]) -> None:
        self._member, self._arrays, self._armed = member, arrays, False
        self.rank, self.size = member.rank, member.size

    def __getattr__(self, name: str) -> Any:
        return getattr(self._member, name)

    def exchange(self, *args: Any) -> Any:
        self._armed = bool(self._arrays())
        return self._member.exchange(*args)

    def share(self, message: bytes) -> list[bytes]:
        messages: list[bytes] = self._member.share(message)
        for array in self._arrays() if self._armed else []:
            array.resize(2 * array.size, refcheck=False)
        return messages


@pytest.mark.parametrize("which", ["parameter", "state"])
def test_memory_that_moves_while_ranks_agree(which: str) -> None:
    """It is found before the kernels write to where it was."""

    def program(comm: Any) -> None:
        w, found = np.ones(100), []
        optimizer = Sharded([w], cyoptim.Adam, comm=Meddler(comm, lambda: found))
        optimizer.step(grads=[np.ones(100)])
        (state,) = optimizer.shard.state.values()
        average = state["exp_avg"]
        owner = average if average.base is None else average.base
        found[:] = [w] if which == "parameter" else [owner]
        optimizer.step(grads=[np.ones(100)])

    with pytest.raises(RuntimeError, match="changed in size or place"):
        Local(2).run(program)
