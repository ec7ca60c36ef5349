"""Errors meant for the person at the keyboard, and the exit codes that go with them.

Every entry point runs its ``main`` through :func:`run_main`: an error of this module becomes one
line on standard error and the documented exit code. Anything else is a defect of ours and keeps
its traceback.

Exit codes: 0 done, 1 failed run, 2 bad usage or configuration, 3 missing or unreadable data or
checkpoint.
"""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(Exception):
    """Says what was found, what was expected, what to do; the program ends with ``exit_code``."""

    exit_code = 1


class RunError(UserError):
    """A run that started well and could not go on (a non-finite loss, a full disk)."""

    exit_code = 1


class ConfigError(UserError):
    """A wrong option, key, type or value: nothing was started."""

    exit_code = 2


class DataError(UserError):
    """A data set, mesh, cloud, bank or checkpoint that is missing, damaged or does not fit."""

    exit_code = 3


def run_main(main: Callable[[], int | None]) -> None:
    """Run ``main`` and leave the process with its exit code, errors of ours as one line."""
    try:
        code = main()
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        code = 1
    sys.exit(code or 0)
