"""Gradients of HIPS autograd, JAX and MyGrad."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

import cyoptim


class Dense(NamedTuple):
    W: Any
    b: Any


def network(rng: np.random.Generator, dtype: Any = np.float64) -> dict[str, Any]:
    return {
        "hidden": {
            "W": rng.standard_normal((3, 8)).astype(dtype),
            "b": np.zeros(8, dtype),
        },
        "out": [rng.standard_normal((8, 1)).astype(dtype), np.zeros(1, dtype)],
        "spare": np.zeros((0, 3), dtype),
    }


def data(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    X = rng.standard_normal((64, 3))
    return X, np.tanh(X @ [[1.0], [-2.0], [0.5]])


def squared_error(library: Any) -> Any:
    def loss(net: Any, X: Any, y: Any) -> Any:
        hidden = library.tanh(X @ net["hidden"]["W"] + net["hidden"]["b"])
        W, b = net["out"]
        return library.mean((hidden @ W + b - y) ** 2) + library.sum(net["spare"])

    return loss


def gradient_by_hand(net: Any, X: Any, y: Any) -> dict[str, Any]:
    hidden = np.tanh(X @ net["hidden"]["W"] + net["hidden"]["b"])
    W, b = net["out"]
    error = 2 * (hidden @ W + b - y) / len(y)
    below = (error @ W.T) * (1 - hidden**2)
    return {
        "hidden": {"W": X.T @ below, "b": below.sum(0)},
        "out": [hidden.T @ error, error.sum(0)],
        "spare": np.zeros((0, 3)),
    }


def trained(gradient: Any, rng: np.random.Generator, steps: int = 60) -> dict[str, Any]:
    net = network(rng)
    X, y = data(rng)
    optimizer = cyoptim.Adam(net, lr=0.02)
    for _ in range(steps):
        optimizer.step(grads=gradient(net, X, y), max_norm=1.0)
    return net


def compare(found: Any, expected: Any, tolerance: float) -> None:
    leaves = dict(cyoptim.named_leaves(found))
    for name, array in cyoptim.named_leaves(expected):
        np.testing.assert_allclose(leaves[name], array, rtol=tolerance, atol=tolerance)


# --- HIPS autograd --------------------------------------------------------------------------------


def test_autograd_trains_as_by_hand() -> None:
    autograd = pytest.importorskip("autograd")
    gradient = autograd.grad(squared_error(autograd.numpy))
    found = trained(gradient, np.random.default_rng(1))
    # Gradients differ in rounding alone, about 1e-16, which Adam can raise where they are small.
    compare(found, trained(gradient_by_hand, np.random.default_rng(1)), 1e-8)


def test_autograd_gradients_are_arrays_in_the_same_tree(rng: np.random.Generator) -> None:
    autograd = pytest.importorskip("autograd")
    net = network(rng)
    grads = autograd.grad(squared_error(autograd.numpy))(net, *data(rng))
    leaves = list(cyoptim.named_leaves(grads))
    assert [name for name, _ in leaves] == [name for name, _ in cyoptim.named_leaves(net)]
    assert all(type(leaf) is np.ndarray for _, leaf in leaves)


def test_autograd_gradients_in_another_layout(rng: np.random.Generator) -> None:
    autograd = pytest.importorskip("autograd")
    W, A, B = (rng.standard_normal(shape) for shape in ((2, 3), (2, 2), (3, 2)))
    anp = autograd.numpy
    grad = autograd.grad(lambda W: anp.sum(anp.dot(W.T, A) * B))(W)
    assert not grad.flags.c_contiguous
    before = W.copy()
    cyoptim.SGD([W], lr=1.0).step(grads=[grad])
    np.testing.assert_allclose(W, before - A @ B.T, rtol=1e-13)


def test_autograd_of_a_number(rng: np.random.Generator) -> None:
    autograd = pytest.importorskip("autograd")
    scale = np.array(3.0)
    grads = autograd.grad(lambda net: net["scale"] ** 2)({"scale": scale})
    cyoptim.SGD({"scale": scale}, lr=0.5).step(grads=grads)
    assert scale == 0


def test_a_step_inside_what_autograd_traces_is_refused() -> None:
    autograd = pytest.importorskip("autograd")
    w = np.ones(2)
    optimizer = cyoptim.SGD({"w": w})

    def loss(net: Any) -> Any:
        optimizer.step(grads={"w": net["w"]})
        return autograd.numpy.sum(net["w"])

    with pytest.raises(TypeError, match=r"gradient of parameter 0 \('w'\).* is a ArrayBox"):
        autograd.grad(loss)({"w": w})
    assert (w == 1).all()


# --- JAX ------------------------------------------------------------------------------------------


@pytest.fixture
def jax() -> Any:
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
        yield jax


@pytest.mark.slow
def test_jax_trains_as_by_hand(jax: Any) -> None:
    gradient = jax.jit(jax.grad(squared_error(jax.numpy)))
    found = trained(gradient, np.random.default_rng(1))
    compare(found, trained(gradient_by_hand, np.random.default_rng(1)), 1e-8)


@pytest.mark.slow
def test_jax_gradients_are_read_in_place(jax: Any) -> None:
    w = np.ones(1000, np.float32)
    grads = jax.jit(jax.grad(lambda net: (net["w"] ** 2).sum()))({"w": w})
    view = np.asarray(grads["w"])
    assert view.ctypes.data == grads["w"].unsafe_buffer_pointer()
    assert not view.flags.writeable
    for params, given in (({"w": w}, grads), ([w], [grads["w"]])):
        optimizer = cyoptim.SGD(params, lr=0.25)
        optimizer.step(grads=given)
    assert (w == 0).all()  # twice half of the first value
    with pytest.raises(ValueError, match="read-only"):
        optimizer.step(grads=[grads["w"]], zero_grad=True)


@pytest.mark.slow
def test_jax_gives_named_tuples_and_empty_places_back(jax: Any) -> None:
    net = {"z": Dense(np.ones(2), None), "a": [np.ones(1), {}]}
    grads = jax.grad(lambda net: (net["z"].W ** 2).sum() + net["a"][0].sum())(net)
    assert list(grads) == ["a", "z"]  # sorted, unlike the parameters
    cyoptim.SGD(net, lr=0.5).step(grads=grads)
    assert (net["z"].W == 0).all()
    assert net["a"][0] == 0.5


@pytest.mark.slow
def test_jax_sees_the_values_after_each_step(jax: Any) -> None:
    w = np.zeros(4)
    loss = jax.jit(lambda net: ((net["w"] - 3.0) ** 2).sum())
    optimizer = cyoptim.SGD({"w": w}, lr=0.5)
    assert loss({"w": w}) == 36
    optimizer.step(grads=jax.grad(loss)({"w": w}))
    assert loss({"w": w}) == 0


def test_jax_results_stay_when_the_parameters_move_on(jax: Any) -> None:
    # A result must not be a view of the parameters that went in.
    w = np.ones(4096, np.float32)
    same = jax.jit(lambda net: net["w"])({"w": w})
    same.block_until_ready()
    cyoptim.SGD({"w": w}, lr=1.0).step(grads={"w": np.ones_like(w)})
    assert (np.asarray(same) == 1).all()


def test_a_step_inside_what_jax_traces_is_refused(jax: Any) -> None:
    w = np.ones(2)
    optimizer = cyoptim.SGD({"w": w})

    def loss(net: Any) -> Any:
        optimizer.step(grads={"w": net["w"]})
        return net["w"].sum()

    with pytest.raises(jax.errors.TracerArrayConversionError):
        jax.jit(loss)({"w": w})
    assert (w == 1).all()


def test_jax_gradients_of_another_precision_are_refused(jax: Any) -> None:
    optimizer = cyoptim.SGD({"w": np.ones(2)})
    with pytest.raises(TypeError, match=r"\('w'\) of group 0 has dtype float32, expected float64"):
        optimizer.step(grads={"w": jax.numpy.ones(2, "float32")})


# --- MyGrad ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("guarded", [True, False])
def test_mygrad_trains_as_by_hand(guarded: bool) -> None:
    mygrad = pytest.importorskip("mygrad")
    (mygrad.turn_memory_guarding_on if guarded else mygrad.turn_memory_guarding_off)()
    try:
        rng = np.random.default_rng(1)
        arrays = network(rng)
        X, y = data(rng)
        net = {
            "hidden": {name: mygrad.tensor(a) for name, a in arrays["hidden"].items()},
            "out": [mygrad.tensor(a) for a in arrays["out"]],
        }
        memory = [tensor.data.ctypes.data for _, tensor in cyoptim.named_leaves(net)]
        optimizer = cyoptim.Adam(net, lr=0.02)
        for _ in range(60):
            hidden = mygrad.tanh(mygrad.matmul(X, net["hidden"]["W"]) + net["hidden"]["b"])
            W, b = net["out"]
            ((mygrad.matmul(hidden, W) + b - y) ** 2).mean().backward()
            optimizer.step(max_norm=1.0)
            optimizer.zero_grad()
            assert all(tensor.grad is None for _, tensor in cyoptim.named_leaves(net))
        assert memory == [tensor.data.ctypes.data for _, tensor in cyoptim.named_leaves(net)]
    finally:
        mygrad.turn_memory_guarding_on()
    expected = trained(gradient_by_hand, np.random.default_rng(1))
    found = {name: tensor.data for name, tensor in cyoptim.named_leaves(net)}
    compare(found, {**expected, "spare": None}, 1e-8)


def test_mygrad_tensors_in_a_living_graph_are_refused() -> None:
    mygrad = pytest.importorskip("mygrad")
    w = mygrad.tensor(np.ones(2))
    optimizer = cyoptim.SGD({"w": w}, lr=1.0)
    loss = (w**2).sum()
    with pytest.raises(ValueError, match=r"parameter 0 \('w'\) of group 0 is read-only"):
        optimizer.step(grads={"w": np.ones(2)})
    loss.backward()  # gives the memory free
    optimizer.step()
    np.testing.assert_array_equal(w.data, [-1, -1])


def test_mygrad_constants_are_left_alone() -> None:
    mygrad = pytest.importorskip("mygrad")
    w, fixed = mygrad.tensor(np.ones(2)), mygrad.tensor(np.ones(2), constant=True)
    optimizer = cyoptim.SGD([w, fixed], lr=0.5)
    (w * fixed).sum().backward()
    optimizer.step()
    np.testing.assert_array_equal(w.data, [0.5, 0.5])
    np.testing.assert_array_equal(fixed.data, [1, 1])
