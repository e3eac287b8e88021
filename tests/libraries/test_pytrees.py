"""Pytrees that JAX knows: classes registered by hand, and modules of Equinox and Flax."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cyoptim

X = np.linspace(-1, 1, 32, dtype=np.float32).reshape(-1, 1)
Y = np.sin(3 * X)


@pytest.fixture
def jax(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    return pytest.importorskip("jax")


def names_of(optimizer: cyoptim.Optimizer) -> list[str]:
    names: list[str] = optimizer.param_groups[0]["param_names"]
    return names


class Keyed:
    def __init__(self, first: Any, second: Any) -> None:
        self.first, self.second = first, second


class Plain(Keyed):
    """Registered without names for its children."""


@dataclasses.dataclass
class Meta:
    w: Any
    size: int


def register(jax: Any) -> None:
    tree = jax.tree_util
    try:
        tree.register_pytree_with_keys(
            Keyed,
            lambda k: (
                ((tree.GetAttrKey("first"), k.first), (tree.GetAttrKey("second"), k.second)),
                None,
            ),
            lambda _, children: Keyed(*children),
        )
        tree.register_pytree_node(
            Plain, lambda k: ((k.first, k.second), None), lambda _, children: Plain(*children)
        )
        tree.register_dataclass(Meta, data_fields=["w"], meta_fields=["size"])
    except ValueError:  # by a test before this
        pass


def test_registered_classes(jax: Any, tmp_path: Path) -> None:
    register(jax)
    net = {"a": Keyed(np.ones(2), [Plain(np.ones(1), None)]), "b": Meta(np.ones(3), 3)}
    optimizer = cyoptim.SGD(net, lr=1.0)
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(net)[0]]
    expected = [jax.tree_util.keystr(path, simple=True, separator=".") for path in paths]
    assert names_of(optimizer) == expected == ["a.first", "a.second.0.0", "b.w"]
    optimizer.step(grads=jax.tree.map(np.ones_like, net))
    cyoptim.save(tmp_path / "net.npz", net=net)
    for leaf in jax.tree.leaves(net):
        assert not leaf.any()
        leaf[...] = 7.0
    cyoptim.load(tmp_path / "net.npz", net=net)
    assert not any(leaf.any() for leaf in jax.tree.leaves(net))
    grads = jax.grad(lambda net: (net["a"].first ** 2).sum() + net["b"].w.sum())
    with pytest.raises(TypeError, match=r"dtype float32, expected float64: .*np.asarray\(grad, np"):
        optimizer.step(grads=grads(net))


def test_arrays_of_jax_are_no_parameters(jax: Any) -> None:
    register(jax)
    for given in (
        [jax.numpy.ones(2)],
        {"a": {"b": jax.numpy.ones(2)}},
        Keyed(np.ones(1), jax.numpy.ones(2)),
    ):
        with pytest.raises(TypeError, match=r"jax.tree.map\(np.array, tree\)"):
            cyoptim.Adam(given)
    with pytest.raises(TypeError, match=r"write Adam\(\[np.array\(x\)\]\)"):
        cyoptim.Adam(jax.numpy.ones(2))


def test_a_parameter_takes_a_gradient_of_jax(jax: Any) -> None:
    w = cyoptim.Parameter(np.ones(2, np.float32))
    w.grad = jax.numpy.ones(2)
    cyoptim.SGD([w], lr=1.0).step()
    np.testing.assert_array_equal(w, 0)


@pytest.mark.slow
def test_equinox(jax: Any, tmp_path: Path) -> None:
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(1, 1, width_size=8, depth=1, key=jax.random.key(0))
    model = jax.tree.map(lambda x: np.array(x) if eqx.is_array(x) else x, model)
    with pytest.raises(TypeError, match=r"parameter 4 \('activation'\)"):
        cyoptim.Adam(model)
    params = eqx.filter(model, eqx.is_inexact_array)
    optimizer = cyoptim.Adam(params, lr=0.05)
    assert names_of(optimizer) == [f"layers.{i}.{n}" for i in (0, 1) for n in ("weight", "bias")]

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def loss_and_grads(model: Any) -> Any:
        return ((jax.vmap(model)(X) - Y) ** 2).mean()

    run = lambda: train(jax, loss_and_grads, model, optimizer)  # noqa: E731
    check_training(run, params, optimizer, tmp_path)


@pytest.mark.slow
def test_flax_nnx(jax: Any, tmp_path: Path) -> None:
    nnx = pytest.importorskip("flax.nnx")
    graph, params = nnx.split(
        nnx.Sequential(
            nnx.Linear(1, 8, rngs=nnx.Rngs(0)), nnx.tanh, nnx.Linear(8, 1, rngs=nnx.Rngs(1))
        ),
        nnx.Param,
    )
    params = jax.tree.map(np.array, params)
    optimizer = cyoptim.Adam(params, lr=0.05)
    assert len(names_of(optimizer)) == 4
    assert all(name.endswith(("bias.value", "kernel.value")) for name in names_of(optimizer))
    loss_and_grads = jax.jit(
        jax.value_and_grad(lambda params: ((nnx.merge(graph, params)(X) - Y) ** 2).mean())
    )
    run = lambda: train(jax, loss_and_grads, params, optimizer)  # noqa: E731
    check_training(run, params, optimizer, tmp_path)


@pytest.mark.slow
def test_flax_linen(jax: Any, tmp_path: Path) -> None:
    linen = pytest.importorskip("flax.linen")
    model = linen.Sequential([linen.Dense(8), linen.tanh, linen.Dense(1)])
    variables = jax.tree.map(np.array, model.init(jax.random.key(0), X))
    optimizer = cyoptim.Adam(variables, lr=0.05)
    assert list(variables) == ["params"]
    loss_and_grads = jax.jit(
        jax.value_and_grad(lambda variables: ((model.apply(variables, X) - Y) ** 2).mean())
    )
    run = lambda: train(jax, loss_and_grads, variables, optimizer)  # noqa: E731
    check_training(run, variables, optimizer, tmp_path)


def check_training(
    run: Callable[[], list[float]], params: Any, optimizer: cyoptim.Optimizer, folder: Path
) -> None:
    """Check that the loss falls, and does so alike from the same saved start."""
    cyoptim.save(folder / "net.npz", net=params, optimizer=optimizer)
    losses = run()
    assert losses[-1] < 0.2 * losses[0]
    cyoptim.load(folder / "net.npz", net=params, optimizer=optimizer)
    assert run() == losses


def train(jax: Any, loss_and_grads: Any, params: Any, optimizer: cyoptim.Optimizer) -> list[float]:
    losses = []
    for _ in range(100):
        loss, grads = jax.block_until_ready(loss_and_grads(params))
        optimizer.step(grads=grads)
        losses.append(float(loss))
    return losses
