"""Write checkpoints as the sparse fork of YOLOv5 did, from real models of this host and real SparseML.

The forms are those of its releases 0.12 to 1.7; `checkpoints/legacy.py` lists them.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import sys
import tempfile
import types
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import yaml
import yolov5
from torch import nn
from yolov5.models import common, yolo
from yolov5.models.common import Bottleneck

from yolov5_sparse_plugin.hosts.model_yaml import own_activation

YOLOV5N = Path(yolov5.__file__).parent / "models" / "yolov5n.yaml"
PRUNED = "modifiers:\n  - !ConstantPruningModifier\n      params: __ALL_PRUNABLE__\n      start_epoch: 0.0\n"
SUBMODULES = ", ".join(f"model.{i}" for i in range(24))
# as the published recipes quantize: all but the Detect head, batch norm fused; without fusing; all, by SiLU's class
QUANTIZED = {
    "fused": f"  - !QuantizationModifier\n      start_epoch: 0.0\n      submodules: [{SUBMODULES}]\n",
    "unfused": f"  - !QuantizationModifier\n      start_epoch: 0.0\n      submodules: [{SUBMODULES}]\n"
    "      model_fuse_fn_name: no_fuse\n",
    "transfer": "  - !QuantizationModifier\n      start_epoch: 0.0\n      submodules: [model]\n"
    "      custom_quantizable_module_types: [SiLU]\n      exclude_module_types: [SiLU]\n"
    "      quantize_conv_activations: False\n      disable_quantization_observer_epoch: 2\n"
    "      freeze_bn_stats_epoch: 1\n",
}


class _Add(nn.Module):
    """The fork's quantizable `+`."""

    def __init__(self):
        super().__init__()
        self.functional = torch.ao.nn.quantized.FloatFunctional()
        self.wrap_qat = True
        self.qat_wrapper_kwargs = {"num_inputs": 2, "num_outputs": 0}

    def forward(self, a, b):
        return self.functional.add(a, b)


class ForkBottleneck(Bottleneck):
    """A bottleneck that adds through its `add_node`, where it adds at all."""

    def forward(self, x):
        branch = self.cv2(self.cv1(x))
        return self.add_node(x, branch) if self.add else branch


def model(cfg=YOLOV5N, classes=3, sparsity=0.6, seed=0):
    """Return a trained-looking model of this host: batch norm has statistics, the smallest weights are zero."""
    torch.manual_seed(seed)
    with own_activation():
        built = yolo.Model(str(cfg), ch=3, nc=classes)
    for module in built.modules():
        if isinstance(getattr(module, "act", None), nn.Module):
            module.act = deepcopy(module.act)  # YOLOv5 before 7.0 has one for each layer
        if isinstance(module, nn.Conv2d) and sparsity:
            weight = module.weight.data
            weight[weight.abs() < weight.abs().flatten().quantile(sparsity)] = 0
    with torch.no_grad():
        built.train()(torch.rand(4, 3, 64, 64))
    return built.eval()


def with_add_nodes(built, forward=True):
    """Give every bottleneck the fork's `+`, in place; `forward`: and use it."""
    for module in built.modules():
        if type(module) is Bottleneck:
            module.add_node = _Add()
            if forward:
                module.__class__ = ForkBottleneck
    return built


def quantize(built, recipe):
    """Quantize with SparseML, in place, and let the observers see images; return the recipe as the fork wrote it."""
    pytest.importorskip("sparseml", reason="SparseML installs on Python 3.9 to 3.11")
    from sparseml.pytorch.optim import ScheduledModifierManager

    import yolov5_sparse_plugin.engine.sparseml.compat  # noqa: F401  no analytics

    manager = ScheduledModifierManager.from_yaml(recipe)
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # SparseML writes sparse_logs where it is
        try:
            manager.apply_structure(built.train(), math.inf)
        finally:
            os.chdir(before)
    built.apply(torch.ao.quantization.enable_observer)
    with torch.no_grad():
        for _ in range(2):
            built(torch.rand(2, 3, 64, 64))
    built.apply(torch.ao.quantization.disable_observer)
    built.eval()
    return str(manager)


def state(built):
    return {name: value.clone() for name, value in built.state_dict().items()}


def checkpoint(built, **more):
    """Return the dict of a finished run of releases 1.4 to 1.7."""
    return {
        "epoch": -1,
        "best_fitness": None,
        "model": state(built),
        "ema": None,
        "updates": None,
        "optimizer": None,
        "opt": {"cfg": "", "data": "coco.yaml"},
        "yaml": deepcopy(built.yaml),
        "hyp": {"box": 0.05, "cls": 0.5, "obj": 1.0},
        "nc": built.yaml["nc"],
        "date": "2023-01-01",
        "checkpoint_recipe": PRUNED,
        "intermediate_recipe": None,
        **more,
    }


@contextlib.contextmanager
def class_tree(package):
    """Let this host's classes pickle as those of a checkout (`models`) or of a package (`yolov5.models`), with _Add."""
    names = ("common", "yolo", "experimental")
    modules = [importlib.import_module(f"yolov5.models.{name}") for name in names]
    classes = [c for m in modules for c in vars(m).values() if isinstance(c, type) and c.__module__ == m.__name__]
    before = {name: sys.modules.get(name) for name in ("models", *(f"models.{name}" for name in names))}
    sys.modules["models"] = types.ModuleType("models")
    try:
        for name, module in zip(names, modules):
            sys.modules[f"models.{name}"] = module
        for cls in classes:
            cls.__module__ = cls.__module__.replace("yolov5.models", package)
        common._Add, _Add.__module__ = _Add, f"{package}.common"
        yield
    finally:
        for cls in classes:
            cls.__module__ = "yolov5.models." + cls.__module__.rpartition(".")[2]
        del common._Add
        _Add.__module__ = __name__
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def yaml_of(file):
    return yaml.safe_load(Path(file).read_text(errors="ignore"))


def write_yaml(file, description):
    file.write_text(yaml.safe_dump(description))
    return file


def saved(folder, ckpt, **how):
    """Write a checkpoint into `folder`; return its path."""
    torch.save(ckpt, folder / "model.pt", **how)
    return folder / "model.pt"
