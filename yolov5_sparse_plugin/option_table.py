"""The options of the plugin: one table for every road on which they come."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from yolov5_sparse_plugin.option_values import (
    ZOO_SOURCES,
    engine,
    images,
    mapping,
    report,
    seconds,
    sources,
    steps,
    switch,
    target,
    text,
    texts,
    whole,
)

ZOO_COMMANDS = ("train", "export", "val", "detect")


@dataclass(frozen=True)
class Option:
    """One option: `name` as in SparseOptions; `aliases` are older spellings on the command line.

    `commands` are those of YOLOv5 that take it.
    """

    name: str
    read: Callable[[Any, str], Any]
    metavar: str
    help: str
    aliases: tuple[str, ...] = ()
    commands: tuple[str, ...] = ("train",)

    @property
    def flag(self) -> str:
        return "--sparse-" + self.name.replace("_", "-")


OPTIONS = (
    Option(
        "recipe",
        text,
        "RECIPE",
        "prune, quantize or keep sparse while training: a recipe file (.yaml, or .md with YAML front matter) or the "
        "name of a shipped recipe (see 'yolov5-sparse recipes'); gives --epochs where you don't",
        aliases=("recipe",),
    ),
    Option(
        "recipe_args",
        mapping,
        "ARGS",
        "override the recipe's root variables: 'num_epochs=12,final_sparsity=0.7' or JSON",
        aliases=("recipe_args",),
        commands=("train", "export"),
    ),
    Option(
        "engine",
        engine,
        "ENGINE",
        "what executes the recipe: 'sparseml' (default where it is installed: Python 3.9 to 3.11) or 'native', this "
        "plugin's own; a resumed run keeps its own",
        commands=("train", "export"),
    ),
    Option(
        "teacher",
        text,
        "WEIGHTS",
        "learn from a trained model as well as from the labels (distillation): a checkpoint with the same classes, a "
        "stub, or 'self' for the weights that the run starts from",
        aliases=("teacher_weights",),
    ),
    Option(
        "gradient_accum_steps",
        steps,
        "N",
        "step the optimizer every N batches; upstream accumulates 64 images, whatever the batch size",
        aliases=("gradient_accum_steps",),
    ),
    Option(
        "qat_batch_size",
        images,
        "N",
        "once quantization has started, keep the activations of N images at a time: less memory for the same batches, "
        "for more time (half a batch: half the memory, a quarter more time)",
    ),
    Option(
        "data_path",
        text,
        "DIR",
        "where the images are, in place of the 'path:' in the YAML of --data",
        aliases=("data_path",),
        commands=("train", "val", "export"),
    ),
    Option(
        "log_dir",
        text,
        "DIR",
        "where loggers write (results.csv, TensorBoard), in place of the run's folder",
        aliases=("log_dir",),
    ),
    Option(
        "hooks",
        texts,
        "FILE[,FILE]",
        "Python file(s) with hooks of your own, see CONTRIBUTING.md",
        commands=("train", "export", "val", "detect"),
    ),
    Option(
        "trust_pickle",
        switch,
        "BOOL",
        "read a checkpoint even if it calls functions that are no part of YOLOv5: code of whoever wrote it may run",
        commands=("train", "export"),
    ),
    Option(
        "target",
        target,
        "ENGINE",
        "engine that the ONNX graph of a quantized model is shaped for: onnxruntime (default), openvino or deepsparse; "
        "it runs in the others as well, slower",
        commands=("export",),
    ),
    Option(
        "one_shot",
        text,
        "RECIPE",
        "prune and quantize at export, without training, as this recipe ends; calibrated on the images of --data",
        aliases=("one_shot",),
        commands=("export",),
    ),
    Option(
        "export_samples",
        whole,
        "N",
        "write N images of --data and the model's outputs for them beside the model, as sample-inputs and "
        "sample-outputs (.npz)",
        aliases=("export_samples",),
        commands=("export",),
    ),
    Option(
        "uint8_input",
        switch,
        "BOOL",
        "let the exported model take uint8 images, 0..255, as cameras deliver them; 'yolov5 val' and 'detect' can't",
        commands=("export",),
    ),
    Option(
        "baseline",
        text,
        "WEIGHTS",
        "compare the exported model with this one in speed, size and accuracy: a checkpoint (.pt), a stub or an ONNX "
        "file; default: best_dense.pt beside the checkpoint, else its own float twin",
        commands=("export",),
    ),
    Option(
        "report",
        report,
        "full|fast|none",
        "what is measured once the model is there; full (default): size, speed and, on the validation images of "
        "--data, mAP, beside the baseline's; fast: without mAP and pictures of detections; none: nothing",
        commands=("export",),
    ),
    Option(
        "zoo",
        texts,
        f"DIR[{os.pathsep}DIR]",
        "zoo folder(s) in which a 'zoo:' stub is looked for first, see 'yolov5-sparse zoo --help'",
        commands=ZOO_COMMANDS,
    ),
    Option(
        "zoo_mirror",
        text,
        "URL",
        "address of a static server that offers a zoo folder with its index.json",
        commands=ZOO_COMMANDS,
    ),
    Option(
        "zoo_sources",
        sources,
        "NAME[,NAME]",
        f"where to look for stubs; default: {','.join(ZOO_SOURCES)}",
        commands=ZOO_COMMANDS,
    ),
    Option(
        "zoo_timeout",
        seconds,
        "SECONDS",
        "how long a zoo's server may stay silent; default: 20",
        commands=ZOO_COMMANDS,
    ),
)
BY_NAME = {option.name: option for option in OPTIONS}
