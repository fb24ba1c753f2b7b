"""YOLOv5 calls the layers of a model one by one, each with the outputs of the layers that its attribute `f` names.

SparseML puts a wrapper around a layer to quantize its input. Around a layer of YOLOv5's list, an Upsample or a Concat,
the wrapper has no `f`, and takes no list of inputs.
"""

from __future__ import annotations

from typing import Any

from torch import nn

WIRES = ("i", "f", "type", "np")


def keep(modifier: Any) -> None:
    """Let SparseML's quantization modifier leave the wiring in order; changed in place.

    A layer without weights stays as it was: what it passes on has been rounded before. One with weights is quantized,
    and its wires go over to what stands in its place.
    """
    convert = modifier._enable_module_qat

    def keeping(model: nn.Module) -> None:
        before = wired(model)
        convert(model)
        for owner, name, layer in before:
            now = getattr(owner, name)
            if now is not layer and not any(True for _ in layer.parameters()):
                setattr(owner, name, layer)
            elif now is not layer:
                vars(now).update({wire: value for wire, value in vars(layer).items() if wire in WIRES})

    modifier._enable_module_qat = keeping


def wired(model: nn.Module) -> list[tuple[nn.Module, str, nn.Module]]:
    """Return the layers that YOLOv5 calls itself: (owner, name there, layer)."""
    parts = ((owner, name, layer) for owner in model.modules() for name, layer in owner.named_children())
    return [(owner, name, layer) for owner, name, layer in parts if hasattr(layer, "f") and hasattr(layer, "i")]
