"""A hub in this process: huggingface_hub's requests to create and fill repositories."""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import huggingface_hub
import pytest

TOKEN = "hf_of_a_test"
OID = "0" * 40


class Hub:
    """The state of the hub.

    Attributes:
      repositories: {USER/REPO: {"private": bool, "files": {path: content}}}.
      role: of the token, write or read.
      broken: a regular expression of the paths that are answered by error 500.
      requests: METHOD PATH of all requests, in order.
      uploaded: bytes of large files that were sent.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Any]] = {}
        self.objects: dict[str, bytes] = {}
        self.role = "write"
        self.broken = "(?!)"
        self.requests: list[str] = []
        self.uploaded = 0
        self.commits = 0

    def answer(self, method: str, path: str, body: bytes, address: str) -> tuple[int, Any]:
        """Return the status and the JSON of a request."""
        if re.search(self.broken, path):
            return 500, {"error": "broken"}
        if path == "/api/whoami-v2":
            return 200, {"name": "user", "auth": {"accessToken": {"role": self.role}}}
        if path == "/api/validate-yaml":
            return self._validate(json.loads(body)["content"])
        if path == "/api/repos/create":
            return self._create(json.loads(body), address)
        if match := re.fullmatch(r"/upload/(\w+)", path):
            self.objects[match[1]] = body
            self.uploaded += len(body)
            return 200, {}
        if match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            return 200, {"objects": [self._stored(item, address) for item in _objects(body)]}
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)((?:/\w+)*)", path)
        if match is None or match[1] not in self.repositories:
            return 404, {"error": "Repository not found"}
        return self._of_repository(match[1], match[2], body, address)

    def _validate(self, content: str) -> tuple[int, Any]:
        """Refuse a card whose base is a path, as the hub does."""
        if re.search(r"^base_model: [./~]", content, re.M):
            return 400, {"errors": [{"message": '"base_model" is not a model id'}], "warnings": []}
        return 200, {"errors": [], "warnings": []}

    def _create(self, options: dict[str, Any], address: str) -> tuple[int, Any]:
        name = f"{options.get('organization') or 'user'}/{options['name']}"
        url = {"url": f"{address}/{name}"}
        if name in self.repositories:
            return 409, url
        private = options.get("private", options.get("visibility") == "private")
        self.repositories[name] = {"private": private, "files": {}}
        return 200, url

    def _stored(self, item: dict[str, Any], address: str) -> dict[str, Any]:
        if item["oid"] in self.objects:
            return item
        return item | {"actions": {"upload": {"href": f"{address}/upload/{item['oid']}"}}}

    def _of_repository(self, name: str, what: str, body: bytes, address: str) -> tuple[int, Any]:
        repository = self.repositories[name]
        if what.startswith("/preupload"):
            paths = [file["path"] for file in json.loads(body)["files"]]
            return 200, {"files": [self._mode(repository, path) for path in paths]}
        if what.startswith("/commit"):
            for line in body.decode().splitlines():
                self._commit(repository, **json.loads(line))
            self.commits += 1
            return 200, {"commitUrl": f"{address}/{name}/commit/{OID}", "commitOid": OID}
        files = [{"rfilename": path} for path in repository["files"]]
        return 200, {"id": name, "private": repository["private"], "sha": OID, "siblings": files}

    def _mode(self, repository: dict[str, Any], path: str) -> dict[str, Any]:
        large = path.endswith(".safetensors")
        mode = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        if path in repository["files"]:
            content = repository["files"][path]
            header = f"blob {len(content)}\0".encode()
            of_git = hashlib.sha1(header + content).hexdigest()
            mode["oid"] = hashlib.sha256(content).hexdigest() if large else of_git
        return mode

    def _commit(self, repository: dict[str, Any], key: str, value: dict[str, Any]) -> None:
        if key == "file":
            repository["files"][value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            repository["files"][value["path"]] = self.objects[value["oid"]]


def _objects(body: bytes) -> list[dict[str, Any]]:
    return [{"oid": item["oid"], "size": item["size"]} for item in json.loads(body)["objects"]]


@contextlib.contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serve a hub, to which huggingface_hub of this process sends its requests."""
    hub = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            hub.requests.append(f"{self.command} {self.path}")
            status, values = hub.answer(self.command, self.path, body, address)
            content = json.dumps(values).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = _serve

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    # The client keeps its decision on the network in the session.
    huggingface_hub.close_session()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        huggingface_hub.close_session()
