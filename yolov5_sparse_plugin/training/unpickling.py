"""Read a checkpoint without running code of whoever wrote it.

A pickle names the functions it wants called. Of these, only what the checkpoints of YOLOv5 and of its sparse fork are
made of is looked up: tensors, layers of torch and of YOLOv5 (without running their constructors), numpy's scalars,
plain collections. Everything else is refused by name, unless the user trusts the file.
"""

from __future__ import annotations

import importlib
import os
import pathlib
import pickle
import pickletools
import types
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, Callable

import torch
from torch import nn

from yolov5_sparse_plugin import options
from yolov5_sparse_plugin.errors import CheckpointError, SparsePluginError
from yolov5_sparse_plugin.hosts.class_tree import is_program, own_class


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# torch's layers that models of YOLOv5 and of its forks are made of
LAYERS = words("""
Module Sequential ModuleList ModuleDict ParameterList ParameterDict Identity Flatten Unflatten
Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d Linear Bilinear Embedding
NonDynamicallyQuantizableLinear
BatchNorm1d BatchNorm2d BatchNorm3d SyncBatchNorm LayerNorm GroupNorm InstanceNorm1d InstanceNorm2d LocalResponseNorm
MaxPool1d MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d
AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d LPPool2d Fold Unfold
SiLU Hardswish Hardsigmoid Hardtanh ReLU ReLU6 LeakyReLU PReLU RReLU ELU CELU SELU GELU Mish Sigmoid LogSigmoid Tanh
Tanhshrink Softplus Softshrink Hardshrink Softsign Threshold GLU Softmax Softmax2d LogSoftmax
Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout
Upsample UpsamplingNearest2d UpsamplingBilinear2d PixelShuffle PixelUnshuffle ChannelShuffle
ZeroPad1d ZeroPad2d ZeroPad3d ConstantPad1d ConstantPad2d ReflectionPad1d ReflectionPad2d ReplicationPad1d
ReplicationPad2d MultiheadAttention TransformerEncoder TransformerEncoderLayer
BCELoss BCEWithLogitsLoss CrossEntropyLoss MSELoss L1Loss SmoothL1Loss KLDivLoss NLLLoss
""")
# of torchvision's: the classifiers that YOLOv5 trains as well
CLASSIFIERS = words("""
torchvision.models.resnet.ResNet torchvision.models.resnet.BasicBlock torchvision.models.resnet.Bottleneck
torchvision.models.efficientnet.EfficientNet torchvision.models.efficientnet.MBConv
torchvision.models.efficientnet.FusedMBConv torchvision.models.mobilenetv2.MobileNetV2
torchvision.models.mobilenetv2.InvertedResidual torchvision.models.mobilenetv3.MobileNetV3
torchvision.models.mobilenetv3.InvertedResidual torchvision.ops.misc.ConvNormActivation
torchvision.ops.misc.Conv2dNormActivation torchvision.ops.misc.SqueezeExcitation torchvision.ops.misc.FrozenBatchNorm2d
torchvision.ops.stochastic_depth.StochasticDepth
""")
# what SparseML hung into models while it trained them: masks' hooks, teachers, losses; and the fork's quantizable `+`
LEFTOVERS = ("sparseml.", "functools partial", "torch.utils.hooks RemovableHandle")
LEFTOVER_CLASSES = ("_Add", "FloatFunctional")
# all that a checkpoint of plain values and tensors names; torch itself reads these, with `weights_only=True`
OF_TENSORS = ("collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter")


class Leftover:
    """Stands where a checkpoint has an object that is not wanted; takes whatever is done to it, and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any): ...
    def __setstate__(self, state: Any) -> None: ...
    def __setitem__(self, key: Any, value: Any) -> None: ...
    def append(self, item: Any) -> None: ...
    def extend(self, items: Any) -> None: ...


class Sealed(type):
    """Metaclass of a stand-in for a class of layers: makes empty objects of it, and never runs its constructor."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise pickle.UnpicklingError(f"calls {cls.__name__}(…)")


def sealed(cls: type) -> type:
    # torch looks at the second where a file before torch 1.6 has the source of its classes
    return Sealed(cls.__name__, (), {"__new__": lambda _, *args: cls.__new__(cls), "dump_patches": False})


