"""One local Hub for the whole session, and the fixtures that every test file shares.

The environment is set here, before anything imports a Hugging Face library: these read it once, at import.
Every request for the Hub goes to a `LocalHub` in this process, so a public name ("timm/...") is a quick 404
instead of a wait; every other address meets that same server as its proxy and gets a 403. Child processes
inherit both. Under pytest-xdist each worker has its own server and its own cache.
"""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
for folder in (str(TESTS), str(ROOT)):
    if folder not in sys.path:
        sys.path.insert(0, folder)

from helpers.local_hub import LocalHub  # noqa: E402

if "huggingface_hub" in sys.modules:
    raise RuntimeError(
        "a pytest plugin imported huggingface_hub before tests/conftest.py could set HF_ENDPOINT"
    )

_HUB = LocalHub()
_HF_HOME = tempfile.TemporaryDirectory(prefix="geohf-hf-", ignore_cleanup_errors=True)


def _set_environment() -> None:
    foreign = ("HF_", "HUGGINGFACE_", "HUGGING_FACE_", "TRANSFORMERS_")
    for name in [name for name in os.environ if name.startswith(foreign)]:
        del os.environ[name]
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        os.environ[name] = os.environ[name.upper()] = _HUB.url
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost"
    python_path = [str(ROOT), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ.update(
        HF_ENDPOINT=_HUB.url,
        HF_TOKEN=_HUB.token,
        HF_HOME=_HF_HOME.name,
        HF_HUB_DISABLE_XET="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_UPDATE_DOWNLOAD_COUNTS="0",
        TORCH_HOME=str(Path(_HF_HOME.name) / "torch"),
        MPLBACKEND="Agg",
        TOKENIZERS_PARALLELISM="false",
        PYTHONPATH=os.pathsep.join(python_path),
    )
    if "PYTEST_XDIST_WORKER" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers share the cores


_set_environment()


def pytest_addoption(parser):
    parser.addoption(
        "--misaligned",
        action="store_true",
        help="every safetensors file that is written maps its tensors to addresses that are no multiple of 64 bytes",
    )


def pytest_configure(config):
    if config.getoption("--misaligned"):
        from helpers.misaligned.sitecustomize import install

        install()
        children = [str(TESTS / "helpers" / "misaligned"), os.environ["PYTHONPATH"]]
        os.environ["PYTHONPATH"] = os.pathsep.join(children)


# one profile for every property of the suite: the same examples at every run, and no limit that a busy machine breaks
settings.register_profile("geohf", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("geohf")


def _clear_hf_caches() -> None:
    for name in ("hub", "datasets"):
        shutil.rmtree(Path(_HF_HOME.name) / name, ignore_errors=True)
    if "huggingface_hub" in sys.modules:
        from huggingface_hub import HfFileSystem

        HfFileSystem.clear_instance_cache()  # it remembers which repositories exist, and their listings
    if "geohf.data.shards" in sys.modules:
        sys.modules["geohf.data.shards"]._hub_stream.cache_clear()


@pytest.fixture(scope="session", autouse=True)
def _threads_are_told() -> None:
    """MKL may take fewer threads, and so sum in another order, until somebody sets their number: from the start, then."""
    import torch

    torch.set_num_threads(torch.get_num_threads())


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    """The Hub that HF_ENDPOINT names, without repositories, faults or log, and with empty client caches."""
    _HUB.reset()
    _clear_hf_caches()
    yield _HUB
    _HUB.reset()


@pytest.fixture
def run_python() -> Callable[..., str | subprocess.CompletedProcess[str]]:
    """`run_python(code, *args, cwd=None, check=True, timeout=300, env=None)`: a fresh Python process.

    It sees this session's environment (and `env` on top), so the same Hub and the same cache, and `geohf`
    from this checkout. Returns what it printed; a nonzero exit fails the test with its stderr. With
    `check=False` returns the `CompletedProcess` whatever the exit status.
    """

    def run(code: str, *args: object, cwd=None, check=True, timeout=300, env=None):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), *map(str, args)],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if not check:
            return done
        if done.returncode:
            pytest.fail(f"python exited with {done.returncode}\n{done.stdout}\n{done.stderr}", pytrace=False)
        return done.stdout

    return run


@pytest.fixture
def recipe(monkeypatch, capsys) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`recipe(name, *words)`: recipes/NAME.py with a command line, in this process: starting one takes seconds.

    Returns what a process would have left: exit status, standard output and standard error.
    """

    def run(name: str, *words: object):
        arguments = [str(ROOT / "recipes" / f"{name}.py"), *map(str, words)]
        monkeypatch.setattr(sys, "argv", arguments)
        capsys.readouterr()
        status = 0
        try:
            runpy.run_path(arguments[0], run_name="__main__")
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        written = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, status, written.out, written.err)

    return run


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """`shared_data(name)`: the folder or file of real data of that name beside the checkout, or a skip."""

    def find(name: str) -> Path:
        path = ROOT.parent / "shared" / "data" / name
        if not path.exists():
            pytest.skip(f"no real data '{name}' beside this checkout (../shared/data/{name})")
        return path

    return find
