"""Classes and optimizers as methods of minimize, and their options in `options=`."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

pytest.importorskip("scipy")

from scipy.optimize import basinhopping, minimize, rosen, rosen_der

import cyoptim
from cyoptim.scipy import Method, method
from cyoptim.scipy._method import ARGUMENTS, OPTIONS
from tests.optimizers import cards
from tests.support.cards import MATRICES, Card
from tests.support.parametrize import every_card

START = np.array([-1.2, 1.0])


def run(chosen: Any, **options: Any) -> Any:
    return minimize(rosen, START, jac=rosen_der, method=chosen, options={"maxiter": 20, **options})


def equal(one: Any, other: Any) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


@every_card(~MATRICES, lambda card: card.valley is not None)
def test_a_class_is_a_method(card: Card) -> None:
    equal(run(card.cls, lr=2**-10), run(method(card.cls, lr=2**-10)))


def test_an_optimizer_is_a_method() -> None:
    w = np.ones(3)
    optimizer = cyoptim.Adam([w], lr=0.125, betas=(0.5, 0.9))
    optimizer.step(grads=[np.ones(3)])
    before, state = w.copy(), repr(optimizer.state_dict())
    expected = run(method("adam", lr=0.125, betas=(0.5, 0.9)))
    for chosen in (optimizer, method(optimizer)):
        equal(run(chosen), expected)
    equal(run(optimizer, lr=0.5), run(method("adam", lr=0.5, betas=(0.5, 0.9))))
    np.testing.assert_array_equal(w, before)
    assert repr(optimizer.state_dict()) == state
    assert method(optimizer) == Method(cyoptim.Adam, None, None, {"lr": 0.125, "betas": (0.5, 0.9)})
    # What it has by default is no choice: a step of LBFGS stays one iteration.
    equal(run(cyoptim.LBFGS([w], history_size=3)), run(method("lbfgs", history_size=3)))


MASK = np.ones(2)


class Masked(cyoptim.Optimizer):
    def __init__(self, params: Any, lr: float = 0.1, mask: Any = MASK, most: Any = None) -> None:
        super().__init__(params, {"lr": lr, "mask": mask, "most": most})

    def update(self, param: Any, grad: Any, state: Any, group: Any) -> None:
        param -= np.clip(group["lr"] * group["mask"] * grad, None, group["most"])


def test_options_may_be_arrays() -> None:
    mask, most = np.array([1.0, 0.0]), np.array([0.5, 0.5])
    chosen = method(Masked([np.ones(2)], lr=2**-10, mask=mask, most=most))
    assert chosen.options == {"lr": 2**-10, "mask": mask, "most": most}
    assert method(Masked([np.ones(2)])).options == {}
    assert run(chosen).x[1] == START[1]


def test_options_take_the_place_of_arguments() -> None:
    chosen = method("sgd", lr=0.25, clip_norm=1.0)
    scheduler = ("StepLR", {"step_size": 2, "gamma": 0.5})
    found = run(chosen, lr=0.5, momentum=0.5, clip_norm=0.125, lr_scheduler=scheduler)
    expected = method("sgd", lr=0.5, momentum=0.5, clip_norm=0.125, lr_scheduler=scheduler)
    equal(found, run(expected))
    assert chosen.options == {"lr": 0.25}


def test_what_calls_minimize_takes_classes() -> None:
    local = {"method": cyoptim.LBFGS, "jac": rosen_der, "options": {"history_size": 5}}
    result = basinhopping(rosen, START, niter=2, minimizer_kwargs=local)
    np.testing.assert_allclose(result.x, 1, atol=1e-4)


@pytest.mark.parametrize("chosen", [cyoptim.Adam, method("adam"), cyoptim.Adam([np.ones(1)])])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 1.0}, "minimize: there is no option 'learning_rate'; did you mean 'lr'"),
        ({"max_iter": 1}, "no option 'max_iter'; did you mean 'maxiter'?"),
        ({"maxfun": 1}, "no option 'maxfun'; did you mean 'maxfev'?"),
        ({"colour": 1}, "no option 'colour'; there are lr, betas, eps"),
        ({"lr": "fast"}, "learning rate must be a number, got str: 'fast'"),
        ({"clip_norm": "1"}, "clip_norm must be a number"),
    ],
)
def test_unknown_and_bad_options(chosen: Any, options: Any, message: str) -> None:
    with pytest.raises(TypeError) as raised:
        run(chosen, **options)
    assert message in str(raised.value)


def test_a_function_has_no_options() -> None:
    chosen = method(lambda params: cyoptim.SGD(params, lr=0.125))
    with pytest.raises(TypeError, match="no option 'lr'; there are lr_scheduler, clip_norm, maxit"):
        run(chosen, lr=0.5)


def test_optimizers_that_are_no_methods() -> None:
    w, v = np.ones(2), np.ones(2)
    with pytest.raises(ValueError, match="has 2 groups, and x has one: give a function"):
        run(cyoptim.SGD([{"params": [w]}, {"params": [v]}]))
    optimizer = cyoptim.SGD([w])
    for arguments in ((), ([w],), (rosen, START)):
        with pytest.raises(TypeError, match=r"write optimizer.step\(...\)"):
            optimizer(*arguments)


def test_no_option_has_two_meanings() -> None:
    for card in cards():
        assert not {*OPTIONS, *ARGUMENTS} & {*inspect.signature(card.cls).parameters}
    assert {"maxiter", "maxfev", "disp", "tol", "gtol", "ftol", "stochastic"} <= {*OPTIONS}


@pytest.mark.parametrize("jac", [rosen_der, None])
def test_evaluations_are_limited(jac: Any) -> None:
    seen = []

    def fun(x: Any) -> float:
        seen.append(x)
        return float(rosen(x))

    result = minimize(fun, START, jac=jac, method=cyoptim.Adam, options={"maxfev": 30})
    assert (result.status, result.success) == (1, False)
    assert result.message == "Maximum number of function evaluations has been exceeded."
    assert result.nfev == len(seen)
    assert 30 <= result.nfev < 30 + (1 if jac else 3)
    both = minimize(fun, START, jac=jac, method=cyoptim.Adam, options={"maxfev": 30, "maxiter": 2})
    assert both.message == "Maximum number of iterations has been exceeded."
    assert minimize(fun, START, jac=jac, method=cyoptim.SGD, options={"maxfev": 0}).nit == 0


def test_warnings_name_the_users_line() -> None:
    for chosen in (cyoptim.Adam, cyoptim.Adam([np.ones(1)]), method("adam")):
        with pytest.warns(RuntimeWarning, match="Method Adam does not use Hessian") as seen:
            minimize(rosen, START, method=chosen, hess=np.eye, options={"maxiter": 1})
        assert seen[0].filename == __file__