def latin1(text: str, encoding: str) -> bytes:
    """Do what numpy's scalars need of `codecs.encode`."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encodes bytes as {encoding!r}")
    return text.encode("latin1")


def method_of(owner: Any, name: str) -> Leftover:
    """Do what a leftover's hooks need of `getattr`, which on anything else opens every door.

    A segmentation model keeps `Detect.forward` as an attribute; it gets its own host's again where it is modernized.
    """
    if not isinstance(owner, Leftover) and not (isinstance(owner, Sealed) and name == "forward"):
        raise pickle.UnpicklingError(f"takes {name!r} from an object of {type(owner).__name__}")
    return Leftover()


def allowed(module: str, name: str) -> Any:
    """Return what `module.name` may be in a checkpoint, None where it may not be there."""
    if (module, name) in CALLED:
        return _stand_in(CALLED[module, name])
    if (module, name) == ("numpy", "ndarray"):
        return importlib.import_module("numpy").ndarray  # an argument of `_reconstruct`
    module = "numpy.core.multiarray" if module == "numpy._core.multiarray" else module  # numpy 2 and 1
    if f"{module}.{name}" in FUNCTIONS:
        return _stand_in(getattr(importlib.import_module(module), name))
    if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
        return getattr(torch, name)
    if f"{module} {name}".startswith(LEFTOVERS) or name in LEFTOVER_CLASSES:
        return type(name, (Leftover,), {})
    cls = own_class(module, name) or library_class(module, name)
    return None if cls is None else sealed(cls)


def library_class(module: str, name: str) -> type[nn.Module] | None:
    """Return the layer of torch or torchvision that `module.name` is, None where it is none of those listed."""
    listed = f"{module}.{name}" in CLASSIFIERS or (module.startswith("torch.nn.modules.") and name in LAYERS)
    found = getattr(importlib.import_module(module), name, None) if listed else None
    is_layer = isinstance(found, type) and issubclass(found, nn.Module) and found.__module__ == module
    return found if is_layer and not is_program(found) else None


def _stand_in(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a new function that calls `function`: a pickle can set attributes of what it is given."""
    return lambda *arguments: function(*arguments)


FUNCTIONS = (
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.serialization._get_layout",
    "torch.Size",
    "torch.device",
    "numpy.core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.dtype",
    "collections.OrderedDict",
)
PATHS = ("PosixPath", "WindowsPath", "Path", "PurePosixPath", "PureWindowsPath", "PurePath")
CALLED: dict[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): latin1,
    **{("pathlib", name): pathlib.PurePath for name in PATHS},
    **{(builtins, name): value for builtins in ("builtins", "__builtin__") for name, value in (
        ("set", set), ("frozenset", frozenset), ("float", float), ("int", int), ("getattr", method_of),
    )},
}  # fmt: skip


def refused(file: Any, module: str, name: str) -> CheckpointError:
    module = {"posix": "os", "nt": "os", "__builtin__": "builtins"}.get(module, module)
    return CheckpointError(
        f"{file}: the checkpoint wants to call {module}.{name}, which is no part of a YOLOv5 model and could run "
        "anything on this machine. It was not called, and nothing was loaded. If you made this file, or know who did, "
        f"use --sparse-trust-pickle (or {options.ENV_PREFIX}TRUST_PICKLE=1); else delete it."
    )


def restricted(file: Any, trust: bool) -> types.ModuleType:
    """Return what `torch.load` takes for the module `pickle`: an unpickler that looks up `allowed` names only."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            found = allowed(module, name)
            if found is None and trust:
                return super().find_class(module, name)
            if found is None:
                raise refused(file, module, name)
            return found

    shim = types.ModuleType("restricted_pickle")
    shim.Unpickler = Unpickler
    shim.load = lambda stream, **kwargs: Unpickler(stream, **kwargs).load()
    shim.UnpicklingError = pickle.UnpicklingError
    return shim


def trusts() -> bool:
    """Return whether the user trusts pickles, by environment or config file; a run's own option is put there."""
    return options.resolve({}, command="val").trust_pickle


