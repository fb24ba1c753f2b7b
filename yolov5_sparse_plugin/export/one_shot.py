"""Prune and quantize a trained model in one go, without training: a recipe's structure, calibrated on images."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from tqdm import tqdm

from yolov5_sparse_plugin.engine.contract import Schedule
from yolov5_sparse_plugin.engine.residual import make_adds_quantizable


def apply(model: torch.nn.Module, schedule: Schedule, images: Iterable[np.ndarray], count: int) -> torch.nn.Module:
    """Give `model` the sparsity and the quantizers with which `schedule` ends, and calibrate them.

    Args:
        model: the host's, float32, not fused; changed in place.
        images: float32 [1, 3, H, W] each, 0..1.
        count: how many they are, for the progress bar.

    Returns:
        The model in `eval()`.
    """
    schedule.check_model(model)
    schedule.prune_at_once(model)
    if schedule.quantizes:
        make_adds_quantizable(model)
        schedule.apply_quantization(model)
        calibrate(model, tqdm(images, total=count, desc="calibrating", unit="image"))
    return model.eval()


def calibrate(model: torch.nn.Module, images: Iterable[np.ndarray]) -> None:
    """Observe ranges: of activations the average of every image's lowest and highest value, of weights their own."""
    model.eval()
    quantizers = [module for module in model.modules() if hasattr(module, "observer_enabled")]
    for quantizer in quantizers:
        quantizer.train()
        quantizer.enable_observer()
        quantizer.activation_post_process.reset_min_max_vals()
    device = next(model.parameters()).device
    with torch.no_grad():
        for number, image in enumerate(images):
            for quantizer in quantizers:
                quantizer.activation_post_process.averaging_constant = 1 / (number + 1)
            model(torch.from_numpy(image).to(device))
    for quantizer in quantizers:
        quantizer.disable_observer()
        quantizer.eval()
