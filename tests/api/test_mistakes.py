"""The mistakes of newcomers, one row each, with what they are told.

One rule throughout: a message names what, where, what was found, what was expected, and what to
write instead. Nothing changes before it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim import Parameter, lr_scheduler, swa_utils
from cyoptim._schedulers.states import StateError

Row = tuple[Callable[[], object], type[Exception], str]


def w(*shape: int, dtype: Any = float) -> np.ndarray:
    return np.ones(shape or (3,), dtype)


def p() -> Parameter:
    return Parameter(w())


def sgd(params: Any = None, **options: Any) -> cyoptim.SGD:
    return cyoptim.SGD([w()] if params is None else params, **options)


def read_only() -> np.ndarray:
    array = w()
    array.flags.writeable = False
    return array


def of_jax() -> Any:
    return pytest.importorskip("jax").numpy.ones(3)


class Model:
    def parameters(self) -> list[Any]:
        return [p()]


def used_up() -> Any:
    parameters = iter([w()])
    cyoptim.Adam(parameters)
    return parameters


def stepped(cls: Any = cyoptim.Adam, *shape: int, **options: Any) -> Any:
    optimizer = cls([w(*shape)], **options)
    optimizer.step(grads=[w(*shape)])
    return optimizer.state_dict()


def with_grad(grad: Any) -> None:
    parameter = p()
    parameter.grad = grad
    sgd([parameter]).step()


def with_option(name: str, value: Any) -> None:
    optimizer = sgd()
    optimizer.param_groups[0][name] = value
    optimizer.step(grads=[w()])


def of_torch() -> Any:
    torch = pytest.importorskip("torch")
    return torch.optim.SGD([torch.ones(2, requires_grad=True)], lr=0.1)


def loaded(saved: Any, **into: Any) -> None:
    cyoptim.save("run.npz", **saved)
    cyoptim.load("run.npz", **into)


def foreign_file() -> None:
    np.savez("foreign.npz", w=w())
    cyoptim.load("foreign.npz", w=w())


MISTAKES: dict[str, Row] = {
    # --- parameters ------------------------------------------------------------------------------
    "parameters: an array": (lambda: cyoptim.Adam(w()), TypeError, "params argument given to the optimizer should be an iterable of Tensors or dicts, or of arrays, but got numpy.ndarray: put it into a list, Adam([parameter])"),
    "parameters: a Parameter": (lambda: cyoptim.Adam(p()), TypeError, "params argument given to the optimizer should be an iterable of Tensors or dicts, or of arrays, but got cyoptim.parameter.Parameter: put it into a list, Adam([parameter])"),
    "parameters: a model": (lambda: cyoptim.Adam(Model()), TypeError, "params argument given to the optimizer should be an iterable of Tensors or dicts, or of arrays, but got Model: write Adam(model.parameters())"),
    "parameters: a model in a list": (lambda: cyoptim.Adam([Model()]), TypeError, "optimizer can only optimize Tensors, but one of the params is Model: parameter 0 of group 0, expected an array (cyoptim.Parameter, numpy.ndarray, CPU torch tensor, or an object with .data and .grad arrays): write model.parameters()"),
    "parameters: parameters not called": (lambda: cyoptim.Adam(Model().parameters), TypeError, "params argument given to the optimizer should be an iterable of Tensors or dicts, or of arrays, but got method: call it, as in Adam(model.parameters())"),
    "parameters: a number": (lambda: cyoptim.Adam(3), TypeError, "params argument given to the optimizer should be an iterable of Tensors or dicts, or of arrays, but got int: write Adam([parameter, ...])"),
    "parameters: None": (lambda: cyoptim.Adam(None), TypeError, "params argument given to the optimizer should be an iterable of Tensors or dicts, or of arrays, but got NoneType: write Adam([parameter, ...])"),
    "parameters: a name": (lambda: cyoptim.Adam("w"), TypeError, "params argument given to the optimizer should be an iterable of Tensors or dicts, or of arrays, but got str: give the parameters themselves, Adam([parameter, ...])"),
    "parameters: nothing": (lambda: cyoptim.Adam([]), ValueError, "optimizer got an empty parameter list: write Adam([parameter, ...])"),
    "parameters: an empty dict": (lambda: cyoptim.Adam({}), ValueError, "optimizer got an empty dict of parameters: write Adam({'name': parameter, ...})"),
    "parameters: a tree of None": (lambda: cyoptim.Adam({"a": None}), ValueError, "optimizer got a dict without any parameters: its leaves must be arrays"),
    "parameters: an iterator used up": (lambda: cyoptim.Adam(used_up()), ValueError, "optimizer got an empty parameter list: write Adam([parameter, ...]); an iterator gives them once, its list(...) again"),
    "parameters: the rate first": (lambda: cyoptim.Adam(0.1, [w()]), TypeError, "learning rate must be a number, got list: [array([1., 1., 1.])]; the parameters are the first argument, and rates of their own are those of groups, {'params': ..., 'lr': ...}"),
    "parameters: a rate as text": (lambda: cyoptim.Adam([w()], "0.1"), TypeError, "learning rate must be a number, got str: '0.1'"),
    "parameters: lists of numbers": (lambda: cyoptim.Adam([[1.0, 2.0]]), TypeError, "optimizer can only optimize Tensors, but one of the params is list: parameter 0 of group 0, expected an array (cyoptim.Parameter, numpy.ndarray, CPU torch tensor, or an object with .data and .grad arrays): write np.array(...) around it"),
    "parameters: numbers": (lambda: cyoptim.Adam([1.0, 2.0]), TypeError, "optimizer can only optimize Tensors, but one of the params is float: parameter 0 of group 0, expected an array (cyoptim.Parameter, numpy.ndarray, CPU torch tensor, or an object with .data and .grad arrays): write np.array(...) around it"),
    "parameters: a NumPy scalar": (lambda: cyoptim.Adam([np.float64(1.0)]), TypeError, "optimizer can only optimize Tensors, but one of the params is numpy.float64: parameter 0 of group 0, expected an array (cyoptim.Parameter, numpy.ndarray, CPU torch tensor, or an object with .data and .grad arrays): write np.array(...) around it"),
    "parameters: None in a list": (lambda: cyoptim.Adam([w(), None]), TypeError, "optimizer can only optimize Tensors, but one of the params is NoneType: parameter 1 of group 0, expected an array (cyoptim.Parameter, numpy.ndarray, CPU torch tensor, or an object with .data and .grad arrays): leave it out"),
    "parameters: whole numbers": (lambda: cyoptim.Adam([np.arange(3)]), TypeError, "parameter 0 of group 0 has dtype int64, expected float32, float64, bfloat16 or float16, or complex of the first two: write .astype(np.float32)"),
    "parameters: an array of JAX": (lambda: cyoptim.Adam(of_jax()), TypeError, "params argument given to the optimizer should be an iterable of Tensors or dicts, or of arrays, but got jax.Array: write Adam([np.array(x)]), a copy that can be changed in place"),
    "parameters: arrays of JAX": (lambda: cyoptim.Adam([of_jax()]), TypeError, "optimizer can only optimize Tensors, but one of the params is jax.Array: parameter 0 of group 0, expected an array (cyoptim.Parameter, numpy.ndarray, CPU torch tensor, or an object with .data and .grad arrays): JAX's arrays cannot be changed in place: write np.array(x), or jax.tree.map(np.array, tree) for a whole tree"),
    "parameters: a tree of JAX": (lambda: cyoptim.Adam({"net": [of_jax()]}), TypeError, "optimizer can only optimize Tensors, but one of the params is jax.Array: parameter 0 ('net.0') of group 0, expected an array (cyoptim.Parameter, numpy.ndarray, CPU torch tensor, or an object with .data and .grad arrays): JAX's arrays cannot be changed in place: write np.array(x), or jax.tree.map(np.array, tree) for a whole tree"),
    "parameters: a list as Parameter": (lambda: Parameter([1.0, 2.0]), TypeError, "Parameter holds a NumPy array, got list: write np.array(...) around it"),
    "parameters: a number as Parameter": (lambda: Parameter(1.0), TypeError, "Parameter holds a NumPy array, got float: write np.array(...) around it"),
    "parameters: an array of JAX as Parameter": (lambda: Parameter(of_jax()), TypeError, "Parameter holds a NumPy array, got jax.Array: JAX's arrays cannot be changed in place: write np.array(x), or jax.tree.map(np.array, tree) for a whole tree"),
    "parameters: a shape as Parameter": (lambda: Parameter(3, 2), TypeError, "Parameter takes one array, got 2 arguments: write Parameter(np.zeros(shape)), and the gradient by name, Parameter(data, grad=...)"),
    "parameters: requires_grad": (lambda: Parameter(w(), requires_grad=True), TypeError, "Parameter has no argument 'requires_grad': leave it out; a parameter that an optimizer is not given stays as it is"),
    "parameters: a set": (lambda: cyoptim.Adam({p(), p()}), TypeError, "optimizer parameters need to be organized in ordered collections, but the ordering of tensors in sets will change between runs. Please use a list instead."),
    "parameters: repeated": (lambda: cyoptim.Adam([a := w(), a]), UserWarning, "optimizer contains a parameter group with duplicate parameters; in future, this will cause an error; see github.com/pytorch/pytorch/issues/40967 for more information: list each once in param group 0, or it is updated as often as it is listed"),
    "parameters: in two groups": (lambda: cyoptim.Adam([{"params": [a := w()]}, {"params": [a]}]), ValueError, "some parameters appear in more than one parameter group: parameter 0 of group 0 is parameter 0 of group 1; leave it in one of them"),
    "parameters: views": (lambda: cyoptim.Adam([a := w(), a[:2]]), ValueError, "parameter 0 of group 0 and parameter 1 of group 0 share memory: overlapping parameters cannot be optimized together; write np.array(x) for one of them, or optimize the array that both are views of"),
    "parameters: read-only": (lambda: cyoptim.Adam([read_only()]), ValueError, "parameter 0 of group 0 is read-only: write np.array(x), a copy that can be changed"),
    "parameters: masked": (lambda: cyoptim.Adam([np.ma.array(w())]), TypeError, "parameter 0 of group 0 is a masked array, and the values under its mask would be used: write .filled(0), for a gradient that leaves these elements alone, or .data for all values"),
    "parameters: one name twice": (lambda: cyoptim.Adam([("w", w()), ("w", w())]), ValueError, "two parameters of param group 0 have the name 'w': give each a name of its own"),
    "parameters: some names": (lambda: cyoptim.Adam([("w", w()), w()]), ValueError, "all optimizer params should be with/without names. Some param names are missing: give each parameter as a pair (name, parameter), or none"),
    "parameters: a number in a tree": (lambda: cyoptim.Adam({"a": {"b": 1.0}}), TypeError, "optimizer can only optimize Tensors, but one of the params is float: parameter 0 ('a.b') of group 0, expected an array (cyoptim.Parameter, numpy.ndarray, CPU torch tensor, or an object with .data and .grad arrays): write np.array(...) around it"),
    "parameters: a list in a tree": (lambda: cyoptim.Adam({"a": {"b": [1.0, 2.0]}}), TypeError, "the parameters have a list of numbers at 'a.b', expected an array, which can be changed in place: write np.array(...) around it"),
    "parameters: text in a tree": (lambda: cyoptim.Adam({"a": w(), "activation": "relu"}), TypeError, "optimizer can only optimize Tensors, but one of the params is str: parameter 1 ('activation') of group 0, expected an array (cyoptim.Parameter, numpy.ndarray, CPU torch tensor, or an object with .data and .grad arrays): leave it out; in a tree write None in its place, or mark the field of a dataclass by metadata={\"static\": True}"),
    "parameters: an option in a tree": (lambda: cyoptim.Adam({"a": w(), "lr": 0.1}), TypeError, "the parameters of param group 0 have 'lr', a float, which is an option: write it as an argument, (params, lr=...), or into a group, {'params': params, 'lr': ...}"),
    # --- groups ----------------------------------------------------------------------------------
    "groups: without params": (lambda: cyoptim.Adam([{"param": [w()], "lr": 0.1}]), ValueError, "param group 0 has no 'params', but 'param', 'lr': write {'params': [...], 'lr': ...}"),
    "groups: params a number": (lambda: cyoptim.Adam([{"params": 3}]), TypeError, "'params' of param group 0 is a int, expected parameters: write {'params': [parameter, ...]}"),
    "groups: a list among groups": (lambda: cyoptim.Adam([{"params": [w()]}, [w()]]), TypeError, "param_group must be a dict, but got <class 'list'>: write {'params': [...], 'lr': ...}"),
    "groups: a list as a group": (lambda: sgd().add_param_group([w()]), TypeError, "param_group must be a dict, but got <class 'list'>: write {'params': [...], 'lr': ...}"),
    "groups: a misspelt option": (lambda: cyoptim.Adam([{"params": [w()], "weigth_decay": 0.1}]), ValueError, "param group 0 has an option 'weigth_decay' that Adam does not know; did you mean 'weight_decay'? A key of your own begins with an underscore"),
    "groups: another library's option": (lambda: cyoptim.Adam([{"params": [w()], "learning_rate": 0.1}]), ValueError, "param group 0 has an option 'learning_rate' that Adam does not know; did you mean 'lr'? A key of your own begins with an underscore"),
    "groups: an unknown option": (lambda: cyoptim.Adam([{"params": [w()], "colour": 0.1}]), UserWarning, "param group 0 has an option 'colour' that Adam does not know: it is kept and has no effect; leave it out, or begin a key of your own with an underscore"),
    "groups: text as an option": (lambda: cyoptim.Adam([{"params": [w()], "lr": "0.1"}]), TypeError, "learning rate must be a number, got str: '0.1'"),
    "groups: an option misspelt later": (lambda: with_option("learning_rate", 1.0), ValueError, "param group 0 has an option 'learning_rate' that SGD does not know; did you mean 'lr'? A key of your own begins with an underscore"),
    "groups: text as an option later": (lambda: with_option("lr", "x"), TypeError, "options of param group 0: lr must be a number, got str: 'x'"),
    "groups: no rule's name": (lambda: cyoptim.param_groups({"w": w()}, no_decay="bias"), ValueError, "no_decay: 'bias' is in no name; there are w"),
    # --- options ---------------------------------------------------------------------------------
    "options: negative lr": (lambda: cyoptim.Adam([w()], lr=-0.1), ValueError, "Invalid learning rate: -0.1 (expected >= 0)"),
    "options: NaN": (lambda: cyoptim.Adam([w()], lr=float("nan")), ValueError, "Invalid learning rate: nan (expected >= 0)"),
    "options: no lr": (lambda: cyoptim.Adam([w()], lr=None), TypeError, "learning rate must be a number, got NoneType: None"),
    "options: a list of rates": (lambda: cyoptim.Adam([w()], lr=[0.1]), TypeError, "learning rate must be a number, got list: [0.1]; the parameters are the first argument, and rates of their own are those of groups, {'params': ..., 'lr': ...}"),
    "options: a beta of 1": (lambda: cyoptim.Adam([w()], betas=(0.9, 1.0)), ValueError, "Invalid beta parameter at index 1: 1.0 (expected 0 <= beta < 1)"),
    "options: one beta": (lambda: cyoptim.Adam([w()], betas=0.9), TypeError, "betas must be a pair of numbers, got 0.9: write betas=(a, b)"),
    "options: text as a switch": (lambda: cyoptim.Adam([w()], amsgrad="no"), TypeError, "amsgrad must be True or False, got str: 'no'"),
    "options: learning_rate": (lambda: cyoptim.Adam([w()], learning_rate=0.1), TypeError, "Adam.__init__() got an unexpected keyword argument 'learning_rate'; did you mean 'lr'?"),
    "options: beta1": (lambda: cyoptim.Adam([w()], beta1=0.9), TypeError, "Adam.__init__() got an unexpected keyword argument 'beta1'; did you mean 'betas'?"),
    "options: negative momentum": (lambda: sgd(momentum=-0.9), ValueError, "Invalid momentum value: -0.9 (expected >= 0)"),
    "options: as an attribute": (lambda: setattr(sgd(), "lr", 1.0), AttributeError, "SGD has no attribute 'lr': options are those of the groups, optimizer.param_groups[0]['lr']"),
    "options: learning_rate as an attribute": (lambda: setattr(sgd(), "learning_rate", 1.0), AttributeError, "SGD has no attribute 'learning_rate': options are those of the groups, optimizer.param_groups[0]['lr']"),
    "options: read as an attribute": (lambda: sgd().lr, AttributeError, "SGD has no attribute 'lr': options are those of the groups, optimizer.param_groups[0]['lr']"),
    # --- gradients -------------------------------------------------------------------------------
    "gradients: a list in step": (lambda: sgd().step([w()]), TypeError, "step() takes a closure first, which is called, got list: pass gradients by keyword, step(grads=[...])"),
    "gradients: an array in step": (lambda: sgd().step(w()), TypeError, "step() takes a closure first, which is called, got numpy.ndarray: pass gradients by keyword, step(grads=[...])"),
    "gradients: a number in step": (lambda: sgd().step(3.0), TypeError, "step() takes a closure first, which is called, got float: pass gradients by keyword, step(grads=[...])"),
    "gradients: not in a list": (lambda: sgd().step(grads=w()), TypeError, "grads must be a list of gradients or a dict from parameter names, or nested as the parameters are, got numpy.ndarray: write grads=[...]"),
    "gradients: too many": (lambda: sgd().step(grads=[w(), w()]), ValueError, "grads holds 2 gradients, expected 1: one for each parameter, None for one without"),
    "gradients: an iterator": (lambda: sgd().step(grads=iter([w()])), TypeError, "grads must be a list of gradients or a dict from parameter names, or nested as the parameters are, got list_iterator: write grads=[...]"),
    "gradients: a function": (lambda: sgd().step(grads=lambda: [w()]), TypeError, "grads must be a list of gradients or a dict from parameter names, or nested as the parameters are, got function: write grads=[...]"),
    "gradients: forgotten, of an array": (lambda: sgd().step(), ValueError, "parameter 0 of group 0 is a plain array and has no gradient of its own: call step(grads=...), let the closure return (loss, grads), or wrap it in cyoptim.Parameter"),
    "gradients: forgotten, of a Parameter": (lambda: sgd([p()]).step(), UserWarning, "no parameter has a gradient, so this first step changes nothing: set parameter.grad before step(), or write step(grads=[...])"),
    "gradients: forgotten in a closure": (lambda: sgd([p()]).step(lambda: 1.0), UserWarning, "no parameter has a gradient, so this first step changes nothing: set parameter.grad before step(), or write step(grads=[...])"),
    "gradients: names without names": (lambda: sgd().step(grads={"w": w()}), ValueError, "grads is a dict, but the parameters have no names: construct the optimizer from the dict itself, or from (name, parameter) pairs"),
    "gradients: an unknown name": (lambda: sgd({"w": w()}).step(grads={"v": w()}), ValueError, "grads has an entry 'v', but the parameters are w; leave it out, or take the names of these"),
    "gradients: too flat": (lambda: sgd({"a": {"w": w()}}).step(grads={"a": w()}), ValueError, "grads at 'a' is a numpy.ndarray, expected those of a.w"),
    "gradients: another length": (lambda: sgd().step(grads=[w(4)]), ValueError, "gradient of parameter 0 of group 0 has shape (4,), expected (3,): grads are in the order of the parameters"),
    "gradients: a column": (lambda: sgd().step(grads=[w(3, 1)]), ValueError, "gradient of parameter 0 of group 0 has shape (3, 1), expected (3,): write grad.reshape((3,))"),
    "gradients: transposed": (lambda: sgd([w(2, 3)]).step(grads=[w(3, 2)]), ValueError, "gradient of parameter 0 of group 0 has shape (3, 2), expected (2, 3): write grad.T"),
    "gradients: float32": (lambda: sgd().step(grads=[w(dtype=np.float32)]), TypeError, "gradient of parameter 0 of group 0 has dtype float32, expected float64: write np.asarray(grad, np.float64), or make the parameter float32"),
    "gradients: float32 as .grad": (lambda: with_grad(w(dtype=np.float32)), TypeError, "gradient of parameter 0 of group 0 has dtype float32, expected float64: write np.asarray(grad, np.float64), or make the parameter float32"),
    "gradients: float32 accumulated": (lambda: sgd().accumulate([w(dtype=np.float32)]), TypeError, "gradient of parameter 0 of group 0 has dtype float32, expected float64: write np.asarray(grad, np.float64), or make the parameter float32"),
    "gradients: whole numbers": (lambda: sgd().step(grads=[np.arange(3)]), TypeError, "gradient of parameter 0 of group 0 has dtype int64, expected float64: write np.asarray(grad, np.float64)"),
    "gradients: complex": (lambda: sgd().step(grads=[1j * w()]), TypeError, "gradient of parameter 0 of group 0 has dtype complex128, expected float64: write grad.real, or make the parameter complex"),
    "gradients: a list": (lambda: sgd().step(grads=[[1.0, 2.0, 3.0]]), TypeError, "gradient of parameter 0 of group 0 is a list, expected a NumPy array: write np.array(...) around it"),
    "gradients: a list as .grad": (lambda: with_grad([1.0, 2.0, 3.0]), TypeError, "a gradient is an array, a pair (rows, values), a SciPy sparse array or None, got list: write np.array(...) around it"),
    "gradients: a number as .grad": (lambda: with_grad(1.0), TypeError, "a gradient is an array, a pair (rows, values), a SciPy sparse array or None, got float: write np.array(...) around it"),
    "gradients: gard": (lambda: setattr(p(), "gard", w()), AttributeError, "a Parameter has no attribute 'gard'; did you mean 'grad'?"),
    "gradients: an option of a Parameter": (lambda: setattr(p(), "lr", 0.1), AttributeError, "a Parameter has no attribute 'lr': options are those of a group, optimizer.param_groups[0]['lr']"),
    "gradients: backward": (lambda: p().backward(), AttributeError, "a Parameter has no attribute 'backward': NumPy computes no gradients; take those of autograd, JAX or MyGrad, and set .grad"),
    "gradients: a closure that swaps": (lambda: sgd().step(lambda: ([w()], 1.0)), TypeError, "the closure returned (list, float), expected (loss, grads): write return loss, grads"),
    "gradients: LBFGS without a closure": (lambda: cyoptim.LBFGS([w()]).step(grads=[w()]), TypeError, "LBFGS evaluates the loss at several points of a step: call step(closure), where closure() sets the gradients and returns the loss, or returns (loss, grads)"),
    "gradients: sparse for Adam": (lambda: cyoptim.Adam([w(3, 2)]).step(grads=[(np.array([0]), w(1, 2))]), TypeError, "Adam does not support sparse gradients, please consider SparseAdam instead (that of parameter 0 of group 0 is sparse)"),
    "gradients: a policy": (lambda: sgd().step(grads=[w()], nonfinite="ignore"), ValueError, "nonfinite must be one of propagate, raise, skip, got 'ignore'"),
    "gradients: zero_grad of gradients": (lambda: sgd().zero_grad([w()]), TypeError, "set_to_none must be True or False, got list: [array([1., 1., 1.])]"),
    "gradients: clipped to a negative norm": (lambda: cyoptim.clip_grad_norm_([p()], -1.0), ValueError, "max_norm is -1.0, expected a number >= 0: a negative one would turn gradients round"),
    "gradients: clipping an array": (lambda: cyoptim.clip_grad_norm_([w()], 1.0), ValueError, "parameter 0 is a plain array and has no gradient of its own: pass grads=..., or wrap it in cyoptim.Parameter"),
    "gradients: clipping an optimizer": (lambda: cyoptim.clip_grad_norm_(sgd(), 1.0), TypeError, "parameters must be a parameter or an iterable of them, got cyoptim.optimizers.sgd.SGD: write optimizer.param_groups[0]['params']"),
    "gradients: clipping groups": (lambda: cyoptim.clip_grad_norm_(sgd().param_groups, 1.0), TypeError, "parameters are groups, expected what they hold: write [p for group in optimizer.param_groups for p in group['params']]"),
    # --- schedules -------------------------------------------------------------------------------
    "schedules: stepped first": (lambda: lr_scheduler.StepLR(sgd(), 3).step(), UserWarning, "Detected call of `lr_scheduler.step()` before `optimizer.step()`: the first learning rate of the schedule is skipped. Call `optimizer.step()` first, then `lr_scheduler.step()`"),
    "schedules: over torch's optimizer": (lambda: lr_scheduler.StepLR(of_torch(), 1), TypeError, "SGD is not an Optimizer: a scheduler of cyoptim drives an optimizer of cyoptim, found a torch.optim.sgd.SGD: use cyoptim.SGD, or torch.optim.lr_scheduler.StepLR"),
    "schedules: over parameters": (lambda: lr_scheduler.StepLR([w()], 1), TypeError, "list is not an Optimizer: a scheduler of cyoptim drives an optimizer of cyoptim, found a list: write StepLR(cyoptim.Adam(params), ...)"),
    "schedules: over a class": (lambda: lr_scheduler.StepLR(cyoptim.Adam, 1), TypeError, "type is not an Optimizer: a scheduler of cyoptim drives an optimizer of cyoptim, found a type: write StepLR(cyoptim.Adam(params), ...)"),
    "schedules: no steps": (lambda: lr_scheduler.StepLR(sgd(), 0), ValueError, "step_size must be positive, got 0"),
    "schedules: a number as function": (lambda: lr_scheduler.LambdaLR(sgd(), 0.5), TypeError, "lr_lambda should be a function, but got float: write lambda epoch: 0.95**epoch"),
    "schedules: one milestone": (lambda: lr_scheduler.MultiStepLR(sgd(), 3), TypeError, "milestones must be a list of epochs, got int: 3"),
    "schedules: a mode": (lambda: lr_scheduler.ReduceLROnPlateau(sgd(), mode="maximum"), ValueError, "mode maximum is unknown! (expected 'min' or 'max')"),
    "schedules: no metric": (lambda: lr_scheduler.ReduceLROnPlateau(sgd()).step(None), TypeError, "the metric must be a number, got NoneType: None"),
    "schedules: two functions": (lambda: lr_scheduler.LambdaLR(sgd(), [abs, abs]), ValueError, "Expected 1 lr_lambdas, but got 2: give one function for all param groups, or one for each"),
    # --- states and files ------------------------------------------------------------------------
    "states and files: a path": (lambda: sgd().load_state_dict("run.npz"), TypeError, "state_dict must be a dict with 'state' and 'param_groups', as state_dict() returns, got a path: write cyoptim.load(path, optimizer=optimizer)"),
    "states and files: an optimizer": (lambda: sgd().load_state_dict(sgd()), TypeError, "state_dict must be a dict with 'state' and 'param_groups', as state_dict() returns, got a cyoptim.optimizers.sgd.SGD: write load_state_dict(other.state_dict())"),
    "states and files: of another optimizer": (lambda: cyoptim.Adam([w()]).load_state_dict(stepped(cyoptim.SGD)), ValueError, "the loaded state dict is not that of Adam: param group 0 has no 'betas', 'eps'; it looks like that of SGD. Load it into an optimizer of the kind that saved it"),
    "states and files: of another shape": (lambda: cyoptim.Adam([w()]).load_state_dict(stepped(cyoptim.Adam, 4)), ValueError, "loaded state 'exp_avg' of parameter 0 of group 0 has shape (4,), expected (3,)"),
    "states and files: the state alone": (lambda: cyoptim.Adam([w()]).load_state_dict(stepped()["state"]), TypeError, "state_dict must be a dict with 'state' and 'param_groups', as state_dict() returns, got a dict with the keys 0"),
    "states and files: of another schedule": (lambda: lr_scheduler.CosineAnnealingLR(sgd(), 5).load_state_dict(lr_scheduler.StepLR(sgd(), 1).state_dict()), StateError, "this is not the state of a CosineAnnealingLR, but looks like that of a StepLR (found gamma, step_size, expected T_max, eta_min): load it into one of the class that saved it, or begin with a new CosineAnnealingLR"),
    "states and files: a path for a schedule": (lambda: lr_scheduler.StepLR(sgd(), 1).load_state_dict("run.npz"), TypeError, "state_dict must be a dict, as state_dict() returns, got str; for a file write cyoptim.load(path, scheduler=scheduler)"),
    "states and files: saved without a name": (lambda: cyoptim.save("run.npz", {"w": w()}), TypeError, "save() takes objects by name: write save(path, params=params)"),
    "states and files: saved the wrong way round": (lambda: cyoptim.save({"w": w()}, "run.npz"), TypeError, "save() takes the path of a file first, got a dict: write save(\"run.npz\", params=params)"),
    "states and files: saved nothing": (lambda: cyoptim.save("run.npz"), ValueError, "nothing to save: give objects by name, such as optimizer=optimizer"),
    "states and files: saved a function": (lambda: cyoptim.save("run.npz", f=len), TypeError, "f: cannot save an object of type builtin_function_or_method: leave it out, or give it state_dict() and load_state_dict()"),
    "states and files: loaded under another name": (lambda: loaded({'w': w()}, v=w()), ValueError, "run.npz has no 'v'; it holds 'w'"),
    "states and files: loaded another shape": (lambda: loaded({'w': w()}, w=w(4)), ValueError, "run.npz: w: found an array of dtype float64 and shape (3,), expected an array of dtype float64 and shape (4,)"),
    "states and files: loaded a number": (lambda: loaded({'w': w()}, w=1.0), TypeError, "w: float cannot be restored in place; take it from the dict that load returns"),
    "states and files: loaded another optimizer": (lambda: loaded({'optimizer': sgd()}, optimizer=cyoptim.Adam([w()])), ValueError, "run.npz: optimizer refuses the saved state: the loaded state dict is not that of Adam: param group 0 has no 'betas', 'eps'; it looks like that of SGD. Load it into an optimizer of the kind that saved it"),
    "states and files: loaded another program's file": (lambda: foreign_file(), cyoptim.CheckpointError, "foreign.npz: not a checkpoint: a zip without cyoptim.json, found 'w.npy'; use numpy.load for files of numpy.savez"),
    "states and files: an average of a number": (lambda: swa_utils.AveragedModel(3.0), TypeError, "a model is a torch module, or a list or dict of parameters; found a float: write np.array(...) around it"),
    # --- names and settings ----------------------------------------------------------------------
    "names and settings: the module of an optimizer": (lambda: cyoptim.adam([w()]), TypeError, "'module' object is not callable: cyoptim.adam is the module of an optimizer; write cyoptim.Adam(...)"),
    "names and settings: a misspelt optimizer": (lambda: cyoptim.Adma([w()]), AttributeError, "module 'cyoptim' has no attribute 'Adma'; did you mean 'Adam'?"),
    "names and settings: in capitals": (lambda: cyoptim.ADAM([w()]), AttributeError, "module 'cyoptim' has no attribute 'ADAM'; did you mean 'Adam'?"),
    "names and settings: a schedule": (lambda: cyoptim.StepLR(sgd(), 1), AttributeError, "module 'cyoptim' has no attribute 'StepLR': write cyoptim.lr_scheduler.StepLR"),
    "names and settings: a misspelt schedule": (lambda: lr_scheduler.StepLr(sgd(), 1), AttributeError, "module 'cyoptim.lr_scheduler' has no attribute 'StepLr'; did you mean 'StepLR'?"),
    "names and settings: a function without its underscore": (lambda: cyoptim.clip_grad_norm([p()], 1.0), AttributeError, "module 'cyoptim' has no attribute 'clip_grad_norm'; did you mean 'clip_grad_norm_'?"),
    "names and settings: torch's module": (lambda: cyoptim.optim.Adam([w()]), AttributeError, "module 'cyoptim' has no attribute 'optim': cyoptim takes the place of torch.optim: write cyoptim.Adam, cyoptim.lr_scheduler"),
    "names and settings: called": (lambda: sgd()([w()]), TypeError, "SGD is called by scipy.optimize.minimize(method=optimizer) alone: to update parameters, write optimizer.step(...)"),
    "names and settings: no threads": (lambda: cyoptim.set_num_threads(0), ValueError, "the number of threads must be at least 1, got 0"),
    "names and settings: a layer": (lambda: cyoptim.set_threading_layer("tbb"), ValueError, "the threading layer must be 'pool' or 'openmp', got 'tbb'"),
    "names and settings: a hook": (lambda: sgd().register_step_pre_hook("print"), TypeError, "a hook is called, and must be a function, got 'print'"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    act, error, message = MISTAKES[name]
    if issubclass(error, Warning):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            act()
        told = [str(warning.message) for warning in seen if issubclass(warning.category, error)]
        assert told == [message]
    else:
        with pytest.raises(error) as raised:
            act()
        # What JAX calls its arrays changes between versions, and the name of a test's module.
        told = re.sub(r"(jaxlib\S*\.)?ArrayImpl", "jax.Array", raised.value.args[0])
        assert told.replace(f"{__name__}.", "") == message


# How messages begin what to write instead, what was meant, or what was expected.
NEXT = re.compile(
    r"\b(write|give|call|leave|list each|put it|pass|use|load it|take|did you mean|expected|must be|"
    r"there are|it holds|consider|options are those|in order|construct)\b",
    re.IGNORECASE,
)


def test_a_warning_that_is_an_error_comes_before_any_change() -> None:
    parameter = p()
    optimizer = cyoptim.SGD([parameter])
    average = optimizer.ema()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            with pytest.raises(UserWarning, match="no parameter has a gradient"):
                optimizer.step()
        assert (average.steps, optimizer._opt_called) == (0, False)
        parameter.grad = w()
        optimizer.step()
    assert average.steps == 1


@pytest.mark.parametrize("name", MISTAKES)
def test_a_message_says_what_to_write_instead(name: str) -> None:
    assert NEXT.search(MISTAKES[name][2])


def test_all_are_here() -> None:
    assert len(MISTAKES) >= 96
