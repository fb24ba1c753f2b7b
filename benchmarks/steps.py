"""Time and peak memory of a training step: plain upstream, pruning, quantization-aware training, under both engines.

    python benchmarks/steps.py [--img 320] [--batch 16] [--rounds 15]

Time: forward, loss, backward and optimizer step of yolov5n on one fixed batch, all variants interleaved in one
process, medians as ratios to plain upstream. Memory: each variant alone in a process of its own, peak resident set
above that process's level before the first step.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

# quantized, native, 8: with --sparse-qat-batch-size 8
VARIANTS = ("plain", "pruning, native", "quantized, native", "quantized, native, 8", "quantized, native, 4")
if importlib.util.find_spec("sparseml"):
    VARIANTS += ("pruning, sparseml", "quantized, sparseml")
RECIPE = "finetune_pruned_quantized"
# a schedule that prunes twice an epoch from the first step on, and quantizes from the second one or never
PHASES = {"num_epochs": 1000, "warmup_epochs": 0.01, "pruning_start_epoch": 0, "pruning_end_epoch": 10}


def build(variant: str, img: int, batch: int):
    """Return a function that makes one training step of `variant`."""
    import torch
    import yaml
    import yolov5
    from yolov5.models.yolo import Model
    from yolov5.utils.loss import ComputeLoss
    from yolov5.utils.torch_utils import smart_optimizer

    logging.disable(logging.INFO)
    package = Path(yolov5.__file__).parent
    torch.manual_seed(0)
    model = Model(str(package / "models" / "yolov5n.yaml"), ch=3, nc=3)
    hyp = yaml.safe_load((package / "data" / "hyps" / "hyp.scratch-low.yaml").read_text())
    model.hyp, model.nc = {**hyp, "label_smoothing": 0.0}, 3
    optimizer = smart_optimizer(model, "SGD", 0.01, 0.937, 5e-4)
    if variant != "plain":
        from yolov5_sparse_plugin import recipes_io
        from yolov5_sparse_plugin.engine import engines
        from yolov5_sparse_plugin.engine.residual import make_adds_quantizable
        from yolov5_sparse_plugin.training.memory import split_batches

        variables = {**PHASES, "quantization_start_epoch": 0.02 if "quantized" in variant else 999}
        if "quantized" in variant:
            make_adds_quantizable(model)
        schedule = engines.load(recipes_io.read(RECIPE), variables, variant.split(", ")[1])
        optimizer = schedule.wrap(optimizer, model, None)
        optimizer.bind(13)
        if variant[-1].isdigit():
            split_batches(model, int(variant[-1]))
    loss = ComputeLoss(model)
    images = torch.rand(batch, 3, img, img)
    targets = torch.rand(batch * 13, 6)
    targets[:, 0] = torch.arange(len(targets)) % batch
    targets[:, 1] = torch.arange(len(targets)) % 3
    model.train()

    def step() -> float:
        start = time.perf_counter()
        total, _ = loss(model(images), targets)
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    return step


def memory(variant: str, img: int, batch: int) -> float:
    """Return the megabytes that steps of `variant` need at their peak; run in a process of its own."""
    step = build(variant, img, batch)
    with open("/proc/self/statm") as file:
        before = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    for _ in range(3):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3 - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--img", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        print("RESULT" + json.dumps(memory(arguments.memory, arguments.img, arguments.batch)))
        return
    peaks = {}
    for variant in VARIANTS:
        words = [
            sys.executable,
            __file__,
            "--memory",
            variant,
            "--img",
            str(arguments.img),
            "--batch",
            str(arguments.batch),
        ]
        # glibc gives freed blocks back at once: what it hoards differs by 10 % from process to process
        env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
        out = subprocess.run(words, env=env, capture_output=True, text=True, check=True).stdout
        peaks[variant] = float(out.split("RESULT")[1])
    steps = {variant: build(variant, arguments.img, arguments.batch) for variant in VARIANTS}
    times: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for number in range(arguments.rounds + 2):
        for variant, step in steps.items():
            elapsed = step()
            if number >= 2:
                times[variant].append(elapsed)
    base = statistics.median(times["plain"])
    print(f"{'variant':38} {'ms':>7} {'ratio':>6} {'peak MB':>8} {'ratio':>6}")
    for variant in VARIANTS:
        median = statistics.median(times[variant])
        print(
            f"{variant:38} {median * 1000:7.0f} {median / base:6.2f} {peaks[variant]:8.0f} "
            f"{peaks[variant] / peaks['plain']:6.2f}"
        )


if __name__ == "__main__":
    main()
