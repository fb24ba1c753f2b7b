"""What the plugin costs a Python process that has nothing to do with YOLOv5, and `yolov5 train --help`.

    python benchmarks/startup.py [--repeats 200] [--help-repeats 7]

Runs `python -c pass` with and without yolov5_sparse_plugin.pth in site-packages, interleaved, and reports medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

LINE = (
    "import time; t = time.perf_counter(); import yolov5_sparse_plugin.startup as s; s.install(); "
    "print((time.perf_counter() - t) * 1000)"
)


def seconds(words: list[str], **env: str) -> float:
    start = time.perf_counter()
    subprocess.run(words, env={**os.environ, **env}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--help-repeats", type=int, default=7)
    arguments = parser.parse_args()

    site = next(p for p in sys.path if p.endswith("site-packages"))
    blank = Path(site) / "yolov5_sparse_plugin.pth"
    hidden = blank.with_suffix(".pth.hidden")
    times: dict[str, list[float]] = {"with": [], "without": []}
    try:
        for _ in range(arguments.repeats):
            times["with"].append(seconds([sys.executable, "-c", "pass"]))
            blank.rename(hidden)
            times["without"].append(seconds([sys.executable, "-c", "pass"]))
            hidden.rename(blank)
    finally:
        if hidden.exists():
            hidden.rename(blank)
    medians = {name: statistics.median(values) * 1000 for name, values in times.items()}
    print(
        f"python -c pass: {medians['with']:.2f} ms with the .pth line, {medians['without']:.2f} ms without, "
        f"difference {medians['with'] - medians['without']:.2f} ms (medians of {arguments.repeats})"
    )
    own = [
        float(
            subprocess.run(
                [sys.executable, "-c", LINE],
                env={**os.environ, "PYTHONPATH": site},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for _ in range(5)
    ]
    print(f"the line inside a process that has run it already: {statistics.median(own):.3f} ms")

    command = [str(Path(sys.executable).with_name("yolov5")), "train", "--help"]
    times = {"with": [], "without": []}
    for _ in range(arguments.help_repeats):
        times["with"].append(seconds(command))
        times["without"].append(seconds(command, YOLOV5_SPARSE_AUTOLOAD="0"))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(
        f"yolov5 train --help: {medians['with']:.2f} s with, {medians['without']:.2f} s without, "
        f"ratio {medians['with'] / medians['without']:.3f}"
    )


if __name__ == "__main__":
    main()
