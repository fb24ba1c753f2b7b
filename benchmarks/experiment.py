"""Train and validate with the real commands, in a folder of runs; what is there already is not repeated."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from yolov5_sparse_plugin.demo import offline_environment

COMMON = ["--device", "cpu", "--workers", 0]


def writable(source: Path, runs: Path) -> Path:
    """Copy a data set with its YAML into `runs` (YOLOv5 writes caches beside the labels); return the copy's YAML."""
    copy, data = runs / source.name, runs / f"{source.name}.yaml"
    if not copy.exists():
        shutil.copytree(source, copy)
    lines = (copy / data.name).read_text().splitlines()
    data.write_text("\n".join(f"path: {copy}" if line.startswith("path:") else line for line in lines) + "\n")
    return data


def train(runs: Path, name: str, words: list[Any], threads: int, plain: bool = False, seed: int = 0) -> Path:
    """Run `yolov5 train` into `runs/name`, its output into `runs/name.log`; return the folder of the weights.

    Args:
        plain: without the plugin.
    """
    folder = runs / name
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        more = ["--seed", seed, "--noplots", "--cache", "--project", runs, "--name", name]
        with open(runs / f"{name}.log", "w") as log:
            _yolov5(["train", *COMMON, *more, *words], runs, threads, plain, stdout=log, stderr=subprocess.STDOUT)
        (folder / "done").touch()
    return folder / "weights"


def map50(runs: Path, weights: Path, data: Path, img: int, threads: int, plain: bool = False) -> float:
    """Return the mAP50 of `weights` on the validation images of `data`, as `yolov5 val` measures it."""
    words = ["val", *COMMON, "--data", data, "--img", img, "--batch-size", 32, "--weights", weights]
    words += ["--project", runs / "val"]
    done = _yolov5(words, runs, threads, plain, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    last = re.findall(r"^\s+all\s+\d+\s+\d+\s+\S+\s+\S+\s+(\S+)", done.stdout.replace("\r", "\n"), re.M)[-1]
    return float(last)


def _yolov5(words: list[Any], runs: Path, threads: int, plain: bool, **kwargs: Any) -> subprocess.CompletedProcess:
    env = {**offline_environment(runs), "OMP_NUM_THREADS": str(threads)}
    if plain:
        env.update(YOLOV5_SPARSE_AUTOLOAD="0", TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1")
    command = [str(Path(sys.executable).with_name("yolov5")), *map(str, words)]
    return subprocess.run(command, env=env, check=True, **kwargs)
