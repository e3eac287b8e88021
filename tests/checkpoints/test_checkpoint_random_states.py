"""States of random generators from files: what no generator can have is refused."""

from __future__ import annotations

import numpy as np
import pytest

import cyoptim
from cyoptim._checkpoints.generators import checked_state
from tests.support.saved_objects import same

# Random generators -----------------------------------------------------------

KINDS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")


def generator(kind, seed=0):
    return np.random.Generator(getattr(np.random, kind)(seed))


def put(state, place, value):
    *outer, last = place
    for key in outer:
        state = state[key]
    state[last] = value


NUMBERS = {
    ("MT19937", "state", "pos"): 624,
    ("Philox", "buffer_pos"): 4,
    ("Philox", "has_uint32"): 1,
    ("Philox", "uinteger"): 2**32 - 1,
    ("SFC64", "has_uint32"): 1,
    ("SFC64", "uinteger"): 2**32 - 1,
    ("PCG64", "has_uint32"): 1,
    ("PCG64", "uinteger"): 2**32 - 1,
    ("PCG64", "state", "state"): 2**128 - 1,
    ("PCG64", "state", "inc"): 2**128 - 1,
    ("PCG64DXSM", "state", "state"): 2**128 - 1,
    ("PCG64DXSM", "state", "inc"): 2**128 - 1,
}


@pytest.mark.parametrize(
    ("kind", "place", "greatest"), [(k[0], k[1:], v) for k, v in NUMBERS.items()]
)
def test_numbers_of_a_random_state_out_of_range(either, kind, place, greatest):
    rng, state = generator(kind, 1), generator(kind).bit_generator.state
    before = repr(rng.bit_generator.state)
    bad = [-1, -(2**30), greatest + 1, greatest + 2**30, 2**64, 10**5000, True, 0.0, None, "0", [0]]
    for value in [*bad, np.zeros(1, np.int64)]:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= greatest:
            continue
        put(state, place, value)
        cyoptim.save(either, rng=state)
        with pytest.raises(ValueError, match="rng refuses the saved state: state") as caught:
            cyoptim.load(either, rng=rng)
        assert f"['{place[-1]}']" in str(caught.value)
    assert repr(rng.bit_generator.state) == before


@pytest.mark.parametrize(
    ("kind", "place", "greatest"), [(k[0], k[1:], v) for k, v in NUMBERS.items()]
)
def test_numbers_of_a_random_state_at_the_ends_of_their_range(either, kind, place, greatest):
    least = 1 if place[-1] == "inc" else 0
    for value in (least, greatest, np.int64(1)):
        theirs, ours = generator(kind), generator(kind, 1)
        state = theirs.bit_generator.state
        put(state, place, int(value))
        theirs.bit_generator.state = state
        put(state, place, value)
        cyoptim.save(either, rng=state)
        cyoptim.load(either, rng=ours)
        assert (
            ours.integers(2**31, size=3, dtype=np.int32).tolist()
            == theirs.integers(2**31, size=3, dtype=np.int32).tolist()
        )
        assert ours.random(700).tolist() == theirs.random(700).tolist()


@pytest.mark.parametrize("kind", ["PCG64", "PCG64DXSM"])
def test_an_even_increment_is_refused(kind):
    state = generator(kind).bit_generator.state
    state["state"]["inc"] = 2
    with pytest.raises(ValueError, match=r"^state\['state'\]\['inc'\] must be odd$"):
        checked_state(generator(kind), state)


ARRAYS = {
    ("MT19937", "state", "key"): (624, "u4"),
    ("Philox", "state", "counter"): (4, "u8"),
    ("Philox", "state", "key"): (2, "u8"),
    ("Philox", "buffer"): (4, "u8"),
    ("SFC64", "state", "state"): (4, "u8"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_of_a_random_state_of_another_form(either, case):
    (kind, *place), (length, dtype) = case, ARRAYS[case]
    rng, state = generator(kind), generator(kind).bit_generator.state
    others = [
        np.zeros(length - 1, dtype),
        np.zeros(length + 1, dtype),
        np.zeros((1, length), dtype),
    ]
    others += [np.zeros(length, code) for code in ("i8", "f8", "u2", "?")]
    for value in (*others, [0] * length, 0, None, "x"):
        put(state, place, value)
        cyoptim.save(either, rng=state)
        with pytest.raises(ValueError, match=r"refuses the saved state: state\["):
            cyoptim.load(either, rng=rng)


@pytest.mark.parametrize("kind", KINDS)
def test_the_form_of_a_random_state(kind):
    rng, state = generator(kind), generator(kind).bit_generator.state
    for bad in (
        None,
        [],
        {},
        {**state, "more": 1},
        {**state, "state": 0},
        {**state, "bit_generator": 1},
    ):
        with pytest.raises(ValueError, match="state"):
            checked_state(rng, bad)
    for key in state:
        with pytest.raises(ValueError, match="state|random generator"):
            checked_state(rng, {k: v for k, v in state.items() if k != key})


@pytest.mark.parametrize("kind", KINDS)
def test_a_random_state_is_copied_and_fits(kind):
    rng, other = generator(kind, 5), generator(kind)
    rng.integers(9, dtype=np.int32)
    saved = rng.bit_generator.state
    state = checked_state(other, saved)
    assert repr(other.bit_generator.state) == repr(generator(kind).bit_generator.state)
    other.bit_generator.state = state
    assert other.random(9).tolist() == rng.random(9).tolist()
    assert state is not saved
    assert state["state"] is not saved["state"]
    for key, value in saved["state"].items():
        assert not isinstance(value, np.ndarray) or not np.shares_memory(value, state["state"][key])


def test_arrays_of_the_other_byte_order_fit():
    rng = generator("MT19937")
    saved = rng.bit_generator.state
    saved["state"]["key"] = saved["state"]["key"].astype(">u4")
    state = checked_state(rng, saved)
    assert same(state, generator("MT19937").bit_generator.state)


class Theirs(np.random.PCG64):
    """A generator of another package, with a state of its own form."""

    def __init__(self, seed=0):
        super().__init__(seed)
        self.extra = [np.zeros(3, "f4"), (1, "text")]

    @property
    def state(self):
        return {**super().state, "extra": self.extra}

    @state.setter
    def state(self, value):
        if value["extra"][1][0] == 13:
            raise RuntimeError("no luck")
        np.random.PCG64.state.__set__(self, value)
        self.extra = value["extra"]


@pytest.mark.parametrize(
    "extra",
    [
        [np.zeros(3, "f8"), (1, "text")],
        [np.zeros(4, "f4"), (1, "text")],
        [np.zeros(3, "f4"), [1, "text"]],
        [np.zeros(3, "f4"), (1.0, "text")],
        [np.zeros(3, "f4"), (1, 2)],
        [np.zeros(3, "f4")],
        [np.zeros(3, "f4"), (13, "text")],
    ],
)
def test_a_generator_of_another_package_gets_a_state_of_its_form(either, extra):
    rng, good = np.random.Generator(Theirs()), [np.ones(3, "f4"), (5, "other")]
    state = {**Theirs(1).state, "extra": extra}
    cyoptim.save(either, rng=state)
    with pytest.raises(
        ValueError,
        match=r"refuses the saved state: (state\['extra'\]\[|no luck|state\['extra'\] is)",
    ):
        cyoptim.load(either, rng=rng)
    assert rng.bit_generator.extra[1] == (1, "text")
    cyoptim.save(either, rng={**state, "extra": good})
    cyoptim.load(either, rng=rng)
    assert same(rng.bit_generator.extra, good)
    assert rng.random() == np.random.Generator(np.random.PCG64(1)).random()
