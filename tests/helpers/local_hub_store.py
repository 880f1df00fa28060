"""What the local Hub stores: repositories, commits and files; and what it answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

LFS_SUFFIXES = (".parquet", ".safetensors")  # a new repository's .gitattributes names these, among others
LFS_BYTES = 5_000_000  # and every larger file
WEB_PREFIX = {"model": "", "dataset": "datasets/", "space": "spaces/"}
Json = dict[str, Any]


@dataclass
class Answer:
    """An HTTP answer; `keep` bytes of the body are sent before the connection breaks, all where None."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    keep: int | None = None

    @classmethod
    def json(cls, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
        kind = {"Content-Type": "application/json"}
        return cls(status, json.dumps(value).encode(), {**kind, **(headers or {})})


class HubError(Exception):
    """What the Hub refuses: an answer with X-Error-Code, which clients turn into their own errors."""

    def __init__(self, status: int, message: str, code: str = "", commit: Commit | None = None):
        super().__init__(message)
        self.status, self.headers = status, {"X-Error-Code": code, "X-Error-Message": message}
        if commit:
            self.headers["X-Repo-Commit"] = commit.sha

    def answer(self) -> Answer:
        return Answer.json({"error": str(self)}, self.status, self.headers)


@dataclass(frozen=True)
class Blob:
    data: bytes
    lfs: bool = False

    @cached_property
    def git_oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    @cached_property
    def oid(self) -> str:
        """The hash that a client compares with its own copy, and the ETag of a download."""
        return hashlib.sha256(self.data).hexdigest() if self.lfs else self.git_oid

    def entry(self, path: str) -> Json:
        size = len(self.data)
        pointer = {"oid": self.oid, "sha256": self.oid, "size": size, "pointerSize": 130}
        entry = {"type": "file", "path": path, "oid": self.git_oid, "size": size}
        return {**entry, "lfs": pointer} if self.lfs else entry


@dataclass(frozen=True)
class Commit:
    sha: str
    parent: Commit | None
    title: str
    message: str
    date: str
    files: dict[str, Blob]

    def history(self) -> Iterator[Commit]:
        commit: Commit | None = self
        while commit:
            yield commit
            commit = commit.parent

    @cached_property
    def entries(self) -> dict[str, Json]:
        """Every file and folder by its path, as the tree and paths-info routes describe them."""
        found = {path: blob.entry(path) for path, blob in self.files.items()}
        for folder in {str(parent) for path in self.files for parent in PurePosixPath(path).parents[:-1]}:
            oid = hashlib.sha1(f"{self.sha}/{folder}".encode()).hexdigest()
            found[folder] = {"type": "directory", "path": folder, "oid": oid, "size": 0}
        return dict(sorted(found.items()))

    def below(self, folder: str, recursive: bool) -> list[Json]:
        start = f"{folder}/" if folder else ""
        paths = [path for path in self.entries if path.startswith(start)]
        return [self.entries[path] for path in paths if recursive or "/" not in path.removeprefix(start)]


@dataclass
class Repo:
    type: str
    id: str
    private: bool = False
    branches: dict[str, Commit] = field(default_factory=dict)
    tags: dict[str, Commit] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit("main", {}, "initial commit")

    def at(self, revision: str) -> Commit:
        for commits in (self.branches, self.tags, self.commits):
            if revision in commits:
                return commits[revision]
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def commit(self, branch: str, files: dict[str, Blob], title: str, message: str = "") -> Commit:
        parent = self.branches.get(branch)
        content = [(path, files[path].git_oid) for path in sorted(files)]
        name = json.dumps([self.type, self.id, len(self.commits), title, content, parent and parent.sha])
        date = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        commit = Commit(hashlib.sha1(name.encode()).hexdigest(), parent, title, message, date, files)
        self.branches[branch] = self.commits[commit.sha] = commit
        return commit
