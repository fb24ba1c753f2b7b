"""Runs of an engine's schedule on small models, written down number by number; both engines' are compared."""

from __future__ import annotations

import copy
import functools
import importlib
import logging
import warnings
from pathlib import Path
from typing import Any, Callable

import pytest
import torch
import yaml

from yolov5_sparse_plugin.engine.native import schedule as native
from yolov5_sparse_plugin.engine.residual import make_adds_quantizable
from yolov5_sparse_plugin.recipes_io import RecipeText

NUMBERS = "{params: __ALL_PRUNABLE__, init_sparsity: 0.05, final_sparsity: 0.7, start_epoch: 0.4, end_epoch: 3.0"


def pruning(kind: str = "MagnitudePruning", **changes: Any) -> str:
    """Return a pruning modifier; `changes` replace its fields."""
    fields = {**yaml.safe_load(NUMBERS + "}"), "update_frequency": 0.4, **changes}
    return f"  - !{kind}Modifier {yaml.safe_dump(fields, default_flow_style=True, width=9999)}"


def rate(kind: str, **fields: Any) -> str:
    return f"  - !{kind}Modifier {yaml.safe_dump(fields, default_flow_style=True, width=9999)}"


def function(lr_func: str, start: float, end: float, init: float, final: float, **more: Any) -> str:
    times = {"start_epoch": start, "end_epoch": end}
    return rate("LearningRateFunction", lr_func=lr_func, init_lr=init, final_lr=final, **times, **more)


def scheduler(lr_class: str, start: float = 0.0, end: float = 4.0, **kwargs: Any) -> str:
    return rate("LearningRate", lr_class=lr_class, lr_kwargs=kwargs, init_lr=0.1, start_epoch=start, end_epoch=end)


