"""Seconds from `yolov5 train` to its first batch: plain upstream, and with a recipe under both engines.

    python benchmarks/first_batch.py --data data.yaml [--rounds 5]

The commands take turns; medians, and the difference to plain upstream. YOLOv5 has to find its font (YOLOV5_CONFIG_DIR)
and the labels' cache, which the first, uncounted round writes.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FIRST = re.compile(rb"\s0/\d+ +\d\S*G ")  # the progress bar of the first epoch, once a batch is done
VARIANTS = {"plain": [], "native": ["--sparse-recipe", "finetune_pruned_quantized", "--sparse-engine", "native"]}
if importlib.util.find_spec("sparseml"):
    VARIANTS["sparseml"] = ["--sparse-recipe", "finetune_pruned_quantized", "--sparse-engine", "sparseml"]


def seconds(words: list[str], data: Path, folder: str) -> float:
    """Run a command until its first batch is done, and end it."""
    command = [str(Path(sys.executable).with_name("yolov5")), "train", "--data", str(data), "--weights", ""]
    command += ["--cfg", "yolov5n.yaml", "--img", "64", "--batch-size", "8", "--device", "cpu", "--workers", "0"]
    command += ["--noplots", "--noautoanchor", "--project", folder, *(words or ["--epochs", "3"])]
    env = {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    start, seen = time.perf_counter(), b""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, cwd=folder) as process:
        assert process.stdout is not None
        while not FIRST.search(seen):
            part = process.stdout.read1(4096)
            if not part:
                raise SystemExit(f"no batch was seen:\n{seen.decode(errors='replace')[-2000:]}")
            seen = seen[-4096:] + part
        elapsed = time.perf_counter() - start
        process.kill()
    return elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds + 1):
            for name, words in VARIANTS.items():
                elapsed = seconds(words, arguments.data.resolve(), folder)
                if number:
                    times[name].append(elapsed)
    base = statistics.median(times["plain"])
    for name, found in times.items():
        median = statistics.median(found)
        print(f"{name:10} {median:6.2f} s  {median - base:+6.2f} s  ({min(found):.2f} to {max(found):.2f})")


if __name__ == "__main__":
    main()
