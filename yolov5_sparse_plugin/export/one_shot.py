"""Prune and quantize a trained model in one go, without training: a recipe's structure, calibrated on images."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from tqdm import tqdm

from yolov5_sparse_plugin.engine import engines
from yolov5_sparse_plugin.engine.contract import Schedule
from yolov5_sparse_plugin.engine.native.fake_quantize import quantizers_of
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
        structure = engines.schedules(engines.NATIVE).of_structure(schedule.text, schedule.source)
        structure.apply_quantization(model)
        calibrate(model, tqdm(images, total=count, desc="calibrating", unit="image"))
    return model.eval()


def calibrate(model: torch.nn.Module, images: Iterable[np.ndarray]) -> None:
    """Observe ranges: of activations the average of every image's lowest and highest value, of weights their own."""
    model.eval()
    quantizers = quantizers_of(model)
    for quantizer in quantizers:
        quantizer.train()
        quantizer.enable_observer()
        quantizer.forget()
    device = next(model.parameters()).device
    with torch.no_grad():
        for number, image in enumerate(images):
            for quantizer in quantizers:
                quantizer.averaging_constant = 1 / (number + 1)
            model(torch.from_numpy(image).to(device))
    for quantizer in quantizers:
        quantizer.enable_observer(False)
        quantizer.eval()
