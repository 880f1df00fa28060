"""What processes of tests/tiles/test_cache.py do.

They come from a server without threads, and have a lock of their own for bars: tqdm's is shared by forks, and one
that is killed while it draws keeps it, so that all the others wait for ever.
"""

from __future__ import annotations

import multiprocessing
import resource
import threading
import time

from filelock import FileLock
from tqdm import tqdm

from geohf import DataError
from geohf.tiles.cutting import build_cache

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])


def build(table, folder):
    tqdm.set_lock(threading.RLock())
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
