"""A hub of one repository on this machine, over HTTP, for the hub's own client."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serving(
    files: Path,
    on_get: Callable[[str], object] = lambda name: None,
    on_range: Callable[[str, int, int], object] = lambda name, start, stop: None,
) -> Iterator[str]:
    """Serve the files of a directory as ``someone/tiny``; return the endpoint.

    Args:
        files: The repository.
        on_get: Told the name of each file whose contents are asked for, before they are sent.
        on_range: Told the name, start and end of each part of a file that is asked for.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(has_body=False)

        def do_GET(self) -> None:
            self.answer(has_body=True)

        def answer(self, *, has_body: bool) -> None:
            if self.path.startswith("/api/models/someone/tiny/tree/"):
                self.send(200, json.dumps(_tree(files)).encode(), {}, has_body=has_body)
                return
            if self.path.startswith("/api/models/someone/tiny"):
                self.send(200, json.dumps(_info(files)).encode(), {}, has_body=has_body)
                return
            name = unquote(self.path.partition(f"/resolve/{COMMIT}/")[2].partition("?")[0])
            if not name:  # of a branch
                name = unquote(self.path.partition("?")[0].partition("/resolve/")[2])
                name = name.partition("/")[2]
            path = files / name
            if not self.path.startswith("/someone/tiny/resolve/") or not path.is_file():
                self.send(404, b"", {"X-Error-Code": "EntryNotFound"}, has_body=has_body)
                return
            content = path.read_bytes()
            headers = {
                "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Repo-Commit": COMMIT,
                "Accept-Ranges": "bytes",
            }
            span = self.headers.get("Range")
            if span is None:
                if has_body:
                    on_get(path.name)
                self.send(200, content, headers, has_body=has_body)
                return
            first, _, last = span.removeprefix("bytes=").partition("-")
            part = content[int(first) : int(last) + 1 if last else None]
            end = int(first) + len(part) - 1
            headers["Content-Range"] = f"bytes {first}-{end}/{len(content)}"
            if has_body:
                on_range(name, int(first), end + 1)
            self.send(206, part, headers, has_body=has_body)

        def send(
            self, status: int, body: bytes, headers: dict[str, str], *, has_body: bool
        ) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if has_body:
                self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, name="hub")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _info(files: Path) -> dict[str, object]:
    siblings = []
    for path in _files(files):
        content = path.read_bytes()
        name = str(path.relative_to(files))
        entry: dict[str, object] = {"rfilename": name, "size": len(content)}
        if path.suffix in (".safetensors", ".gguf"):
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
        siblings.append(entry)
    return {"id": "someone/tiny", "sha": COMMIT, "siblings": siblings, "tags": []}


def _tree(files: Path) -> list[dict[str, object]]:
    return [
        {
            "type": "file",
            "path": str(path.relative_to(files)),
            "size": path.stat().st_size,
            "oid": "0" * 40,
        }
        for path in _files(files)
    ]


def _files(files: Path) -> list[Path]:
    return sorted(path for path in files.rglob("*") if path.is_file())
