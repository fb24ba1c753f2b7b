"""Small servers over a zoo folder: the vendor's GraphQL endpoint, and plain files; both can fail in every way.

Of a query the vendor's understands what the real client sends for a stub: `models(<fields of the stub>) { … files … }`.
"""

from __future__ import annotations

import json
import re
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# the model that the fixture `packed` makes
STUB = "zoo:cv/detection/yolov5-n/pytorch/ultralytics/shapes/pruned60_quant-none"
FILE_TYPES = {"training": "training", "recipe": "recipe", "deployment": "deployment"}


class Vendor(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path
    mode = "works"  # 404, 500, empty, garbage, odd, hang; of files: lost, cut, short, slow
    requests: list[str]

    def log_message(self, *_):
        pass

    def answer(self, body: bytes, status: int = 200, **headers: str):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["query"]
        self.requests.append(f"POST {self.path}")
        if self.path != "/v2/graphql":
            return self.answer(b"no such endpoint", 404)
        if self.mode in ("404", "500"):
            return self.answer(b"<html>gone</html>", int(self.mode))
        if self.mode == "hang":
            time.sleep(30)
        answers = {"empty": b'{"data": {"models": []}}', "garbage": b"<html>parked</html>", "odd": b'{"data": null}'}
        return self.answer(answers.get(self.mode) or json.dumps({"data": {"models": self.models(query)}}).encode())

    def models(self, query: str) -> list[dict]:
        asked = dict(re.findall(r'(\w+): "([^"]*)"', query))
        found = []
        for folder in sorted(self.root.glob("*/*/*/*/*/*/*")):
            domain, task, architecture, framework, repo, data, name = folder.relative_to(self.root).parts
            size = architecture.split("-")
            own = {"domain": domain, "task": task, "architecture": size[0], "subArchitecture": size[1]}
            own.update(framework=framework, repo=repo, sourceDataset=data, sparseTag=name)
            own["repoName"] = f"{architecture}-{data}-{name}".replace("_quant-none", "_quantized")
            if all(own.get(key) == value for key, value in asked.items() if key != "version"):
                found.append(self.describe(folder, own["repoName"]))
        return found

    def describe(self, folder: Path, repo_name: str) -> dict:
        listed = []
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            kind = FILE_TYPES.get(path.parent.name, "card")
            types = ["deployment", "onnx"] if path.name == "model.onnx" else [kind]
            url = f"http://{self.headers['Host']}/v2/models/{path.relative_to(self.root).as_posix()}"
            size = path.stat().st_size
            one = {"displayName": path.name, "downloadUrl": url, "fileSize": size, "modelId": "0a1b"}
            listed += [{**one, "fileType": file_type} for file_type in types]
        return {
            "modelId": "0a1b",
            "modelOnnxSizeCompressedBytes": 1,
            "files": listed,
            "benchmarkResults": [],
            "trainingResults": [],
            "repoName": repo_name,
            "repoNamespace": "neuralmagic",
        }

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.requests.append(f"{self.command} {self.path}")
        path = self.root / self.path[len("/v2/models/") :]
        data = path.read_bytes()
        if self.command == "GET" and self.mode == "slow":
            time.sleep(2)
        if self.command == "GET" and self.mode == "lost":  # the client saves whatever comes
            return self.answer(b"<html>404</html>", 404)
        if self.command == "GET" and self.mode == "short":  # an answer that is complete in itself
            return self.answer(data[: len(data) // 2])
        if self.command == "GET" and self.mode == "cut":
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return None
        return self.answer(data, 206 if "Range" in self.headers else 200, Accept_Ranges="bytes")


class Flaky(SimpleHTTPRequestHandler):
    """A file server that resumes, and breaks every first answer of a checkpoint in the middle."""

    root: Path
    mode = "works"  # breaks, hangs, long, 500
    requests: list[tuple[str, str | None]]

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.requests.append((self.path, self.headers.get("Range")))
        if self.mode == "500":
            return self.send_error(500)
        if self.mode == "hangs":
            time.sleep(30)
        data = (self.root / self.path.lstrip("/")).read_bytes()
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        breaks = self.mode == "breaks" and self.path.endswith(".pt") and not start
        body = data[start:] + (b"more" if self.mode == "long" and self.path.endswith(".pt") else b"")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if breaks else body)
        return None


@contextmanager
def serving(handler: type, root: Path):
    """Run a server of `handler` over a folder in a thread; yields its address and the handler, to change its mode."""
    own = type("Own", (handler,), {"root": root, "requests": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), own)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", own
    finally:
        server.shutdown()
        server.server_close()
