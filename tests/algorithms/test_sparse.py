"""Sparse gradients: (rows, values), SciPy's arrays, torch's tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cyoptim
from cyoptim._arrays.doors import UnsupportedError
from tests.optimizers import cards
from tests.optimizers.sparse_adam import SparseAdam
from tests.support.cards import (
    CLOSURE,
    COMPLEX,
    DENSE,
    SAME_BITS,
    SPARSE,
    TORCH,
    Card,
    Options,
    takes,
)
from tests.support.doors import Box
from tests.support.dtypes import assert_close
from tests.support.parametrize import every_card, every_real

# torch says once in a process that it does not check its own sparse tensors.
pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")

STEPS = 40
# Those that take sparse gradients: rules without decay or momentum do nothing where a dense gradient
# is zero, so that the reference on whole arrays says what they do.
TAKERS = [(card, options) for card in cards(SPARSE) for options in card.sparse_variants]
every_taker = pytest.mark.parametrize(
    ("card", "options"), TAKERS, ids=[f"{card}-{'-'.join(options)}" for card, options in TAKERS]
)


def draw_rows(rng: Any, shape: tuple[int, ...], dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    count = int(rng.integers(0, 2 * shape[0]))
    rows = rng.integers(0, shape[0], count)  # unordered, some of them more than once
    return rows, rng.standard_normal((count, *shape[1:])).astype(dtype)


def coo(torch: Any, rows: np.ndarray, values: np.ndarray, shape: tuple[int, ...]) -> Any:
    values = torch.from_numpy(np.asarray(values))
    return torch.sparse_coo_tensor(rows[None], values, shape)


def dense(pair: tuple[np.ndarray, np.ndarray], shape: tuple[int, ...]) -> tuple[Any, Any]:
    rows, values = pair
    total, mask = np.zeros(shape), np.zeros(shape, bool)
    np.add.at(total, rows, values)
    mask[rows] = True
    return total, mask


@every_real
@pytest.mark.parametrize("layout", ["C", "F", "gaps", "reversed"])
@every_taker
def test_follows_the_paper(card: Card, options: Options, layout: str, dtype: Any) -> None:
    rng = np.random.default_rng(1)
    shapes = [(30, 4), (7,), (5, 2, 3), (40, 1)]
    expected = [rng.standard_normal(shape).astype(dtype).astype("f8") for shape in shapes]
    found = [lay_out(array.astype(dtype), layout) for array in expected]
    optimizer, reference = card.cls(found, **options), card.reference(**options)
    for _ in range(STEPS):
        pairs = [None if rng.random() < 0.2 else draw_rows(rng, s, dtype) for s in shapes]
        wholes = [None if p is None else dense(p, s) for p, s in zip(pairs, shapes, strict=True)]
        # A reference for whole gradients needs no mask.
        reference.step(expected, [w[0] if w is not None and DENSE(card) else w for w in wholes])
        optimizer.step(grads=pairs)
    assert_close(found, expected, dtype)


def lay_out(array: np.ndarray, layout: str) -> np.ndarray:
    if layout == "C":
        return array
    if layout == "F":
        return np.asfortranarray(array)
    if layout == "gaps":
        return np.repeat(array, 2, axis=0)[::2]
    return array[::-1].copy()[::-1]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["rows", "coo", "elements"])
@every_real
@every_taker
def test_equals_torch(torch: Any, card: Card, options: Options, dtype: Any, form: str) -> None:
    rng = np.random.default_rng(2)
    shape = (30, 4)
    start = rng.standard_normal(shape).astype(dtype)
    ours, theirs = (torch.tensor(start).requires_grad_() for _ in range(2))
    optimizer = card.cls([ours], **options)
    expected = card.torch_class(torch)([theirs], **options)
    for _ in range(STEPS):
        rows, values = draw_rows(rng, shape, dtype)
        grad = coo(torch, rows, values, shape)
        theirs.grad = grad
        if form == "rows":
            optimizer.step(grads=[(rows, values)])
            expected.step()
            continue
        if form == "elements":
            grad = theirs.grad = grad.to_dense().to_sparse()
        ours.grad = grad
        optimizer.step()
        expected.step()
    assert ours._version == STEPS or form == "rows"
    assert_close([ours.detach().numpy()], [theirs.detach().numpy()], dtype)


def test_a_compressed_tensor_of_torch(torch: Any) -> None:
    w, grad = np.zeros((3, 4)), np.array([[0, 1, 0, 2], [0, 0, 0, 0], [3, 0, 0, 4.0]])
    with pytest.warns(UserWarning, match="Sparse CSR tensor support is in beta"):
        compressed = torch.from_numpy(grad).to_sparse_csr()
    tensor = torch.from_numpy(w).requires_grad_()
    cyoptim.SGD([tensor], lr=1.0).step(grads=[compressed])
    np.testing.assert_array_equal(w, -grad)


@pytest.mark.slow
def test_an_embedding_of_torch(torch: Any) -> None:
    def train(library: Any) -> Any:
        torch.manual_seed(0)
        embedding = torch.nn.Embedding(50, 8, sparse=True)
        optimizer = library.SparseAdam(list(embedding.parameters()), lr=0.05)
        for step in range(20):
            optimizer.zero_grad()
            words = torch.tensor([step % 7, 3, 3, 49 - step])
            (embedding(words) ** 2).sum().backward()
            optimizer.step()
        return embedding.weight.detach()

    torch.testing.assert_close(train(cyoptim), train(torch.optim), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["coo", "csr", "csc"])
@pytest.mark.parametrize("interface", ["matrix", "array"])
def test_scipy(kind: str, interface: str) -> None:
    sparse = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(3)
    make = getattr(sparse, f"{kind}_{interface}")
    w, expected = np.ones((20, 6)), [np.ones((20, 6))]
    optimizer, reference = cyoptim.SparseAdam([w], lr=0.1), SparseAdam(lr=0.1)
    for _ in range(STEPS):
        array = np.where(rng.random((20, 6)) < 0.2, rng.standard_normal((20, 6)), 0)
        optimizer.step(grads=[make(array)])
        reference.step(expected, [(array, array != 0)])
    np.testing.assert_allclose(w, expected[0], rtol=1e-10)


def test_scipy_entries_of_a_place_add_up() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    w = np.zeros((3, 3))
    grad = sparse.coo_matrix(([1.0, 2.0, 4.0], ([0, 2, 0], [1, 2, 1])), shape=(3, 3))
    cyoptim.SGD([w], lr=1.0).step(grads=[grad])
    np.testing.assert_array_equal(w, -grad.toarray())


def test_only_entries_are_touched() -> None:
    w = np.ones((100, 3))
    optimizer = cyoptim.SparseAdam([w], lr=0.1)
    for _ in range(3):
        optimizer.step(grads=[(np.array([5, 6, 90]), np.ones((3, 3)))])
    touched = np.zeros(100, bool)
    touched[[5, 6, 90]] = True
    state = optimizer.state[w]
    assert (w[~touched] == 1).all()
    assert (w[touched] < 1).all()
    assert (state["exp_avg"][~touched] == 0).all()
    assert (state["exp_avg_sq"][~touched] == 0).all()
    assert int(state["step"]) == 3


@every_card(SPARSE)
def test_an_empty_gradient_counts_as_a_step(card: Card) -> None:
    w = np.ones((4, 2))
    optimizer = card.cls([w])
    optimizer.step(grads=[(np.array([], int), np.ones((0, 2)))])
    assert (w == 1).all()
    if "step" in card.states:
        assert int(optimizer.state[w]["step"]) == 1


def test_an_empty_gradient_counts_as_a_step_in_torch(torch: Any) -> None:
    tensor = torch.ones(4, 2).requires_grad_()
    expected = torch.optim.SparseAdam([tensor])
    tensor.grad = coo(torch, np.zeros(0, int), np.zeros((0, 2), "f4"), (4, 2))
    expected.step()
    assert expected.state[tensor]["step"] == 1


def test_parameters_hold_sparse_gradients() -> None:
    w, box = cyoptim.Parameter(np.zeros((5, 2))), Box(np.zeros((5, 2)))
    pair = (np.array([4, 4]), np.ones((2, 2)))
    w.grad = box.grad = pair  # type: ignore[assignment]
    optimizer = cyoptim.SGD([w, box], lr=1.0)
    optimizer.step()
    np.testing.assert_array_equal(w.data[4], [-2, -2])
    np.testing.assert_array_equal(box.data, w.data)
    optimizer.zero_grad(set_to_none=False)
    assert (pair[1] == 0).all()
    optimizer.zero_grad()
    assert w.grad is None


@every_card(SPARSE, DENSE)
def test_dense_and_sparse_gradients_in_turn(card: Card) -> None:
    w, expected = np.ones((6, 2)), [np.ones((6, 2))]
    optimizer, reference = card.cls([w], lr=0.1), card.reference(lr=0.1)
    for step in range(6):
        pair = np.array([step, 0]), np.full((2, 2), 0.5 + step)
        whole, _ = dense(pair, w.shape)
        optimizer.step(grads=[whole if step % 2 == 0 else pair])
        reference.step(expected, [whole])
    np.testing.assert_allclose(w, expected[0], rtol=1e-12)


@every_card(SPARSE, COMPLEX)
def test_complex_rows(card: Card) -> None:
    rng = np.random.default_rng(4)
    w = rng.standard_normal((6, 2)) + 1j
    parts = [w.real.copy(), w.imag.copy()]
    optimizer, other = card.cls([w], lr=0.1), card.cls(parts, lr=0.1)
    for _ in range(5):
        rows, values = draw_rows(rng, (6, 2), float)
        values = values * (1 - 2j)
        optimizer.step(grads=[(rows, values)])
        other.step(grads=[(rows, values.real.copy()), (rows, values.imag.copy())])
    np.testing.assert_allclose(w, parts[0] + 1j * parts[1], rtol=1e-12)


def test_values_that_are_part_of_the_parameter() -> None:
    w = np.arange(12.0).reshape(6, 2)
    expected = w.copy()
    expected[0:4] -= w[2:6]
    cyoptim.SGD([w], lr=1.0).step(grads=[(np.arange(4), w[2:6])])
    np.testing.assert_array_equal(w, expected)


def test_entries_of_a_row_are_added_in_their_order() -> None:
    rng = np.random.default_rng(6)
    rows = rng.integers(0, 3, 300)
    values = (10.0 ** rng.integers(-8, 8, 300)).astype("f4")
    expected = np.zeros(3, "f4")
    for row, value in zip(rows, values, strict=True):
        expected[row] += value
    w = np.zeros(3, "f4")
    cyoptim.SGD([w], lr=1.0).step(grads=[(rows, values)])
    np.testing.assert_array_equal(w, -expected)


def test_values_with_gaps() -> None:
    for shape in ((4,), (4, 3)):
        values = np.arange(2.0 * np.prod(shape)).reshape(*shape[:-1], -1)[..., ::2]
        w = np.zeros((6, *shape[1:]))
        cyoptim.SGD([w], lr=1.0).step(grads=[(np.array([0, 1, 3, 5]), values)])
        np.testing.assert_array_equal(w[[0, 1, 3, 5]], -values)
        assert (w[[2, 4]] == 0).all()


def test_no_entries_at_all() -> None:
    w = np.ones((4, 2))
    cyoptim.SGD([w], lr=1.0).step(grads=[(np.array([]), np.ones((0, 2)))])  # rows of float64
    assert (w == 1).all()


def test_values_that_are_a_tensor_with_a_graph(torch: Any) -> None:
    w = torch.zeros(4, 2)
    values = torch.ones(1, 2, requires_grad=True)
    cyoptim.SGD([w], lr=1.0).step(grads=[(np.array([2]), values)])
    assert w[:, 0].tolist() == [0, 0, -1, 0]


def test_zero_grad_of_a_gradient_of_scipy() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    box = Box(np.zeros((3, 2)))
    grad = box.grad = sparse.csr_array(np.eye(3, 2))
    cyoptim.SGD([box], lr=1.0).zero_grad(set_to_none=False)
    assert box.grad is grad
    assert grad.nnz == 2
    assert (grad.data == 0).all()


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 1000),
    width=st.sampled_from([1, 3, 64, 5000]),
    card=st.sampled_from(cards(SPARSE, SAME_BITS)),
)
def test_same_bits_for_any_number_of_threads(seed: int, width: int, card: Card) -> None:
    results = []
    for threads in (1, 2):
        rng = np.random.default_rng(seed)
        w = rng.standard_normal((300, width)).astype("f4")
        optimizer = card.cls([w], lr=0.1)
        with cyoptim.threads(threads):
            for _ in range(3):
                optimizer.step(grads=[draw_rows(rng, w.shape, "f4")])
        results.append(w)
    np.testing.assert_array_equal(*results)


@pytest.mark.slow
def test_state_dict_both_ways(torch: Any) -> None:
    rng = np.random.default_rng(5)
    pairs = [draw_rows(rng, (9, 2), "f8") for _ in range(8)]

    def resumed(first: Any, second: Any) -> np.ndarray:
        tensor = torch.ones(9, 2, dtype=torch.float64).requires_grad_()
        before, after = first([tensor], lr=0.1), None
        for number, (rows, values) in enumerate(pairs):
            if number == 4:
                after = second([tensor], lr=0.1)
                after.load_state_dict(before.state_dict())
            tensor.grad = coo(torch, rows, values, (9, 2))
            (after or before).step()
        return np.array(tensor.detach().numpy())

    theirs = torch.optim.SparseAdam
    expected = resumed(theirs, theirs)
    for classes in ((cyoptim.SparseAdam, theirs), (theirs, cyoptim.SparseAdam)):
        np.testing.assert_allclose(resumed(*classes), expected, rtol=1e-10)


# --- errors ---------------------------------------------------------------------------------------

PAIR = (np.array([1]), np.ones((1, 2)))


@every_card(CLOSURE, ~SPARSE)
def test_made_whole_where_all_gradients_are_one_vector(card: Card) -> None:
    ends = []
    whole = np.zeros((3, 2))
    whole[1] = 1.0
    for grad in (PAIR, whole):
        w = np.ones((3, 2))
        card.cls([w], **card.variants[0]).step(lambda grad=grad: (1.0, [grad]))
        ends.append(w)
    np.testing.assert_array_equal(*ends)
    assert (ends[0][1] < 1).all()
    assert (ends[0][[0, 2]] == 1).all()


@every_card(~SPARSE, ~CLOSURE)
def test_refused(card: Card) -> None:
    w = np.ones((3, 2))
    optimizer = card.cls([w])
    with pytest.raises(UnsupportedError, match=r"\(that of parameter 0 of group 0 is sparse\)$"):
        optimizer.step(grads=[PAIR])
    assert (w == 1).all()
    assert not optimizer.state.get(w)


@every_card(TORCH, ~SPARSE, ~CLOSURE)
def test_refused_with_torchs_message(torch: Any, card: Card) -> None:
    tensor, w = torch.ones(3, 2).requires_grad_(), np.ones((3, 2))
    tensor.grad = coo(torch, np.array([1]), np.ones((1, 2), "f4"), (3, 2))
    with pytest.raises(RuntimeError) as expected:
        card.torch_class(torch)([tensor]).step()
    with pytest.raises(UnsupportedError) as found:
        card.cls([w]).step(grads=[PAIR])
    assert str(found.value) == f"{expected.value} (that of parameter 0 of group 0 is sparse)"
    assert (w == 1).all()


@every_card(SPARSE, takes("weight_decay"))
def test_weight_decay_is_refused(card: Card) -> None:
    w = np.ones((3, 2))
    with pytest.raises(RuntimeError, match="weight_decay option is not compatible with sparse"):
        card.cls([w], weight_decay=0.1).step(grads=[PAIR])
    assert (w == 1).all()


def test_dense_gradients_are_refused() -> None:
    w = np.ones((3, 2))
    optimizer = cyoptim.SparseAdam([w])
    with pytest.raises(
        RuntimeError, match="SparseAdam does not support dense gradients, please consider Adam"
    ):
        optimizer.step(grads=[w])
    assert not optimizer.state.get(w)


BAD_PAIRS: dict[str, tuple[Any, type[Exception], str]] = {
    "three": ((*PAIR, 1), TypeError, "is a tuple of 3, expected a pair"),
    "float rows": ((np.array([1.0]), PAIR[1]), TypeError, "rows of gradient of parameter 0 of group 0 are an array of shape (1,) and dtype float64"),
    "flat rows": ((np.array([[1]]), PAIR[1]), TypeError, "are an array of shape (1, 1)"),
    "list": ((PAIR[0], [[1.0, 1.0]]), TypeError, "values of gradient of parameter 0 of group 0 are a list"),
    "shape": ((PAIR[0], np.ones((2, 2))), ValueError, "have shape (2, 2), expected (1, 2)"),
    "dtype": ((PAIR[0], np.ones((1, 2), "f4")), TypeError, "has dtype float32, expected float64"),
    "too large": ((np.array([3]), PAIR[1]), ValueError, "has an entry at 3, outside of an axis of 3"),
    "negative": ((np.array([-1]), PAIR[1]), ValueError, "has an entry at -1, outside of an axis of 3"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_PAIRS)
def test_bad_pair(name: str) -> None:
    grad, error, message = BAD_PAIRS[name]
    first, w = np.ones(2), np.ones((3, 2))
    optimizer = cyoptim.SGD([w, first], lr=0.1)
    with pytest.raises(error) as found:
        optimizer.step(grads=[grad, first])
    assert message in str(found.value)
    assert (w == 1).all()
    assert (first == 1).all()


def test_bad_scipy_shape() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(ValueError, match=r"has shape \(2, 2\), expected \(3, 2\)"):
        cyoptim.SGD([np.ones((3, 2))], lr=0.1).step(grads=[sparse.eye(2, format="csr")])


@pytest.mark.parametrize("wrong", [-1, 3])
def test_an_entry_outside_of_the_parameter(torch: Any, wrong: int) -> None:
    # Neither torch nor SciPy looks at the indices that it is given, at least not always.
    sparse = pytest.importorskip("scipy.sparse")
    matrix = sparse.coo_matrix((np.ones(1), ([0], [1])), shape=(3, 2))
    matrix.row[0] = wrong
    tensor = torch.sparse_coo_tensor(
        [[wrong], [1]], np.ones(1), (3, 2), dtype=torch.float64, check_invariants=False
    )
    for grad in (matrix, tensor):
        w = np.zeros((3, 2))
        with pytest.raises(ValueError, match=f"has an entry at {wrong}, outside of an axis of 3"):
            cyoptim.SGD([w], lr=0.1).step(grads=[grad])
        assert (w == 0).all()


@every_card(SPARSE)
def test_rows_of_no_elements(card: Card) -> None:
    w = np.ones((3, 0))
    card.cls([w], lr=0.1).step(grads=[(np.arange(3), np.ones((3, 0)))])


def test_no_rows() -> None:
    with pytest.raises(ValueError, match="its parameter has no rows"):
        cyoptim.SGD([np.array(1.0)], lr=0.1).step(grads=[(np.array([0]), np.ones(1))])


def test_bad_parameters(torch: Any) -> None:
    params = [torch.ones(2), torch.ones(2, 2).to_sparse()]
    with pytest.raises(ValueError, match=r"Sparse params at indices \[\[0, 1\]\]: SparseAdam req"):
        cyoptim.SparseAdam(params)
    with pytest.raises(ValueError, match=r"Complex params at indices \[\[0, 0\]\]: SparseAdam doe"):
        cyoptim.SparseAdam([np.ones(2, complex)])
