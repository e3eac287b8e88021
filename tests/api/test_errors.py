"""Contract 3: bad input raises, names what is wrong, and changes nothing."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.optimizers import BY_NAME, cards
from tests.support.cards import CHECKED, CLOSURE, DENSE, MATRICES, Card, Options, takes
from tests.support.doors import Box
from tests.support.parametrize import every_card

BAD = [(card, *row) for card in cards() for row in card.refusals]


@pytest.mark.parametrize(
    ("card", "options", "error", "message"), BAD, ids=[f"{row[0]}-{row[1]}" for row in BAD]
)
def test_bad_argument(card: Card, options: Options, error: Any, message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        card.cls([np.zeros((3, 3))], **options)


# Options of a group are checked as the constructor's are; a misspelt one is found there, too.
GROUP_BAD = [row for row in BAD if "unexpected keyword" not in row[3]]
GROUP_IDS = [f"{row[0]}-{row[1]}" for row in GROUP_BAD]
every_bad_option = pytest.mark.parametrize(
    ("card", "options", "error", "message"), GROUP_BAD, ids=GROUP_IDS
)


@every_bad_option
def test_bad_option_of_a_group(card: Card, options: Options, error: Any, message: str) -> None:
    good, bad = {"params": [np.zeros((3, 3))]}, {"params": [np.zeros((3, 3))], **options}
    with pytest.raises(error, match=re.escape(message)):
        card.cls([good, bad])
    optimizer = card.cls([good])
    with pytest.raises(error, match=re.escape(message)):
        optimizer.add_param_group(bad)
    assert len(optimizer.param_groups) == 1
    assert set(bad) == {"params", *options}


def test_unknown_option_of_a_group_suggests_the_known_one() -> None:
    with pytest.raises(
        ValueError,
        match=r"param group 1 has an option 'weigth_decay' .*did you mean 'weight_decay'",
    ):
        cyoptim.SGD([{"params": [np.zeros(2)]}, {"params": [np.zeros(2)], "weigth_decay": 0.1}])


# --- parameters -----------------------------------------------------------------------------------


def read_only() -> np.ndarray:
    a = np.zeros(3)
    a.flags.writeable = False
    return a


def overlapping_itself() -> np.ndarray:
    return np.lib.stride_tricks.as_strided(np.zeros(3), (3, 2), (8, 8), writeable=True)


BAD_PARAMETERS = {
    "longdouble": (lambda: np.zeros(3, np.longdouble), TypeError, "parameter 1 of group 0 has dtype"),
    "int": (lambda: np.zeros(3, int), TypeError, "parameter 1 of group 0 has dtype int64, expected float32"),
    "object": (lambda: np.array([None, 1.0]), TypeError, "parameter 1 of group 0 has dtype object"),
    "bool": (lambda: np.zeros(3, bool), TypeError, "parameter 1 of group 0 has dtype bool"),
    "swapped complex": (lambda: np.zeros(3, np.dtype(np.complex64).newbyteorder("S")), TypeError, "byte order is not this machine's"),
    "swapped": (lambda: np.zeros(3, np.dtype(np.float32).newbyteorder("S")), TypeError, "byte order is not this machine's"),
    "read-only": (read_only, ValueError, "parameter 1 of group 0 is read-only"),
    "broadcast": (overlapping_itself, ValueError, "parameter 1 of group 0 is a view whose elements overlap"),
    "list": (lambda: [1.0, 2.0], TypeError, "can only optimize Tensors, but one of the params is list: parameter 1 of group 0"),
    "float": (lambda: 1.0, TypeError, "can only optimize Tensors, but one of the params is float: parameter 1 of group 0"),
    "None": (lambda: None, TypeError, "can only optimize Tensors, but one of the params is NoneType: parameter 1 of group 0"),
    "Parameter of int": (lambda: cyoptim.Parameter(np.zeros(3, int)), TypeError, "parameter 1 of group 0 has dtype int64"),
    "object of longdouble": (lambda: Box(np.zeros(3, np.longdouble)), TypeError, "parameter 1 of group 0 has dtype"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_PARAMETERS)
def test_bad_parameter(name: str) -> None:
    make, error, message = BAD_PARAMETERS[name]
    with pytest.raises(error, match=re.escape(message)):
        cyoptim.Adam([np.zeros(3), make()])
    optimizer = cyoptim.Adam([np.zeros(3)])
    with pytest.raises(error, match=re.escape(message.replace("1 of group 0", "0 of group 1"))):
        optimizer.add_param_group({"params": [make()]})
    assert len(optimizer.param_groups) == 1


def test_bad_parameter_is_named() -> None:
    with pytest.raises(TypeError, match=r"parameter 1 \('b'\) of group 0 has dtype int64"):
        cyoptim.SGD([("W", np.zeros(3)), ("b", np.zeros(3, int))])


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ([], ValueError, "optimizer got an empty parameter list"),
        (iter(()), ValueError, "optimizer got an empty parameter list"),
        (
            np.zeros(3),
            TypeError,
            "should be an iterable of Tensors or dicts, or of arrays, but got numpy.ndarray",
        ),
        (3, TypeError, "should be an iterable of Tensors or dicts, or of arrays, but got int"),
        ({}, ValueError, "optimizer got an empty dict of parameters"),
        ({"W": 1.0}, TypeError, "one of the params is float: parameter 0 ('W') of group 0"),
        ([{"lr": 0.1}], ValueError, "param group 0 has no 'params'"),
        ([{"params": {1, 2}}], TypeError, "ordered collections"),
        ([[1.0, 2.0]], TypeError, "but one of the params is list: parameter 0 of group 0"),
        ([("W", np.zeros(3)), np.zeros(3)], ValueError, "Some param names are missing"),
        ([{"params": [np.zeros(3)]}, np.zeros(3)], TypeError, "param_group must be a dict"),
        (
            [{"params": [("W", np.zeros(3))]}, {"params": [np.zeros(3)]}],
            ValueError,
            "cannot add param group without names",
        ),
    ],
)
def test_bad_params_argument(params: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        cyoptim.SGD(params)


def test_same_array_in_two_groups() -> None:
    w = np.zeros(3)
    with pytest.raises(
        ValueError,
        match="more than one parameter group: parameter 0 of group 0 is parameter 1 of group 1",
    ):
        cyoptim.SGD([{"params": [w]}, {"params": [np.zeros(2), w]}])


@pytest.mark.parametrize(
    "views",
    [
        lambda a: (a[:6], a[5:]),
        lambda a: (a, a[3:4]),
        lambda a: (a[::2], a[::3]),
        lambda a: (a, a.reshape(2, 5)),
        lambda a: (cyoptim.Parameter(a), cyoptim.Parameter(a)),
    ],
)
def test_overlapping_views(views: Any) -> None:
    a, b = views(np.arange(10.0))
    with pytest.raises(
        ValueError, match="parameter 0 of group 0 and parameter 1 of group 0 share memory"
    ):
        cyoptim.SGD([a, b])
    with pytest.raises(ValueError, match="parameter 0 of group 0 and parameter 0 of group 1 share"):
        cyoptim.SGD([{"params": [a]}, {"params": [b]}])


def test_interleaved_views_do_not_overlap() -> None:
    a = np.zeros((6, 4))
    columns = [a[:, k] for k in range(4)]
    cyoptim.SGD(columns, lr=1.0).step(grads=[np.full(6, float(k)) for k in range(4)])
    np.testing.assert_array_equal(a, np.tile([0.0, -1.0, -2.0, -3.0], (6, 1)))


# --- gradients ------------------------------------------------------------------------------------

BAD_GRADIENTS = {
    "shape": (np.zeros(4, np.float32), ValueError, "gradient of parameter 1 ('b') of group 0 has shape (4,), expected (3,)"),
    "ndim": (np.zeros((3, 1), np.float32), ValueError, "gradient of parameter 1 ('b') of group 0 has shape (3, 1), expected (3,)"),
    "dtype": (np.zeros(3), TypeError, "gradient of parameter 1 ('b') of group 0 has dtype float64, expected float32"),
    "int": (np.zeros(3, int), TypeError, "gradient of parameter 1 ('b') of group 0 has dtype int64, expected float32"),
    "list": ([0.0, 0.0, 0.0], TypeError, "gradient of parameter 1 ('b') of group 0 is a list, expected a NumPy array"),
    "scalar": (np.float32(0.0), TypeError, "gradient of parameter 1 ('b') of group 0 is a float32"),
}  # fmt: skip


@every_card(DENSE, ~CLOSURE)
@pytest.mark.parametrize("name", BAD_GRADIENTS)
def test_bad_gradient_changes_nothing(card: Card, name: str) -> None:
    grad, error, message = BAD_GRADIENTS[name]
    shape = (3, 2) if MATRICES(card) else (3,)
    message = message.replace("expected (3,)", f"expected {shape}")
    W, b = np.ones((2, 2), np.float32), np.ones(shape, np.float32)
    optimizer = card.cls([("W", W), ("b", b)], **card.history)
    good = [np.ones((2, 2), np.float32), np.ones(shape, np.float32)]
    for _ in range(2):  # without state, and with
        state = copy.deepcopy(optimizer.state_dict())
        values = W.copy(), b.copy()
        with pytest.raises(error, match=re.escape(message)):
            optimizer.step(grads=[good[0], grad])
        np.testing.assert_array_equal(W, values[0])
        np.testing.assert_array_equal(b, values[1])
        assert repr(optimizer.state_dict()) == repr(state)
        optimizer.step(grads=good)


@pytest.mark.parametrize(
    ("grads", "error", "message"),
    [
        ([np.zeros(3)], ValueError, "grads holds 1 gradients, expected 2"),
        ([np.zeros(3)] * 3, ValueError, "grads holds 3 gradients, expected 2"),
        (np.zeros((2, 3)), TypeError, "grads must be a list of gradients or a dict"),
        (3, TypeError, "grads must be a list of gradients or a dict"),
        ({"W": np.zeros(3)}, ValueError, "the parameters have no names"),
        (
            None,
            ValueError,
            "parameter 0 of group 0 is a plain array and has no gradient of its own",
        ),
    ],
)
def test_bad_grads_argument(grads: Any, error: Any, message: str) -> None:
    optimizer = cyoptim.SGD([np.zeros(3), np.zeros(3)])
    with pytest.raises(error, match=re.escape(message)):
        optimizer.step(grads=grads)


def test_unknown_name_in_grads() -> None:
    optimizer = cyoptim.SGD({"W": np.zeros(3), "b": np.zeros(3)}.items())
    with pytest.raises(ValueError, match="grads has an entry 'c', but the parameters are W, b"):
        optimizer.step(grads={"W": np.zeros(3), "c": np.zeros(3)})


def test_parameter_made_read_only_later() -> None:
    w = np.zeros(3)
    optimizer = cyoptim.SGD([w])
    optimizer.step(grads=[np.ones(3)])
    w.flags.writeable = False
    with pytest.raises(ValueError, match="parameter 0 of group 0 is read-only"):
        optimizer.step(grads=[np.ones(3)])


def test_option_spoilt_later_names_the_group() -> None:
    w, v = np.zeros(3), np.zeros(3)
    optimizer = cyoptim.Adam([{"params": [w]}, {"params": [v]}])
    optimizer.step(grads=[np.ones(3), np.ones(3)])
    before = w.copy()
    optimizer.param_groups[1]["lr"] = "fast"
    with pytest.raises(TypeError, match="options of param group 1"):
        optimizer.step(grads=[np.ones(3), np.ones(3)])
    np.testing.assert_array_equal(w, before)
    assert optimizer.state[w]["step"] == 1
    optimizer.param_groups[1]["lr"] = 0.1
    optimizer.step(grads=[np.ones(3), np.ones(3)])
    assert optimizer.state[w]["step"] == 2


# --- state dicts ----------------------------------------------------------------------------------


def spoil(change: Any) -> dict[str, Any]:
    w = np.zeros(3)
    optimizer = cyoptim.Adam([("w", w)])
    optimizer.step(grads=[np.ones(3)])
    state_dict = copy.deepcopy(optimizer.state_dict())
    change(state_dict)
    return state_dict


BAD_STATE_DICTS = {
    "shape": (lambda d: d["state"][0].update(exp_avg=np.zeros(4)), ValueError, "loaded state 'exp_avg' of parameter 0 ('w') of group 0 has shape (4,), expected (3,)"),
    "dtype": (lambda d: d["state"][0].update(exp_avg=np.zeros(3, complex)), TypeError, "loaded state 'exp_avg' of parameter 0 ('w') of group 0 has dtype complex128"),
    "type": (lambda d: d["state"][0].update(exp_avg=[0.0, 0.0, 0.0]), TypeError, "loaded state 'exp_avg' of parameter 0 ('w') of group 0 is a list"),
    "step": (lambda d: d["state"][0].update(step=1.5), ValueError, "state 'step' of parameter 0 ('w') of group 0 is 1.5, expected a whole number"),
    "negative step": (lambda d: d["state"][0].update(step=-1), ValueError, "is -1, expected a whole number"),
    "NaN step": (lambda d: d["state"][0].update(step=float("nan")), ValueError, "is nan, expected a whole number"),
    "entry": (lambda d: d["state"].update({0: 3}), TypeError, "loaded state of parameter 0 ('w') of group 0 is a int, expected a dict"),
    "groups": (lambda d: d["param_groups"].append({"params": []}), ValueError, "loaded state dict has a different number of parameter groups: 2, expected 1"),
    "parameters": (lambda d: d["param_groups"][0]["params"].append(1), ValueError, "doesn't match the size of optimizer's group: group 0 has 2 parameters, expected 1"),
    "no state": (lambda d: d.pop("state"), TypeError, "state_dict must be a dict with 'state' and 'param_groups'"),
    "no groups": (lambda d: d.pop("param_groups"), TypeError, "state_dict must be a dict"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_STATE_DICTS)
def test_bad_state_dict_changes_nothing(name: str) -> None:
    change, error, message = BAD_STATE_DICTS[name]
    w = np.zeros(3)
    optimizer = cyoptim.Adam([("w", w)], lr=0.5)
    optimizer.step(grads=[np.ones(3)])
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(error, match=re.escape(message)):
        optimizer.load_state_dict(spoil(change))
    assert repr(optimizer.state_dict()) == repr(before)
    optimizer.step(grads=[np.ones(3)])


@every_card(CHECKED, ~CLOSURE)
def test_loading_a_wrong_shape_changes_nothing(card: Card) -> None:
    w = np.ones((2, 3))
    optimizer = card.cls([w], **card.history)
    optimizer.step(grads=[card.form(w.copy())])
    saved = copy.deepcopy(optimizer.state_dict())
    arrays = [key for key, value in saved["state"][0].items() if np.ndim(value)]
    assert arrays
    for key in arrays:
        saved["state"][0][key] = np.ones((2, 7))
    before = {key: np.array(value) for key, value in optimizer.state[w].items()}
    with pytest.raises(ValueError, match=r"of parameter 0 of group 0 has shape \(2, 7\), expected"):
        optimizer.load_state_dict(saved)
    for key, value in before.items():
        np.testing.assert_array_equal(optimizer.state[w][key], value)


def test_state_spoilt_by_hand_is_named() -> None:
    w = np.zeros(3)
    optimizer = cyoptim.Adam([w])
    optimizer.step(grads=[np.ones(3)])
    before = w.copy()
    optimizer.state[w]["exp_avg"] = np.zeros(4)
    with pytest.raises(
        ValueError, match=r"state 'exp_avg' of parameter 0 of group 0 has shape \(4,\)"
    ):
        optimizer.step(grads=[np.ones(3)])
    np.testing.assert_array_equal(w, before)


# --- torch ----------------------------------------------------------------------------------------


def test_bad_tensors(torch: Any) -> None:
    good = torch.zeros(3)
    for make, error, message in (
        (lambda: torch.zeros(3, requires_grad=True) * 2, ValueError, "can't optimize a non-leaf Tensor: parameter 1 of group 0"),
        (lambda: torch.zeros(3, device="meta"), ValueError, "parameter 1 of group 0 is on device meta, expected cpu"),
        (lambda: torch.zeros(3, dtype=torch.float8_e5m2), TypeError, "parameter 1 of group 0 has dtype torch.float8_e5m2, expected float32, float64, bfloat16 or float16"),
        (lambda: torch.zeros(3, dtype=torch.int32), TypeError, "parameter 1 of group 0 has dtype torch.int32"),
        (lambda: torch.zeros(3, dtype=torch.int64), TypeError, "parameter 1 of group 0 has dtype torch.int64"),
        (lambda: torch.zeros(3).to_sparse(), TypeError, "parameter 1 of group 0 has layout torch.sparse_coo"),
    ):  # fmt: skip
        with pytest.raises(error, match=re.escape(message)):
            cyoptim.SGD([good, make()])
    with pytest.raises(
        TypeError,
        match="should be an iterable of Tensors or dicts, or of arrays, but got torch.Tensor",
    ):
        cyoptim.SGD(good)


@pytest.mark.filterwarnings("ignore:Sparse")
def test_bad_tensor_gradients(torch: Any) -> None:
    a, b = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    optimizer = cyoptim.SGD([a, b], lr=1.0)
    a.grad = torch.ones(2)
    for grad, error, message in (
        (torch.zeros(3, dtype=torch.float64), TypeError, "gradient of parameter 1 of group 0 has dtype float64, expected float32"),
        (torch.zeros(4), ValueError, "gradient of parameter 1 of group 0 has shape (4,), expected (3,)"),
        (torch.zeros(3, dtype=torch.float8_e5m2), TypeError, "gradient of parameter 1 of group 0 has dtype torch.float8_e5m2"),
        ([0.0] * 3, TypeError, "gradient of parameter 1 of group 0 is a list"),
    ):  # fmt: skip
        with pytest.raises(error, match=re.escape(message)):
            optimizer.step(grads=[a.grad, grad])
    assert a.tolist() == [1.0, 1.0]


# --- what to write instead ------------------------------------------------------------------------


class Module:
    def parameters(self) -> Any:
        yield np.zeros(2)


def generated() -> Any:
    yield np.zeros(2)


@pytest.mark.parametrize(
    ("params", "hint"),
    [
        (np.zeros(3), "put it into a list, Adam([parameter])"),
        (cyoptim.Parameter(np.zeros(3)), "put it into a list, Adam([parameter])"),
        (Module(), "write Adam(model.parameters())"),
        (Module().parameters, "call it, as in Adam(model.parameters())"),
        (generated, "call it"),
        ([Module()], "write model.parameters()"),
        ({cyoptim.Parameter(np.zeros(3))}, "ordered collections"),
        (frozenset({cyoptim.Parameter(np.zeros(3))}), "ordered collections"),
        ([np.zeros(3, int)], "write .astype(np.float32)"),
        ([[1.0, 2.0]], "write np.array(...)"),
    ],
)
def test_params_of_another_kind(params: Any, hint: str) -> None:
    with pytest.raises(TypeError, match=re.escape(hint)):
        cyoptim.Adam(params)


def test_an_array_of_another_library() -> None:
    class Foreign:
        def __array__(self) -> np.ndarray:
            return np.zeros(2)

    for make in (lambda: cyoptim.Adam([Foreign()]), lambda: cyoptim.Parameter(Foreign())):
        with pytest.raises(TypeError, match=re.escape("np.array(x) copies it")):
            make()
    with pytest.raises(TypeError, match=re.escape("write np.array(...) around it")):
        cyoptim.Parameter([1.0, 2.0])  # type: ignore[arg-type]


class Updated(cyoptim.Optimizer):
    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    def update(self, param: Any, grad: Any, state: Any, group: Any) -> None:
        param -= grad


class Stepped(Updated):
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        return super().step(closure)


@pytest.mark.parametrize("cls", [*(card.cls for card in cards()), Updated, Stepped])
def test_gradients_in_the_place_of_the_closure(cls: Any) -> None:
    w, called = np.ones((2, 2)), []
    optimizer = cls([("w", w)])
    optimizer.register_step_pre_hook(lambda *args: called.append(args))
    for given in ([w], (w,), {"w": w}, w, 3.0):
        for arguments, named in (((given,), {}), ((), {"closure": given})):
            with pytest.raises(TypeError, match=re.escape("step(grads=[...])")):
                optimizer.step(*arguments, **named)
    np.testing.assert_array_equal(w, np.ones((2, 2)))
    assert not any(state.get("step") for state in optimizer.state.values())
    assert not called


@pytest.mark.parametrize("name", ["adam", "sgd", "sparse_adam", "lbfgs"])
def test_a_module_in_the_place_of_its_class(name: str) -> None:
    classes = {"adam": "Adam", "sgd": "SGD", "sparse_adam": "SparseAdam", "lbfgs": "LBFGS"}
    with pytest.raises(TypeError, match=re.escape(f"write cyoptim.{classes[name]}(...)")):
        getattr(cyoptim, name)([np.zeros(2)])


@every_card()
def test_an_unknown_argument_is_pythons_own_error(card: Card) -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'colour'$"):
        card.cls([np.zeros((2, 2))], colour=1)
    with pytest.raises(TypeError, match="'learning_rate'; did you mean 'lr'"):
        card.cls([np.zeros((2, 2))], learning_rate=1)


def test_an_option_written_later_is_named() -> None:
    w = np.ones(2)
    optimizer = cyoptim.SGD([w])
    for name, value, message in (
        ("lr", "x", "lr must be a number, got str: 'x'"),
        ("momentum", None, "momentum must be a number, got NoneType"),
        ("nesterov", "False", "nesterov must be True or False, got str: 'False'"),
    ):
        before = optimizer.param_groups[0][name]
        optimizer.param_groups[0][name] = value
        with pytest.raises(TypeError, match=f"options of param group 0: {message}"):
            optimizer.step(grads=[np.ones(2)])
        optimizer.param_groups[0][name] = before
    np.testing.assert_array_equal(w, np.ones(2))
    del optimizer.param_groups[0]["lr"]
    with pytest.raises(KeyError, match="'lr' is missing"):
        optimizer.step(grads=[np.ones(2)])


@every_card(takes("betas"))
@pytest.mark.parametrize("value", [0.9, None, (), ("x", "y", "z"), "abc"])
def test_betas_spoilt_later_are_named(card: Card, value: Any) -> None:
    w = np.ones((2, 2))
    optimizer = card.cls([w])
    optimizer.param_groups[0]["betas"] = value
    spoilt = r"options of param group 0: .*betas.* must be"
    with pytest.raises((TypeError, ValueError), match=spoilt):
        optimizer.step(grads=[card.form(w)])
    np.testing.assert_array_equal(w, 1)


SWITCHES = [
    (card, option)
    for card in cards()
    for option, default in card.options.items()
    if isinstance(default, bool) or option in ("foreach", "fused")
]


@pytest.mark.parametrize(
    "value",
    ["False", "", b"no", [1], (), np.array([True, False]), NotImplemented, np.nan, -1.0, 2, None],
)
@pytest.mark.parametrize(("card", "option"), SWITCHES, ids=str)
def test_switches_are_true_or_false(card: Card, option: str, value: Any) -> None:
    if value is None and option in ("foreach", "fused"):
        return  # as in torch
    w = np.zeros((2, 2))
    with pytest.raises(TypeError, match=f"{option} must be True or False, got "):
        card.cls([w], **{option: value})
    with pytest.raises(TypeError, match=f"{option} must be True or False, got "):
        card.cls([{"params": [w], option: value}])


@pytest.mark.parametrize("name", ["Adam", "CAME", "Adafactor", "MARS", "SGDScheduleFree"])
@pytest.mark.parametrize("value", ["False", np.nan])
def test_a_switch_written_later_is_true_or_false(name: str, value: Any) -> None:
    w = np.ones((2, 2))
    optimizer = BY_NAME[name].cls([w])
    optimizer.param_groups[0]["maximize"] = value
    message = "options of param group 0: maximize must be True or False, got "
    with pytest.raises(TypeError, match=message):
        optimizer.step(grads=[w])
    np.testing.assert_array_equal(w, 1)


def test_options_are_no_attributes() -> None:
    optimizer = cyoptim.Adam([np.ones(2)])
    for name in ("lr", "betas", "eps", "weight_decay", "momentum"):
        with pytest.raises(AttributeError, match=re.escape(f"param_groups[0]['{name}']")):
            setattr(optimizer, name, 1.0)
        assert not hasattr(optimizer, name)

    class Own(Updated):
        def __init__(self, params: Any) -> None:
            super().__init__(params)
            self.lr = 0.5

    own = Own([np.ones(2)])
    own.lr += 1
    assert own.lr == 1.5
    del own.lr
    assert not hasattr(own, "lr")


@pytest.mark.parametrize(
    "call",
    [
        lambda o, w: o.zero_grad(set_to_none="False"),
        lambda o, w: o.step(grads=[w], zero_grad="no"),
        lambda o, w: o.ema(warmup="no"),
        lambda o, w: cyoptim.SGD([{"params": [np.ones(2)], "nesterov": "False"}]),
        lambda o, w: cyoptim.clip_grad_norm_([w], 1.0, grads=[w], error_if_nonfinite="no"),
        lambda o, w: cyoptim.get_total_norm([w], error_if_nonfinite="no"),
    ],
)
def test_switches_that_are_strings(call: Any) -> None:
    w = np.ones(2)
    with pytest.raises(TypeError, match="must be True or False, got str"):
        call(cyoptim.SGD([w]), w)
    np.testing.assert_array_equal(w, np.ones(2))


@pytest.mark.slow
def test_modules_are_imported_when_asked_for() -> None:
    program = (
        "import cyoptim; print(cyoptim.kernel.__name__, cyoptim.distributed.Sharded.__name__, "
        "'scipy' in dir(cyoptim))"
    )
    assert run_python(program) == "cyoptim.kernel Sharded True"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "library"), [("scipy", "scipy"), ("sklearn", "sklearn")])
def test_a_module_whose_library_is_missing(name: str, library: str) -> None:
    program = (
        f"import sys; sys.modules[{library!r}] = None\n"
        "import cyoptim\n"
        f"assert not hasattr(cyoptim, {name!r})\n"
        f"try: cyoptim.{name}\n"
        "except AttributeError as error: print(error)"
    )
    assert f'pip install "cyoptim[{name}]"' in run_python(program)


def run_python(program: str) -> str:
    """The last line that a new process prints."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout.strip().splitlines()[-1]
