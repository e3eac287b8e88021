"""A good guest: the caller's floating-point mode."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest

from tests.support.guest_runs import TIMEOUT, denormals_work, go_on, gradient, run_script, started

pytestmark = pytest.mark.usefixtures("many_threads", "each_layer")


def test_floating_point_mode_of_other_python_threads() -> None:
    found: list[bool] = []

    def work() -> None:
        found.append(denormals_work())
        optimizer = started()[1]
        go_on(optimizer, 0, 2)
        found.append(denormals_work())
        bad = gradient(0)
        bad[-1] = np.nan
        with pytest.raises(FloatingPointError, match="not finite"):
            optimizer.step(grads=[bad], nonfinite="raise")
        found.append(denormals_work())
        with pytest.raises(ValueError, match="shape"):
            optimizer.step(grads=[bad[1:]])
        found.append(denormals_work())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert found == [True] * 12
    with np.errstate(all="raise"):  # no flag is left behind for NumPy to find
        go_on(started()[1], 0, 1)
        np.ones(3) / np.ones(3)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs the C library's fesetround")
def test_the_rounding_of_the_caller() -> None:
    # A step rounds to nearest in every thread, whatever the caller's mode, or that of the thread
    # whose step has started the workers; the caller finds that mode again after the step.
    code = """
        import ctypes, platform
        from tests.support.guest_runs import bits, gradient
        UP = {"x86_64": 0x800, "aarch64": 0x400000}.get(platform.machine())
        if UP is None:
            print("unknown")
            sys.exit()
        _engine.take_all_threads(True)
        libm = ctypes.CDLL("libm.so.6")
        params = [np.zeros(200_001, np.float32) for _ in range(3)]
        optimizers = [cyoptim.RMSprop([p], lr=0.125) for p in params]
        grads = [gradient(0)]
        modes = []
        for optimizer, threads, mode in zip(optimizers, (2, 1, 2), (UP, UP, 0)):
            with cyoptim.threads(threads):
                libm.fesetround(mode)
                for k in range(8):
                    optimizer.step(grads=grads)
                modes.append(libm.fegetround() == mode)
                try:
                    optimizer.step(grads=[grads[0][1:]])
                except ValueError:
                    modes.append(libm.fegetround() == mode)
                libm.fesetround(0)
        print(modes == [True] * 6, len({bits(o) for o in optimizers}))
    """
    lines = run_script(code)
    if lines == ["unknown"]:
        pytest.skip("the mode's number is not known here")
    assert lines == ["True 1"]


@pytest.mark.slow
def test_flushing_that_the_caller_has_turned_on() -> None:
    pytest.importorskip("torch")
    code = """
        import torch
        from tests.support.guest_runs import go_on, serial, started, denormals_work
        _engine.take_all_threads(True)
        assert torch.set_flush_denormal(True)
        print(denormals_work(), go_on(started()[1], 0, 4) == serial(), denormals_work())
        torch.set_flush_denormal(False)
        print(denormals_work(), go_on(started()[1], 0, 4) == serial(), denormals_work())
    """
    assert run_script(code) == ["False True False", "True True True"]
