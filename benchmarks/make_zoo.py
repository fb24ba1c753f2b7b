"""Make a pre-sparsified model from an official one, put it into a zoo folder, and transfer it to another data set.

    python benchmarks/make_zoo.py --data-dir ../shared/data [--runs DIR] [--threads N]

yolov5n.pt is pruned and quantized on the 128 training photos of coco256 while it learns from its own dense self
(recipes/distill_pruned40_quantized.yaml); dense, pruned and pruned-quantized are then transferred to BCCD, 320 px,
20 epochs. Figures are mAP50 on the validation images, as `yolov5 val` measures it. A run that is already in --runs is
not repeated; about an hour and a half on two cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from experiment import map50, train, writable

RECIPE = Path(__file__).resolve().parent / "recipes" / "distill_pruned40_quantized.yaml"
STUB = "zoo:cv/detection/yolov5-n/pytorch/ultralytics/coco256/pruned40_quant-none"
TRANSFER = f"{STUB}?recipe_type=transfer"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True, help="folder of coco256/, bccd/ and yolov5n.pt")
    parser.add_argument("--runs", type=Path, default=Path("runs/make_zoo"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    runs, threads = arguments.runs.resolve(), arguments.threads
    runs.mkdir(parents=True, exist_ok=True)
    dense = (arguments.data_dir / "yolov5n.pt").resolve()
    coco, bccd = (writable(arguments.data_dir / name, runs) for name in ("coco256", "bccd"))

    words = ["--data", coco, "--weights", dense, "--img", 640, "--batch-size", 8, "--sparse-recipe", RECIPE]
    sparse = train(runs, "sparse", [*words, "--sparse-teacher", "self", "--gradient-accum-steps", 1], threads)
    zoo = runs / "zoo"
    command = [Path(sys.executable).with_name("yolov5-sparse"), "zoo", "add", sparse.parent, STUB, "--zoo", zoo]
    subprocess.run([*map(str, command), "--force"], check=True)
    print("coco256 val, 640 px, mAP50", flush=True)
    for name, weights in {
        "dense": dense,
        "pruned": sparse / "best_pruned.pt",
        "pruned, quantized": sparse / "best_pruned_quantized.pt",
    }.items():
        print(f"  {name:18} {map50(runs, weights, coco, 640, threads, weights == dense):.3f}", flush=True)

    common = ["--data", bccd, "--img", 320, "--batch-size", 16]
    held = [*common, "--weights", TRANSFER, "--sparse-zoo", zoo, "--sparse-recipe"]
    print("BCCD val, 320 px, after 20 epochs of transfer, mAP50", flush=True)
    for name, words in {
        "dense": [*common, "--weights", dense, "--epochs", 20],
        "pruned": [*held, "transfer_pruned", "--sparse-recipe-args", "num_epochs=20,init_lr=0.01,final_lr=0.001"],
        "pruned, quantized": [*held, TRANSFER, "--sparse-recipe-args", "num_epochs=20,init_lr=0.01,final_lr=0.001"],
    }.items():
        folder = "transfer_" + name.replace(", ", "_")
        weights = train(runs, folder, words, threads, name == "dense")
        print(f"  {name:18} {map50(runs, weights / 'best.pt', bccd, 320, threads, name == 'dense'):.3f}", flush=True)


if __name__ == "__main__":
    main()
