"""One warm process for the folder, and small samples."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

SERVER = Path(__file__).resolve().parents[1] / "helpers" / "fork_server.py"
KILLED = -9


@pytest.fixture(scope="session")
def attempt(tmp_path_factory) -> Callable[..., SimpleNamespace]:
    """`attempt(job, *arguments, folder=..., moment=None)`: a job of `kill_jobs` in a fork, perhaps killed.

    Gives `killed` and `touches`, see `fork_server`. A job that fails by itself fails the test with what it said.
    """
    log = tmp_path_factory.mktemp("forks") / "log.txt"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    server = subprocess.Popen(
        [sys.executable, SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )

    def run(job: str, *arguments: object, folder: Path, moment: tuple | None = None):
        log.write_text("")
        request = {
            "job": job,
            "arguments": [str(a) for a in arguments],
            "folder": str(folder),
            "log": str(log),
        }
        server.stdin.write(json.dumps(request | {"moment": moment}) + "\n")
        server.stdin.flush()
        answer = json.loads(server.stdout.readline())
        killed = moment is not None and answer["status"] == KILLED
        assert killed or answer["status"] == 0, f"{answer}\n{log.read_text()}"
        return SimpleNamespace(killed=killed, touches=answer["touches"], said=log.read_text())

    yield run
    server.stdin.close()
    server.wait(30)


@pytest.fixture(scope="session")
def samples(attempt, tmp_path_factory) -> Path:
    """A folder with a small sample of every task, by its name."""
    folder = tmp_path_factory.mktemp("samples")
    attempt("samples", folder, folder=folder)
    return folder
