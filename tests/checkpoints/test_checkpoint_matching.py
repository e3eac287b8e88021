"""Loading into what differs: names, shapes and dtypes, told in a table, renamed or left out."""

from __future__ import annotations

import numpy as np
import pytest

import cyoptim
from tests.checkpoints.test_checkpoint import train, training
from tests.support.saved_objects import Average, Scheduler, contents, same

SAVED = {
    "enc.weight": np.arange(6, dtype="f4").reshape(2, 3),
    "enc.bias": np.ones(3, "f4"),
    "head": np.ones(2, "f4"),
    "scale": np.ones(1),
}


@pytest.fixture(params=["npz", "safetensors"])
def path(request, tmp_path):
    return tmp_path / f"run.{request.param}"


def other_model():
    return {
        "enc.weight": np.zeros((2, 3), "f4"),
        "enc.bias": cyoptim.Parameter(np.zeros(4, "f4")),
        "scale": np.zeros(1, "f4"),
        "decoder": np.zeros((), "f4"),
    }


TABLE = """\
{path} differs in 4 places, and nothing was changed (strict=False leaves them out):
                                 in the file   expected
  missing     model['decoder']   -             float32 ()
  unexpected  model['head']      float32 (2,)  -
  shape       model['enc.bias']  float32 (3,)  float32 (4,)
  dtype       model['scale']     float64 (1,)  float32 (1,)"""


def test_the_error_is_a_table(path):
    cyoptim.save(path, model=SAVED, epoch=3)
    model = other_model()
    before = contents(model)
    with pytest.raises(ValueError, match="differs in 4 places") as caught:
        cyoptim.load(path, model=model)
    assert str(caught.value) == TABLE.format(path=path)
    assert not isinstance(caught.value, cyoptim.CheckpointError)
    assert contents(model) == before


def test_what_fits_is_loaded_and_the_rest_told(path):
    cyoptim.save(path, model=SAVED, epoch=3)
    model = other_model()
    result = cyoptim.load(path, model=model, strict=False)
    assert same(model["enc.weight"], SAVED["enc.weight"])
    assert not any(np.any(model[name] != 0) for name in ("scale", "decoder"))
    assert not model["enc.bias"].data.any()
    assert isinstance(result, cyoptim.checkpoint.Loaded)
    assert result["epoch"] == 3
    assert same(result["model"], SAVED)
    assert result.loaded == ["model['enc.weight']"]
    assert [(d.kind, d.place) for d in result.skipped] == [
        ("missing", "model['decoder']"),
        ("unexpected", "model['head']"),
        ("shape", "model['enc.bias']"),
        ("dtype", "model['scale']"),
    ]
    table = TABLE.format(path=path).split("\n", 1)[1]
    head = f"{path}: 1 loaded, 4 skipped\n  loaded model['enc.weight']\n"
    assert str(result) == repr(result) == head + table


def test_long_lists_are_abbreviated(path):
    cyoptim.save(path, model={f"layer{i}": np.ones(2) for i in range(30)})
    result = cyoptim.load(path, model={f"other{i}": np.ones(1) for i in range(9)}, strict=False)
    lines = str(result).splitlines()
    assert len(lines) == 1 + 1 + 9 + 9
    assert lines[10].split() == ["missing", "...", "and", "1", "more"]
    assert lines[-1].split() == ["unexpected", "...", "and", "22", "more"]
    assert len(result.skipped) == 39


def test_an_object_that_the_file_lacks(path):
    cyoptim.save(path, model=SAVED)
    average = Scheduler(99)
    with pytest.raises(ValueError, match="has no 'average'; it holds 'model'"):
        cyoptim.load(path, average=average)
    result = cyoptim.load(path, average=average, strict=False)
    assert [(d.kind, d.place) for d in result.skipped] == [("missing", "average")]
    assert (result.loaded, average.epoch) == ([], 99)


