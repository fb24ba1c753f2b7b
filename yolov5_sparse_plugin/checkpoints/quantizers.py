"""Rebuild a quantized model from what a checkpoint holds of it: always with this plugin's own quantizers."""

from __future__ import annotations

import types
from typing import Any

import torch

from yolov5_sparse_plugin.engine import engines
from yolov5_sparse_plugin.engine.residual import make_adds_quantizable


def quantized_model(ckpt: dict[str, Any]) -> torch.nn.Module:
    """Rebuild a quantized model, bit by bit, from its float twin, its recipe and its full-precision state.

    Returns:
        A module of the host's class in `eval()`. `half()` leaves it alone and `fuse()` does nothing: FP16 would move
        its weights off their grid, and batch norm is folded at export.
    """
    model = (ckpt.get("ema") or ckpt["model"]).float()
    shape(model, ckpt["sparse"]["recipe"], "the checkpoint's recipe", ckpt["sparse"]["state"])
    model.half = types.MethodType(lambda self: self, model)
    model.fuse = types.MethodType(lambda self: self, model)
    model.register_forward_pre_hook(cast_inputs)
    return model.eval()


def shape(model: torch.nn.Module, recipe: str, source: str, state: dict[str, torch.Tensor]) -> None:
    """Give a float model, changed in place, the quantizers of a recipe, and the values of `state`.

    Raises:
        RecipeError, CheckpointError: they do not fit each other.
    """
    if any(".residual." in name for name in state):
        make_adds_quantizable(model)
    schedule = engines.schedules(engines.NATIVE).of_structure(recipe, source)
    schedule.apply_quantization(model)
    schedule.load_state(model, model, state)


def cast_inputs(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Hand FP16 images (`--half`) to a quantized model as float32."""
    return tuple(x.float() if torch.is_tensor(x) and x.dtype == torch.float16 else x for x in inputs)
