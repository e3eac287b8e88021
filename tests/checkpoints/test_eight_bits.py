"""States of torchao and bitsandbytes: written by hand from their description, and by themselves."""

from __future__ import annotations

import copy
import importlib
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim.checkpoint import (
    from_bitsandbytes,
    from_torchao,
    to_bitsandbytes,
    to_torch,
    to_torchao,
)
from tests.support.formats import BLOCK, book, numbers, optimizer_with, trained

pytest.importorskip("ml_dtypes")
torch = pytest.importorskip("torch")

NESTED = "__bnb_optimizer_quant_state__"
SIZE = 20 * BLOCK
ARRAYS = ("exp_avg", "exp_avg_sq")
GROUP = {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01, "params": [0]}


class Coded(SimpleNamespace):
    """An object with torchao's attributes."""

    def dequantize(self) -> Any:
        return torch.full(self.shape, 0.25)


def codes_and_scale(seed: int, size: int = SIZE, block: int = BLOCK) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    codes = torch.from_numpy(rng.integers(1, 255, size, dtype=np.uint8))
    return codes, torch.from_numpy(rng.uniform(0.1, 2, -(-size // block)).astype("f4"))


def of_torchao(kind: str, block: int = BLOCK) -> Any:
    """A state dict as torchao's."""
    state = {"step": torch.tensor(3.0)}
    for seed, name in enumerate(ARRAYS):
        codes, scale = codes_and_scale(seed, SIZE, block)
        if kind == "dynamic8":
            about = {"qmap": torch.from_numpy(book(name == "exp_avg")), "signed": name == "exp_avg"}
        else:
            about = {}
            codes = torch.rand(SIZE).to(torch.float8_e4m3fn)
        state[name] = Coded(codes=codes, scale=scale, shape=codes.shape, **about)
    group = {**GROUP, "lr": torch.tensor(0.01), "amsgrad": False}
    return {"state": {0: state}, "param_groups": [group]}


def of_bitsandbytes(size: int = SIZE, block: int = BLOCK) -> Any:
    """A state dict as bitsandbytes' Adam8bit has it."""
    nested = {}
    for number in (1, 2):
        nested[f"state{number}"], nested[f"absmax{number}"] = codes_and_scale(number, size, block)
        nested[f"qmap{number}"] = torch.from_numpy(book(number == 1))
    group = {**GROUP, "alpha": 0.0, "t_alpha": None, "t_beta3": None}
    return {"state": {0: {"step": 3, NESTED: nested}}, "param_groups": [group]}


def goes_on(state_dict: Any, size: int = SIZE, kind: str = "dynamic8", cls: Any = None) -> Any:
    """An optimizer that has loaded a state and made a step; and the state before it."""
    param = np.ones(size, np.float32)
    optimizer = optimizer_with(cls or cyoptim.AdamW, [param], state_dtype=kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.load_state_dict(state_dict)
    before = copy.deepcopy(dict(optimizer.state[param]))
    optimizer.step(grads=[np.linspace(-1, 1, size, dtype="f4")])
    assert np.isfinite(param).all()
    assert not np.all(param == 1)
    assert int(optimizer.state[param]["step"]) == 4
    return optimizer, before


# --- by hand --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dynamic8", "float8_e4m3fn"])
def test_torchaos_codes_are_ours(kind: str) -> None:
    theirs = of_torchao(kind)
    optimizer, before = goes_on(from_torchao(theirs), kind=kind)
    for name in ARRAYS:
        value = theirs["state"][0][name]
        assert before[name].tobytes() == value.codes.view(torch.uint8).numpy().tobytes()
        assert before[name + "_scale"].tobytes() == value.scale.numpy().tobytes()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    assert type(optimizer.param_groups[0]["lr"]) is float


def test_bitsandbytes_codes_are_ours() -> None:
    size = SIZE + 7  # whose last block is short
    theirs = of_bitsandbytes(size)
    optimizer, before = goes_on(from_bitsandbytes(theirs), size)
    nested = theirs["state"][0][NESTED]
    for number, name in enumerate(ARRAYS, 1):
        assert before[name].tobytes() == nested[f"state{number}"].numpy().tobytes()
        assert before[name + "_scale"].tobytes() == nested[f"absmax{number}"].numpy().tobytes()
    assert not {"alpha", "t_alpha", "t_beta3"} & optimizer.param_groups[0].keys()


def test_what_they_give_is_not_changed() -> None:
    theirs = of_bitsandbytes()
    before = copy.deepcopy(theirs)
    from_bitsandbytes(theirs)
    assert list(theirs["state"][0]) == list(before["state"][0])
    assert theirs["param_groups"] == before["param_groups"]


@pytest.mark.parametrize("nested", [True, False])
def test_bitsandbytes_float32_state(nested: bool) -> None:
    arrays = {"state1": torch.full((9,), 0.5), "state2": torch.full((9,), 0.25)}
    state = {"step": 3, **({NESTED: arrays} if nested else arrays)}
    ours = from_bitsandbytes({"state": {0: state}, "param_groups": [GROUP]})
    _, before = goes_on(ours, 9)
    assert before["exp_avg"].tolist() == [0.5] * 9
    assert before["exp_avg_sq"].tolist() == [0.25] * 9


def test_lion_has_one_array() -> None:
    codes, scale = codes_and_scale(1)
    state = {"step": 3, "state1": codes, "absmax1": scale, "qmap1": torch.from_numpy(book(True))}
    group = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.0, "eps": 0.0, "params": [0]}
    ours = from_bitsandbytes({"state": {0: state}, "param_groups": [group]})
    optimizer = optimizer_with(cyoptim.Lion, [np.ones(SIZE, "f4")], state_dtype="dynamic8")
    optimizer.load_state_dict(ours)
    (param,) = optimizer.param_groups[0]["params"]
    assert optimizer.state[param]["exp_avg"].tobytes() == codes.numpy().tobytes()
    back = to_bitsandbytes(optimizer.state_dict())["state"][0][NESTED]
    assert back.keys() == {"state1", "absmax1", "qmap1"}
    assert torch.equal(back["state1"], codes)


def test_ademamix_has_two_arrays_in_one() -> None:
    (fast, first), (slow, second), (square, third) = map(codes_and_scale, range(3))
    nested = {
        "state1": torch.stack([fast, slow]),
        "absmax1": torch.stack([first, second]),
        "qmap1": torch.from_numpy(book(True)),
        "state2": square,
        "absmax2": third,
        "qmap2": torch.from_numpy(book(False)),
    }
    group = {
        **GROUP, "betas": (0.9, 0.999, 0.9999), "alpha": 5.0, "t_alpha": 100, "t_beta3": 200,
    }  # fmt: skip
    theirs = {"state": {0: {"step": 3, NESTED: nested}}, "param_groups": [group]}
    optimizer, before = goes_on(from_bitsandbytes(theirs), cls=cyoptim.AdEMAMix)
    for name, codes in {"exp_avg_fast": fast, "exp_avg_slow": slow, "exp_avg_sq": square}.items():
        assert before[name].tobytes() == codes.numpy().tobytes()
    assert optimizer.param_groups[0]["alpha_warmup"] == 100
    assert optimizer.param_groups[0]["beta3_warmup"] == 200
    back = to_bitsandbytes(optimizer.state_dict())
    assert back["param_groups"][0]["t_beta3"] == 200
    assert back["state"][0][NESTED].keys() == nested.keys()
    for name, tensor in nested.items():
        assert back["state"][0][NESTED][name].shape == tensor.shape


@pytest.mark.parametrize("block", [2048, 64])
def test_other_blocks_become_numbers(block: int) -> None:
    convert, theirs = (from_bitsandbytes, of_bitsandbytes(2 * SIZE, block))
    if block == 64:
        convert, theirs = from_torchao, of_torchao("dynamic8", block)
    ours = convert(theirs)["state"][0]
    entries = theirs["state"][0]
    if block == 64:
        codes, scale = entries["exp_avg"].codes, entries["exp_avg"].scale
    else:
        codes, scale = entries[NESTED]["state1"], entries[NESTED]["absmax1"]
    expected = book(True)[codes.numpy()] * np.repeat(scale.numpy(), block)[: codes.numel()]
    np.testing.assert_array_equal(ours["exp_avg"].numpy(), expected)
    assert "exp_avg_scale" not in ours
    goes_on(convert(theirs), codes.numel(), "float32")


def test_another_book_becomes_numbers() -> None:
    theirs = of_bitsandbytes()
    linear = torch.linspace(-1, 1, 256)
    nested = theirs["state"][0][NESTED]
    nested["qmap1"] = linear
    ours = from_bitsandbytes(theirs)["state"][0]
    expected = linear[nested["state1"].long()] * nested["absmax1"].repeat_interleave(BLOCK)
    assert torch.equal(ours["exp_avg"], expected)
    # RMSprop keeps its squares by the signed book, and we by that of numbers that are positive.
    ours = from_bitsandbytes(of_bitsandbytes(), ["square_avg", "exp_avg"])["state"][0]
    assert ours["square_avg"].dtype is ours["exp_avg"].dtype is torch.float32


def test_four_bits_become_numbers() -> None:
    packed = Coded(codes=torch.zeros(SIZE // 2), scale=torch.ones(9), shape=(SIZE,))
    entries = {"step": torch.tensor(3.0), "exp_avg": packed, "exp_avg_sq": packed}
    ours = from_torchao({"state": {0: entries}, "param_groups": [GROUP]})
    _, before = goes_on(ours, kind="float32")
    assert np.all(before["exp_avg"] == 0.25)


@pytest.mark.parametrize("as_tensors", [True, False])
@pytest.mark.parametrize("size", [SIZE, SIZE + 7, 100])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "dynamic8", "float8_e4m3fn"])
def test_to_bitsandbytes_and_back(kind: str, size: int, as_tensors: bool) -> None:
    param, optimizer = trained(size, np.float32, kind)
    if as_tensors:
        param = torch.from_numpy(param).requires_grad_()
        twin = optimizer_with(cyoptim.AdamW, [param], state_dtype=kind)
        twin.load_state_dict(optimizer.state_dict())
        optimizer = twin
    theirs = to_bitsandbytes(optimizer.state_dict())
    (entries,) = theirs["state"].values()
    assert entries.keys() == {"step", NESTED}
    assert type(entries["step"]) is int
    nested = entries[NESTED]
    has_codes = kind == "dynamic8" and size > 100
    assert nested["state1"].dtype is (torch.uint8 if has_codes else torch.float32)
    assert ("absmax1" in nested) == ("qmap2" in nested) == has_codes
    assert not {"state_dtype"} & theirs["param_groups"][0].keys()
    state = optimizer.state[param]
    for name, value in from_bitsandbytes(theirs)["state"][0].items():
        if kind == "dynamic8" or name == "step":
            assert (
                np.asarray(value).tobytes() == np.asarray(state[name]).tobytes() or name == "step"
            )
        else:
            scale = np.asarray(state.get(name + "_scale", 0))
            own = state[name].float().numpy() if as_tensors and scale.ndim == 0 else None
            own = numbers(name, np.asarray(optimizer.state.arrays(param)[name]), scale)
            np.testing.assert_allclose(np.asarray(value), own, rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "dynamic8", "float8_e4m3fn"])
def test_to_torch(kind: str, dtype: str) -> None:
    param = torch.full((70, 64), 0.5, dtype=getattr(torch, dtype), requires_grad=True)
    options: Any = {"master": None} if dtype == "bfloat16" else {}
    ours = optimizer_with(cyoptim.AdamW, [param], {"lr": 0.01}, state_dtype=kind, **options)
    for _ in range(3):
        param.grad = torch.full_like(param, 0.25)
        ours.step()
    plain = to_torch(ours.state_dict())
    assert plain["state"][0].keys() == {"step", *ARRAYS}
    assert not {"state_dtype", "master"} & plain["param_groups"][0].keys()
    theirs = torch.optim.AdamW([param], lr=0.01)
    theirs.load_state_dict(plain)
    # After 3 steps of a constant gradient: (1 - 0.9**3) * 0.25.
    expected = torch.full_like(param, 0.06775)
    assert torch.allclose(theirs.state[param]["exp_avg"], expected, rtol=0.05)
    before = param.detach().clone()
    param.grad = torch.full_like(param, 0.25)
    theirs.step()
    assert dtype == "bfloat16" or torch.allclose((before - param) / 0.01, torch.ones(()), atol=0.1)


def test_codes_that_torch_has_taken_for_numbers_are_refused_when_they_come_back() -> None:
    param = torch.full((5000,), 0.5, requires_grad=True)
    ours = optimizer_with(cyoptim.AdamW, [param], state_dtype="dynamic8")
    param.grad = torch.ones_like(param)
    ours.step()
    theirs = torch.optim.AdamW([param])
    theirs.load_state_dict(ours.state_dict())
    with pytest.raises(ValueError, match=r"cyoptim.checkpoint.to_torch\(state_dict\)"):
        ours.load_state_dict(theirs.state_dict())


@pytest.mark.parametrize(
    "convert", [to_torch, to_torchao, from_torchao, from_bitsandbytes, to_bitsandbytes]
)
def test_no_state_dict(convert: Any) -> None:
    with pytest.raises(TypeError, match="must be a dict with 'state' and 'param_groups'"):
        convert({"state": {}})


def test_what_does_not_belong_together() -> None:
    theirs = of_bitsandbytes()
    theirs["state"][0][NESTED]["absmax1"] = torch.ones(7)
    with pytest.raises(
        ValueError, match=r"7 scales do not fit 5120 codes of 'exp_avg': expected 20"
    ):
        from_bitsandbytes(theirs)
    del theirs["state"][0][NESTED]["absmax1"]
    with pytest.raises(ValueError, match="the codes of 'exp_avg' have no 'absmax' or 'qmap'"):
        from_bitsandbytes(theirs)
    with pytest.raises(ValueError, match=r"has 2 arrays, and names are \['exp_avg'\]"):
        from_bitsandbytes(of_bitsandbytes(), ["exp_avg"])
    _, optimizer = trained(SIZE, np.float32, "dynamic8")
    state_dict = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(
        ValueError, match="expected 'momentum_buffer': give the names of its arrays"
    ):
        to_bitsandbytes(state_dict, ["momentum_buffer"])
    del state_dict["state"][0]["exp_avg_scale"]
    for convert in (to_torch, to_bitsandbytes):
        with pytest.raises(ValueError, match="state 'exp_avg' has 8 bits, and 'exp_avg_scale' no"):
            convert(state_dict)


# --- the packages themselves ----------------------------------------------------------------------


def package(name: str) -> Any:
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        pytest.skip(f"{name} is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


@pytest.fixture
def eager() -> Any:
    """torchao's step is compiled, which takes half a minute."""
    with torch.compiler.set_stance("force_eager"):
        yield


def gradients(steps: int, shape: Any = (40, BLOCK)) -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for _ in range(steps)]


def advance(optimizer: Any, param: Any, grads: Any) -> None:
    for grad in grads:
        if is_tensor(param):
            param.grad = grad.clone()
            optimizer.step()
        else:
            optimizer.step(grads=[grad.numpy()])


def is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def neighbours(ours: Any, theirs: Any) -> Any:
    """Where both have the same code, or one the next of the other's."""
    return np.abs(ours.astype(int) - theirs.astype(int)) <= 1


def test_our_book_is_theirs() -> None:
    from cyoptim._checkpoints.eight_bits import _book

    for name, signed in (("exp_avg", True), ("exp_avg_sq", False)):
        np.testing.assert_allclose(_book(name), book(signed), rtol=1e-6)
    utils = package("torchao.optim.quant_utils")
    for name, signed in (("exp_avg", True), ("exp_avg_sq", False)):
        assert list(_book(name)) == list(np.float32(utils.create_dynamic_map(signed)))


def test_bitsandbytes_book_is_ours() -> None:
    from cyoptim._checkpoints.eight_bits import _book

    functional = package("bitsandbytes.functional")
    for name, signed in (("exp_avg", True), ("exp_avg_sq", False)):
        assert np.array_equal(_book(name), functional.create_dynamic_map(signed).numpy())


AO = {"dynamic8": "AdamW8bit", "float8_e4m3fn": "AdamWFp8"}


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("kind", AO)
def test_torchaos_optimizer_goes_on_here_and_ours_there(kind: str, tmp_path: Any) -> None:
    optim = package("torchao.optim")
    cls = getattr(optim, AO[kind])
    param = torch.ones(40, BLOCK, requires_grad=True)
    theirs = cls([param], lr=0.01)
    advance(theirs, param, gradients(3))
    torch.save(theirs.state_dict(), tmp_path / "state.pt")
    read = torch.load(tmp_path / "state.pt", weights_only=True)
    array = param.detach().numpy().copy()
    ours = optimizer_with(cyoptim.AdamW, [array], state_dtype=kind)
    ours.load_state_dict(from_torchao(read))
    for name in ARRAYS:
        codes = theirs.state[param][name].codes.view(torch.uint8).numpy()
        assert ours.state[array][name].tobytes() == codes.tobytes()
    grads = gradients(5)[3:]
    advance(ours, array, grads[:1])
    advance(theirs, param, grads[:1])
    np.testing.assert_allclose(array, param.detach().numpy(), atol=2e-4)
    for name in ARRAYS:
        codes = theirs.state[param][name].codes.view(torch.uint8).numpy()
        assert np.mean(neighbours(ours.state[array][name].view("u1"), codes)) == 1
    # And ours there: the same codes, and on.
    other = torch.from_numpy(array.copy()).requires_grad_()
    back = cls([other], lr=0.5)
    back.load_state_dict(to_torchao(copy.deepcopy(ours.state_dict())))
    for name in ARRAYS:
        codes = back.state[other][name].codes.view(torch.uint8).numpy()
        assert codes.tobytes() == ours.state[array][name].tobytes()
    advance(back, other, grads[1:])
    advance(ours, array, grads[1:])
    np.testing.assert_allclose(other.detach().numpy(), array, atol=2e-4)


@pytest.mark.usefixtures("eager")
def test_torchaos_four_bits_go_on_here() -> None:
    optim = package("torchao.optim")
    param = torch.ones(40, BLOCK, requires_grad=True)
    theirs = optim.AdamW4bit([param], lr=0.01)
    advance(theirs, param, gradients(3))
    array = param.detach().numpy().copy()
    ours = optimizer_with(cyoptim.AdamW, [array])
    ours.load_state_dict(from_torchao(theirs.state_dict()))
    expected = theirs.state[param]["exp_avg"].dequantize().numpy()
    np.testing.assert_array_equal(ours.state[array]["exp_avg"], expected)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("size", [100, SIZE + 7])
def test_what_torchao_keeps_in_float32(size: int) -> None:
    optim = package("torchao.optim")
    param, optimizer = trained(size, np.float32, "dynamic8")
    tensor = torch.from_numpy(param.copy()).requires_grad_()
    theirs = optim.AdamW8bit([tensor], lr=0.01)
    theirs.load_state_dict(to_torchao(optimizer.state_dict()))
    assert theirs.state[tensor]["exp_avg"].dtype is torch.float32
    advance(theirs, tensor, gradients(1, size))
    assert torch.isfinite(tensor).all()


@pytest.mark.parametrize("size", [40 * BLOCK, SIZE + 7, 100])
def test_bitsandbytes_optimizer_goes_on_here_and_ours_there(size: int, tmp_path: Any) -> None:
    optim = package("bitsandbytes.optim")
    param = torch.ones(size, requires_grad=True)
    theirs = optim.AdamW8bit([param], lr=0.01)
    advance(theirs, param, gradients(3, size))
    torch.save(theirs.state_dict(), tmp_path / "state.pt")
    read = torch.load(tmp_path / "state.pt", weights_only=True)
    array = param.detach().numpy().copy()
    ours = optimizer_with(cyoptim.AdamW, [array], state_dtype="dynamic8")
    ours.load_state_dict(from_bitsandbytes(read))
    for number, name in enumerate(ARRAYS, 1):
        codes = theirs.state[param][f"state{number}"].numpy()
        assert ours.state[array][name].tobytes() == codes.tobytes()
    grads = gradients(5, size)[3:]
    advance(ours, array, grads[:1])
    advance(theirs, param, grads[:1])
    for number, name in enumerate(ARRAYS, 1):
        codes = theirs.state[param][f"state{number}"].numpy()
        if codes.dtype == np.uint8:
            assert np.mean(neighbours(ours.state[array][name], codes)) > 0.99
    other = torch.from_numpy(array.copy()).requires_grad_()
    back = optim.AdamW8bit([other], lr=0.5)
    back.load_state_dict(to_bitsandbytes(copy.deepcopy(ours.state_dict())))
    for number, name in enumerate(ARRAYS, 1):
        codes = back.state[other][f"state{number}"].numpy()
        assert codes.tobytes() == ours.state[array][name].tobytes()
    before = other.detach().clone()
    advance(back, other, grads[1:])
    assert back.state[other]["step"] == 5
    assert 0 < (other - before).abs().max() < 0.1