def test_a_tree_is_matched_at_every_depth(path):
    cyoptim.save(path, tree={"a": [{"W": np.ones(2), "n": 1}, {"W": np.ones(3)}], "b": (1, 2)})
    tree = {"a": [{"W": np.zeros(2), "n": 0}, {"V": np.zeros(3)}], "b": [0], "c": None}
    result = cyoptim.load(path, tree=tree, strict=False)
    assert result.loaded == ["tree['a'][0]['W']", "tree['a'][0]['n']"]
    assert (tree["a"][0]["n"], tree["b"], tree["a"][0]["W"].all()) == (1, [0], True)
    assert [(d.kind, d.place) for d in result.skipped] == [
        ("missing", "tree['c']"),
        ("missing", "tree['a'][1]['V']"),
        ("unexpected", "tree['a'][1]['W']"),
        ("length", "tree['b']"),
    ]


def test_an_optimizer_is_loaded_or_left_out_as_a_whole(path):
    run, fits, not_so = training(1), training(2), training(3)
    train(**run)
    cyoptim.save(path, **run)
    assert cyoptim.load(path, **fits, strict=False).loaded[-2:] == ["optimizer", "scheduler"]
    assert train(**fits) == train(**run)
    not_so["optimizer"] = cyoptim.Adam(not_so["params"])
    before = contents({"optimizer": not_so["optimizer"]})
    result = cyoptim.load(path, optimizer=not_so["optimizer"], strict=False)
    assert result.loaded == []
    assert [d.kind for d in result.skipped] == ["refused"]
    assert "refused  optimizer  loaded state dict has a different number of" in str(result)
    assert contents({"optimizer": not_so["optimizer"]}) == before


def test_a_state_that_refuses_late_is_put_back_and_told(path):
    cyoptim.save(path, first={"epoch": 3, "seen": [3]}, second={"epoch": 4, "seen": [4]})
    first, second = Scheduler(98), Scheduler(99, fails=RuntimeError("not today"))
    result = cyoptim.load(path, first=first, second=second, strict=False)
    assert result.loaded == ["first"]
    assert [(d.kind, d.place, d.found) for d in result.skipped] == [
        ("refused", "second", "not today")
    ]
    assert (first.epoch, second.epoch, second.seen) == (3, 99, [99])


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("strict", 1, "strict must be True or False, found int"),
        ("strict", {"W": 1}, "strict must be True or False, found dict"),
        ("convert", None, "convert must be True or False, found NoneType"),
        ("rename", ["a"], "rename must be a dict of names or a function, found list"),
        ("rename", {"a": 1}, "rename must map names to names, found 'a': 1"),
    ],
)
def test_bad_options(path, option, value, message):
    cyoptim.save(path, a=1)
    with pytest.raises(TypeError, match=message):
        cyoptim.load(path, **{option: value})


# rename ----------------------------------------------------------------------


def renamed_model():
    return {"w": np.zeros((2, 3), "f4"), "enc.bias": np.zeros(3, "f4")}


@pytest.mark.parametrize("rename", [{"enc.weight": "w"}, lambda n: n.replace("enc.weight", "w")])
def test_names_of_the_file_become_those_of_the_objects(path, rename):
    cyoptim.save(path, model={name: SAVED[name] for name in ("enc.weight", "enc.bias")})
    model = renamed_model()
    saved = cyoptim.load(path, model=model, rename=rename)
    assert same(model["w"], SAVED["enc.weight"])
    assert same(model["enc.bias"], SAVED["enc.bias"])
    assert list(saved["model"]) == ["enc.weight", "enc.bias"]


def test_two_names_can_be_exchanged(path):
    cyoptim.save(path, params={"a": np.zeros(1), "b": np.ones(1)}, history={"a": [1]})
    params, history = {"a": np.ones(1), "b": np.zeros(1)}, {"a": [0]}
    cyoptim.load(path, params=params, history=history, rename={"a": "b", "b": "a"})
    assert (params["a"][0], params["b"][0], history) == (1, 0, {"a": [1]})


@pytest.mark.parametrize(
    ("rename", "error", "message"),
    [
        ({"enc.weight": "w", "encoder": "e"}, ValueError, "rename has no use for 'encoder'$"),
        ({"enc.weight": "enc.bias"}, ValueError, "model: rename gives two entries the name 'enc"),
        (lambda name: None, TypeError, r"rename\('enc.weight'\) must return a name, found NoneT"),
    ],
)
def test_bad_names_change_nothing(path, rename, error, message):
    cyoptim.save(path, model={name: SAVED[name] for name in ("enc.weight", "enc.bias")})
    model = renamed_model()
    with pytest.raises(error, match=message):
        cyoptim.load(path, model=model, rename=rename)
    assert not any(array.any() for array in model.values())


