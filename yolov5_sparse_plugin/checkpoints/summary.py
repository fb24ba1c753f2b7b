"""A table of a run's checkpoints: phase, sparsity, mAP50, file and size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yolov5_sparse_plugin.checkpoints import phases
from yolov5_sparse_plugin.checkpoints.file import look


def checkpoint_rows(weights: Path) -> list[dict[str, Any]]:
    """Read the sparse parts of `best.pt`, `last.pt` and `best_<phase>.pt` in a run's weights folder.

    Returns:
        One dict a file, in the order of the phases and `best.pt`, `last.pt` at the end: `file` (Path), `phase`,
        `sparsity` (0..1), `map50` (0..1 or None), `megabytes`.
    """
    names = [f"best_{phase}.pt" for phase in phases.PHASES] + ["best.pt", "last.pt"]
    rows = []
    for file in (weights / name for name in names):
        part = look(file).part
        if part is not None:
            rows.append(
                {
                    "file": file,
                    "phase": part["phase"],
                    "sparsity": part["sparsity"],
                    "map50": part["metrics"][2] if part["metrics"] else None,
                    "megabytes": file.stat().st_size / 1e6,
                }
            )
    return rows


def print_table(weights: Path, title: str) -> None:
    """Print the table of `checkpoint_rows`, with the folder in its title."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"{title}, in {weights}:"), box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("phase", no_wrap=True)
    for name in ("sparsity", "mAP50", "MB"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("checkpoint", no_wrap=True)
    for row in checkpoint_rows(weights):
        table.add_row(
            Text(row["phase"]),
            f"{row['sparsity']:.1%}",
            "-" if row["map50"] is None else f"{row['map50']:.3f}",
            f"{row['megabytes']:.1f}",
            Text(row["file"].name),
        )
    Console().print(table)
