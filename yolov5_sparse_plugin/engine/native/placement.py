"""Where quantizers go in a model: the rules of SparseML 1.8 for the two forms of its QuantizationModifier."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from copy import deepcopy
from typing import Any, NamedTuple

from torch import nn

from yolov5_sparse_plugin.engine.native import layers
from yolov5_sparse_plugin.engine.native.fake_quantize import FakeQuantizer
from yolov5_sparse_plugin.engine.recipe import matches
from yolov5_sparse_plugin.hosts.host import HostModel

# layers that compute nothing, or are there in training only
NEVER = {"Module", "Identity", "Flatten", "Unflatten", "DataParallel", "ModuleList", "Sequential"}
NORMS = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d")
# layers whose outputs the legacy form rounds, as torch's eager mode does (but for Sigmoid's and Tanh's fixed ranges)
OBSERVED = {
    *("Conv1d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "BatchNorm2d", "BatchNorm3d", "LayerNorm"),
    *("GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"),
    *("ELU", "Hardswish", "LeakyReLU", "PReLU", "ReLU6"),
}


class Grid(NamedTuple):
    """What a quantizer is made of, see `FakeQuantizer`."""

    quant_min: int = -128
    quant_max: int = 127
    symmetric: bool = False
    per_channel: bool = False

    @classmethod
    def of(cls, arguments: Any) -> Grid | None:
        """Return the grid that a scheme's part asks for: of signed integers, whatever is rounded."""
        if arguments is None:
            return None
        return cls(symmetric=arguments.symmetric, per_channel=arguments.strategy == "channel")

    def build(self, channels: int = 0) -> FakeQuantizer:
        return FakeQuantizer(self.quant_min, self.quant_max, self.symmetric, channels if self.per_channel else 0)


class Block(NamedTuple):
    """A convolution and what is fused into it; `parts` are their names."""

    kind: str
    norms: tuple[nn.Module, ...]
    last: nn.Module
    parts: tuple[str, ...]


class Placement:
    """The layers of a model when conversion begins: `named` by first name, `blocks` by convolution's id."""

    def __init__(self, model: nn.Module, fuse: bool):
        self.model = model
        self.blocks: dict[int, Block] = {}
        for block in blocks_of(model) if fuse else ():
            conv: HostModel = model.get_submodule(block.parts[0])
            conv.norms = block.norms  # also where no quantizer makes a difference of it, see `structure`
            self.blocks[id(conv)] = block
        self._gone = {name for block in self.blocks.values() for name in block.parts[1:]}
        self.named: dict[str, nn.Module] = {}
        self._places: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
        self._copies: dict[int, list[nn.Module]] = {}
        seen: set[int] = set()
        for name, layer in model.named_modules(remove_duplicate=False):
            if name in self._gone:
                continue
            owner, _, leaf = name.rpartition(".")
            if name:
                self._places[id(layer)].append((model.get_submodule(owner), leaf))
            if id(layer) not in seen:
                seen.add(id(layer))
                self.named[name] = layer

    def kind(self, layer: nn.Module) -> str:
        """Return the name of a layer's class, as recipes know it."""
        if id(layer) in self.blocks:
            return self.blocks[id(layer)].kind
        return "BatchNorm2d" if isinstance(layer, nn.SyncBatchNorm) else type(layer).__name__

    def is_whole(self, layer: nn.Module) -> bool:
        """Return whether a layer is rounded as a whole: it has no parts, or none that compute."""
        kind = self.kind(layer)
        if kind in NEVER or kind.startswith(("Dropout", "AlphaDropout", "FeatureAlphaDropout")) or kind[-4:] == "Loss":
            return False
        return id(layer) in self.blocks or all(isinstance(part, nn.Identity) for part in layer.children())

    def children(self, owner: nn.Module) -> list[nn.Module]:
        """Return the parts of a layer, each once, without those that are fused into others."""
        parts = {id(part): part for part in owner.children()}
        return [part for place, part in parts.items() if any(where is owner for where, _ in self._places[place])]

    # ---- giving quantizers; one that a layer has it keeps

    def round_input(self, owner: nn.Module, layer: nn.Module, grid: Grid) -> None:
        """Give a layer a quantizer for its input, in this place: one that is in several has a range in each."""
        if hasattr(layer, "input_quantizer") or _is_wire(layer):
            return
        places = self._places[id(layer)]
        if len(places) > 1 and not any(True for _ in layer.parameters()):
            here = deepcopy(layer)
            self._copies.setdefault(id(layer), []).append(here)
            setattr(owner, next(name for where, name in places if where is owner), here)
            layer = here
        layers.quantize_input(layer, self._ready(grid.build(), layer))

    def round_inputs(self, layer: HostModel, grid: Grid) -> None:
        if not hasattr(layer, "input_quantizers"):
            count = layer.qat_wrapper_kwargs["num_inputs"]
            layers.quantize_inputs(layer, [self._ready(grid.build(), layer) for _ in range(count)])

    def round_weight(self, layer: HostModel, grid: Grid | None) -> None:
        norms = self.blocks[id(layer)].norms if id(layer) in self.blocks else ()
        if type(layer) in layers.QUANTIZED and (grid is not None or norms):
            quantizer = self._ready(grid.build(layer.weight.shape[0]), layer) if grid else nn.Identity()
            layers.quantize_weight(layer, quantizer, norms)

    def round_output(self, layer: nn.Module, grid: Grid) -> None:
        """Give a layer a quantizer for its output; what is fused into it comes before."""
        block = self.blocks.get(id(layer))
        if block:
            layer = block.last
            if self._places[id(layer)]:  # one activation serves many convolutions, and is fused into the first
                owner, _, leaf = block.parts[-1].rpartition(".")
                layer = deepcopy(layer)
                setattr(self.model.get_submodule(owner), leaf, layer)
        if hasattr(layer, "output_quantizer"):
            return
        quantizer = self._ready(grid.build(), layer)
        for each in self._copies.get(id(layer), [layer]):
            layers.quantize_output(each, quantizer)

    def _ready(self, quantizer: FakeQuantizer, layer: nn.Module) -> FakeQuantizer:
        return quantizer.to(next(self.model.parameters()).device).train(layer.training)


