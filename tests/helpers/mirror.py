"""A small hub on this machine: what huggingface_hub asks for, answered by a real HTTP server."""

import contextlib
import hashlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.utils as hub_utils
from huggingface_hub import constants


class Mirror:
    """Repositories as ``{"owner/name": {revision: {filename: bytes}}}``, served at `url`.

    `status` answers everything with one status; `hang` answers nothing until the server ends.
    """

    def __init__(self, repositories=None, *, status=None, hang=False):
        self.repositories = repositories or {}
        self.status, self.hang = status, hang
        self.asked = []
        self.over = threading.Event()
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                mirror.answer(self, body=False)

            def do_GET(self):
                mirror.answer(self, body=True)

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, request, body):
        self.asked.append((request.command, request.path))
        if self.hang:
            self.over.wait(60)
            request.close_connection = True
            return
        status, headers, content = self.find(request.path)
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if body:
            request.wfile.write(content)

    def find(self, path):
        path = path.removeprefix("http://hub.invalid")  # as a proxy is asked
        if self.status is not None:
            return self.status, {}, b""
        name, _, rest = path.strip("/").partition("/resolve/")
        revision, _, filename = rest.partition("/")
        if name not in self.repositories:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        revisions = self.repositories[name]
        by_commit = {commit_of(name, r): r for r in revisions}
        revision = by_commit.get(revision, revision)
        if revision not in revisions:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        headers = {"X-Repo-Commit": commit_of(name, revision)}
        if filename not in revisions[revision]:
            return 404, {**headers, "X-Error-Code": "EntryNotFound"}, b""
        content = revisions[revision][filename]
        return 200, {**headers, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}, content


def commit_of(name, revision):
    return hashlib.sha1(f"{name}@{revision}".encode()).hexdigest()


def closed_port():
    """A port of this machine on which nobody listens."""
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def online(monkeypatch, endpoint, cache):
    """Let this process ask `endpoint`, and keep what it gets in `cache`; tests are offline else."""
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_ETAG_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    fresh_sessions()


def fresh_sessions():
    """Forget connections, whose proxies and offline mode were read when they were opened."""
    for name in ("close_session", "reset_sessions"):  # the name of the version that is installed
        getattr(hub_utils, name, lambda: None)()
