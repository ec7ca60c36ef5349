"""What workers do in tests in which they die: other processes import it, so it imports little."""

import os
import signal
import time
from pathlib import Path

import numpy as np

from data.prepare.workers import work_on, write_record


def slowly(shape, settings, path):
    time.sleep(0.05)  # so that there is a middle to be killed in
    work_on(shape, settings, path)


def die_at_chairs(shape, settings, path):
    if shape.class_name == "chair":
        os.kill(os.getpid(), signal.SIGKILL)
    write_record(path, {"count": np.array(1)})


def die(shape, settings, path):
    os._exit(1)


def die_at_first(shape, settings, path):
    mark = Path(path).parent.parent / "died"
    if not mark.exists():
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        os._exit(1)
    write_record(path, {"count": np.array(1)})
