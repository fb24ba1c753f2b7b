"""Run the vendor's own client, `sparsezoo`, for one file: `ask` runs `main` in a process of its own.

The client waits for ever, saves error pages as models and keeps pieces of downloads in the home folder. So it gets
timeouts and a scratch folder, and whoever asks checks what arrived.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from yolov5_sparse_plugin import processes

FOLDERS = {"training": "training/", "recipe": "recipe/", "deployment": "deployment/"}


def missing() -> str | None:
    """Return why the vendor's client is not here, and what works without it; None where it is installed."""
    if importlib.util.find_spec("sparsezoo") is not None:
        return None
    if sys.version_info >= (3, 12):
        why = f"SparseZoo needs Python < 3.12, this is {sys.version_info.major}.{sys.version_info.minor}"
    else:
        why = "install it with: pip install 'sparsezoo>=1.8.1,<1.9'"
    return f"its client is not installed ({why}). Zoo folders, the cache and mirrors work without it"


def ask(addresses: list[str], names: list[str], scratch: Path, timeout: float) -> dict[str, Any]:
    """Let the vendor's client download the first of `names` that the server lists, to `scratch/file`.

    Returns:
        `name` and `size` as the server lists it, or `error`.
    """
    words = processes.python("yolov5_sparse_plugin.zoo.client", scratch, timeout, ",".join(addresses), *names)
    env = {"NM_DISABLE_ANALYTICS": "1", "NM_VERSION_CHECK": "false", **os.environ, "YOLOV5_SPARSE_AUTOLOAD": "0"}
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=env, text=True) as child:
        try:
            output, _ = child.communicate()
        except BaseException:  # Ctrl-C reaches the child as well, which may be busy
            child.kill()
            raise
    try:
        return json.loads(output.splitlines()[-1])
    except (ValueError, IndexError):
        if child.returncode == -signal.SIGINT:
            raise KeyboardInterrupt from None
        return {"error": f"its client ended with status {child.returncode}"}


def fetch(addresses: list[str], scratch: Path, names: list[str]) -> dict[str, Any]:
    """Download the first of `names` that the server lists for a model, which has one of several addresses.

    Returns:
        Its `name`, and its `size` in bytes as the server lists it.
    """
    from sparsezoo import Model
    from sparsezoo.utils import download_file

    from yolov5_sparse_plugin.zoo.files import Unusable

    class Listed(Model):
        """Keep the server's list: the client forgets the sizes."""

        def initialize_model_from_stub(self, stub: str) -> Any:
            found = super().initialize_model_from_stub(stub)
            self.listed = list(found[0])
            return found

    os.environ["HOME"] = str(scratch)
    for address in addresses:
        try:
            model = Listed("zoo:" + address, download_path=str(scratch))
            break
        except ValueError as error:
            if "No matching models" not in str(error) or address == addresses[-1]:
                raise
    listed = {FOLDERS.get(entry["file_type"], "") + entry["display_name"]: entry for entry in model.listed}
    name = next((name for name in names if name in listed), None)
    if name is None:
        raise Unusable(f"lists no {names[0]}; it has {', '.join(sorted(listed))}")
    download_file(listed[name]["url"], str(scratch / "file"))
    return {"name": name, "size": listed[name].get("file_size")}


def explain(error: Exception, timeout: float) -> str:
    """Say what an exception of the client means."""
    import requests

    from yolov5_sparse_plugin.zoo.download import plainly

    if type(error) is ValueError and error.args and isinstance(error.args[0], Exception):
        error = error.args[0]  # what the client retried
    answer = getattr(error, "response", None)
    if answer is not None:
        return f"the server answers {answer.status_code} {answer.reason}"
    if isinstance(error, requests.exceptions.JSONDecodeError):
        return "the server's answer is not JSON"
    if isinstance(error, requests.RequestException):
        return plainly(error, timeout)
    text = str(error).strip().splitlines()[0] if str(error).strip() else ""
    if "No matching models" in text:
        return "the server has no such model"
    if "No files found" in text:
        return "the server lists no files for it"
    if isinstance(error, OSError):
        return f"the download failed ({error.strerror or text})"
    if isinstance(error, (KeyError, TypeError, AttributeError, IndexError)):
        return f"its client does not understand the server's answer ({type(error).__name__}: {text})"
    return f"{type(error).__name__}: {text}"[:300]


def main() -> None:
    scratch, timeout, addresses, *names = sys.argv[1:]
    answers, sys.stdout = sys.stdout, sys.stderr
    import requests

    logging.disable(logging.CRITICAL)  # the client logs tracebacks
    wait = float(timeout)
    patient = functools.partialmethod(requests.Session.request, timeout=wait)
    setattr(requests.Session, "request", patient)  # noqa: B010  the client names no time
    try:
        answer = fetch(addresses.split(","), Path(scratch), names)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        answer = {"error": explain(error, wait)}
    print(json.dumps(answer), file=answers)