def test_an_optimizer_keeps_its_new_names(path):
    old, new = np.ones(2), np.zeros(2)
    optimizer = cyoptim.Adam([("layer.W", old)], lr=0.1)
    optimizer.step(grads={"layer.W": np.ones(2)})
    cyoptim.save(path, params={"layer.W": old}, optimizer=optimizer)
    other = cyoptim.Adam([("W", new)])
    rename = {"layer.W": "W"}
    cyoptim.load(path, params={"W": new}, optimizer=other, rename=rename)
    optimizer.step(grads={"layer.W": np.ones(2)})
    other.step(grads={"W": np.ones(2)})
    assert same(old, new)


# convert ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("saved", "wanted", "converts"),
    [
        ("f8", "f4", True),
        ("f2", "f4", True),
        ("f4", "f2", True),
        ("i4", "f8", True),
        ("f4", "c8", True),
        ("c8", "f4", False),
        ("f4", "i8", False),
    ],
)
def test_another_dtype_needs_to_be_asked_for(path, saved, wanted, converts):
    cyoptim.save(path, W=np.full(2, 3, saved))
    W = np.zeros(2, wanted)
    with pytest.raises(ValueError, match="found an array of dtype") as caught:
        cyoptim.load(path, W=W)
    assert str(caught.value).endswith("; convert=True converts it") == converts
    if converts:
        cyoptim.load(path, W=W, convert=True)
        assert same(W, np.full(2, 3, wanted))
    else:
        with pytest.raises(ValueError, match="found an array of dtype"):
            cyoptim.load(path, W=W, convert=True)
        assert not W.any()


def test_an_overflow_is_told_before_anything_changes(path):
    cyoptim.save(path, a=np.ones(2, "f4"), W=np.full(2, 1e300))
    a, W = np.zeros(2, "f4"), np.zeros(2, "f4")
    with pytest.raises(RuntimeWarning, match="overflow"):  # the tests make errors of warnings
        cyoptim.load(path, a=a, W=W, convert=True)
    assert not a.any()
    assert not W.any()


# torch's modules -------------------------------------------------------------


def test_a_module_is_matched_name_by_name(path, torch):
    saved = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    cyoptim.save(path, model=saved)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 5), torch.nn.Linear(5, 1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"shape +model\['1.weight'\] +float32 \(2, 4\) +float32"):
        cyoptim.load(path, model=model)
    result = cyoptim.load(path, model=model, strict=False)
    assert result.loaded == ["model['0.weight']", "model['0.bias']"]
    for name, value in model.state_dict().items():
        expected = saved.state_dict()[name] if name.startswith("0.") else before[name]
        assert torch.equal(value, expected), name


def test_a_module_of_other_names_and_precision(path, torch):
    side = torch.nn.Linear(3, 4)
    cyoptim.save(path, model={"fc.weight": np.ones((4, 3)), "fc.bias": np.ones(4)})
    cyoptim.load(path, model=side, rename=lambda name: name.removeprefix("fc."), convert=True)
    assert side.weight.dtype == torch.float32
    assert bool((side.weight == 1).all() and (side.bias == 1).all())


# What states hold ------------------------------------------------------------


class Averaging(cyoptim.SGD):
    """An optimizer with a state of its own beside the usual, checked first."""

    def __init__(self, params, **options):
        super().__init__(params, **options)
        self.averages = {"decay": 0.9, "steps": 0, "values": [np.zeros(2), {"b": np.zeros(3)}]}

    def state_dict(self):
        return {**super().state_dict(), "trail": self.averages}

    def _prepare_load(self, state_dict, commit):
        super()._prepare_load(state_dict, commit)
        averages = dict(state_dict["trail"])
        if averages["decay"] > 1:
            raise ValueError("decay must be at most 1")
        commit.update(vars(self), {"averages": averages})


class AveragingInPublic(Averaging):
    """The same through the public method alone."""

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)


