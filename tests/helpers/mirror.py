"""A small hub on this machine: what huggingface_hub asks for, answered by a real HTTP server."""

import base64
import contextlib
import hashlib
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.utils as hub_utils
from huggingface_hub import constants


class Mirror:
    """Repositories as ``{"owner/name": {revision: {filename: bytes}}}``, served at `url`.

    `status` answers everything with one status; `hang` answers nothing until the server ends.
    Who has a token of `writers`, ``{token: owner}``, may write to the repositories of that owner;
    `private` has the names of those that were made private.
    """

    def __init__(self, repositories=None, *, status=None, hang=False, writers=None):
        self.repositories = repositories or {}
        self.status, self.hang, self.writers = status, hang, writers or {}
        self.private, self.messages, self._large = set(), [], {}
        self.asked = []
        self.over = threading.Event()
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                mirror.answer(self, body=False)

            def do_GET(self):
                mirror.answer(self, body=True)

            def do_POST(self):
                mirror.answer(self, body=True)

            def do_PUT(self):
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
        if request.command in ("POST", "PUT"):
            status, headers, content = self.write(request)
        else:
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

    def write(self, request):
        """Take what huggingface_hub sends: a new repository, large files, a commit."""
        sent = b"".join(_sent(request))
        path = request.path.partition("?")[0]
        if self.status is not None:
            return self.status, {}, b""
        if request.command == "PUT":  # where an answer below pointed to
            self._large[path.rpartition("/")[2]] = sent
            return 200, {}, b""
        owner = self.writers.get(request.headers.get("Authorization", "").removeprefix("Bearer "))
        if owner is None:
            return 401, {}, b""
        if path == "/api/validate-yaml":
            return _json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(owner, json.loads(sent))
        owned = path.removeprefix("/api/models").partition(".git/")[0]
        name = "/".join(owned.split("/")[1:3])
        if name.partition("/")[0] != owner:
            return 403, {}, b""
        if "/preupload/" in path:
            modes = [
                {"path": file["path"], "uploadMode": self.mode(file), "shouldIgnore": False}
                for file in json.loads(sent)["files"]
            ]
            return _json({"files": modes})
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**file, "actions": {"upload": {"href": f"{self.url}/large/{file['oid']}"}}}
                for file in json.loads(sent)["objects"]
            ]
            return _json({"transfer": "basic", "objects": objects})
        return self._commit(name, [json.loads(line) for line in sent.splitlines()])

    @staticmethod
    def mode(file):
        return "lfs" if file["path"].endswith(".safetensors") else "regular"

    def _create(self, owner, asked):
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != owner:
            return 403, {}, b""
        known = name in self.repositories
        self.repositories.setdefault(name, {"main": {}})
        if not known and (asked.get("private") or asked.get("visibility") == "private"):
            self.private.add(name)
        return _json({"url": f"{self.url}/{name}"}, 409 if known else 200)

    def _commit(self, name, entries):
        files = self.repositories[name]["main"]
        for entry in entries:
            value = entry["value"]
            if entry["key"] == "header":
                self.messages.append(value["summary"])
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self._large.pop(value["oid"])
        commit = commit_of(name, "main")
        return _json({"commitUrl": f"{self.url}/{name}/commit/{commit}", "commitOid": commit})


def _sent(request):
    """The body of a request, as a whole or in the chunks that it came in."""
    if request.headers.get("Transfer-Encoding") != "chunked":
        yield request.rfile.read(int(request.headers["Content-Length"]))
        return
    while size := int(request.rfile.readline(), 16):
        yield request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()


def _json(content, status=200):
    return status, {"Content-Type": "application/json"}, json.dumps(content).encode()


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
