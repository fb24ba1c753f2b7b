"""Which YOLOv5 a call belongs to: the PyPI package or a git checkout; one process may hold both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from yolov5_sparse_plugin.errors import HostError
from yolov5_sparse_plugin.hosts import checkout, pip_package
from yolov5_sparse_plugin.hosts.host import Host

_using: ContextVar[Host | None] = ContextVar("yolov5_sparse_host", default=None)


@contextmanager
def using(host: Host) -> Iterator[None]:
    """Make `host` the one that this call is about."""
    token = _using.set(host)
    try:
        yield
    finally:
        _using.reset(token)


def host() -> Host:
    """Return the YOLOv5 whose doorway this call came through; outside of one, the likeliest.

    Raises:
        HostError: there is none.
    """
    found = _using.get() or checkout.running() or pip_package.imported() or checkout.imported()
    found = found or pip_package.installed() or checkout.here()
    if found is None:
        raise HostError(
            "Checkpoints are made of YOLOv5's own classes, and there is no YOLOv5 here. Install one with: pip install "
            "'yolov5-sparse-plugin[yolov5]', or start this command in a git checkout of ultralytics/yolov5."
        )
    return found
