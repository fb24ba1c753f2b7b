"""What an export costs: `yolov5 export` of a quantized checkpoint beside upstream's own of a dense one.

    python benchmarks/export_time.py DENSE.pt QUANTIZED.pt [--rounds 5] [--reports [--data data.yaml]]

Whole commands, interleaved; medians in seconds and ratios to the dense export, for which the plugin is switched off.
With --reports, those as well: the fast one exports a baseline, and loads and times both models in every engine that is
installed, so it is measured with one engine after the other; with --data, the full one, too, with mAP on its validation
images.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from yolov5_sparse_plugin.bench.measure import ENGINES
from yolov5_sparse_plugin.demo import offline_environment

# runs the command as if only the engines named first were installed
COMMAND = """
import sys
from yolov5_sparse_plugin.bench.engines import ENGINES
for name in set(ENGINES) - set(sys.argv.pop(1).split(",")):
    del ENGINES[name]
sys.argv[0] = "yolov5"
from yolov5.cli import app
app()
"""
# without the plugin; upstream's command needs two things of it: torch's older exporter, and a list for a word
UPSTREAM = """
import functools, sys
import torch
torch.onnx.export = functools.partial(torch.onnx.export, dynamo=False)
sys.argv[:] = ["yolov5", *sys.argv[2:]]
from yolov5.cli import app
app()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dense", type=Path)
    parser.add_argument("quantized", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--reports", action="store_true")
    parser.add_argument("--data", type=Path)
    arguments = parser.parse_args()
    here = [name for name, engine in ENGINES.items() if engine.installed()]
    # name -> what runs, on which checkpoint, with which engines, with which words beside
    variants: dict[str, tuple[str, Path, str, list[str]]] = {
        "dense, upstream": (UPSTREAM, arguments.dense, "", []),
        "dense": (COMMAND, arguments.dense, "", []),
        "quantized, no report": (COMMAND, arguments.quantized, "", ["--sparse-report", "none"]),
    }
    for count in range(1, len(here) + 1) if arguments.reports else ():
        engines = ",".join(here[:count])
        words = ["--sparse-report", "fast"]
        variants[f"quantized, fast report with {engines}"] = (COMMAND, arguments.quantized, engines, words)
    if arguments.data and arguments.reports:
        words = ["--data", str(arguments.data.resolve())]
        variants["quantized, full report with all"] = (COMMAND, arguments.quantized, ",".join(here), words)
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    with tempfile.TemporaryDirectory() as folder:
        env = {**offline_environment(Path(folder)), "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
        for _ in range(arguments.rounds):
            for name, (code, weights, engines, more) in variants.items():
                model = shutil.copyfile(weights, Path(folder) / "model.pt")
                words = [sys.executable, "-c", code, engines, "export", "--weights", str(model), "--include", "[onnx]"]
                switch = {"YOLOV5_SPARSE_AUTOLOAD": "0" if code is UPSTREAM else "1"}
                started = time.perf_counter()
                subprocess.run([*words, *more], cwd=folder, env={**env, **switch}, capture_output=True, check=True)
                seconds[name].append(time.perf_counter() - started)
    dense = statistics.median(seconds["dense, upstream"])
    for name, times in seconds.items():
        print(f"{statistics.median(times):6.1f} s  {statistics.median(times) / dense:5.2f}  {name}")


if __name__ == "__main__":
    main()
