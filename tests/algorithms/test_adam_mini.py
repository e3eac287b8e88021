"""Adam-mini: units by the names of parameters, and units of every size."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim import _engine
from tests.optimizers import BY_NAME
from tests.support.cards import Options
from tests.support.parametrize import lets_packages_age

CHUNK = 16384
SHAPES = [
    (7, 3000), (3, CHUNK + 5), (2, CHUNK), (40, 30), (CHUNK + 3,), (5, 7, 30), (CHUNK + 9, 1),
    (1, CHUNK + 9), (5000,), (4, 1023), (1, 1), (1,), (), (0, 3), (3, 0),
]  # fmt: skip
LARGE = 2 * CHUNK + 10
HEADS = {
    6: [(2, 3), (6,), (40, 30), (0, 3)],
    3000: [(7, 3000), (3000,), (100, 60)],
    LARGE: [(3, LARGE), (LARGE, 2)],
}

# Of a transformer of width 8 with four heads: the unit of each, and whether it decays.
NAMED: dict[str, tuple[tuple[int, ...], str, bool]] = {
    "tok_embed.weight": ((10, 8), "row", True),
    "layers.0.WQ.weight": ((8, 8), "head", True),
    "layers.0.wk.weight": ((4, 8), "head", True),
    "layers.0.wv.weight": ((8, 8), "row", True),
    "layers.0.attn.proj": ((8, 8), "row", True),
    "layers.0.mlp.w1": ((16, 8), "row", True),
    "layers.0.wq.bias": ((8,), "element", False),
    "layers.0.norm.weight": ((8,), "tensor", False),
    "ln_f": ((8,), "tensor", False),
    "conv": ((3, 5, 2), "tensor", True),
    "lm_head": ((10, 8), "row", True),
    "scale": ((), "tensor", True),
}


def stepped(
    options: Options, shapes: list[tuple[int, ...]], threads: int, order: str = "C", count: int = 3
) -> tuple[Any, Any]:
    """The parameters, and what the reference makes of them."""
    card = BY_NAME["AdamMini"]
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(shape) for shape in shapes]
    params = [np.array(array, order=order) for array in start]  # type: ignore[call-overload]
    expected = [array.copy() for array in start]
    reference, optimizer = card.reference(**options), card.cls(params, **options)
    before = cyoptim.get_num_threads()
    _engine.take_all_threads(True)
    try:
        cyoptim.set_num_threads(threads)
        for _ in range(count):
            grads = [rng.standard_normal(shape) for shape in shapes]
            optimizer.step(grads=grads)
            with np.errstate(all="ignore"):
                reference.step([p for p in expected if p.size], [g for g in grads if g.size])
    finally:
        _engine.take_all_threads(False)
        cyoptim.set_num_threads(before)
    return params, expected


CASES: list[tuple[Options, list[tuple[int, ...]]]] = [
    *(({"unit": unit}, SHAPES) for unit in ("element", "row", "tensor")),
    *(({"unit": "head", "head_numel": size}, shapes) for size, shapes in HEADS.items()),
]


@pytest.mark.parametrize(("unit", "shapes"), CASES)
def test_units_of_every_size(unit: Options, shapes: list[tuple[int, ...]]) -> None:
    options = {"lr": 0.01, "weight_decay": 0.1, **unit}
    one, expected = stepped(options, shapes, 1)
    for a, b in zip(one, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)
    for threads in (2, 3):
        for a, b in zip(stepped(options, shapes, threads)[0], one, strict=True):
            np.testing.assert_array_equal(a, b)
    for a, b in zip(stepped(options, shapes, 2, "F")[0], one, strict=True):
        np.testing.assert_array_equal(a, b)


def test_elements_go_as_adamw() -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal((5, 7)).astype(np.float32)
    b = w.copy()
    mini = cyoptim.AdamMini([{"params": [w], "unit": "element"}], lr=0.01, weight_decay=0.1)
    adam = cyoptim.AdamW([b], lr=0.01, weight_decay=0.1)
    for _ in range(5):
        g = rng.standard_normal((5, 7)).astype(np.float32)
        mini.step(grads=[g])
        adam.step(grads=[g])
    np.testing.assert_array_equal(w, b)


# --- names ----------------------------------------------------------------------------------------


def named(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape) for name, (shape, _, _) in NAMED.items()}


def made(params: Any, cls: Any = cyoptim.AdamMini, **options: Any) -> Any:
    options = {"lr": 0.02, "weight_decay": 0.1, "dim": 8, "n_heads": 4, **options}
    return cls(params, **options)


@pytest.mark.parametrize("form", ["pairs", "generator", "tree", "groups", "one group each"])
def test_names_say_the_units(form: str) -> None:
    params = named()
    pairs = list(params.items())
    given: Any = {
        "pairs": pairs,
        "generator": iter(pairs),
        "tree": params,
        "groups": [{"params": pairs[:5]}, {"params": iter(pairs[5:]), "eps": 1e-8}],
        "one group each": [{"params": [pair]} for pair in pairs],
    }[form]
    optimizer = made(given)
    found = [(g["param_names"], g["unit"], g["weight_decay"]) for g in optimizer.param_groups]
    wanted = [([name], unit, 0.1 if d else 0.0) for name, (_, unit, d) in NAMED.items()]
    assert found == wanted
    for group, param in zip(optimizer.param_groups, params.values(), strict=True):
        assert group["params"][0] is param
    optimizer.step(grads={name: np.ones_like(p) for name, p in params.items()})
    shapes = {name: np.shape(optimizer.state[p].get("vmean", "none")) for name, p in params.items()}
    assert shapes["layers.0.WQ.weight"] == (4, 1)
    assert shapes["layers.0.wk.weight"] == (2, 1)
    assert shapes["lm_head"] == (10, 1)
    assert shapes["conv"] == ()
    assert {*optimizer.state[params["layers.0.wq.bias"]]} == {"step", "m", "v"}


def test_groups_of_rules_go_on_to_be_named() -> None:
    groups = cyoptim.param_groups(named(), lr=0.02, lr_scale={"embed": 0.5})
    optimizer = made(groups)
    rates = {g["param_names"][0]: g["lr"] for g in optimizer.param_groups}
    assert rates["tok_embed.weight"] == 0.01
    assert rates["lm_head"] == 0.02
    units = {g["param_names"][0]: g["unit"] for g in optimizer.param_groups}
    assert units == {name: unit for name, (_, unit, _) in NAMED.items()}


@pytest.mark.parametrize("params", [[np.zeros((2, 3))], [{"params": [np.zeros((2, 3))]}]])
def test_parameters_without_names_are_refused(params: Any) -> None:
    with pytest.raises(
        TypeError, match=r"write AdamMini\(model.named_parameters\(\)\) or .*'unit'"
    ):
        cyoptim.AdamMini(params)


def test_a_group_with_a_unit_needs_no_names() -> None:
    w, b = np.ones((2, 3)), np.ones(3)
    optimizer = cyoptim.AdamMini(
        [{"params": [w], "unit": "row"}, {"params": [b], "unit": "tensor"}]
    )
    optimizer.step(grads=[w.copy(), b.copy()])
    assert optimizer.state[w]["vmean"].shape == (2, 1)


def test_a_group_that_is_added() -> None:
    optimizer = made([("mlp", np.ones((2, 3)))])
    optimizer.add_param_group({"params": [("embed.0", np.ones((2, 3))), ("embed.1", np.ones(3))]})
    assert optimizer.param_groups[1]["unit"] == "row"
    optimizer.add_param_group({"params": [("a.bias", np.ones(3))], "weight_decay": 0.5})
    assert optimizer.param_groups[2]["weight_decay"] == 0.5
    mixed = {"params": [("lm_head", np.ones((2, 3))), ("other", np.ones(3))]}
    with pytest.raises(
        ValueError, match="'lm_head' and 'other' of a group have not the same 'unit'"
    ):
        optimizer.add_param_group(mixed)
    decays = {"params": [("a.scale", np.ones(3)), ("a.norm", np.ones(3))]}
    with pytest.raises(ValueError, match="the same 'weight_decay'"):
        optimizer.add_param_group(decays)
    assert len(optimizer.param_groups) == 3


def test_lists_of_names() -> None:
    w = np.ones((2, 3))
    for name in ("embd", "output", "wv", "attn_proj", "mlp"):
        optimizer = cyoptim.AdamMini([("up", w)], **{f"{name}_names": {"up"}})
        assert optimizer.param_groups[0]["unit"] == "row"
        assert copy.deepcopy(optimizer)._defaults_for({"params": [("up", w)]}, optimizer.defaults)
    optimizer = cyoptim.AdamMini([("mlp.up", w)], mlp_names=())
    assert optimizer.param_groups[0]["unit"] == "tensor"
    optimizer = cyoptim.AdamMini([("wq.up", w)], adam_block_names=["up"])
    assert optimizer.param_groups[0]["unit"] == "element"
    with pytest.raises(TypeError, match="mlp_names must be pieces of names, got 'up'"):
        cyoptim.AdamMini([("up", w)], mlp_names="up")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 0}, "Invalid dim value: 0"),
        ({"dim": 2.5}, "Invalid dim value: 2.5"),
        ({"n_heads": 0}, "Invalid n_heads value: 0"),
        ({"dim": np.inf}, r"Invalid dim value: inf \(expected a finite number"),
        ({"n_heads": np.nan}, r"Invalid n_heads value: nan \(expected a finite number"),
        ({"n_kv_heads": np.inf}, r"Invalid n_kv_heads value: inf \(expected a finite number"),
        ({"dim": 10**400}, r"dim is a whole number of 1329 bits, expected a float"),
        ({"dim": 8, "n_heads": 3}, r"Invalid n_heads value: 3 \(expected a divisor of dim \* dim"),
        ({"n_heads": 4, "n_kv_heads": 3}, "Invalid n_kv_heads value: 3"),
        ({"dim": 8, "n_heads": 4}, r"\('wq'\) of group 0 has shape \(3, 5\), expected whole heads"),
    ],
)
def test_heads_that_do_not_fit(options: Options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cyoptim.AdamMini([("wq", np.ones((3, 5)))], **options)


def test_model_sharding_warns() -> None:
    with pytest.warns(UserWarning, match="model_sharding has no effect"):
        cyoptim.AdamMini([("mlp", np.ones((2, 3)))], model_sharding=True)


def test_verbose(capsys: Any) -> None:
    made([("mlp", np.ones((2, 3)))])
    assert capsys.readouterr().out == ""
    made([("mlp", np.ones((2, 3)))], verbose=True)
    assert "('mlp') of group 0, of shape (2, 3), by row" in capsys.readouterr().out


def test_heads_of_another_size() -> None:
    """The number of averages is another then: a state that does not fit is refused, and nothing changes."""
    w = np.ones((4, 4))
    optimizer = made([("wq", w)], dim=4, n_heads=2)
    optimizer.step(grads=[w.copy()])
    before = w.copy()
    optimizer.param_groups[0]["head_numel"] = 4
    with pytest.raises(TypeError, match=r"(?s)'vmean' .*expected numbers of shape \(4, 1\)"):
        optimizer.step(grads=[np.ones_like(w)])
    optimizer.param_groups[0]["head_numel"] = 5
    with pytest.raises(
        ValueError,
        match=r"parameter 0 \('wq'\) of group 0: head_numel is 5, expected a divisor of 16",
    ):
        optimizer.step(grads=[np.ones_like(w)])
    np.testing.assert_array_equal(w, before)
    del optimizer.state[w]["vmean"]
    optimizer.param_groups[0]["head_numel"] = 4
    optimizer.step(grads=[np.ones_like(w)])
    assert optimizer.state[w]["vmean"].shape == (4, 1)


def test_saved_and_loaded_in_between() -> None:
    one, two = named(), named()
    a, b = made(one), made(two)
    for k in range(6):
        grads = {name: np.cos(k + np.arange(p.size).reshape(p.shape)) for name, p in one.items()}
        a.step(grads=grads)
        b.step(grads=grads)
        state = copy.deepcopy(b.state_dict())
        b = made(two)
        b.load_state_dict(state)
        assert [g["unit"] for g in b.param_groups] == [unit for _, unit, _ in NAMED.values()]
    for p, q in zip(one.values(), two.values(), strict=True):
        np.testing.assert_array_equal(p, q)


@lets_packages_age
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_as_the_package(torch: Any, dtype: str) -> None:
    package = pytest.importorskip("adam_mini")
    dtype, bound = getattr(torch, dtype), 3e-5 if dtype == "float32" else 1e-12
    rng = np.random.default_rng(1)
    matrices = {name: p for name, p in named().items() if name != "scale"}
    ours = {name: torch.from_numpy(p).to(dtype).requires_grad_() for name, p in matrices.items()}
    theirs = {name: p.detach().clone().requires_grad_() for name, p in ours.items()}
    mine = made(list(ours.items()))
    other = made(list(theirs.items()), package.Adam_mini, verbose=False)

    def step_both(steps: int) -> None:
        for _ in range(steps):
            for name, p in ours.items():
                grad = torch.from_numpy(rng.standard_normal(tuple(p.shape))).to(dtype)
                p.grad, theirs[name].grad = (
                    (None, None) if rng.random() < 0.2 else (grad, grad.clone())
                )
            mine.step()
            other.step()
        for name, p in ours.items():
            torch.testing.assert_close(p, theirs[name], rtol=bound, atol=bound)

    step_both(30)
    mine = made(list(ours.items()))
    mine.load_state_dict(copy.deepcopy(other.state_dict()))
    assert "name" not in mine.param_groups[0]
    step_both(5)
    other = made(list(theirs.items()), package.Adam_mini, verbose=False)
    other.load_state_dict(copy.deepcopy(mine.state_dict()))
    step_both(5)


def test_states_of_tensors_in_another_order_go_by_names(torch: Any) -> None:
    names = ["layers.0.WQ.weight", "layers.0.wk.weight", "layers.0.wv.weight"]
    params = {name: torch.from_numpy(named()[name]) for name in names}
    optimizer = made(list(params.items()))
    optimizer.step(grads={name: p.clone() for name, p in params.items()})
    other = made([(name, params[name]) for name in reversed(names)])
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for p in params.values():
        for entry, value in optimizer.state[p].items():
            np.testing.assert_array_equal(other.state[p][entry], value)
    assert [g["unit"] for g in other.param_groups] == ["row", "head", "head"]


@pytest.mark.parametrize("names", [None, "embed", 3, 1.5, ["embed", 3], 1j])
@pytest.mark.parametrize("option", ["embd_names", "adam_block_names"])
def test_pieces_of_names_that_are_none(option: str, names: Any) -> None:
    message = rf"{option} must be pieces of names, got .*: write a tuple of them, or \(\) for none"
    with pytest.raises(TypeError, match=message):
        cyoptim.AdamMini([("wq", np.ones((3, 5)))], **{option: names})


@pytest.mark.parametrize("unit", ["rows", None, 3, ["row"], np.array([1.0, 2.0])])
def test_a_unit_that_there_is_not(unit: Any) -> None:
    message = r"unit .* is not supported: write 'element', 'head', 'row' or 'tensor'"
    w = np.ones((3, 5))
    with pytest.raises(ValueError, match=message):
        cyoptim.AdamMini([{"params": [w], "unit": unit}])
    optimizer = cyoptim.AdamMini([{"params": [w], "unit": "row"}])
    optimizer.param_groups[0]["unit"] = unit
    with pytest.raises(ValueError, match=f"options of param group 0: {message}"):
        optimizer.step(grads=[w])
    np.testing.assert_array_equal(w, 1)
