"""A Hugging Face Hub in memory on 127.0.0.1, for tests: models and data sets, commits, revisions, LFS, faults.

It speaks the routes that huggingface_hub 2.4, transformers, peft and datasets use, standard library only.
Every commit has its own sha and keeps its files, so older revisions stay loadable. It is the clients' proxy
as well, and refuses every other address. Not served: pull requests, spaces that run, Xet, redirects to a CDN.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from helpers.local_hub_routes import Request, dispatch
from helpers.local_hub_store import LFS_SUFFIXES, Answer, Blob, HubError, Repo


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
