"""Averages of arrays and of torch modules."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim.swa_utils import (
    SWALR,
    AveragedModel,
    get_ema_avg_fn,
    get_ema_multi_avg_fn,
    get_swa_avg_fn,
    get_swa_multi_avg_fn,
    update_bn,
)
from tests.support.parametrize import every_real

RULES = {
    "default": {},
    "swa": {"avg_fn": get_swa_avg_fn()},
    "swa multi": {"multi_avg_fn": get_swa_multi_avg_fn()},
    "ema": {"avg_fn": get_ema_avg_fn(0.9)},
    "ema multi": {"multi_avg_fn": get_ema_multi_avg_fn(0.9)},
}


def expected_average(history: list[np.ndarray], rule: str) -> np.ndarray:
    average = history[0]
    for n, value in enumerate(history[1:], start=1):
        average = 0.9 * average + 0.1 * value if "ema" in rule else (n * average + value) / (n + 1)
    return average


@pytest.mark.parametrize("rule", RULES)
@every_real
def test_arrays(rule: str, dtype: Any, rng: np.random.Generator) -> None:
    base = np.zeros((4, 6), dtype)
    model = {
        "W": cyoptim.Parameter(np.zeros((3, 4), dtype)),
        "rest": [np.zeros(5, dtype), base[::2, ::3], np.asfortranarray(np.zeros((3, 2), dtype))],
        "scalar": np.zeros((), dtype),
    }
    average = AveragedModel(model, **RULES[rule])
    history: list[list[np.ndarray]] = []
    for _ in range(5):
        arrays = [model["W"].data, *model["rest"], model["scalar"]]
        for array in arrays:
            array[...] = rng.standard_normal(array.shape)
        history.append([np.array(array, np.float64) for array in arrays])
        average.update_parameters(model)
    assert average.n_averaged == 5
    found = [average.module["W"].data, *average.module["rest"], average.module["scalar"]]
    for k, array in enumerate(found):
        assert array.dtype == dtype
        np.testing.assert_allclose(
            array, expected_average([h[k] for h in history], rule), rtol=1e-5, atol=1e-6
        )
        assert not np.shares_memory(array, arrays[k])
    twin = AveragedModel(model)
    state = average.state_dict()
    twin.load_state_dict({**copy.deepcopy(state), "n_averaged": np.int64(5)})
    assert twin.n_averaged == 5
    assert type(twin.n_averaged) is int
    np.testing.assert_array_equal(twin.module["W"].data, average.module["W"].data)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("rule", RULES)
def test_copies_go_on_with_the_same_rule(rule: str, clone: Any) -> None:
    average = AveragedModel({"w": np.zeros(1)}, **RULES[rule])
    average.update_parameters({"w": np.full(1, 1.0)})
    twin = clone(average)
    twin.update_parameters({"w": np.full(1, 2.0)})
    expected = 1.1 if "ema" in rule else 1.5
    np.testing.assert_allclose(twin.module["w"], expected)
    assert average.module["w"] == 1.0


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("rule", RULES)
def test_copies_of_module_averages_go_on(torch: Any, rule: str, clone: Any) -> None:
    net = torch.nn.Linear(1, 1, bias=False)
    average = AveragedModel(net, **RULES[rule])
    for value in (1.0, 2.0):
        torch.nn.init.constant_(net.weight, value)
        average.update_parameters(net)
        average = clone(average)
    np.testing.assert_allclose(average.module.weight.item(), 1.1 if "ema" in rule else 1.5)


@pytest.mark.parametrize("make", [np.float32, np.array, lambda v: np.array([v])])
def test_a_decay_of_numpys(make: Any) -> None:
    value = get_ema_avg_fn(make(0.5))(np.zeros(1), np.ones(1), 1)
    average = [np.zeros(1)]
    get_ema_multi_avg_fn(make(0.5))(average, [np.ones(1)], 1)
    assert (value[0], average[0][0]) == (0.5, 0.5)
    for make_rule in (get_ema_avg_fn, get_ema_multi_avg_fn):
        with pytest.raises(TypeError, match="decay must be a number, got str: 'much'"):
            make_rule("much")


def in_place(averaged: Any, current: Any, n: Any) -> None:
    averaged += 0.1 * (current - averaged)


def fails_at_the_second(averaged: Any, current: Any, n: Any) -> Any:
    averaged += 1
    if averaged.shape == (3,):
        raise ZeroDivisionError("the user's")
    return averaged


WRONG_AVERAGES: list[tuple[Any, type[Exception], str]] = [
    (in_place, TypeError, "avg_fn returned None for parameter 0: it has to return the new average"),
    (lambda a, c, n: c[:1], ValueError, r"parameter 0 that avg_fn returned has shape \(1,\), exp"),
    (lambda a, c, n: "0.5", TypeError, "parameter 0 that avg_fn returned is a str"),
    (lambda a, c, n: c * 1j, TypeError, "parameter 0 that avg_fn returned .* ?complex128"),
    (lambda a, c, n: c * 1j if len(c) == 3 else c, TypeError, "the average of parameter 1 "),
    (fails_at_the_second, ZeroDivisionError, "the user's"),
]


@pytest.mark.parametrize(
    ("rule", "error", "message"),
    [
        *WRONG_AVERAGES,
        (
            lambda a, c, n: np.array([None] * len(c)),
            TypeError,
            "parameter 0 that avg_fn returned is a numpy.ndarray of object, expected .* float64",
        ),
        (lambda a, c, n: 0.5, ValueError, r"avg_fn returned has shape \(\), expected \(2,\)"),
    ],
)
def test_what_avg_fn_returns_is_checked(rule: Any, error: Any, message: str) -> None:
    model = [np.ones(2), np.ones(3)]
    average = AveragedModel(model, avg_fn=rule)
    average.update_parameters(model)
    model[0][...] = 2.0
    with pytest.raises(error, match=message):
        average.update_parameters(model)
    assert [array.tolist() for array in average.module] == [[1.0] * 2, [1.0] * 3]
    assert average.n_averaged == 1


def two_sizes(torch: Any) -> Any:
    net = torch.nn.ParameterList([torch.ones(2).double(), torch.ones(3).double()])
    net.register_buffer("seen", torch.zeros(1))
    return net


@pytest.mark.parametrize(
    ("rule", "error", "message"),
    [
        *WRONG_AVERAGES,
        (lambda a, c, n: 0.5, TypeError, "parameter 0 that avg_fn returned is a float, expected a"),
        (lambda a, c, n: c.numpy(), TypeError, "avg_fn returned is a numpy.ndarray, expected a"),
    ],
)
def test_what_avg_fn_returns_for_a_module_is_checked(
    torch: Any, rule: Any, error: Any, message: str
) -> None:
    net = two_sizes(torch)
    average = AveragedModel(net, avg_fn=rule)
    average.update_parameters(net)
    torch.nn.init.constant_(net[0], 2.0)
    net.seen += 1
    with pytest.raises(error, match=message):
        average.update_parameters(net)
    assert [p.tolist() for p in average.module.parameters()] == [[1.0] * 2, [1.0] * 3]
    assert (average.n_averaged, average.module.seen) == (1, 0)


def moves_and_returns(averaged: Any, current: Any, n: Any) -> Any:
    for a, c in zip(averaged, current, strict=True):
        a += 0.5 * (c - a)
    return averaged


def moves_and_fails(averaged: Any, current: Any, n: Any) -> Any:
    moves_and_returns(averaged, current, n)
    raise ZeroDivisionError("the user's")


@pytest.mark.parametrize("over", ["arrays", "module"])
def test_what_multi_avg_fn_returns_is_checked(request: Any, over: str) -> None:
    def model_of(value: float) -> Any:
        if over == "arrays":
            return [np.full(2, value), np.full(3, value)]
        torch = request.getfixturevalue("torch")
        net = two_sizes(torch)
        for parameter in net.parameters():
            torch.nn.init.constant_(parameter, value)
        return net

    def values(average: Any) -> Any:
        module = average.module
        return [a.tolist() for a in (module if over == "arrays" else module.parameters())]

    wrong = "multi_avg_fn returned a .*: it has to change the averages in place and return None"
    for rule, error, message in (
        (lambda a, c, n: [x + y for x, y in zip(a, c, strict=True)], TypeError, wrong),
        (lambda a, c, n: c, TypeError, wrong),
        (lambda a, c, n: (x for x in a), TypeError, wrong),
        (lambda a, c, n: 0.5, TypeError, wrong),
        (moves_and_fails, ZeroDivisionError, "the user's"),
    ):
        average = AveragedModel(model_of(1.0), multi_avg_fn=rule)
        average.update_parameters(model_of(1.0))
        with pytest.raises(error, match=message):
            average.update_parameters(model_of(2.0))
        assert values(average) == [[1.0] * 2, [1.0] * 3]
        assert average.n_averaged == 1
    for rule in (moves_and_returns, lambda a, c, n: tuple(moves_and_returns(a, c, n))):
        average = AveragedModel(model_of(1.0), multi_avg_fn=rule)
        average.update_parameters(model_of(1.0))
        average.update_parameters(model_of(2.0))
        assert values(average) == [[1.5] * 2, [1.5] * 3]


def test_a_module_of_other_shapes_changes_nothing(torch: Any) -> None:
    average = AveragedModel(two_sizes(torch))
    for value in (1.0, 2.0):
        other = two_sizes(torch)
        torch.nn.init.constant_(other[0], value)
        other[1] = torch.nn.Parameter(torch.ones(1).double())
        with pytest.raises(ValueError, match=r"parameter 1 of the model has shape \(1,\), exp"):
            average.update_parameters(other)
        assert (average.n_averaged, average.module[0].tolist()) == (0, [1.0, 1.0])
    other = two_sizes(torch)
    other.seen = torch.zeros(2)
    with pytest.raises(ValueError, match="buffer 0 of the model has shape"):
        average.update_parameters(other)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (None, "'module' and 'n_averaged', as state_dict.* found NoneType"),
        ({"module": [np.zeros(2)]}, "'module' and 'n_averaged'"),
        (
            {"module": [np.zeros(2) * 1j], "n_averaged": 1},
            "loaded average of parameter 0 .*complex",
        ),
    ],
)
def test_a_state_that_is_none(state: Any, message: str) -> None:
    average = AveragedModel([np.ones(2)])
    with pytest.raises(TypeError, match=message):
        average.load_state_dict(state)
    assert (average.n_averaged, average.module[0].tolist()) == (0, [1.0, 1.0])


def test_bad_arguments() -> None:
    for make in (get_ema_avg_fn, get_ema_multi_avg_fn):
        for decay in (-0.1, 1.1, float("nan")):
            with pytest.raises(ValueError, match="Please provide a value in \\[0,1\\] range"):
                make(decay)
    with pytest.raises(AssertionError, match="Only one of avg_fn and multi_avg_fn"):
        AveragedModel([np.zeros(2)], avg_fn=get_swa_avg_fn(), multi_avg_fn=get_swa_multi_avg_fn())
    with pytest.raises(TypeError, match="found a str"):
        AveragedModel({"w": "text"})
    with pytest.raises(TypeError, match="has dtype int64"):
        AveragedModel([np.zeros(2, int)])
    average = AveragedModel([np.zeros(2)])
    for other, message in (
        ([np.zeros(3)], r"has parameters of shapes \[\(3,\)\], expected \[\(2,\)\]"),
        ([np.zeros(2), np.zeros(2)], "has '1', which the average does not have"),
    ):
        with pytest.raises(ValueError, match=f"model {message}"):
            average.update_parameters(other)
        with pytest.raises(ValueError, match=f"the loaded average {message}"):
            average.load_state_dict({"module": other, "n_averaged": 3})
    assert average.n_averaged == 0
    with pytest.raises(TypeError, match="update_bn needs a torch module, got list"):
        update_bn([], [np.zeros(2)])


def network(torch: Any) -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 2)
    )


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_module_equals_torchs(torch: Any, rule: str, use_buffers: bool) -> None:
    theirs_of = {
        "default": {},
        "swa": {"avg_fn": torch.optim.swa_utils.get_swa_avg_fn()},
        "swa multi": {"multi_avg_fn": torch.optim.swa_utils.get_swa_multi_avg_fn()},
        "ema": {"avg_fn": torch.optim.swa_utils.get_ema_avg_fn(0.9)},
        "ema multi": {"multi_avg_fn": torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)},
    }
    if use_buffers and "multi" in rule:
        pytest.skip("torch cannot average integer buffers so")
    net = network(torch)
    ours = AveragedModel(net, use_buffers=use_buffers, **RULES[rule])
    theirs = torch.optim.swa_utils.AveragedModel(net, use_buffers=use_buffers, **theirs_of[rule])
    assert isinstance(ours, torch.nn.Module)
    assert isinstance(ours, AveragedModel)
    for k in range(5):
        net(torch.randn(16, 4, generator=torch.Generator().manual_seed(k)))
        with torch.no_grad():
            for p in net.parameters():
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(k)))
        ours.update_parameters(net)
        theirs.update_parameters(net)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 4)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    copy.deepcopy(ours).update_parameters(net)


def test_parameters_of_several_precisions(torch: Any) -> None:
    # A function of the user gets those of one precision at a time, as from torch.
    def recording(seen: list[Any]) -> Any:
        def average(averaged: Any, current: Any, n: Any) -> None:
            seen.append([a.dtype for a in averaged])
            for a, c in zip(averaged, current, strict=True):
                a.copy_(c)

        return average

    net = network(torch)
    net[0].double()
    seen: list[list[Any]] = [[], []]
    for library, calls in zip((cyoptim.swa_utils, torch.optim.swa_utils), seen, strict=True):
        average = library.AveragedModel(net, multi_avg_fn=recording(calls))
        average.update_parameters(net)
        average.update_parameters(net)
    assert sorted(map(str, seen[0])) == sorted(map(str, seen[1]))
    assert len(seen[0]) == 2


def test_a_model_with_fewer_parameters(torch: Any) -> None:
    # As in torch: those that it has are averaged.
    values = []
    for library in (cyoptim.swa_utils, torch.optim.swa_utils):
        big = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Linear(1, 1))
        torch.nn.init.constant_(big[1].weight, 7.0)
        average = library.AveragedModel(big)
        for value in (1.0, 4.0):
            torch.nn.init.constant_(big[0].weight, value)
            average.update_parameters(big[:1])
        values.append([average.module[0].weight.tolist(), average.module[1].weight.tolist()])
    assert values == [[[[2.5, 2.5]], [[7.0]]]] * 2


def test_the_device_of_an_average(torch: Any) -> None:
    average = AveragedModel(torch.nn.Linear(2, 1), device="meta")
    assert {tensor.device.type for tensor in average.state_dict().values()} == {"meta"}
    assert average.n_averaged.device.type == "meta"


def test_update_bn_moves_lists_of_inputs_and_records_nothing(torch: Any) -> None:
    moved, recording = [], []

    class Input:
        def to(self, device: Any) -> Any:
            moved.append(device)
            return torch.ones(3, 4)

    net = network(torch)
    net.register_forward_hook(lambda *_: recording.append(torch.is_grad_enabled()))
    update_bn([[Input(), None]] * 2, net, device="cpu")
    assert moved == ["cpu"] * 2
    assert recording == [False] * 2


def test_update_bn_without_batch_norms_reads_no_batch(torch: Any) -> None:
    update_bn(iter(pytest.fail, None), torch.nn.Linear(2, 1))


@pytest.mark.slow
def test_update_bn(torch: Any) -> None:
    ours, theirs = network(torch), network(torch)
    for net in (ours, theirs):
        net(torch.ones(2, 4))  # leaves statistics that must go
    batches = [(torch.randn(16, 4), None) for _ in range(5)]
    update_bn(batches, ours.eval())
    torch.optim.swa_utils.update_bn(batches, theirs.eval())
    assert not ours.training
    for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(a, b)
    assert ours[1].momentum == theirs[1].momentum


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("strategy", ["cos", "linear"])
@pytest.mark.parametrize("epochs", [0, 1, 7])
def test_swalr_equals_torchs(torch: Any, epochs: int, strategy: str, before: int) -> None:
    def rates(optimizer: Any, schedulers: Any, swalr: Any) -> list[list[float]]:
        warmup = schedulers.StepLR(optimizer, 2, gamma=0.5)
        seen = []
        for _ in range(before):
            optimizer.step()
            warmup.step()
        scheduler = swalr(optimizer, [0.05, 0.2], epochs, strategy)
        for _ in range(20):
            seen.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            scheduler.step()
        return seen

    ours = cyoptim.SGD(
        [
            {"params": [cyoptim.Parameter(np.zeros(2))]},
            {"params": [cyoptim.Parameter(np.zeros(2))], "lr": 0.1},
        ],
        lr=0.5,
    )
    theirs = torch.optim.SGD(
        [{"params": [torch.zeros(2)]}, {"params": [torch.zeros(2)], "lr": 0.1}], lr=0.5
    )
    found = rates(ours, cyoptim.lr_scheduler, SWALR)
    expected = rates(theirs, torch.optim.lr_scheduler, torch.optim.swa_utils.SWALR)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_swalr_warns_who_calls_get_lr() -> None:
    scheduler = SWALR(cyoptim.SGD([np.zeros(2)], lr=0.5), 0.1)
    with pytest.warns(UserWarning, match=r"please use `get_last_lr\(\)`"):
        scheduler.get_lr()


def test_swalr_resumes_and_refuses() -> None:
    optimizer = cyoptim.SGD([cyoptim.Parameter(np.zeros(2))], lr=0.5)
    whole = SWALR(optimizer, 0.1, 6).preview(10)
    scheduler = SWALR(optimizer, 0.1, 6)
    for _ in range(3):
        optimizer.step()
        scheduler.step()
    other = cyoptim.SGD([cyoptim.Parameter(np.zeros(2))], lr=9.0)
    resumed = SWALR(other, 7.0, 1, "linear")
    other.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    np.testing.assert_allclose(resumed.preview(7), whole[3:], rtol=1e-12)
    SWALR(optimizer, 0.25, 0)  # the rate given last counts
    assert optimizer.param_groups[0]["lr"] == 0.25
    with pytest.raises(
        ValueError, match="anneal_strategy must be one of 'cos' or 'linear', instead got sin"
    ):
        SWALR(optimizer, 0.1, anneal_strategy="sin")
    for bad in (-1, 1.5):
        with pytest.raises(ValueError, match="anneal_epochs must be equal or greater than 0"):
            SWALR(optimizer, 0.1, anneal_epochs=bad)
    with pytest.raises(ValueError, match="swa_lr must have the same length"):
        SWALR(optimizer, [0.1, 0.2])


class Moving(AveragedModel):
    """As users write it: the model is not the first argument, and there are more."""

    def __init__(self, decay: float, model: Any, device: Any = None, use_buffers: bool = False):
        def average(averaged: Any, current: Any, n: Any) -> Any:
            return decay * averaged + (1 - decay) * current

        super().__init__(model, device, average, use_buffers=use_buffers)
        self.decay = decay


def test_subclass_over_arrays() -> None:
    model = {"w": np.zeros(2)}
    average = Moving(0.5, model)
    for value in (1.0, 3.0):
        model["w"][...] = value
        average.update_parameters(model)
    np.testing.assert_array_equal(average.module["w"], [2.0, 2.0])


def test_subclass_over_a_torch_module(torch: Any) -> None:
    net = torch.nn.Linear(2, 1, bias=False)
    average = Moving(model=net, decay=0.5)
    assert isinstance(average, Moving)
    assert isinstance(average, torch.nn.Module)
    assert type(average) is type(Moving(0.9, net)) is type(type(average)(0.9, net))
    assert type(average).__doc__ == Moving.__doc__
    for value in (1.0, 3.0):
        torch.nn.init.constant_(net.weight, value)
        average.update_parameters(net)
    assert average(torch.ones(1, 2)).item() == 4.0
    assert list(average.state_dict()) == ["n_averaged", "module.weight"]
    average.avg_fn = None
    for twin in (copy.deepcopy(average), pickle.loads(pickle.dumps(average))):
        assert type(twin) is type(average)
        assert twin.decay == 0.5
        assert torch.equal(twin.module.weight, average.module.weight)
        twin.update_parameters(net)
