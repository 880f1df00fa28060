"""A Hugging Face Hub in memory on 127.0.0.1, for tests: models and data sets, commits, revisions, LFS, faults.

It speaks the routes that huggingface_hub 2.4, transformers, peft and datasets use, standard library only.
Every commit has its own sha and keeps its files, so older revisions stay loadable. It is the clients' proxy
as well, and refuses every other address. Not served: pull requests, spaces that run, Xet, redirects to a CDN.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

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


# What the Hub stores


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


# Requests and the table of routes


@dataclass
class Request:
    hub: LocalHub
    method: str
    target: str
    headers: Any
    body: bytes
    args: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """The decoded path, or the whole address where a client asks the Hub as its proxy."""
        return unquote(urlsplit(self.target).path) if self.target.startswith("/") else self.target

    @cached_property
    def payload(self) -> Json:
        """The fields of a JSON or form body."""
        if "json" in self.headers.get("Content-Type", ""):
            return json.loads(self.body or b"{}")
        return parse_qs(self.body.decode())

    @property
    def authorised(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    @cached_property
    def repo(self) -> Repo:
        kind = self.args.get("type") or self.args["web"].removesuffix("s") or "model"
        repo = self.hub.repo(self.args["id"], kind)
        if repo.private and not self.authorised:
            raise HubError(401, "Repository not found", "RepoNotFound")
        return repo

    @cached_property
    def commit(self) -> Commit:
        return self.repo.at(self.args["rev"] or "main")

    def flag(self, name: str) -> bool:
        return parse_qs(urlsplit(self.target).query).get(name, [""])[0].lower() in ("1", "true")


Handler = Callable[[Request], Answer]
ROUTES: list[tuple[str, re.Pattern[str], bool, Handler]] = []
PARTS = {
    "type": r"(?P<type>model|dataset|space)",
    "web": r"(?:(?P<web>datasets|spaces)/)?",
    "id": r"(?P<id>[^/]+(?:/[^/]+)?)",
    "rev": r"(?P<rev>[^/]+)",
    "path": r"(?P<path>.+)",
    "oid": r"(?P<oid>[0-9a-f]{64})",
}


def route(method: str, template: str, token: bool = False) -> Callable[[Handler], Handler]:
    """Registers a handler: `token` asks for the Hub's token, and a GET route answers HEAD as well."""
    pattern = re.compile(re.sub(r"\{(\w+)\}", lambda match: PARTS[match[1]], template))

    def register(handler: Handler) -> Handler:
        ROUTES.append((method, pattern, token, handler))
        return handler

    return register


def dispatch(request: Request) -> Answer:
    method, path = request.method.replace("HEAD", "GET"), urlsplit(request.target).path
    for verb, pattern, token, handler in ROUTES:
        match = pattern.fullmatch(path) if verb == method else None
        if match and token and not request.authorised:
            raise HubError(401, "Invalid username or password.")
        if match:
            request.args = {name: unquote(value or "") for name, value in match.groupdict().items()}
            return handler(request)
    raise HubError(404, f"the local hub has no route {request.method} {request.path}")


@route("GET", "/api/whoami-v2", token=True)
def whoami(request: Request) -> Answer:
    auth = {"type": "access_token", "accessToken": {"displayName": "tests", "role": "write"}}
    return Answer.json({"type": "user", "name": request.hub.user, "orgs": [{"name": "org"}], "auth": auth})


@route("POST", "/api/validate-yaml")
def validate_yaml(request: Request) -> Answer:
    return Answer.json({"errors": [], "warnings": []})


def _asked_repo(request: Request) -> tuple[str, str]:
    asked = request.payload
    return asked.get("type") or "model", f"{asked.get('organization') or request.hub.user}/{asked['name']}"


@route("POST", "/api/repos/create", token=True)
def create_repo(request: Request) -> Answer:
    kind, repo_id = key = _asked_repo(request)
    answer = {"url": f"{request.hub.url}/{WEB_PREFIX[kind]}{repo_id}", "name": repo_id}
    if key in request.hub.repos:
        return Answer.json({**answer, "error": "You already created this repo"}, 409)
    request.hub.repos[key] = Repo(kind, repo_id, private=request.payload.get("visibility") == "private")
    return Answer.json(answer)


