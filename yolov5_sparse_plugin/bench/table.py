"""The figures of `yolov5-sparse bench` for people, as a table, and for programs, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yolov5_sparse_plugin import __version__, cpu
from yolov5_sparse_plugin.bench.measure import ENGINES, Row


def labels(models: Sequence[Path]) -> dict[Path, str]:
    """Map each model to the shortest end of its path that no other of them has: every run has a best.onnx."""
    distinct = list(dict.fromkeys(models))
    for length in range(1, max(len(model.parts) for model in distinct) + 1):
        short = {model: str(Path(*model.parts[-length:])) for model in distinct}
        if len(set(short.values())) == len(distinct):
            break
    return short


def as_json(rows: Sequence[Row], *, batch: int, threads: int, img: int | None, rounds: int) -> dict[str, Any]:
    """Return the rows with all that was fixed while they were measured, ready for `json.dump`.

    `img` is what was asked for, in pixels a side; None: each model's own, or 640. Sizes are in units of 10^6 bytes.
    """
    features = cpu.detect()
    return {
        "plugin": __version__,
        "cpu": {
            "name": features.name,
            "cores": features.cores,
            "flags": None if features.flags is None else sorted(features.flags),
        },
        "engines": {key: ENGINES[key].version() for key in dict.fromkeys(row.engine for row in rows)},
        "threads": threads,
        "batch": batch,
        "img": img,
        "rounds": rounds,
        "rows": [
            {
                "engine": row.engine,
                "model": str(row.model),
                "megabytes": row.model.stat().st_size / 1e6,
                "milliseconds": row.milliseconds,
                "images_per_second": row.images_per_second,
                "ratio": row.ratio,
                "error": row.error,
                "remark": row.remark,
            }
            for row in rows
        ],
    }


def print_table(rows: Sequence[Row], console: Any, *, batch: int, threads: int, img: int | None, rounds: int) -> None:
    """Print the rows to a rich console, engine by engine, and below them what the figures don't say."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    name = labels([row.model for row in rows])
    count = f"{threads} thread{'s' if threads != 1 else ''}, batch {batch}{f', {img} px' if img else ''}"
    table = Table(
        title=Text(f"{cpu.detect().name}, {count}, medians of {rounds}:"), box=box.SIMPLE_HEAD, title_justify="left"
    )
    table.add_column("engine", no_wrap=True)
    table.add_column("model", overflow="fold")
    for title in ("ms", "images/s", "ratio", "MB"):
        table.add_column(title, justify="right", no_wrap=True)
    notes = []
    for i, row in enumerate(rows):
        starts = i == 0 or rows[i - 1].engine != row.engine
        if starts and i:
            table.add_section()
        engine = f"{ENGINES[row.engine].title} {ENGINES[row.engine].version() or ''}" if starts else ""
        size = f"{row.model.stat().st_size / 1e6:.1f}"
        if row.error:
            table.add_row(engine, Text(name[row.model]), "failed", "-", "-", size)
            notes.append(f"{ENGINES[row.engine].title} cannot run {name[row.model]}: {row.error}")
            continue
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
        table.add_row(
            engine, Text(name[row.model]), f"{row.milliseconds:.2f}", f"{row.images_per_second:.1f}", ratio, size
        )
        if row.remark:
            notes.append(f"{name[row.model]}: {row.remark}")
    console.print(table)
    if len(name) > 1:
        console.print(Text(f"ratio: time over that of {name[rows[0].model]} in the same engine; below 1 is faster"))
    for note in notes:
        console.print(Text(note))
