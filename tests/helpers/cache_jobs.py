"""What processes of tests/tiles/test_cache.py do. They come from a server that never had a thread.

A fork of this test process may never return from it: what another thread of it holds stays held in the child.
"""

from __future__ import annotations

import multiprocessing
import resource
import time

from filelock import FileLock

from geohf import DataError
from geohf.tiles.cutting import build_cache

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])


def build(table, folder):
    build_cache(table, folder, 1)


def hold(lock, ready):
    with FileLock(lock):
        ready.set()
        time.sleep(60)


def build_on_a_full_disk(table, folder, queue):
    # the system refuses the file for its size, on the same way as for want of space
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    try:
        build_cache(table, folder, 1)
    except DataError as error:
        queue.put(str(error))