CONVS = ["0.weight", "3.weight"]
# what each kind of modifier, mask and schedule does to the weights of `toy`
RECIPES = {
    "gradual": pruning(),
    "every step": pruning(update_frequency=-1.0),
    "linear": pruning(inter_func="linear"),
    "inverse cubic": pruning(inter_func="inverse_cubic"),
    "blocks of 4 inputs": pruning(params=["3.weight", "7.weight"], mask_type=[1, 4]),
    "blocks of 4 outputs": pruning(mask_type=[4, 1]),
    "blocks 2 by 2": pruning(params=["3.weight"], mask_type=[2, 2]),
    "block4 with filling": pruning(params=[*CONVS, "7.weight"], mask_type="block4"),
    "2:4": pruning(mask_type="2:4", init_sparsity=0.5, final_sparsity=0.5),
    "1:4": pruning(params=CONVS, mask_type="1:4", init_sparsity=0.75, final_sparsity=0.75),
    "all layers as one": pruning("GlobalMagnitudePruning"),
    "all layers as one, blocks": pruning("GMPruning", global_sparsity=True, mask_type="block4"),
    "from what they have": pruning(params=CONVS, init_sparsity="__FROM_PARAM__"),
    "by layer": pruning(params=[], final_sparsity={0.5: ["7.weight"], 0.8: ["re:.*[03].weight"]}),
    "let go at the end": pruning(leave_enabled=False, end_epoch=2.2),
    "less than there is": pruning(params=["3.weight"], init_sparsity=0.0, final_sparsity=0.04),
    "biases too": pruning(params="__ALL__"),
    "one after the other": "\n".join(
        [
            pruning(params=["0.weight"], start_epoch=0.0, end_epoch=1.0),
            pruning(params=CONVS, start_epoch=2.0, end_epoch=3.0, init_sparsity=0.7),
            rate("ConstantPruning", params=["7.weight"]),
        ]
    ),
    "constant": rate("ConstantPruning", params="__ALL_PRUNABLE__"),
    "constant for a time": rate("ConstantPruning", params="__ALL_PRUNABLE__", start_epoch=1.0, end_epoch=3.0),
    "rates by group": "\n".join(
        [
            function("linear", 0.0, 1.5, 0.1, 0.02, param_groups=[0]),
            function("linear", 0.0, 1.5, 0.0, 0.02, param_groups=[1, 2]),
            function("cosine", 1.5, 3.3, 0.02, 0.001),
            rate("SetLearningRate", start_epoch=3.5, learning_rate=0.0123),
            rate("SetWeightDecay", start_epoch=1.1, weight_decay=0.01, param_groups=[1]),
            rate("SetWeightDecay", start_epoch=2.1, weight_decay=0.02),
            pruning(),
        ]
    ),
    "cosine upwards": function("cosine", 0.7, 3.3, 0.002, 0.1),
    "saw": function("cyclic_linear", 0.0, 3.3, 0.1, 0.002, cycle_epochs=1.2),
    "StepLR": scheduler("StepLR", end=-1.0, step_size=0.8, gamma=0.7),
    "MultiStepLR": scheduler("MultiStepLR", start=0.6, milestones=[1.0, 2.5], gamma=0.5),
    "ExponentialLR": scheduler("ExponentialLR", gamma=0.95),
    "restarts": scheduler("CosineAnnealingWarmRestarts", start=0.2, lr_min=0.001, cycle_epochs=2),
    "frozen for a time": rate("TrainableParams", params=["re:0.*"], trainable=False, start_epoch=0.0, end_epoch=2.0),
    "values": "\n".join(
        [
            rate("SetParam", params=["1.bias"], val=[0.1, 0.2, 0.3, 1, 2, 3, 4, 5], start_epoch=1.0),
            rate(
                "GradualParam",
                params=["1.weight"],
                init_val=[1] * 8,
                final_val=[2] * 7 + [3.3],
                start_epoch=0.4,
                end_epoch=3.0,
                update_frequency=0.5,
                inter_func="cubic",
            ),
        ]
    ),
}
# what a quantizer sees, step by step
SERIES: dict[str, Callable[[int], torch.Tensor]] = {
    "both signs": lambda step: torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(step)) * (1 + step),
    "positive": lambda step: torch.rand(6, 5, 3, generator=torch.Generator().manual_seed(step)) + 0.1,
    "negative": lambda step: -torch.rand(6, 5, 3, generator=torch.Generator().manual_seed(step)) - 0.1,
    "zero": lambda step: torch.zeros(6, 5, 3),
    "tiny": lambda step: torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(step)) * 1e-7,
    "pruned": lambda step: torch.randn(6, 5, 3, generator=torch.Generator().manual_seed(3)).clamp(0).mul(step != 2),
}
# symmetric, per channel, lowest and highest integer
GRIDS = [
    (False, False, -128, 127),
    (False, False, 0, 255),
    (True, False, -128, 127),
    (True, True, -128, 127),
    (False, True, -128, 127),
]
STANDARD = """
model_fuse_fn_name: no_fuse
scheme:
  input_activations: {num_bits: 8, symmetric: false}
  weights: {num_bits: 8, symmetric: true, strategy: channel}
ignore: [SiLU, Hardswish, Upsample, MaxPool2d, Concat, Detect, BatchNorm2d]
strict: false
"""
# fields of a QuantizationModifier
QUANTIZED = {
    "standard": STANDARD,
    "batch norm fused": "{ignore: [SiLU, BatchNorm2d]}",
    "everything": "{strict: true}",
    "everything, not fused": "{model_fuse_fn_name: no_fuse}",
    "outputs": "{scheme: {output_activations: {num_bits: 8, symmetric: false}}, ignore: [SiLU]}",
    "outputs, not fused": "{scheme: {output_activations: {symmetric: false}}, model_fuse_fn_name: no_fuse}",
    "overrides": "{scheme_overrides: {C3: {weights: {symmetric: true, strategy: channel}}, "
    "model.1: {input_activations: null}}, ignore: [SiLU, BatchNorm2d]}",
    "asymmetric weights": "{scheme: {weights: {symmetric: false, strategy: channel}}, ignore: [SiLU, BatchNorm2d]}",
    "symmetric inputs": "{scheme: {weights: {symmetric: false}, input_activations: {symmetric: true}}, "
    "ignore: [SiLU, BatchNorm2d], model_fuse_fn_name: no_fuse}",
    "float weights": "{scheme: {weights: null}, ignore: [SiLU, BatchNorm2d]}",
    "frozen": "{ignore: [SiLU, BatchNorm2d], freeze_bn_stats_epoch: 0.0}",
    "frozen, not fused": "{ignore: [SiLU, BatchNorm2d], freeze_bn_stats_epoch: 0.0, model_fuse_fn_name: no_fuse}",
    "observed for a step": "{ignore: [SiLU, BatchNorm2d], disable_quantization_observer_epoch: 0.25}",
    "tensorrt": "{scheme: tensorrt, ignore: [BatchNorm2d]}",
    "legacy": "{quantize_linear_activations: true}",
    "legacy, some": "{submodules: ['model.0', 'model.1', 'model.2', 'model.9', 'model.24']}",
    "legacy, not fused": "{submodules: ['model.0', 'model.1'], model_fuse_fn_name: no_fuse, exclude_batchnorm: false}",
    "legacy, inputs": "{quantize_conv_activations: false, custom_quantizable_module_types: [SiLU]}",
    "legacy, tensorrt": "{tensorrt: true}",
}
# of them, those whose names are written down
NAMED = ("standard", "batch norm fused", "everything, not fused", "outputs", "legacy, some", "legacy, not fused")