@route("DELETE", "/api/repos/delete", token=True)
def delete_repo(request: Request) -> Answer:
    kind, repo_id = key = _asked_repo(request)
    request.hub.repo(repo_id, kind)
    del request.hub.repos[key]
    return Answer()


def _front_matter(commit: Commit) -> dict[str, str]:
    """The single-line fields of the card's YAML head, from which the Hub takes a model's library and task."""
    readme = commit.files.get("README.md", Blob(b"")).data.decode()
    head = re.match(r"---\s*\n(.*?)\n---", readme, re.DOTALL)
    return dict(re.findall(r"^(\w+):[ \t]*['\"]?([^\s'\"]+)", head[1], re.MULTILINE)) if head else {}


@route("GET", "/api/{type}s/{id}(?:/revision/{rev})?")
def info(request: Request) -> Answer:
    repo, commit = request.repo, request.commit
    card = _front_matter(commit)
    entries = [blob.entry(path) for path, blob in sorted(commit.files.items())]
    siblings = [{**entry, "rfilename": entry["path"], "blobId": entry["oid"]} for entry in entries]
    library = "transformers" if "config.json" in commit.files else None
    names = {"id": repo.id, "author": repo.id.split("/")[0], "sha": commit.sha, "lastModified": commit.date}
    access = {
        "private": repo.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
    }
    found = {"library_name": card.get("library_name", library), "pipeline_tag": card.get("pipeline_tag")}
    return Answer.json({**names, **access, **found, "siblings": siblings})


@route("GET", "/api/{type}s/{id}/refs")
def refs(request: Request) -> Answer:
    def listed(commits: dict[str, Commit], kind: str) -> list[Json]:
        return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": c.sha} for n, c in commits.items()]

    branches, tags = listed(request.repo.branches, "heads"), listed(request.repo.tags, "tags")
    return Answer.json({"branches": branches, "tags": tags, "converts": []})


@route("GET", "/api/{type}s/{id}/commits/{rev}")
def commits(request: Request) -> Answer:
    def listed(commit: Commit) -> Json:
        title = {"title": commit.title, "message": commit.message, "date": commit.date}
        return {"id": commit.sha, **title, "authors": [{"user": request.hub.user}]}

    return Answer.json([listed(commit) for commit in request.commit.history()])


@route("GET", "/api/{type}s/{id}/tree/{rev}(?:/{path})?")
def tree(request: Request) -> Answer:
    folder = request.args["path"].strip("/")
    entries = request.commit.below(folder, request.flag("recursive"))
    if folder and not entries:
        raise HubError(404, f"{folder} does not exist", "EntryNotFound", request.commit)
    return Answer.json(entries)


@route("POST", "/api/{type}s/{id}/paths-info/{rev}")
def paths_info(request: Request) -> Answer:
    known, paths = request.commit.entries, [path.strip("/") for path in request.payload.get("paths", [])]
    return Answer.json([known[path] for path in paths if path in known])


@route("POST", "/api/{type}s/{id}/branch/{rev}", token=True)
def create_branch(request: Request) -> Answer:
    start = request.repo.at(request.payload.get("startingPoint", "main"))
    return _create_ref(request.repo.branches, request.args["rev"], start)


@route("POST", "/api/{type}s/{id}/tag/{rev}", token=True)
def create_tag(request: Request) -> Answer:
    return _create_ref(request.repo.tags, request.payload["tag"], request.commit)


def _create_ref(refs: dict[str, Commit], name: str, commit: Commit) -> Answer:
    if name in refs:
        raise HubError(409, f"Reference already exists: {name}")
    refs[name] = commit
    return Answer.json({})


@route("DELETE", "/api/{type}s/{id}/(?P<kind>branch|tag)/{rev}", token=True)
def delete_ref(request: Request) -> Answer:
    refs = request.repo.branches if request.args["kind"] == "branch" else request.repo.tags
    if refs.pop(request.args["rev"], None) is None:
        raise HubError(404, f"Invalid rev id: {request.args['rev']}", "RevisionNotFound")
    return Answer()


# Uploads


