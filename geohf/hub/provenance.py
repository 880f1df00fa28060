"""What a card says of how a run was started: its command without secrets and private paths, and the versions."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
PACKAGES = ("transformers", "datasets", "accelerate", "torch", "torchvision", "timm")

_SECRET = re.compile(r"--(.*[-_])?(token|secret|password|key)")
_TOKEN = re.compile(r"\bhf_\w{8,}")
_ACCESS = re.compile(r"(?<=://)[^/@\s]+@|(?<=\w)\?[^/\s]*=\S*")  # an address's login, and its signature


def shell_command() -> str:
    """The command line of this process, quoted for a shell; empty where it is none of the recipes.

    Flags with secrets are left out, and logins and signatures of addresses. Absolute paths, which name a machine's folders and often a person, become
    relative ones where they lie below the working folder, and `path/to/NAME` elsewhere.
    """
    script = Path(sys.argv[0]).absolute()
    if script.parent.name != "recipes":
        return ""
    processes = os.environ.get("WORLD_SIZE", "1")
    launch = [] if processes == "1" else ["--num_processes", processes]
    if script.parent == PACKAGE / "recipes":  # a module, which the command `geohf` launched
        started = ["geohf", "train", *launch, script.stem.removeprefix("train_")]
    else:
        started = ["accelerate", "launch", *launch, f"recipes/{script.name}"]
    return shlex.join([*started, *_shown(sys.argv[1:])])


def _shown(words: list[str]) -> list[str]:
    shown, left = [], iter(words)
    for word in left:
        flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        if _SECRET.fullmatch(flag):
            if not equals:
                next(left, None)
        else:
            shown.append(flag + equals + without_access(_portable(value)))
    return shown


def without_access(words: str) -> str:
    """Words without what gives access to a place: tokens of the Hub, logins and signatures of addresses.

    >>> without_access("https://anna:secret@host/a.csv?X-Amz-Signature=abc")
    'https://host/a.csv'
    """
    return _ACCESS.sub("", _TOKEN.sub("hf_...", words))


def _portable(word: str) -> str:
    path = Path(word)
    if not path.is_absolute():
        return word
    here = Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else f"path/to/{path.name}"


def versions() -> dict[str, str]:
    """Package -> installed version, geohf's with its commit, and Python's."""
    installed = {name: version for name in PACKAGES if (version := version_of(name)) is not None}
    own = f"{version_of('geohf') or 'not installed'} ({_commit(PACKAGE.parent) or 'not from a git checkout'})"
    return {"python": ".".join(map(str, sys.version_info[:3])), "geohf": own, **installed}


def version_of(package: str) -> str | None:
    """The installed version; None where the package is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit(folder: Path) -> str | None:
    """The commit of the checkout at `folder`, and whether its files differ from it; None where it is none."""
    if not (folder / ".git").exists():  # an environment below somebody's own checkout is not ours
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return f"git {done.stdout.strip().replace('-dirty', ' with changes')}"
