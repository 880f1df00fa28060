"""A warm process that forks a child for every attempt and kills it: starting Python with torch takes seconds.

It reads one JSON request a line and answers with one JSON line each:

    {"job": name of a function of kill_jobs, "arguments": [...], "folder": watched, "log": file,
     "moment": [part, number, milliseconds] or null}

The moment is the number-th touch of a part of the watched folder. A part is the folder of a training phase below
`checkpoints`, or "" for all the rest. With 0 milliseconds the child is killed right there, before the file is
touched; with more it goes on that long, and is killed wherever it is by then, be it in the middle of a write.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections import Counter

TOUCHES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir")


class Touches:
    """An audit hook that counts the touches of a folder by part, and brings about the end at one of them."""

    def __init__(self, folder: str, moment: list | None, pipe: int):
        self.folder, self.pipe, self.counts = os.path.join(folder, ""), pipe, Counter()
        self.part, self.number, self.delay = moment or (None, 0, 0)

    def __call__(self, event, arguments):
        if event not in TOUCHES or not isinstance(arguments[0], str):
            return
        if not arguments[0].startswith(self.folder):
            return
        inside = arguments[0][len(self.folder) :].split("/")
        part = inside[inside.index("checkpoints") + 1] if "checkpoints" in inside[:-1] else ""
        self.counts[part] += 1
        if (part, self.counts[part]) == (self.part, self.number):
            if not self.delay:
                os.kill(os.getpid(), signal.SIGKILL)
            os.write(self.pipe, b"now")


def child(request: dict, pipe: int) -> None:
    """Run the job to its end, unless it is killed; the pipe gets the counts."""
    from tqdm import tqdm

    from helpers import kill_jobs

    tqdm.set_lock(threading.RLock())  # forks share tqdm's, and a killed one that holds it stops all others
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    status = 1
    try:
        touches = Touches(request["folder"], request["moment"], pipe)
        job = getattr(kill_jobs, request["job"])
        sys.addaudithook(touches)
        job(*request["arguments"])
        os.write(pipe, json.dumps(touches.counts).encode())
        status = 0
    except SystemExit as stop:
        status = stop.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def attempt(request: dict) -> dict:
    """Fork, wait or kill: how it ended, and how often each part was touched where it came to its end."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        child(request, writing)
    os.close(writing)
    told = b""
    if select.select([reading], [], [], 300)[0]:
        told = os.read(reading, 65536)
        if told.startswith(b"now"):
            time.sleep(request["moment"][2] / 1000)
            os.kill(pid, signal.SIGKILL)
            told = b""
    else:
        os.kill(pid, signal.SIGTERM)
    status = os.waitpid(pid, 0)[1]
    os.close(reading)
    return {"status": os.waitstatus_to_exitcode(status), "touches": json.loads(told or b"{}")}


def main() -> None:
    import torch

    torch.set_num_threads(1)
    from helpers import kill_jobs

    kill_jobs.warm_up()
    gc.freeze()  # collections within a child then pass over what the imports brought
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what an import or a child prints is no answer
    for line in sys.stdin:
        answers.write(json.dumps(attempt(json.loads(line))) + "\n")
        answers.flush()
    os._exit(0)  # without the farewells of the libraries


if __name__ == "__main__":
    main()