def sparseml() -> Any:
    """Return the module of SparseML's schedule; skip where there is no SparseML."""
    pytest.importorskip("sparseml", reason="SparseML is not installed, and needs Python 3.11 or older")
    return _sparseml()


@functools.cache
def _sparseml() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module("yolov5_sparse_plugin.engine.sparseml.schedule")
        except ModuleNotFoundError:
            return importlib.import_module("yolov5_sparse_plugin.engine.sparseml.schedule")


def sparsemls_quantizer(symmetric: bool, per_channel: bool, low: int, high: int) -> Any:
    """Return a quantizer of the SparseML engine's."""
    sparseml()
    from torch.ao.quantization import MovingAverageMinMaxObserver, MovingAveragePerChannelMinMaxObserver

    try:
        cls = importlib.import_module("yolov5_sparse_plugin.engine.sparseml.fake_quantize").FakeQuantize
    except ModuleNotFoundError:
        cls = importlib.import_module("yolov5_sparse_plugin.engine.fake_quantize").FakeQuantize
    scheme = getattr(torch, f"per_{'channel' if per_channel else 'tensor'}_{'symmetric' if symmetric else 'affine'}")
    observer = MovingAveragePerChannelMinMaxObserver if per_channel else MovingAverageMinMaxObserver
    more = {"ch_axis": 0} if per_channel else {}
    return cls(observer, dtype=torch.qint8 if low < 0 else torch.quint8, qscheme=scheme, reduce_range=False, **more)


def recipe_of(body: str) -> RecipeText:
    text = "modifiers:\n  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: 5.0}\n" + body
    return RecipeText(text, "r.yaml")


def quantizing(name: str, start: float = 0.0) -> RecipeText:
    fields = yaml.safe_dump(
        {"start_epoch": start, **yaml.safe_load(QUANTIZED[name])}, default_flow_style=True, width=9999
    )
    return RecipeText(f"modifiers:\n  - !QuantizationModifier {fields}", "r.yaml")


# ------------------------------------------------------------------------------------------------- rates and masks