def load(file: Any, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint, whoever wrote it.

    Args:
        file: path of a file of `torch.save`, today's format or the one before torch 1.6.

    Returns:
        The checkpoint's dict. Modules are of this host's own classes, whichever class tree they were pickled from.

    Raises:
        CheckpointError: the file is damaged, is not a checkpoint, or names something that is not allowed.
    """
    trust = trusts()
    check_whole(file)
    check_sums(file)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()) and not trust:
                raise CheckpointError(
                    f"{file}: a TorchScript file, not a checkpoint: it is a program, not only weights. Name the "
                    "checkpoint that it was exported from, a .pt file of a training run."
                )
    tensors_only = of_tensors(file)
    if is_path(file) and tensors_only is None:
        raise damaged(file, "there is no pickle in it")
    try:
        if tensors_only is not False and not trust:
            ckpt = torch.load(file, map_location=map_location, weights_only=True)
        else:
            shim = restricted(file, trust)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of classes whose source has changed since
                ckpt = torch.load(file, map_location=map_location, pickle_module=shim, weights_only=False)
    except SparsePluginError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"{file}: there is no such file. Check the path.") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise damaged(file, error) from error
    if not isinstance(ckpt, dict):
        raise CheckpointError(f"{file}: not a YOLOv5 checkpoint: it holds a {type(ckpt).__name__}, not a dict.")
    for value in ckpt.values():
        if isinstance(value, nn.Module):
            drop_leftovers(value)
    return ckpt


def damaged(file: Any, why: Any) -> CheckpointError:
    return CheckpointError(
        f"{file}: not a checkpoint that torch can read, or it is damaged ({why}). Use another one of the run (best.pt, "
        "last.pt, best_*.pt), or copy or download it again."
    )


def drop_leftovers(model: nn.Module) -> None:
    """Take leftovers out of a model: submodules, hooks and attributes."""
    stack: list[nn.Module] = [model]
    while stack:
        module = stack.pop()
        for key, value in list(vars(module).items()):
            if isinstance(value, Leftover):
                del vars(module)[key]
            elif isinstance(value, dict):
                for inner in [k for k, v in value.items() if isinstance(v, Leftover)]:
                    del value[inner]
        stack.extend(child for child in module._modules.values() if child is not None)


def check_whole(file: Any) -> None:
    """Refuse a file that is no checkpoint by its first bytes, or that starts as torch's zip archives do but has no end.

    Raises:
        CheckpointError: a download or a copy was interrupted, or brought something else.
    """
    if not is_path(file):
        return
    with open(file, "rb") as stream:
        start = stream.read(256)
    zipped = start.startswith(b"PK\x03\x04")
    if zipped and not zipfile.is_zipfile(file):
        raise damaged(file, "its end is missing")
    if not zipped and not start.startswith(b"\x80"):  # a pickle, as torch wrote before 1.6
        page = start.lstrip()[:1] == b"<"
        raise damaged(file, "it is empty" if not start else "it is a web page" if page else "it begins as none does")


def check_sums(file: Any) -> None:
    """Refuse an archive whose contents are not those whose checksums it has; torch does not look.

    Raises:
        CheckpointError: a disk or a copy changed some of it.
    """
    if is_path(file) and zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            changed = archive.testzip()
        if changed is not None:
            raise damaged(file, f"the checksum of {changed} is wrong")


def check_numbers(state: Mapping[str, Any], file: Any) -> None:
    """Refuse a state dict with values that are no numbers, and quantizers without a scale.

    Raises:
        CheckpointError: naming the first; observers' ranges are infinite until they have seen something.
    """
    for name, value in state.items():
        leaf = name.rpartition(".")[2]
        if not torch.is_tensor(value) or not value.is_floating_point() or leaf in ("min_val", "max_val"):
            continue
        if not torch.isfinite(value).all() or (leaf == "scale" and not (value > 0).all()):
            raise damaged(file, f"{name} holds what is no {'scale' if leaf == 'scale' else 'number'}")


def of_tensors(file: Any) -> bool | None:
    """Return whether a checkpoint holds plain values and tensors only, None where there is no pickle in it.

    Looks no further than the first name that is neither: of a model's checkpoint that is the model's class, and the
    million opcodes behind it take as long as loading it.
    """
    text = False
    try:
        for code, argument in _opcodes(file):
            name = argument if code in ("GLOBAL", "INST") else "?" if code == "STACK_GLOBAL" else None
            if name is not None and name not in OF_TENSORS and "Storage" not in name:
                return False
            text = text or code == "NONE" or isinstance(argument, str)
    except (ValueError, OSError, zipfile.BadZipFile):
        return None
    return True if text else None


def contents(file: Any) -> tuple[set[str], list[str | None]]:
    """Look into a checkpoint's pickle; nothing is unpickled for it.

    Returns:
        The names (`module name`) of what it uses, `?` for one that a pickle of protocol 4 assembles on its stack; its
        strings and `None`s in order, so that a key of the dict stands before its value where that is one of them.
    """
    names: set[str] = set()
    strings: list[str | None] = []
    try:
        for code, argument in _opcodes(file):
            if code in ("GLOBAL", "INST"):
                names.add(argument)
            elif code == "STACK_GLOBAL":
                names.add("?")
            elif code == "NONE" or isinstance(argument, str):
                strings.append(argument)
    except (ValueError, OSError, zipfile.BadZipFile):
        return set(), []
    return names, strings


def _opcodes(file: Any) -> Iterator[tuple[str, Any]]:
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            inside = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
            if inside is not None:
                yield from ((op.name, argument) for op, argument, _ in pickletools.genops(archive.read(inside)))
        return
    with open(file, "rb") as stream:  # before torch 1.6: magic number, protocol, system, checkpoint; then raw tensors
        if stream.read(1) != b"\x80":
            return
        stream.seek(0)
        for _ in range(4):
            yield from ((op.name, argument) for op, argument, _ in pickletools.genops(stream))


def is_path(file: Any) -> bool:
    return isinstance(file, (str, os.PathLike)) and os.path.isfile(file)
