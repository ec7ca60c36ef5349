"""What a process has of its machine; without PyTorch, which preparing a set does not import."""

from __future__ import annotations

import os


def local_processes() -> int:
    """How many processes ``torchrun`` runs on this machine, 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def local_cores() -> int:
    """Cores for this process, of those that the processes of this run share on this machine."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, cores // local_processes())
