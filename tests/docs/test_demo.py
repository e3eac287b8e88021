"""The demos: gradients, NumPy updates, what is printed and saved, and how they fail."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

import cyoptim

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")

sys.path.insert(0, str(Path(__file__).parents[2]))

from cyoptim import demo
from examples.demo import __main__ as command
from examples.demo import choices, network, report, training
from tests.support.processes import run_python

ROOT = Path(report.__file__).parents[2]
ADAM = choices.CHOICES["adam"]


@pytest.fixture(scope="module")
def digits() -> training.Digits:
    return training.Digits.load(seed=0)


def run(tmp_path: Path, *arguments: str) -> Path:
    path = tmp_path / "picture.png"
    command.main(["--epochs", "2", "--output", str(path), *arguments])
    return path


# --- the network ---


def numerical_gradient(model: network.MLP, parameter, x, labels, h: float = 1e-6) -> np.ndarray:
    gradient = np.empty_like(parameter.data)
    for index in np.ndindex(parameter.shape):
        value = parameter.data[index]
        losses = []
        for shifted in (value + h, value - h):
            parameter.data[index] = shifted
            losses.append(model.backward(x, labels))
        parameter.data[index] = value
        gradient[index] = (losses[0] - losses[1]) / (2 * h)
    return gradient


def test_gradients_are_those_of_finite_differences() -> None:
    rng = np.random.default_rng(0)
    model = network.MLP((5, 7, 6, 4), rng, np.float64)
    for bias in model.biases:
        bias.data[:] = rng.standard_normal(bias.shape)
    x, labels = rng.standard_normal((9, 5)), rng.integers(4, size=9)
    expected = [numerical_gradient(model, p, x, labels) for p in model.parameters]
    model.backward(x, labels)
    for parameter, gradient in zip(model.parameters, expected, strict=True):
        np.testing.assert_allclose(parameter.grad, gradient, rtol=1e-6, atol=1e-9)


def test_training_is_in_float32(digits: training.Digits) -> None:
    trained = training.Training(ADAM, digits, 2, 0)
    trained.run_batch(np.arange(8))
    for p in trained.model.parameters:
        arrays = [
            p.data,
            p.grad,
            *(trained.optimizer.state[p][n] for n in ("exp_avg", "exp_avg_sq")),
        ]
        assert {a.dtype for a in arrays} == {np.dtype(np.float32)}


def test_the_split_keeps_every_example_once(digits: training.Digits) -> None:
    assert len(digits.train_x) + len(digits.test_x) == 1797
    assert len(np.unique(digits.test_y)) == 10
    assert 0 <= digits.train_x.min() < digits.train_x.max() == 1


@pytest.mark.slow
def test_adam_reaches_96_percent(digits: training.Digits) -> None:
    result = training.train(ADAM, digits, training.EPOCHS, 0)
    assert result.accuracies[-1] >= 0.96
    assert result.rates[0] > result.rates[-1]


# --- the updates in NumPy ---


@pytest.mark.parametrize("name", choices.CHOICES)
def test_numpy_update_is_that_of_cyoptim(name: str, digits: training.Digits) -> None:
    trained = training.Training(choices.CHOICES[name], digits, 2, 1)
    twin = choices.NumPyTwin(choices.CHOICES[name], trained.optimizer)
    before = [p.data.copy() for p in trained.model.parameters]
    for batch in trained.batches()[:20]:
        trained.run_batch(batch)
        twin.step()
    for p, copy, old in zip(trained.model.parameters, twin.params, before, strict=True):
        assert not np.array_equal(p.data, old)
        np.testing.assert_allclose(p.data, copy, rtol=1e-5, atol=1e-6)


def test_a_wrong_numpy_update_is_not_timed(digits: training.Digits) -> None:
    wrong = choices.Choice(ADAM.create, ADAM.lr, 0.1, ADAM.numpy_update, "", "", decoupled=True)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        training.time_step(wrong, digits, 0)


# --- resuming ---


@pytest.mark.slow
@pytest.mark.parametrize("name", choices.CHOICES)
def test_resumed_training_is_bit_identical(name: str, digits: training.Digits) -> None:
    choice = choices.CHOICES[name]
    straight = training.train(choice, digits, 3, 0)
    resumed = training.resume(choice, digits, 3, 0)
    assert straight.losses == resumed
    assert "all 135 losses are bit-identical" in report.compare(straight, resumed)


@pytest.mark.slow
def test_a_resumed_training_that_differs_ends_the_demo(
    digits: training.Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = training.train(ADAM, digits, 2, 0)
    monkeypatch.setattr(training.Training, "load", lambda self, path: None)
    with pytest.raises(SystemExit, match="Adam, saved after epoch 1 of 2 and resumed: .* DIFFER"):
        report.compare(straight, training.resume(ADAM, digits, 2, 0))


# --- what is shown ---


@pytest.mark.slow
def test_one_optimizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run(tmp_path, "--optimizer", "adam")
    out, err = capsys.readouterr()
    assert err == ""  # no progress bar where there is no terminal
    assert out.startswith(f"cyoptim {cyoptim.__version__}\n")
    rows = re.findall(r"^Adam +(\S+)% +(\S+) s +(\S+) us +(\S+) us +(\S+)x$", out, re.MULTILINE)
    ((accuracy, seconds, step, numpy_step, ratio),) = (map(float, row) for row in rows)
    assert 80 < accuracy <= 100
    assert min(seconds, step, numpy_step, ratio) > 0
    assert "Adam, saved after epoch 1 of 2 and resumed: all 90 losses are bit-identical" in out
    assert f"Curves saved to {path}" in out
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.slow
def test_all_optimizers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path)
    table = capsys.readouterr().out.partition("\n\n")[2].splitlines()
    labels = [line.split()[0] for line in table[1:6]]
    assert labels == ["Adam", "AdamW", "SGD+momentum", "RMSprop", "Adagrad"]
    assert len({len(line) for line in table[:6]}) == 1, "the columns are not aligned"


@pytest.mark.slow
def test_the_first_of_several_optimizers_is_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, "--optimizer", "SGD", "--optimizer", "adam", "--optimizer", "sgd")
    out = capsys.readouterr().out
    assert "epochs with each of SGD+momentum, Adam." in out
    assert "\nSGD+momentum, saved after" in out


# --- arguments and packages ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "1"], "argument --epochs: expected an integer of at least 2, got '1'"),
        (["--epochs", "many"], "argument --epochs: expected an integer of at least 2, got 'many'"),
        (["--seed", "-1"], "argument --seed: expected an integer of at least 0, got '-1'"),
        (["--optimizer", "lion"], "argument --optimizer: invalid choice: 'lion' (choose from "),
        (
            ["--output", "a.jpg"],
            "argument --output: expected a file name that ends in .png, got 'a.jpg'",
        ),
        (
            ["--output", "no/a.png"],
            "argument --output: expected a file in a writable folder, got 'no/a.png'",
        ),
    ],
)
def test_bad_arguments(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as info:
        command.main(arguments)
    assert info.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("module", ["sklearn.datasets", "matplotlib.figure", "tqdm"])
def test_missing_package(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit) as info:
        run(tmp_path)
    message = str(info.value.code)
    assert message.startswith("the demo needs scikit-learn, matplotlib and tqdm: ")
    assert 'pip install "cyoptim[demo]"' in message
    assert "\n" not in message
    assert capsys.readouterr().out == ""


@pytest.mark.slow
@pytest.mark.parametrize("module", ["cyoptim.demo", "examples.demo.__main__"])
def test_importing_the_demo_imports_none_of_its_packages(module: str) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {module}\n"
        "print([name for name in ('sklearn', 'matplotlib', 'tqdm') if name in sys.modules])"
    )
    assert run_python(code, check=True).stdout.splitlines()[-1] == "[]"


def test_help_needs_no_packages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("sklearn.datasets", "matplotlib.figure", "tqdm"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit, match="0"):
        command.main(["--help"])
    assert "--optimizer {adam,adamw,sgd,rmsprop,adagrad,all}" in capsys.readouterr().out


# --- the demo of the installed package ---


def test_the_installed_demo_shows_each_optimizer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "EPOCHS", 5)
    demo.main()
    out, err = capsys.readouterr()
    assert out.startswith(f"cyoptim {cyoptim.__version__}\n")
    rows = re.findall(r"^(\w+) +(\S+)% +(\S+) us$", out, re.MULTILINE)
    assert [name for name, *_ in rows] == ["SGD", "Adam", "AdamW", "RMSprop"]
    for _, accuracy, microseconds in rows:
        assert 80 < float(accuracy) <= 100
        assert float(microseconds) > 0
    assert err == ""


def test_the_installed_demo_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SystemExit) as info:
        demo.main()
    assert str(info.value.code).startswith(
        'the demo needs scikit-learn: pip install "cyoptim[demo]" ('
    )


def test_its_gradients_are_those_of_finite_differences(rng: np.random.Generator) -> None:
    params = [rng.standard_normal(shape) for shape in ((5, 6), 6, (6, 4), 4)]
    x, labels = rng.standard_normal((7, 5)), rng.integers(4, size=7)

    def loss() -> float:
        logits = demo.forward(params, x)[1]
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return -float(log_p[np.arange(7), labels].mean())

    for param, gradient in zip(params, demo.gradients(params, x, labels), strict=True):
        for index in np.ndindex(param.shape):
            value, losses = param[index], []
            for shifted in (value + 1e-6, value - 1e-6):
                param[index] = shifted
                losses.append(loss())
            param[index] = value
            slope = (losses[0] - losses[1]) / 2e-6
            np.testing.assert_allclose(gradient[index], slope, rtol=1e-6, atol=1e-9)
