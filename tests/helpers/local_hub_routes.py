"""The routes of the local Hub: which request is answered by what."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from helpers.local_hub_store import (
    LFS_BYTES,
    LFS_SUFFIXES,
    WEB_PREFIX,
    Answer,
    Blob,
    Commit,
    HubError,
    Json,
    Repo,
)

if TYPE_CHECKING:
    from helpers.local_hub import LocalHub


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