@route("POST", "/api/{type}s/{id}/preupload/{rev}", token=True)
def preupload(request: Request) -> Answer:
    def plan(path: str, size: int) -> Json:
        mode = "lfs" if path.endswith(LFS_SUFFIXES) or size > LFS_BYTES else "regular"
        known = request.commit.files.get(path)
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": known and known.oid}

    return Answer.json({"files": [plan(file["path"], file["size"]) for file in request.payload["files"]]})


@route("POST", r"/{web}{id}\.git/info/lfs/objects/batch", token=True)
def lfs_batch(request: Request) -> Answer:
    def plan(oid: str, size: int) -> Json:
        upload = {"actions": {"upload": {"href": f"{request.hub.url}/lfs/{oid}"}}}
        return {"oid": oid, "size": size, **({} if oid in request.hub.lfs else upload)}

    objects = [plan(asked["oid"], asked["size"]) for asked in request.payload["objects"]]
    return Answer.json({"transfer": "basic", "objects": objects})


@route("PUT", "/lfs/{oid}")
def lfs_put(request: Request) -> Answer:
    if hashlib.sha256(request.body).hexdigest() != request.args["oid"]:
        raise HubError(400, "the content does not have the announced sha256")
    request.hub.lfs[request.args["oid"]] = request.body
    return Answer()


@route("POST", "/api/{type}s/{id}/commit/{rev}", token=True)
def commit(request: Request) -> Answer:
    repo, branch = request.repo, request.args["rev"]
    if request.flag("create_pr"):
        raise HubError(400, "the local hub has no pull requests")
    if branch not in repo.branches:
        raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
    (header, *changes), parent = map(json.loads, request.body.splitlines()), repo.branches[branch]
    summary, files = header["value"], dict(parent.files)
    if summary.get("parentCommit") not in (None, parent.sha):
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    for change in changes:
        CHANGES[change["key"]](request.hub, files, **change["value"])
    made = repo.commit(branch, files, summary["summary"], summary.get("description", ""))
    url = f"{request.hub.url}/{WEB_PREFIX[repo.type]}{repo.id}/commit/{made.sha}"
    return Answer.json({"success": True, "commitOid": made.sha, "commitUrl": url})


def _put_file(hub: LocalHub, files: dict[str, Blob], path: str, content: str, **_: Any) -> None:
    files[path] = Blob(base64.b64decode(content))


def _put_lfs_file(hub: LocalHub, files: dict[str, Blob], path: str, oid: str, **_: Any) -> None:
    if oid not in hub.lfs:
        raise HubError(400, f"LFS object {oid} of {path} was not uploaded")
    files[path] = Blob(hub.lfs[oid], lfs=True)


def _delete(hub: LocalHub, files: dict[str, Blob], path: str) -> None:
    gone = [name for name in files if name == path or name.startswith(path.rstrip("/") + "/")]
    if not gone:
        raise HubError(404, f"A file with the name {path} does not exist", "EntryNotFound")
    for name in gone:
        del files[name]


CHANGES = {"file": _put_file, "lfsFile": _put_lfs_file, "deletedFile": _delete, "deletedFolder": _delete}


# Downloads