@pytest.mark.parametrize("kind", [Averaging, AveragingInPublic])
def test_an_optimizer_may_have_a_state_of_its_own(path, kind):
    def build():
        optimizer = kind([np.ones(2)], lr=0.1, momentum=0.9)
        optimizer.step(grads=[np.ones(2)])
        return optimizer

    saved, other = build(), build()
    values = [np.full(2, 3.0), {"b": np.arange(3.0)}]
    saved.averages = {"decay": np.float64(0.99), "steps": 5, "values": values, "names": ("a", None)}
    cyoptim.save(path, optimizer=saved)
    returned = cyoptim.load(path, optimizer=other)["optimizer"]
    assert same(returned["trail"], saved.averages)
    assert same(other.averages, saved.averages)
    assert contents({"o": other}) == contents({"o": saved})

    saved.averages["decay"] = 2
    cyoptim.save(path, optimizer=saved)
    with pytest.raises(ValueError, match="optimizer refuses the saved state: decay must be at mos"):
        cyoptim.load(path, optimizer=other)
    assert other.averages["decay"] == 0.99


def test_an_overridden_load_state_dict_is_called(path):
    class Counting(cyoptim.SGD):
        loads = 0

        def load_state_dict(self, state_dict):
            self.loads += 1
            super().load_state_dict(state_dict)

    optimizer = Counting([np.ones(2)], lr=0.1)
    cyoptim.save(path, optimizer=optimizer)
    cyoptim.load(path, optimizer=optimizer)
    assert optimizer.loads == 1


def test_an_object_whose_arrays_grow_decides_itself(path):
    cyoptim.save(path, buffer=Average(np.ones(3)))
    buffer = Average(np.ones(2), np.ones(1))
    cyoptim.load(path, buffer=buffer)
    assert same(buffer.values, [np.ones(3)])


# Random generators -----------------------------------------------------------

KINDS = ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"]


@pytest.mark.parametrize("kind", KINDS)
def test_random_numbers_go_on(path, kind):
    def build(seed):
        return np.random.Generator(getattr(np.random, kind)(seed))

    rng, other = build(1), build(2)
    rng.integers(10, size=3, dtype="u4")  # leaves half a draw behind
    cyoptim.save(path, rng=rng)
    saved = cyoptim.load(path, rng=other)["rng"]
    drawn = rng.integers(10, size=9, dtype="u4")
    assert (other.integers(10, size=9, dtype="u4") == drawn).all()
    third = build(3)
    third.bit_generator.state = saved
    assert (third.integers(10, size=9, dtype="u4") == drawn).all()


def test_a_generator_of_another_kind_changes_nothing(path):
    cyoptim.save(path, rng=np.random.default_rng(1), W=np.ones(2))
    rng, W = np.random.Generator(np.random.SFC64(2)), np.zeros(2)
    before = contents({"rng": rng})
    with pytest.raises(
        ValueError, match="rng refuses the saved state: it is that of PCG64, expected SFC64"
    ):
        cyoptim.load(path, W=W, rng=rng)
    assert contents({"rng": rng}) == before
    assert not W.any()


def test_an_overridden_load_state_dict_gets_the_new_names(path):
    class Public(cyoptim.SGD):
        def load_state_dict(self, state_dict):
            super().load_state_dict(state_dict)

    cyoptim.save(path, optimizer=Public([("layer.W", np.ones(2))]))
    other = Public([("W", np.ones(2))])
    cyoptim.load(path, optimizer=other, rename={"layer.W": "W"})
    assert other.param_groups[0]["param_names"] == ["W"]


def test_a_name_that_is_not_there_may_be_left_out(path):
    cyoptim.save(path, params={"a": np.ones(2)})
    params = {"a": np.zeros(2)}
    result = cyoptim.load(path, params=params, strict=False, rename={"x": "y"})
    assert result.loaded == ["params['a']"]


def test_what_is_left_out_is_not_among_what_was_loaded(path):
    cyoptim.save(path, net={"epoch": 3, "seen": [3]}, netW=np.ones(2))
    targets = {"net": Scheduler(9, fails=RuntimeError("no")), "netW": np.zeros(2)}
    assert cyoptim.load(path, **targets, strict=False).loaded == ["netW"]


