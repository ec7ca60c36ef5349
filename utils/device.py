"""Where computation runs, how it is seeded and, on a CPU, how memory is kept."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import resource
from pathlib import Path

import torch

from utils.errors import ConfigError
from utils.machine import local_processes

# Parameters of glibc's mallopt (malloc.h).
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def choose_device(name: str = "auto") -> torch.device:
    """The device called ``name``; ``auto`` takes this process's GPU if there is one.

    Raises:
        ConfigError: no such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ConfigError(f"unknown device {name!r}, expected auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available():
        raise ConfigError(f"device {name!r} was asked for and PyTorch sees no GPU here; use cpu")
    index = int(os.environ.get("LOCAL_RANK", "0")) if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise ConfigError(f"no GPU number {index}: PyTorch sees {torch.cuda.device_count()} here")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def prepare_process(device: torch.device, threads: int = 0) -> None:
    """Settings of a whole training or test process.

    On a CPU, operations become bit-for-bit repeatable and freed memory stays in the process: glibc
    returns large blocks to the system after each step, and faulting them in again costs more than
    the arithmetic of the step.
    """
    if threads:
        torch.set_num_threads(threads)
    if device.type == "cpu":
        # as torch.use_deterministic_algorithms, which imports a compiler first
        torch.set_deterministic_debug_mode("warn")
        # that alone would fill every new tensor with NaN first, a third of the time of a step; it
        # guards code that reads memory before writing it, and nothing here does
        torch.utils.deterministic.fill_uninitialized_memory = False
        keep_freed_memory()
    else:
        torch.set_float32_matmul_precision("high")
        # makes the context, a second or two: the share of the device, not of data, in the start
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)  # of another training in this process


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16 products; without them, they are emulated,
    which takes longer than float32. A CPU that is not asked about (no x86 under Linux) has none."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text() if cpuinfo.is_file() else ""
    return re.search(r"\b(avx512_bf16|amx_bf16)\b", flags) is not None


def keep_freed_memory() -> None:
    """Tell glibc to serve large blocks from the heap and never to trim it; elsewhere, nothing."""
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL("libc.so.6")
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, -1)


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still take on the device; on a CPU, its share of what is there.

    On a system that does not tell, half of the installed memory counts as free.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", meminfo.read_text(), re.MULTILINE)
        free = int(found[1]) * 1024
    else:
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    # a container may have less than its machine
    limit, used = (Path(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free // local_processes()


def peak_memory(device: torch.device) -> float:
    """The most that this process has held so far, in MiB: of tensors on a GPU, of everything on a
    CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if platform.system() == "Darwin" else 2**10  # bytes of what the system counts in
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def seed_everything(*keys: int) -> None:
    """Seed PyTorch's generators from integers such as (seed, epoch, rank).

    Called at the start of every epoch, so that a resumed run draws what an undisturbed one would.
    """
    mixed = 0
    for key in keys:
        mixed = (mixed * 1_000_003 + key + 1) % (2**63 - 1)
    torch.manual_seed(mixed)


def describe(device: torch.device) -> str:
    """A few words for the results table, such as ``cuda: NVIDIA H200`` or ``cpu, 2 threads``."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"cpu, {torch.get_num_threads()} threads"
