"""The seams: every name of the host that the plugin ever replaces, and why.

Required seams that are missing, or that a finished run never passed through, are errors.
"""

from __future__ import annotations

from dataclasses import dataclass

SUPPORTED = "the PyPI package yolov5 7.0.14 and git checkouts of ultralytics/yolov5, v7.0 and master up to August 2026"


@dataclass(frozen=True)
class Seam:
    """A name that is replaced in one of the host's namespaces while one call lasts.

    Attributes:
        targets: its spellings in different YOLOv5; the first that is read is replaced.
        reason: what for.
        required: False where a host, or a run, may do without.
        is_class: the host subclasses it or asks for its type: calls are not counted.
        leader: of several processes, rank 0 alone comes by.
        reader: the host's function that reads it, with its module.
    """

    targets: tuple[str, ...]
    reason: str
    required: bool = True
    is_class: bool = False
    leader: bool = False
    reader: str = "train.train"


SEAMS = {
    "load": Seam(
        ("torch_load", "torch.load"),
        "reading checkpoints that hold more than tensors on torch >= 2.6",
        required=False,  # not called when training from scratch
    ),
    "resume_load": Seam(
        ("torch_load", "torch.load"),
        "the options of a run that lost its opt.yaml, without running code of the checkpoint's author",
        required=False,
        reader="train.main",
    ),
    "model": Seam(("Model",), "preparing the model's structure before weights are loaded"),
    "autocast": Seam(
        ("smart_amp_autocast", "torch.cuda.amp.autocast"),
        "mixed precision ends when quantization starts",
        required=False,
    ),
    "optimizer": Seam(("smart_optimizer",), "SparseML's ScheduledOptimizer around upstream's optimizer"),
    "scheduler": Seam(("lr_scheduler.LambdaLR",), "the end of an epoch on every rank; who owns the learning rate"),
    "ema": Seam(("ModelEMA",), "averaged weights that keep masks and follow quantization", is_class=True),
    "resume": Seam(("smart_resume",), "masks, clock and quantizers of an interrupted run", required=False),
    "loss": Seam(("ComputeLoss",), "the teacher's part of the loss"),
    "dataloader": Seam(("create_dataloader",), "batches per epoch, the unit of the recipe's clock"),
    "loggers": Seam(
        ("Loggers",), "sparsity and phase in results.csv, TensorBoard and Weights & Biases", required=False
    ),
    "validate": Seam(("validate.run",), "no half precision once quantized", required=False),
    "fitness": Seam(
        ("fitness",), "a later phase beats an earlier one, so that best.pt is of the last phase", leader=True
    ),
    "stopper": Seam(("EarlyStopping",), "early stopping waits for the recipe", is_class=True),
    "copy": Seam(
        ("deepcopy",),
        "checkpoints hold plain float modules, without hooks and quantizers",
        required=False,  # --nosave with --evolve
    ),
    "save": Seam(("torch.save",), "atomic checkpoints with the sparse part in them", required=False),
    "strip": Seam(("strip_optimizer",), "finished checkpoints keep their sparse part", required=False),
    "strip_load": Seam(
        ("torch_load", "torch.load"),
        "what stands beside a resumed run's last.pt may be anybody's",
        reader="utils.general.strip_optimizer",
    ),
    "weights": Seam(
        ("torch_load", "torch.load"),
        "quantized models with their quantizers, and no code of a checkpoint's author",
        reader="models.experimental.attempt_load",
    ),
    "export_load": Seam(
        ("attempt_load",), "quantizers, one-shot recipes, and this YOLOv5's own classes", reader="export.run"
    ),
    "export_onnx": Seam(
        ("export_onnx",), "the graph of a quantized model, and errors that end the command", reader="export.run"
    ),
    "trace": Seam(
        ("torch.onnx.export",),
        "torch >= 2.9 would export through another exporter",
        required=False,  # master leaves it to ultralytics, which knows
        reader="export.export_onnx",
    ),
}