def toy(seed: int = 0) -> torch.nn.Module:
    """Return a small network; among its weights are equal ones, and zeros."""
    random = torch.Generator().manual_seed(seed)
    model = torch.nn.Sequential(
        *(torch.nn.Conv2d(4, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU()),
        *(torch.nn.Conv2d(8, 12, 3), torch.nn.BatchNorm2d(12), torch.nn.SiLU()),
        *(torch.nn.Flatten(), torch.nn.Linear(12 * 4, 8)),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.2)
        model[3].weight[:3] = model[3].weight[:3].mul(20).round() / 20
        model[3].weight[5] = 0.0
        model[0].weight[:2] = model[0].weight[:2].sign() * 0.1
    return model.train()


def sgd(model: torch.nn.Module) -> torch.optim.Optimizer:
    """Return an optimizer with YOLOv5's groups: biases, weights, batch norm."""
    named = list(model.named_parameters())
    groups = [
        [p for n, p in named if n.endswith("bias")],
        [p for n, p in named if not n.endswith("bias") and p.ndim > 1],
        [p for n, p in named if not n.endswith("bias") and p.ndim == 1],
    ]
    optimizer = torch.optim.SGD(groups[0], lr=0.05, momentum=0.9, nesterov=True)
    optimizer.add_param_group({"params": groups[1], "weight_decay": 5e-4})
    optimizer.add_param_group({"params": groups[2], "weight_decay": 0.0})
    return optimizer


def gradients(model: torch.nn.Module, step: int) -> list[torch.Tensor]:
    """Return a gradient for each parameter, the same with every torch and on every machine."""
    found = []
    for place, parameter in enumerate(model.parameters()):
        numbers = torch.arange(parameter.numel(), dtype=torch.int64) * 7919 + step * 104729 + place * 1299709
        found.append(((numbers % 2003).to(parameter.dtype) / 1001.5 - 1).reshape(parameter.shape) / 8)
    return found


def run(engine: Any, text: RecipeText, accumulate: int = 1, steps: int = 19, start: Any = None) -> list[Any]:
    """Train `toy` with gradients that depend on nothing, as YOLOv5 would; return what each step left behind.

    Args:
        start: weights to start with.
    """
    model, per_epoch = toy(), 5
    model.load_state_dict(start or {}, strict=False)
    optimizer = sgd(model)
    schedule = engine.Schedule.load(text)
    wrapped = schedule.wrap(optimizer, model, None)
    wrapped.bind(per_epoch)
    found: list[Any] = []
    for step in range(steps):
        if step and step % per_epoch == 0:
            wrapped.tick(float(step // per_epoch))
        if step < 7:  # upstream's warm-up writes into the groups
            for group in wrapped.param_groups:
                group["lr"], group["momentum"] = 0.01 * step, 0.8
        learning = [p for p in model.parameters() if p.requires_grad]
        sum((p * g).sum() for p, g in zip(model.parameters(), gradients(model, step)) if p.requires_grad).backward()
        if step % accumulate == accumulate - 1:
            torch.nn.utils.clip_grad_norm_(learning, 1.0)
            wrapped.step()
            wrapped.zero_grad()
        else:
            wrapped.emulated_step()
        found.append(state_of(model, optimizer, wrapped, schedule))
    wrapped.tick(float(-(-steps // per_epoch)))
    found.append(state_of(model, optimizer, wrapped, schedule))
    schedule.close(model)
    found.append([len(p._backward_hooks or {}) for p in model.parameters()])
    return found


def state_of(model: Any, optimizer: Any, wrapped: Any, schedule: Any) -> dict[str, Any]:
    masks = schedule.masks()
    buffers = [optimizer.state[p].get("momentum_buffer") for p in model.parameters()]
    return {
        "epoch": wrapped.epoch,
        "rates": list(wrapped.rates),
        **{key: [group[key] for group in optimizer.param_groups] for key in ("lr", "momentum", "weight_decay")},
        "masks": {name: masks[id(p)].clone() for name, p in model.named_parameters() if id(p) in masks},
        "weights": {name: p.detach().clone() for name, p in model.named_parameters()},
        "momentum_buffers": [None if buffer is None else buffer.clone() for buffer in buffers],
        "pruned_at": wrapped.pruned_at(),
        "learns": [p.requires_grad for p in model.parameters()],
    }


def same(one: Any, other: Any, place: str = "") -> None:
    """Assert that two structures of numbers are equal, bit by bit."""
    if torch.is_tensor(one):
        assert one.dtype == other.dtype and torch.equal(one, other), place
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            same(one[key], other[key], f"{place}/{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), place
        for number, (a, b) in enumerate(zip(one, other)):
            same(a, b, f"{place}/{number}")
    else:
        assert one == other, (place, one, other)


# ------------------------------------------------------------------------------------------------------- quantization


@functools.cache
def _yolo(width: float) -> torch.nn.Module:
    import yolov5
    from yolov5.models.yolo import Model

    level = logging.root.manager.disable
    logging.disable(logging.INFO)
    torch.manual_seed(0)
    cfg = yaml.safe_load((Path(yolov5.__file__).parent / "models" / "yolov5n.yaml").read_text())
    model = Model({**cfg, "width_multiple": width}, ch=3, nc=3)
    logging.disable(level)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.weight.data.uniform_(0.5, 1.5)
            layer.bias.data.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 2)
    return model


def yolo(width: float = 0.05, adds: bool = True) -> torch.nn.Module:
    """Return a YOLOv5 in training; 0.05 is a fifth of n's width."""
    model = copy.deepcopy(_yolo(width))
    if adds:
        make_adds_quantizable(model)
    return model.train()


def images(seed: int = 0, count: int = 2, size: int = 64) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def flat(outputs: Any) -> list[torch.Tensor]:
    return [outputs] if torch.is_tensor(outputs) else [each for part in outputs for each in flat(part)]


def loss_of(outputs: Any) -> torch.Tensor:
    return sum((each - 1).square().mean() for each in flat(outputs))


def quantized(name: str = "standard", steps: int = 2, engine: Any = native, adds: bool = True) -> torch.nn.Module:
    """Return a model after some steps of quantization-aware training."""
    model = yolo(adds=adds)
    wrapped = engine.Schedule.load(quantizing(name)).wrap(sgd(model), model, None)
    wrapped.bind(4)
    for step in range(steps):
        loss_of(model(images(step))).backward()
        wrapped.step()
        wrapped.zero_grad()
    return model
