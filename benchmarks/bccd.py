"""Accuracy on BCCD: dense against pruned and quantized, yolov5n from the COCO checkpoint, 320 px, batch 16, seed 0.

    python benchmarks/bccd.py --data-dir ../shared/data [--runs DIR] [--only NAME …] [--threads N]

Every run is the real `yolov5 train`; the figure is mAP50 on the validation images as `yolov5 val` measures it.
A run that is already in --runs is not repeated.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
UNIFORM = ["--sparse-recipe", str(HERE / "recipes" / "uniform60.yaml")]
LONG = "num_epochs=60,pruning_end_epoch=30,quantization_start_epoch=50"
FINETUNE = ["--sparse-recipe", "finetune_pruned_quantized"]
# name -> (what it is, further words of the command)
RUNS = {
    "dense-20": ("dense, unmodified YOLOv5, 20 epochs", ["--epochs", "20"]),
    "uniform60-20": ("60 % uniform by epoch 10, quantized from 15, 20 epochs", UNIFORM),
    "dense-60": ("dense, unmodified YOLOv5, 60 epochs", ["--epochs", "60"]),
    "uniform60-60": (
        "60 % uniform by epoch 30, quantized from 50, 60 epochs",
        [*UNIFORM, "--sparse-recipe-args", LONG],
    ),
    "finetune60": ("finetune_pruned_quantized, 60 %, 60 epochs", FINETUNE),
    "finetune80": (
        "finetune_pruned_quantized, 80 %, 60 epochs",
        [*FINETUNE, "--sparse-recipe-args", "final_sparsity=0.8"],
    ),
}


def environment(name: str, threads: int, runs: Path) -> dict[str, str]:
    from yolov5_sparse_plugin.demo import offline_environment

    env = offline_environment(runs)
    if name.startswith("dense"):
        env.update(YOLOV5_SPARSE_AUTOLOAD="0", TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1")
    return {**env, "OMP_NUM_THREADS": str(threads)}


def map50(output: str) -> float:
    """Return the mAP50 of all classes in the last table that upstream printed."""
    return float(re.findall(r"^\s+all\s+\d+\s+\d+\s+\S+\s+\S+\s+(\S+)", output.replace("\r", "\n"), re.M)[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder that holds bccd/ and yolov5n.pt")
    parser.add_argument("--runs", type=Path, default=Path("runs/bccd"))
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    runs = arguments.runs.resolve()
    copy = runs / "bccd"
    if not copy.exists():
        shutil.copytree(arguments.data_dir / "bccd", copy)  # YOLOv5 writes caches beside the labels
    data = runs / "bccd.yaml"
    lines = (copy / "bccd.yaml").read_text().splitlines()
    data.write_text("\n".join(f"path: {copy}" if line.startswith("path:") else line for line in lines) + "\n")
    command = str(Path(sys.executable).with_name("yolov5"))
    common = ["--data", str(data), "--img", "320", "--device", "cpu", "--workers", "0"]
    for name in arguments.only:
        what, words = RUNS[name]
        env, folder = environment(name, arguments.threads, runs), runs / name
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            train = [command, "train", *common, "--batch-size", "16", "--seed", "0", "--noplots", "--cache"]
            train += [
                "--weights",
                str((arguments.data_dir / "yolov5n.pt").resolve()),
                "--project",
                str(runs),
                "--name",
                name,
            ]
            with open(runs / f"{name}.log", "w") as log:
                subprocess.run([*train, *words], env=env, stdout=log, stderr=subprocess.STDOUT, check=True)
            (folder / "done").touch()
        figures = []
        for file in [folder / "weights" / f for f in ("best.pt", "last.pt")]:
            val = [
                command,
                "val",
                *common,
                "--batch-size",
                "32",
                "--weights",
                str(file),
                "--project",
                str(runs / "val"),
            ]
            done = subprocess.run(val, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True)
            figures.append(map50(done.stdout))
        print(f"{name:14} best.pt {figures[0]:.3f}  last.pt {figures[1]:.3f}   {what}", flush=True)


if __name__ == "__main__":
    main()
