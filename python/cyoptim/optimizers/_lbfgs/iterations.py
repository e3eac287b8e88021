"""The iterations of one step: direction, step length, and when to stop."""

from __future__ import annotations

from cyoptim._types import Array, Group
from cyoptim.optimizers._lbfgs.flat import largest, norm
from cyoptim.optimizers._lbfgs.history import History
from cyoptim.optimizers._lbfgs.line_search import Point, strong_wolfe
from cyoptim.optimizers._lbfgs.objective import Line, Objective


def minimize(
    objective: Objective, start: tuple[float, Array], history: History, options: Group
) -> None:
    """Iterate until a tolerance or a limit is reached."""
    loss, grad = start
    iterations = 0
    if largest(grad) <= options["tolerance_grad"]:
        return
    while iterations < options["max_iter"]:
        iterations += 1
        slope = history.set_direction(loss, grad, options["history_size"])
        history.t = _first_length(history, grad, options["lr"])
        if slope > -options["tolerance_change"]:
            return
        final = iterations == options["max_iter"]
        loss, grad = _advance(objective, history, Point(0.0, loss, slope, grad), final, options)
        if (
            final
            or objective.evaluations >= options["max_eval"]
            or largest(grad) <= options["tolerance_grad"]
            or history.reach * abs(history.t) <= options["tolerance_change"]
            or abs(loss - history.prev_loss) < options["tolerance_change"]
        ):
            return


def _first_length(history: History, grad: Array, lr: float) -> float:
    """The initial step length: the scale of the first gradient is unknown."""
    if history.n_iter > 1:
        return lr
    total = norm(grad, 1)
    return 1 / total * lr if total > 1 else lr


def _advance(
    objective: Objective, history: History, origin: Point, final: bool, options: Group
) -> tuple[float, Array]:
    """Step along the direction; return loss and gradient there."""
    # A step of length 0, as at the beginning of a warm-up, leaves nothing to search.
    if options["line_search_fn"] is None or history.t == 0:
        objective.move(history.t, history.d)
        # The loss after the last iteration is not used.
        return (origin.loss, origin.grad) if final else objective.evaluate()
    line = Line(objective, history.d)
    point = strong_wolfe(
        line.evaluate,
        origin,
        history.t,
        options["max_eval"] - objective.evaluations,
        lambda width: width * history.reach < options["tolerance_change"],
    )
    line.go(point.length)
    history.t = point.length
    return point.loss, point.grad