def test_a_module_that_refuses_late_is_left_out_with_all_its_arrays(path, torch):
    class Refuses(torch.nn.Linear):
        told = False

        def load_state_dict(self, *args, **kwargs):
            if self.told:
                return super().load_state_dict(*args, **kwargs)
            self.told = True
            raise RuntimeError("not today")

    cyoptim.save(path, net=torch.nn.Linear(2, 1))
    result = cyoptim.load(path, net=Refuses(2, 1), strict=False)
    assert result.loaded == []
    assert [(skipped.kind, skipped.place) for skipped in result.skipped] == [("refused", "net")]


def test_a_generator_s_state_without_a_part_changes_nothing(path):
    state = np.random.default_rng(1).bit_generator.state
    del state["state"]["inc"]
    cyoptim.save(path, rng=state, W=np.ones(2))
    rng, W = np.random.default_rng(2), np.zeros(2)
    with pytest.raises(ValueError, match="rng refuses the saved state"):
        cyoptim.load(path, W=W, rng=rng)
    assert not W.any()
    skipped = cyoptim.load(path, W=W, rng=rng, strict=False).skipped
    assert [difference.kind for difference in skipped] == ["refused"]


# Modules whose state is more than what NumPy reads ---------------------------


def with_extra_state(torch):
    class Extra(torch.nn.Linear):
        extra = None

        def get_extra_state(self):
            return self.extra or {"calls": 0}

        def set_extra_state(self, state):
            self.extra = state

    return Extra(2, 1)


def test_a_module_s_extra_state_is_loaded(path, torch):
    saved, model = with_extra_state(torch), with_extra_state(torch)
    saved.extra = {"calls": 7}
    cyoptim.save(path, model=saved)
    cyoptim.load(path, model=model)
    assert torch.equal(saved.weight, model.weight)
    assert model.extra == {"calls": 7}


def test_beside_an_extra_state_arrays_are_matched_name_by_name(path, torch):
    thirds, ones = np.full((1, 2), 1 / 3), np.ones(1, "f4")
    old = {"x.weight": thirds, "x.bias": ones, "_extra_state": {"calls": 2}}
    cyoptim.save(path, model=old)
    model = with_extra_state(torch)
    rename = {"x.weight": "weight", "x.bias": "bias"}
    with pytest.raises(ValueError, match=r"float64 and shape \(1, 2\).*convert=True converts it"):
        cyoptim.load(path, model=model, rename=rename)
    cyoptim.load(path, model=model, rename=rename, convert=True)
    assert (model.bias.item(), model.extra) == (1, {"calls": 2})
    cyoptim.save(path, model={"bias": np.zeros(1, "f4"), "_extra_state": {"calls": 3}})
    result = cyoptim.load(path, model=model, strict=False)
    assert result.loaded == ["model['bias']", "model['_extra_state']"]
    assert (model.bias.item(), model.extra) == (0, {"calls": 3})


def test_a_module_in_bfloat16_has_arrays_of_it_alone(tmp_path, torch):
    tensors, path = pytest.importorskip("safetensors.torch"), tmp_path / "model.safetensors"
    saved, model = torch.nn.Linear(2, 1).bfloat16(), torch.nn.Linear(2, 1).bfloat16()
    tensors.save_file(saved.state_dict(), path)
    cyoptim.load(path, model=model)
    assert torch.equal(saved.weight, model.weight)
    cyoptim.save(path, model={"weight": np.zeros((1, 2), "f4"), "bias": np.zeros(1, "f4")})
    with pytest.raises(ValueError, match="differs in 2 places") as caught:
        cyoptim.load(path, model=model)
    assert "dtype  model['weight']  float32 (1, 2)  bfloat16 (1, 2)" in str(caught.value)
    assert torch.equal(saved.weight, model.weight)
    cyoptim.load(path, model=model, convert=True)
    assert not model.weight.any()


def test_unexpected_bfloat16_is_told_as_such(tmp_path, torch):
    tensors, path = pytest.importorskip("safetensors.torch"), tmp_path / "model.safetensors"
    tensors.save_file({"W": torch.ones(2).bfloat16(), "b": torch.ones(1)}, path)
    (skipped,) = cyoptim.load(path, model={"b": np.zeros(1, "f4")}, strict=False).skipped
    assert (skipped.kind, skipped.found) == ("unexpected", "bfloat16 (2,)")
