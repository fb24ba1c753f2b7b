"""Rebuild a quantized model from what a checkpoint holds of it."""

from __future__ import annotations

import types
from collections import OrderedDict
from typing import Any

import torch

from yolov5_sparse_plugin.errors import CheckpointError


def quantized_model(ckpt: dict[str, Any]) -> torch.nn.Module:
    """Rebuild a quantized model, bit by bit, from its float twin, its recipe and its full-precision state.

    Returns:
        A module of the host's class in `eval()`. `half()` leaves it alone and `fuse()` does nothing: FP16 would move
        its weights off their grid, and batch norm is folded at export.
    """
    from yolov5_sparse_plugin.engine.residual import make_adds_quantizable
    from yolov5_sparse_plugin.engine.sparseml.schedule import Schedule

    model = (ckpt.get("ema") or ckpt["model"]).float()
    if any(".residual." in name for name in ckpt["sparse"]["state"]):
        make_adds_quantizable(model)
    Schedule.of_structure(ckpt["sparse"]["recipe"], "the checkpoint's recipe").apply_quantization(model)
    load_state(model, ckpt["sparse"]["state"])
    model.half = types.MethodType(lambda self: self, model)
    model.fuse = types.MethodType(lambda self: self, model)
    model.register_forward_pre_hook(cast_inputs)
    return model.eval()


def load_state(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Load a full-precision state into the structure it came from, quantized or not, strictly."""
    modules = dict(model.named_modules())
    for name, value in state.items():
        # per-channel scales and ranges have no size before the first observation; not every torch resizes them itself
        owner, _, leaf = name.rpartition(".")
        buffers = modules[owner]._buffers if owner in modules else {}
        if leaf in buffers and buffers[leaf].shape != value.shape:
            buffers[leaf] = torch.empty_like(value, device=buffers[leaf].device)
    versioned = OrderedDict(state)
    versioned._metadata = model.state_dict()._metadata  # without it torch 2.1 looks for observers' names of torch 1.4
    missing, unexpected = model.load_state_dict(versioned, strict=False)
    if missing or unexpected:
        raise CheckpointError(
            f"the checkpoint's weights do not fit its recipe: {len(missing)} missing (first: "
            f"{(missing or ['-'])[0]}), {len(unexpected)} unexpected (first: {(unexpected or ['-'])[0]}). "
            "Its float twin can still be used with YOLOV5_SPARSE_AUTOLOAD=0."
        )


def cast_inputs(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Hand FP16 images (`--half`) to a quantized model as float32."""
    return tuple(x.float() if torch.is_tensor(x) and x.dtype == torch.float16 else x for x in inputs)
