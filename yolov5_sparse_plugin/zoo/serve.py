"""Offer a zoo folder over HTTP on this machine: its index and the files that are listed in it, resumable."""

from __future__ import annotations

import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from yolov5_sparse_plugin.errors import ZooError
from yolov5_sparse_plugin.zoo import layout

LOOPBACK = "127.0.0.1"


class Handler(BaseHTTPRequestHandler):
    """Answer GET and HEAD; nothing that the index does not list is there."""

    protocol_version = "HTTP/1.1"
    root: Path

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _file(self) -> Path | None:
        name = unquote(urlsplit(self.path).path).lstrip("/")
        listed = {f"{place}/{n}" for place, e in layout.own_index(self.root).items() for n in e["files"]}
        path = self.root / name
        inside = path.resolve().is_relative_to(self.root.resolve())  # a link may lead out
        return path if (name == layout.INDEX or name in listed) and inside and path.is_file() else None

    def _answer(self, with_body: bool) -> None:
        path = self._file()
        if path is None:
            return self.send_error(404, "not in this zoo")
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            start, end = self._range(size)
            if start >= size > 0:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                return self.end_headers()
            self.send_response(206 if "Range" in self.headers else 200)
            if "Range" in self.headers:
                self.send_header("Content-Range", f"bytes {start}-{end}/{size}")
            kind = "application/json" if path.suffix == ".json" else "application/octet-stream"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(end + 1 - start))
            self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            stream.seek(start)
            if with_body:
                left = end + 1 - start
                while left > 0 and (block := stream.read(min(left, 1 << 18))):
                    self.wfile.write(block)
                    left -= len(block)
        return None

    def _range(self, size: int) -> tuple[int, int]:
        """Return the first and the last byte that were asked for; of several ranges and odd ones, the whole file."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            del self.headers["Range"]
            return 0, size - 1
        return int(asked[1]), min(int(asked[2] or size - 1), size - 1)


def make_server(root: Path, port: int) -> ThreadingHTTPServer:
    """Return a server of a zoo folder on loopback that is not running yet.

    Raises:
        ZooError: the folder is no zoo, or the port is taken.
    """
    if not (root / layout.INDEX).is_file():
        raise ZooError(
            f"zoo serve {root}: there is no {layout.INDEX} in it. Add a model with 'yolov5-sparse zoo add', or make "
            f"the index of those that are there with 'yolov5-sparse zoo check --zoo {root} --write-index'."
        )
    try:
        server = ThreadingHTTPServer((LOOPBACK, port), type("ZooHandler", (Handler,), {"root": root}))
    except (OSError, OverflowError) as error:
        raise ZooError(f"zoo serve --port {port}: {error}. Choose another one, or 0 for any that is free.") from error
    server.daemon_threads = True
    return server
