"""Download a file whose size and sha256 are known: resumed where it stopped, verified, then moved into place."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import requests
from tqdm import tqdm

from yolov5_sparse_plugin.zoo import files

TRIES = 3
INDEX_LIMIT = 16_000_000  # bytes of text that are read at most
BLOCK = 1 << 18


def text(url: str, timeout: float) -> str:
    """Return a small text.

    Args:
        timeout: seconds that the server may stay silent.

    Raises:
        files.Unusable: why it cannot be had.
    """
    try:
        with requests.get(url, timeout=timeout, stream=True) as answer:
            refuse_status(answer)
            data = b""
            started = time.monotonic()
            for block in answer.iter_content(BLOCK):
                data += block
                if len(data) > INDEX_LIMIT or time.monotonic() - started > 10 * timeout:
                    raise files.Unusable(f"{url} does not come to an end")
            return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise files.Unusable(f"{url} is not text") from error
    except requests.RequestException as error:
        raise files.Unusable(plainly(error, timeout)) from error


def file(url: str, target: Path, sums: dict[str, Any], timeout: float, label: str) -> None:
    """Download to `target`, which appears complete or not at all; an interrupted download goes on where it stopped.

    The caller holds the lock of the model.

    Args:
        sums: `size` in bytes and `sha256` that it must have.
        label: name on the progress bar.

    Raises:
        files.Unusable: why it cannot be had.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # named after its contents: what another version left behind is not gone on with
    part = target.with_name(f".{target.name}.{sums['sha256'][:16]}.part")
    for left in reversed(range(TRIES)):
        try:
            _append(url, part, sums["size"], timeout, label)
            break
        except requests.RequestException as error:
            if not left:
                raise files.Unusable(plainly(error, timeout)) from error
            time.sleep(0.2)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                part.unlink(missing_ok=True)
                megabytes = sums["size"] / 1e6
                raise files.Unusable(f"the disk of {target.parent} is full; {megabytes:.1f} MB are needed") from error
            raise files.Unusable(f"{target}: cannot be written ({error.strerror})") from error
    try:
        files.verify(part, sums)
    except files.Unusable as error:
        part.unlink()
        said = str(error).replace(part.name, target.name)
        raise files.Unusable(f"{url} is not what its index says: {said}") from error
    os.replace(part, target)


def _append(url: str, part: Path, size: int, timeout: float, label: str) -> None:
    """Add to a part what is missing in it, on the disk when this returns."""
    done = part.stat().st_size if part.exists() else 0
    if done > size:
        part.unlink()
        done = 0
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={done}-"} if done else {})}
    if done == size and size:
        return
    with requests.get(url, timeout=timeout, stream=True, headers=headers) as answer:
        refuse_status(answer)
        resumed = answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {done}-")
        if done and not resumed:
            done = 0  # this server does not resume
        bar = tqdm(total=size, initial=done, unit="B", unit_scale=True, desc=label, leave=True)
        with bar, part.open("ab" if done else "wb") as stream:
            for block in answer.iter_content(BLOCK):
                done += len(block)
                if done > size:
                    raise files.Unusable(f"{url} sends more than the {size} bytes that its index says")
                stream.write(block)
                bar.update(len(block))
            stream.flush()
            os.fsync(stream.fileno())
    if done < size:
        raise requests.ConnectionError(f"the connection ended after {done} of {size} bytes")


def refuse_status(answer: requests.Response) -> None:
    if answer.status_code >= 400:
        raise files.Unusable(f"the server answers {answer.status_code} {answer.reason} to {answer.url}")


def plainly(error: Exception, timeout: float) -> str:
    """Say in a few words what went wrong on the network."""
    if isinstance(error, requests.Timeout) or "timed out" in str(error).lower():
        return f"no answer within {timeout:g} s"
    if isinstance(error, requests.exceptions.SSLError):
        return "its TLS certificate cannot be verified"
    if isinstance(error, (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        words = str(error)
        if "refused" in words:
            return "the connection is refused"
        if "resolve" in words or "Name or service" in words:
            return "its name cannot be resolved (no network?)"
        return words if words.startswith("the connection ended") else "the connection broke"
    return f"{type(error).__name__}: {str(error)[:200]}"