def _is_wire(layer: nn.Module) -> bool:
    """Return whether YOLOv5 calls this layer itself, with lists too, and it only passes on what was rounded before."""
    return hasattr(layer, "f") and hasattr(layer, "i") and not any(True for _ in layer.parameters())


def blocks_of(model: nn.Module) -> list[Block]:
    """Return the convolutions that are followed, in the order of the model, by a batch norm or a ReLU beside them."""
    found: list[Block] = []
    block: list[tuple[str, nn.Module]] = []
    for name, layer in [*model.named_modules(), ("", nn.Identity())]:
        beside = bool(block) and name.rpartition(".")[0] == block[0][0].rpartition(".")[0]
        is_norm = isinstance(layer, (nn.BatchNorm2d, nn.SyncBatchNorm)) and len(block) == 1
        is_relu = isinstance(layer, nn.ReLU) and not (block and isinstance(block[-1][1], nn.ReLU))
        if beside and (is_norm or is_relu):
            block.append((name, layer))
            continue
        if len(block) > 1:
            norms = tuple(each for _, each in block if not isinstance(each, (nn.Conv2d, nn.ReLU)))
            relu = "ReLU" if isinstance(block[-1][1], nn.ReLU) else ""
            kind = f"Conv{'Bn' if norms else ''}{relu}2d"
            found.append(Block(kind, norms, block[-1][1], tuple(each for each, _ in block)))
        block = [(name, layer)] if isinstance(layer, nn.Conv2d) and not hasattr(layer, "weight_quantizer") else []
    return found


# ------------------------------------------------------------------------------------------------ the form with schemes


def by_scheme(model: nn.Module, spec: Any, scheme: Any, ignore: list[str], fuse: bool) -> None:
    """Give every layer without parts the quantizers of its scheme; `ignore`: (beginnings of) names, and classes."""
    here, overrides = Placement(model, fuse), spec.scheme_overrides or {}
    schemes: dict[int, Any] = {}
    for name, layer in here.named.items():
        if matching(name, here.kind(layer), ignore):
            continue
        key = matching(name, here.kind(layer), overrides)
        wanted = scheme if key is None or overrides[key] is None else overrides[key]
        if getattr(layer, "wrap_qat", False):
            here.round_inputs(layer, Grid.of(wanted.output_activations) or Grid())  # as outputs are, SparseML has it
        elif key == here.kind(layer) or here.is_whole(layer):
            schemes[id(layer)] = wanted
    _round_inputs_below(here, model, {place: Grid.of(each.input_activations) for place, each in schemes.items()})
    for layer in list(here.named.values()):
        wanted = schemes.get(id(layer))
        if wanted is None:
            continue
        here.round_weight(layer, Grid.of(wanted.weights))
        inner = [schemes.get(id(part)) for part in layer.modules() if part is not layer]
        outputs = Grid.of(wanted.output_activations)
        if outputs is not None and not any(each and each.output_activations for each in inner):
            here.round_output(layer, outputs)


def _round_inputs_below(here: Placement, owner: nn.Module, grids: dict[int, Grid | None]) -> None:
    """Round the inputs of the outermost layers that have a grid for them."""
    for layer in here.children(owner):
        grid = grids.get(id(layer))
        if grid is not None:
            here.round_input(owner, layer, grid)
        else:
            _round_inputs_below(here, layer, grids)


def matching(name: str, kind: str, words: Iterable[str]) -> str | None:
    """Return the word that means a layer: the longest beginning of its name, else its class."""
    words = list(words)
    begin = [word for word in words if word and (name.startswith(word) or (word[:3] == "re:" and matches(word, name)))]
    return max(begin, key=len) if begin else (kind if kind in words else None)


# ------------------------------------------------------------------------------------------------------ the legacy form


def by_submodules(model: nn.Module, spec: Any, names: list[str], ignore: list[str], fuse: bool) -> None:
    """Give convolutions and linear layers below the modules `names` quantizers for input, weight and output."""
    here = Placement(model, fuse)
    activation = Grid(symmetric=True) if spec.tensorrt else Grid(0, 255)
    floating = {"Softmax", *(spec.exclude_module_types or ()), *(NORMS if spec.exclude_batchnorm else ())}
    custom = spec.custom_quantizable_module_types or ()
    for name, layer in list(here.named.items()):
        kind = here.kind(layer)
        below = any(name == other or not other or name.startswith(f"{other}.") for other in names)
        if not below or any(name.startswith(word) for word in ignore):
            continue
        weighted = kind in ("Conv1d", "Conv2d", "Conv3d", "Linear") or id(layer) in here.blocks
        if getattr(layer, "wrap_qat", False) and name not in names:
            here.round_inputs(layer, activation)
        elif weighted or kind in custom:
            for owner, _ in list(here._places[id(layer)]):
                here.round_input(owner, layer, activation)
        if kind in floating:
            continue
        if weighted:
            here.round_weight(layer, Grid(symmetric=True))
        wanted = spec.quantize_linear_activations if kind == "Linear" else spec.quantize_conv_activations
        if (weighted and wanted and not spec.tensorrt) or (not weighted and kind in OBSERVED):
            here.round_output(layer, activation)
