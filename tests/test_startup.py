"""The clock of a start, and imports that wait until somebody asks for them."""

import sys
import time

import pytest
from conftest import run_program

from utils import startup


@pytest.fixture
def clock(monkeypatch):
    """Seconds that are set by hand; the module starts anew in it, and goes on as it was after."""
    for name in ("_last", "_told", "_logged"):
        monkeypatch.setattr(startup, name, getattr(startup, name))
    monkeypatch.setattr(startup, "_spent", {})
    now = [100.0]
    monkeypatch.setattr(startup.time, "perf_counter", lambda: now[0])
    startup.begin_anew()
    return now


def test_what_a_start_consists_of_is_told_and_logged_once(clock):
    for what, seconds in {"imports": 2.0, "data": 0.25, "network": 0.5}.items():
        clock[0] += seconds
        startup.mark(what)
    clock[0] += 0.25
    startup.mark("data")
    assert startup.for_the_log() == {}
    assert startup.tell() == "3.0 s: imports 2.0, data 0.5, network 0.5" and startup.told()
    clock[0] += 100
    startup.mark("data")  # of another training in this process
    assert startup.for_the_log() == {"startup": {"imports": 2.0, "data": 0.5, "network": 0.5}}
    assert startup.for_the_log() == {}
    startup.begin_anew()
    clock[0] += 1.5
    startup.mark("imports")
    assert startup.tell() == "1.5 s: imports 1.5"


def test_the_clock_starts_with_the_process():
    begin = time.monotonic()
    wait = "import time; time.sleep(1.5); import utils.startup as s; s.mark('imports')"
    done = run_program("-S", "-c", f"{wait}; print(s._spent['imports'])")
    found = 1.5 if sys.platform == "linux" else 0.0
    assert found <= float(done.stdout) + 0.02 <= time.monotonic() - begin + 0.04


@pytest.mark.slow
def test_the_compiler_comes_when_it_is_asked_for():
    """Beside torchvision, which was imported without it, and while torchvision is imported."""
    both = (
        "import sys, torch, torchvision",
        "function = torchvision.ops.roi_align.__globals__['is_compile_supported']",
        "print('torch._dynamo' in sys.modules, function('cpu'), 'torch._dynamo' in sys.modules)",
    )
    during = (
        "import sys; from models.images.backbones import _Later",
        "later = _Later('torch._dynamo.utils'); sys.modules[later.__name__] = later",
        "import torch._dynamo",
        "real = sys.modules[later.__name__]",
        "print(real is later, later.counters is real.counters)",
    )
    double = "print(torch.compile(lambda x: x * 2, backend='eager')(torch.ones(1)).item())"
    first = "from models.images.backbones import torchvision_models; torchvision_models()"
    done = run_program("-c", "\n".join([first, *both, double]))
    assert done.stdout.split() == ["False", "True", "True", "2.0"], done.stderr
    done = run_program("-c", "\n".join([*during, double]))
    assert done.stdout.split() == ["False", "True", "2.0"], done.stderr
