"""Accuracy on BCCD: dense against pruned and quantized, yolov5n from the COCO checkpoint, 320 px, batch 16.

    python benchmarks/bccd.py --data-dir ../shared/data [--runs DIR] [--only NAME …] [--threads N]
    python benchmarks/bccd.py --data-dir ../shared/data --only finetune60 --engines native sparseml --seeds 0 1 2

Every run is the real `yolov5 train`; the figure is mAP50 on the validation images as `yolov5 val` measures it.
A run that is already in --runs is not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import os
from pathlib import Path

from experiment import map50, train, writable

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder that holds bccd/ and yolov5n.pt")
    parser.add_argument("--runs", type=Path, default=Path("runs/bccd"))
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--engines", nargs="+", default=[""], help="each in turn; without, the default engine")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    runs, threads = arguments.runs.resolve(), arguments.threads
    data = writable(arguments.data_dir / "bccd", runs)
    start = (arguments.data_dir / "yolov5n.pt").resolve()
    for seed, name, engine in itertools.product(arguments.seeds, arguments.only, arguments.engines):
        what, words = RUNS[name]
        plain = name.startswith("dense")
        words = ["--data", data, "--img", 320, "--batch-size", 16, "--weights", start, *words]
        if engine and not plain:
            words += ["--sparse-engine", engine]
        name = "-".join(filter(None, (name, engine, f"seed{seed}" if seed else "")))
        weights = train(runs, name, words, threads, plain, seed)
        best, last = (map50(runs, weights / f, data, 320, threads, plain) for f in ("best.pt", "last.pt"))
        print(f"{name:14} best.pt {best:.3f}  last.pt {last:.3f}   {what}", flush=True)


if __name__ == "__main__":
    main()
