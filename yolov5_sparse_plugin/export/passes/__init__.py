"""One rewrite of the ONNX graph a file. `targets.py` says which ones run for which engine, and in what order."""

from __future__ import annotations

from typing import ClassVar

from yolov5_sparse_plugin.export.graph import Graph


class Pass:
    """One rewrite. Its docstring shows the graph before and after.

    Attributes:
        name: that of its file.
        required: whether a target is impossible where the pass cannot run; else it is left out.
    """

    name: ClassVar[str]
    required: ClassVar[bool] = False

    def check(self, graph: Graph) -> str | None:
        """Return why this pass cannot run on `graph`, as a clause; None where it can."""
        return None

    def apply(self, graph: Graph) -> int:
        """Rewrite `graph` in place; return how many places were changed."""
        raise NotImplementedError
