"""A stand-in for the Hugging Face hub: the part of its API that downloads use, on loop-back.

It can break off answers midway, to see whether a download goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the stand-in holds and what it was asked.

    files: repository -> name -> content.  gated: repositories that ask for terms first.
    is_corrupt: whether files arrive with a changed byte.
    cuts: after how many bytes of a file's body to break off the next answers.
    """

    url: str
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    cuts: list[int] = field(default_factory=list)
    is_corrupt: bool = False
    ranges: list[str] = field(default_factory=list)
    revisions: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)

    def large_file(self, content: bytes) -> dict[str, object]:
        """What the hub says more of files above a size: their hash."""
        if len(content) < 1000:
            return {}
        about = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        return {"lfs": about | {"pointerSize": 130}}


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """A hub on a free port of this machine, until the end of the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            path = self.path.split("?")[0]
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
                self._about(found[1], found[2])
            elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                self._file(found[1], found[2], found[3], with_body)
            else:
                self._error(404, "EntryNotFound")

        def _about(self, repo: str, revision: str) -> None:
            hub.revisions.append(revision)
            if repo not in hub.files:
                return self._error(404, "RepoNotFound")
            if revision not in ("main", COMMIT):
                return self._error(404, "RevisionNotFound")
            siblings = [
                {"rfilename": name, "size": len(content)} | hub.large_file(content)
                for name, content in hub.files[repo].items()
            ]
            body = json.dumps({"id": repo, "sha": COMMIT, "siblings": siblings}).encode()
            return self._send(200, body, {"Content-Type": "application/json"})

        def _file(self, repo: str, revision: str, name: str, with_body: bool) -> None:
            if repo in hub.gated:
                return self._error(403, "GatedRepo")
            content = hub.files.get(repo, {}).get(name)
            if content is None or revision != COMMIT:
                return self._error(404, "EntryNotFound")
            if hub.is_corrupt:
                content = b"X" + content[1:]
            status, start = 200, 0
            headers = {
                "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Repo-Commit": COMMIT,
                "Accept-Ranges": "bytes",
            }
            asked = self.headers.get("Range")
            if asked and with_body:
                hub.ranges.append(asked)
                start = int(asked.removeprefix("bytes=").split("-")[0])
                status = 206
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            if with_body:
                hub.fetched.append(name)
            return self._send(status, content[start:], headers, with_body)

        def _error(self, status: int, code: str) -> None:
            self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

        def _send(
            self, status: int, body: bytes, headers: dict[str, str], with_body: bool = True
        ) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if not with_body:
                return
            if hub.cuts and "ETag" in headers:
                self.wfile.write(body[: hub.cuts.pop(0)])
                self.wfile.flush()
                self.close_connection = True
                return
            self.wfile.write(body)

    server.RequestHandlerClass = Handler
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
