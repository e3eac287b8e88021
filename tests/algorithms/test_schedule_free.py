"""Schedule-Free optimizers: two modes, and an average that is not stored."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim.lr_scheduler import LambdaLR
from tests.support.cards import MODES, Card
from tests.support.dtypes import tolerance
from tests.support.parametrize import every_card, every_real
from tests.support.processes import lines_of

SHAPES = [(3, 4), (5,), (), (0,), (130, 129)]


def plain(card: Card) -> Any:
    """The class itself, which begins in evaluation mode."""
    return getattr(cyoptim, card.name)


def start(dtype: Any = np.float64, seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [np.array(rng.standard_normal(shape), dtype) for shape in SHAPES]


def steps(optimizer: Any, params: list[Any], seeds: Any, **arguments: Any) -> None:
    for seed in seeds:
        grads = start(params[0].dtype, seed + 1)
        optimizer.step(grads=[g + p for g, p in zip(grads, params, strict=True)], **arguments)


def trained(card: Card, count: int = 7, dtype: Any = np.float64, **options: Any) -> Any:
    params = start(dtype)
    optimizer = plain(card)([*enumerate_names(params)], **{"lr": 0.1, **options})
    optimizer.train()
    steps(optimizer, params, range(count))
    return optimizer, params


def enumerate_names(params: list[Any]) -> Any:
    return ((f"p{i}", p) for i, p in enumerate(params))


def copies(params: list[Any]) -> list[Any]:
    return [p.copy() for p in params]


def same(found: list[Any], expected: list[Any]) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def beta(optimizer: Any) -> float:
    group = optimizer.param_groups[0]
    return float(group["momentum"] if "momentum" in group else group["betas"][0])


# --- the average ----------------------------------------------------------------------------------


@every_real
@every_card(MODES)
def test_the_average_is_that_of_the_iterates(card: Card, dtype: Any) -> None:
    params = start(dtype)
    optimizer = plain(card)(params, lr=0.1)
    optimizer.train()
    x = [p.astype(np.float64) for p in params]
    for seed in range(12):
        weight = float(optimizer.param_groups[0]["weight_sum"])
        steps(optimizer, params, [seed])
        total = float(optimizer.param_groups[0]["weight_sum"])
        share = (total - weight) / total if total else 0.0
        z = [optimizer.state[p]["z"].astype(np.float64) for p in params]
        x = [(1 - share) * a + share * b for a, b in zip(x, z, strict=True)]
        with optimizer.averaged():
            for p, mean in zip(params, x, strict=True):
                np.testing.assert_allclose(p, mean, atol=10 * tolerance(dtype), rtol=0)
    optimizer.eval()
    for p, mean in zip(params, x, strict=True):
        np.testing.assert_allclose(p, mean, atol=10 * tolerance(dtype), rtol=0)


@every_real
@every_card(MODES)
def test_modes_are_two_moves_along_a_line(card: Card, dtype: Any) -> None:
    optimizer, params = trained(card, dtype=dtype)
    before, b = copies(params), beta(optimizer)
    z = [optimizer.state[p]["z"].copy() for p in params]
    optimizer.eval()
    same(params, [y + dtype(1 - 1 / b) * (w - y) for y, w in zip(before, z, strict=True)])
    x = copies(params)
    optimizer.eval()
    same(params, x)
    optimizer.train()
    same(params, [a + dtype(1 - b) * (w - a) for a, w in zip(x, z, strict=True)])
    y = copies(params)
    optimizer.train()
    same(params, y)
    same([optimizer.state[p]["z"] for p in params], z)


@every_card(MODES)
def test_a_block_of_the_average_changes_no_bit(card: Card) -> None:
    (optimizer, params), (other, others) = trained(card), trained(card)
    x = copies(params)
    for _ in range(3):
        with optimizer.averaged():
            x = copies(params)
        assert any(not np.array_equal(a, b) for a, b in zip(x, params, strict=True))
        steps(optimizer, params, [7])
        steps(other, others, [7])
        same(params, others)
    with optimizer.averaged():
        x = copies(params)
    optimizer.eval()
    same(params, x)
    with optimizer.averaged():  # in evaluation mode it is there already
        same(params, x)
    same(params, x)


@every_card(MODES)
def test_what_a_block_of_the_average_refuses(card: Card) -> None:
    optimizer, params = trained(card)
    before, state = copies(params), copy.deepcopy(optimizer.state_dict())
    with optimizer.averaged():
        x = copies(params)
        for call in (
            optimizer.train,
            optimizer.eval,
            optimizer.state_dict,
            lambda: optimizer.load_state_dict(state),
            lambda: optimizer.step(grads=params),
            lambda: optimizer.averaged().__enter__(),
            lambda: pickle.dumps(optimizer),
            lambda: copy.deepcopy(optimizer),
        ):
            with pytest.raises(RuntimeError, match=r"averaged\(\)"):
                call()
        same(params, x)
    same(params, before)
    steps(optimizer, params, [3])


@every_card(MODES)
def test_the_block_ends_as_it_began_when_it_raises_or_groups_change(card: Card) -> None:
    optimizer, params = trained(card)
    before = copies(params)
    with pytest.raises(KeyError), optimizer.averaged():
        raise KeyError
    same(params, before)
    more = np.ones(3)
    with optimizer.averaged():
        optimizer.add_param_group({"params": [("more", more)]})
    same(params, before)
    for _ in range(1 + card.waits):
        optimizer.step(grads=[*params, more])
    assert not np.array_equal(more, np.ones(3))
    assert "averages" not in optimizer.state_dict()


@every_card(MODES)
def test_a_second_average_is_refused(card: Card) -> None:
    optimizer, _ = trained(card)
    with pytest.raises(TypeError, match=f"{card} averages its parameters itself"):
        optimizer.ema(0.9)
    with pytest.raises(TypeError, match=f"{card} averages its parameters itself"):
        cyoptim.swa_utils.SWALR(optimizer, 0.1)
    other = cyoptim.SGD(start())
    other.ema(0.9)
    saved = {**optimizer.state_dict(), "averages": other.state_dict()["averages"]}
    with pytest.raises(ValueError, match="averages its parameters itself"):
        optimizer.load_state_dict(saved)


# --- the mode -------------------------------------------------------------------------------------


@every_card(MODES)
def test_a_step_in_evaluation_mode_changes_nothing(card: Card) -> None:
    params = start()
    optimizer = plain(card)(params, lr=0.1)
    message = rf"{card} is in evaluation mode: call its train\(\) before step\(\)"
    called: list[int] = []

    def closure() -> Any:
        called.append(1)
        return 0.0, params

    for _ in range(2):
        before, groups = copies(params), repr(optimizer.param_groups)
        for arguments in ({"grads": params}, {}, {"grads": params, "max_norm": 1.0}):
            with pytest.raises(RuntimeError, match=message):
                optimizer.step(**arguments)
        with pytest.raises(RuntimeError, match=message):
            optimizer.step(closure)
        assert not called
        same(params, before)
        assert repr(optimizer.param_groups) == groups
        optimizer.train()
        steps(optimizer, params, range(2))
        optimizer.eval()


@every_card(MODES)
def test_the_mode_of_a_group_that_is_set_by_hand(card: Card) -> None:
    a, b = np.ones(3), np.ones(3)
    optimizer = plain(card)([{"params": [a]}, {"params": [b]}], lr=0.1)
    optimizer.train()
    optimizer.step(grads=[a, b])
    before, groups = a.copy(), repr(optimizer.param_groups[0])
    optimizer.param_groups[1]["train_mode"] = False
    for grads in ([a, b], [None, b]):
        with pytest.raises(RuntimeError, match="evaluation mode"):
            optimizer.step(grads=grads)
    np.testing.assert_array_equal(a, before)
    assert repr(optimizer.param_groups[0]) == groups
    optimizer.train()  # of the second group alone
    np.testing.assert_array_equal(a, before)
    with pytest.raises(TypeError, match="train_mode must be True or False"):
        plain(card)([{"params": [a], "train_mode": "yes"}])


@every_card(MODES)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_state_is_loaded_in_either_mode(card: Card, mode: str) -> None:
    optimizer, params = trained(card)
    getattr(optimizer, mode)()
    other, others = trained(card, 2)
    getattr(other, mode)()
    for p, q in zip(others, params, strict=True):
        p[...] = q
    other.load_state_dict(optimizer.state_dict())
    for each, arrays in ((optimizer, params), (other, others)):
        each.train()
        steps(each, arrays, range(2))
    same(others, params)


@every_card(MODES)
def test_a_new_group_has_the_mode_of_the_others(card: Card) -> None:
    for trains in (False, True):
        a, b = np.ones(3), np.ones(2)
        optimizer = plain(card)([a], lr=0.1)
        if trains:
            optimizer.train()
        optimizer.add_param_group({"params": [b]})
        assert [group["train_mode"] for group in optimizer.param_groups] == [trains] * 2
        assert optimizer.param_groups[1]["k"] == 0
        optimizer.train()
        optimizer.step(grads=[a, b])


@every_card(MODES)
def test_modes_of_parameters_of_any_layout(card: Card) -> None:
    base, expected = np.ones((6, 8)), np.ones((6, 8))
    doors = [np.asfortranarray, lambda a: a[::2, ::-2], lambda a: a[1::2, 1::2].T]
    for view in doors:
        p, q = view(base.copy()), np.array(view(expected.copy()), order="C")
        one, other = plain(card)([p], lr=0.1), plain(card)([q], lr=0.1)
        for optimizer, w in ((one, p), (other, q)):
            optimizer.train()
            for k in range(7):
                optimizer.step(grads=[np.arange(w.size).reshape(w.shape) + k * w])
        for call in ("eval", "train"):
            getattr(one, call)()
            getattr(other, call)()
            np.testing.assert_array_equal(p, q)
        with one.averaged(), other.averaged():
            np.testing.assert_array_equal(p, q)
        np.testing.assert_array_equal(p, q)


@every_card(MODES)
def test_a_parameter_without_state_stays(card: Card) -> None:
    a, b = np.ones(3), np.full(3, 2.0)
    optimizer = plain(card)([a, b], lr=0.1)
    for call in (optimizer.eval, optimizer.train):
        call()
    optimizer.step(grads=[a, None])
    optimizer.eval()
    with optimizer.averaged():
        np.testing.assert_array_equal(b, 2.0)
    np.testing.assert_array_equal(b, 2.0)
    assert not optimizer.state.get(b)


@every_card(MODES)
def test_a_state_that_does_not_fit_moves_nothing(card: Card) -> None:
    optimizer, params = trained(card)
    optimizer.state[params[1]]["z"] = np.ones(7)
    before = copies(params)
    for call in (optimizer.eval, lambda: optimizer.averaged().__enter__()):
        with pytest.raises(ValueError, match=r"state 'z' of parameter 1 \('p1'\) of group 0"):
            call()
        same(params, before)
        assert optimizer.param_groups[0]["train_mode"]


@pytest.mark.slow
@every_card(MODES)
def test_same_bits_on_any_number_of_threads(card: Card) -> None:
    program = (
        "import sys, numpy as np, cyoptim, hashlib\n"
        "from cyoptim import _engine\n"
        "_engine.take_all_threads(True)\n"
        "cyoptim.set_num_threads(int(sys.argv[1]))\n"
        "rng = np.random.default_rng(0)\n"
        "w = [rng.standard_normal(s).astype('f') for s in (200_003, 5, (300, 400))]\n"
        f"o = cyoptim.{card.name}(w, lr=0.1)\n"
        "o.train()\n"
        "for k in range(3): o.step(grads=w)\n"
        "with o.averaged(): x = [a.copy() for a in w]\n"
        "o.eval()\n"
        "assert all((a == b).all() for a, b in zip(x, w))\n"
        "o.train(); o.step(grads=w)\n"
        "print(hashlib.sha256(b''.join(a.tobytes() for a in w)).hexdigest())\n"
    )
    assert len({*(lines_of(program, str(n))[-1] for n in (1, 2, 3))}) == 1


# --- saving ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["dict", "npz", "safetensors", "pickle", "deepcopy"])
@pytest.mark.parametrize("mode", ["train", "eval"])
@every_card(MODES)
def test_saved_in_either_mode_training_goes_on(
    card: Card, mode: str, form: str, tmp_path: Path
) -> None:
    # Weights of a file that was saved in training are y: facebookresearch/schedule_free#48, #22.
    (optimizer, params), (other, others) = trained(card), trained(card)
    for one in (optimizer, other):
        getattr(one, mode)()
    held = copies(params)
    if form in ("pickle", "deepcopy"):
        both = {"o": optimizer, "p": params}
        both = copy.deepcopy(both) if form == "deepcopy" else pickle.loads(pickle.dumps(both))
        again, restored = both["o"], both["p"]
    else:
        restored = start(seed=9)
        again = plain(card)([*enumerate_names(restored)])
        named = dict(enumerate_names(params)), dict(enumerate_names(restored))
        if form == "dict":
            again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            same(restored, start(seed=9))  # which parameters are not part of
            for p, value in zip(restored, held, strict=True):
                p[...] = value
        else:
            file = tmp_path / f"run.{form}"
            cyoptim.save(file, model=named[0], optimizer=optimizer)
            cyoptim.load(file, model=named[1], optimizer=again)
    same(restored, held)
    assert again.param_groups[0]["train_mode"] is (mode == "train")
    assert again.param_groups[0]["k"] == optimizer.param_groups[0]["k"] == 7
    for one, w in ((again, restored), (other, others)):
        one.train()
        steps(one, w, range(7, 10))
    same(restored, others)
    for one in (again, other):
        one.eval()
    same(restored, others)


@every_card(MODES)
def test_numbers_of_a_saved_group_are_pythons(card: Card) -> None:
    optimizer, _ = trained(card)
    group = optimizer.state_dict()["param_groups"][0]
    kinds = {name: type(group[name]) for name in ("k", "weight_sum", "lr_max", "scheduled_lr")}
    assert kinds == {"k": int, "weight_sum": float, "lr_max": float, "scheduled_lr": float}
    assert group["train_mode"] is True
    assert group["k"] == 7


@every_card(MODES)
def test_the_state_of_another_optimizer_is_refused_for_its_z(card: Card) -> None:
    params = start()
    adamw = cyoptim.AdamW(params, lr=0.1)
    adamw.step(grads=params)
    optimizer, own = trained(card)
    before = copies(own)
    saved = adamw.state_dict()
    complete = copy.deepcopy(saved)
    groups = optimizer.state_dict()["param_groups"]
    complete["param_groups"] = [{**groups[0], "params": saved["param_groups"][0]["params"]}]
    for state in (saved, complete):
        with pytest.raises(ValueError, match="'z'"):
            optimizer.load_state_dict(state)
        same(own, before)


# --- schedules, and steps that are not made ------------------------------------------------------


@every_card(MODES)
def test_a_rate_that_begins_at_zero(card: Card) -> None:
    # schedule_free#5 divides zero by zero.
    params = start()
    optimizer = plain(card)(params, lr=0.1)
    optimizer.train()
    scheduler = LambdaLR(optimizer, lambda epoch: min(1.0, epoch / 4))
    before = copies(params)
    steps(optimizer, params, [0])
    same(params, before)
    for k in range(8):
        scheduler.step()
        if k == 5:
            optimizer.param_groups[0]["lr"] = 0.0
        steps(optimizer, params, [k])
    for name in ("k", "weight_sum", "lr_max", "scheduled_lr"):
        assert np.isfinite(optimizer.param_groups[0][name])
    assert all(np.isfinite(p).all() for p in params)
    assert not np.array_equal(params[0], before[0])


@every_card(MODES)
def test_a_skipped_step_leaves_the_numbers(card: Card) -> None:
    optimizer, params = trained(card)
    before = copies(params), repr(optimizer.param_groups), repr(dict(optimizer.state[params[0]]))
    bad = copies(params)
    bad[0][0, 0] = np.nan
    optimizer.step(grads=bad, nonfinite="skip")
    with pytest.raises(FloatingPointError):
        optimizer.step(grads=bad, nonfinite="raise")
    with pytest.raises(ValueError, match="shape"):
        optimizer.step(grads=[np.ones(1)] * len(params))
    same(params, before[0])
    assert repr(optimizer.param_groups) == before[1]
    assert repr(dict(optimizer.state[params[0]])) == before[2]


@every_card(MODES)
def test_numbers_of_groups_count_all_steps(card: Card) -> None:
    a, b = np.ones(3), np.ones(3)
    optimizer = plain(card)([{"params": [a]}, {"params": [b]}], lr=0.1)
    optimizer.train()
    optimizer.step(grads=[None, None])
    optimizer.step(grads=[np.ones(3), None])
    optimizer.step(grads=[None, np.ones(3)])
    assert [group["k"] for group in optimizer.param_groups] == [3, 3]


@every_card(MODES)
def test_accumulated_and_clipped_gradients(card: Card) -> None:
    (one, a), (two, b) = trained(card), trained(card)
    grads = start(seed=5)
    for part in (0.5, 1.5):
        one.accumulate([part * g for g in grads])
    one.step(max_norm=1.0)
    two.step(grads=grads, max_norm=1.0)
    for p, q in zip(a, b, strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-12)


@every_card(MODES)
def test_a_tree_of_named_parameters(card: Card) -> None:
    tree = {"layer": {"w": np.ones((2, 3)), "b": np.ones(3)}}
    optimizer = plain(card)(tree, lr=0.1)
    optimizer.train()
    optimizer.step(grads={"layer": {"w": np.ones((2, 3)), "b": np.ones(3)}})
    optimizer.eval()
    assert (tree["layer"]["w"] != 1).all() or optimizer.param_groups[0]["lr_max"] == 0


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
@every_card(MODES)
def test_a_parameter_twice_in_a_group(card: Card) -> None:
    w, v = np.ones(3), np.ones(3)
    twice, once = plain(card)([w, w], lr=0.1), plain(card)([v], lr=0.1)
    for optimizer in (twice, once):
        optimizer.train()
    for _ in range(6):
        twice.step(grads=[np.ones(3), np.ones(3)])
        once.step(grads=[np.ones(3)])
    assert twice.param_groups[0]["k"] == once.param_groups[0]["k"] == 6
    before, b = w.copy(), beta(twice)
    z = twice.state[w]["z"].copy()
    twice.eval()
    np.testing.assert_array_equal(w, before + (1 - 1 / b) * (z - before))  # and once alone


# --- late parameters ------------------------------------------------------------------------------


@every_card(MODES)
def test_a_parameter_that_joins_late(card: Card) -> None:
    # Its z begins at its own first step, and its squares are corrected by its own age; what it moves by
    # is the first step of a new optimizer, but for the share of z in the average, the group's.
    a, late = np.ones(3), np.array([1.0, -2.0, 3.0])
    optimizer = plain(card)([a, late], lr=0.1)
    optimizer.train()
    for _ in range(50):
        optimizer.step(grads=[a.copy(), None])
    assert not optimizer.state.get(late)
    new = late.copy()
    fresh = plain(card)([new], lr=0.1)
    fresh.train()
    grad = np.array([0.5, 1.0, -1.0])
    optimizer.step(grads=[a.copy(), grad])
    fresh.step(grads=[grad])
    np.testing.assert_allclose(
        optimizer.state[late]["z"], fresh.state[new]["z"], rtol=1e-14, atol=0
    )
    if "step" in optimizer.state[late]:
        assert optimizer.state[late]["step"] == 1


# --- torch tensors --------------------------------------------------------------------------------


@every_card(MODES)
def test_modes_of_tensors(torch: Any, card: Card) -> None:
    model = torch.nn.Linear(3, 2, dtype=torch.float64)
    optimizer = plain(card)(model.parameters(), lr=0.1)
    optimizer.train()

    def step() -> None:
        optimizer.zero_grad()
        model(torch.ones(4, 3, dtype=torch.float64)).square().sum().backward()
        optimizer.step()

    for _ in range(7):
        step()
    for change in (optimizer.eval, optimizer.train):
        versions = [p._version for p in model.parameters()]
        held = model.weight.detach().clone()
        change()
        assert all(p._version > v for p, v in zip(model.parameters(), versions, strict=True))
        assert not torch.equal(held, model.weight)
    output = (model.weight * model.weight).sum()
    optimizer.eval()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward()
    optimizer.train()
    held = model.weight.detach().clone()
    version = model.weight._version
    with optimizer.averaged():
        assert not torch.equal(held, model.weight)
        assert model.weight._version > version
    assert torch.equal(held, model.weight)
    assert isinstance(optimizer.state[model.weight]["z"], torch.Tensor)
    step()


@every_card(MODES)
def test_modes_and_files_of_the_authors(torch: Any, card: Card) -> None:
    schedulefree = pytest.importorskip("schedulefree", exc_type=ImportError)
    theirs = getattr(schedulefree, card.name)
    rng = np.random.default_rng(0)
    a = [torch.from_numpy(rng.standard_normal(shape)) for shape in ((3, 4), (5,))]
    b = [p.clone() for p in a]
    mine, other = plain(card)(a, lr=0.1), theirs(b, lr=0.1)

    def compare() -> None:
        for p, q in zip(a, b, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)

    def step_both(count: int) -> None:
        for _ in range(count):
            for p, q in zip(a, b, strict=True):
                p.grad = torch.from_numpy(rng.standard_normal(tuple(p.shape)))
                q.grad = p.grad.clone()
            mine.step()
            other.step()
        compare()

    for call in ("train", "eval", "train"):
        getattr(mine, call)()
        getattr(other, call)()
        compare()
        if call == "train":
            step_both(7)
    for call in ("eval", "train"):
        getattr(mine, call)()
        getattr(other, call)()
        saved = copy.deepcopy(other.state_dict()), copy.deepcopy(mine.state_dict())
        mine, other = plain(card)(a, lr=0.1), theirs(b, lr=0.1)
        mine.load_state_dict(saved[0])
        other.load_state_dict(saved[1])
        assert mine.param_groups[0]["train_mode"] is (call == "train")
        for one in (mine, other):
            one.train()
        step_both(3)


@every_card(MODES, lambda card: "step" in card.states)
def test_a_group_that_has_stepped_elsewhere(card: Card) -> None:
    # schedulefree keeps our step counts, and does not advance them.
    optimizer, params = trained(card)
    saved = copy.deepcopy(optimizer.state_dict())
    assert saved["param_groups"][0]["steps_counted_at_k"] == 7
    saved["param_groups"][0]["k"] = 10
    del saved["state"][1]["step"]
    optimizer.load_state_dict(saved)
    assert [optimizer.state[p]["step"] for p in params[:2]] == [10, 10]
    assert "steps_counted_at_k" not in optimizer.param_groups[0]