@route("GET", "/{web}{id}/resolve/{rev}/{path}")
def resolve(request: Request) -> Answer:
    commit, path = request.commit, request.args["path"]
    if path not in commit.files:
        raise HubError(404, f"{path} does not exist on {request.args['rev']}", "EntryNotFound", commit)
    blob = commit.files[path]
    headers = {"ETag": f'"{blob.oid}"', "X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
    return _ranged(Answer(200, blob.data, headers), request.headers.get("Range"))


def _ranged(whole: Answer, asked: str | None) -> Answer:
    """The part that 'bytes=a-b', 'bytes=a-' or 'bytes=-n' asks for."""
    if not asked:
        return whole
    size = len(whole.body)
    first, last = asked.removeprefix("bytes=").split("-")
    start = int(first) if first else max(size - int(last), 0)
    stop = min(int(last) + 1, size) if first and last else size
    if start >= size:
        return Answer(416, b"", {**whole.headers, "Content-Range": f"bytes */{size}"})
    headers = {**whole.headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}
    return Answer(206, whole.body[start:stop], headers)


# The server


@dataclass
class _Fault:
    path: re.Pattern[str]
    method: str | None
    times: int
    answer: Answer | None  # instead of the real one, or
    keep: int | None  # how much of the real one is sent

    def meets(self, request: Request) -> bool:
        return (
            self.times > 0 and self.method in (None, request.method) and bool(self.path.search(request.path))
        )


class LocalHub:
    """The server and what it stores. Thread safe; runs until the process ends.

    `url` and `token` are what HF_ENDPOINT and HF_TOKEN must be. `requests` lists (method, path) as they came,
    among them ("CONNECT", "host:443") where a client used the server as its proxy.
    """

    user = "tester"
    token = "hf_test"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()
        server = _Server(("127.0.0.1", 0), _Connection)
        server.hub = self
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, name="local-hub", daemon=True).start()

    def reset(self) -> None:
        """Forgets repositories, uploads, faults and the log."""
        with self._lock:
            self.repos: dict[tuple[str, str], Repo] = {}
            self.lfs: dict[str, bytes] = {}
            self.requests: list[tuple[str, str]] = []
            self._faults: list[_Fault] = []

    def repo(self, repo_id: str, repo_type: str = "model") -> Repo:
        if (repo_type, repo_id) not in self.repos:
            raise HubError(404, f"Repository not found: {repo_type} {repo_id}", "RepoNotFound")
        return self.repos[repo_type, repo_id]

    def files(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> dict[str, bytes]:
        """The content of every file at a branch, a tag or a commit's sha."""
        commit = self.repo(repo_id, repo_type).at(revision)
        return {path: blob.data for path, blob in sorted(commit.files.items())}

    def commits(self, repo_id: str, revision: str = "main", repo_type: str = "model") -> list[str]:
        """The shas of a revision's history, newest first; the last one is the empty first commit."""
        return [commit.sha for commit in self.repo(repo_id, repo_type).at(revision).history()]

    def add(
        self, repo_id: str, files: dict[str, bytes], repo_type: str = "model", private: bool = False
    ) -> str:
        """Commits files to main without a client, in a new repository where there is none; returns the sha."""
        with self._lock:
            repo = self.repos.setdefault((repo_type, repo_id), Repo(repo_type, repo_id, private))
            blobs = {path: Blob(data, path.endswith(LFS_SUFFIXES)) for path, data in files.items()}
            return repo.commit("main", {**repo.branches["main"].files, **blobs}, "add").sha

    def fail(
        self,
        path: str,
        status: int,
        body: bytes = b"",
        times: int = 1,
        *,
        method: str | None = None,
        **headers: str,
    ) -> None:
        """Answers the next `times` requests whose path matches (`re.search`) with this instead of the truth.

        Header names are written with underscores: `hub.fail("/commit/", 429, Retry_After="0")`.
        """
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._faults.append(_Fault(re.compile(path), method, times, Answer(status, body, named), None))

    def cut(self, path: str, keep: int, times: int = 1) -> None:
        """Breaks the connection after `keep` bytes of the body in the next `times` matching downloads."""
        self._faults.append(_Fault(re.compile(path), "GET", times, None, keep))

    def answer(self, request: Request) -> Answer:
        with self._lock:
            self.requests.append((request.method, request.path))
            if not request.target.startswith("/"):
                return Answer(403, f"no network in tests: {request.target}".encode())
            fault = next((fault for fault in self._faults if fault.meets(request)), None)
            if fault:
                fault.times -= 1
            if fault and fault.answer:
                return fault.answer
            try:
                answer = dispatch(request)
            except HubError as error:
                answer = error.answer()
            except Exception as error:  # with a status that no client tries again, so that it shows at once
                answer = Answer(501, f"local hub: {type(error).__name__}: {error}".encode())
            return replace(answer, keep=fault.keep) if fault else answer


class _Server(ThreadingHTTPServer):
    hub: LocalHub
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _serve(self) -> None:
        request = Request(self.server.hub, self.command, self.path, self.headers, self._read_body())
        answer = self.server.hub.answer(request)
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: answer.keep])
        self.close_connection = self.close_connection or answer.keep is not None

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_CONNECT = _serve

    def _read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, format: str, *args: Any) -> None:
        """The log is `hub.requests`."""
