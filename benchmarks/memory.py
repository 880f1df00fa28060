"""Memory as the kernel reports it, measured in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

MIB = 2**20


def alone(function: Callable, *arguments):
    """What a function of a module returns in a fresh process, where nothing else has taken memory."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def peak_added(way: Callable) -> float:
    """MiB by which a call lifts the peak of resident memory above what the process holds before it (Linux)."""
    # Forget the peak so far. Not ru_maxrss: a child starts from its parent's.
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    way()
    return (_resident("VmHWM") - before) / MIB


def _resident(field: str) -> int:
    """Bytes that the kernel counts for this process: VmRSS is now, VmHWM the peak."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field + ":"))
