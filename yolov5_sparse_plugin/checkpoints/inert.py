"""Read a pickle into objects that can do nothing.

A pickle is a program: it names what it wants called and what attributes it wants set. Here a name stays a name, what it
says of a layer is kept beside the layer's class, and of all functions those in `FUNCTIONS` alone are done, on arguments
of the kinds that they are for. `assembly.py` makes modules of what was read.
"""

from __future__ import annotations

import math
import pathlib
import pickle
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn


class Refusal(pickle.UnpicklingError):
    """The pickle wants something that is not done."""


class Name:
    """What a pickle names: a function, or a class of layers."""

    __slots__ = ("module", "name", "cls")

    def __init__(self, module: str, name: str, cls: type[nn.Module] | None = None):
        self.module, self.name, self.cls = module, name, cls

    @property
    def __name__(self) -> str:  # torch puts it into a warning
        return self.name


class Part:
    """A module in the making: its class, and the state that the pickle has for it."""

    __slots__ = ("cls", "state")

    def __init__(self, cls: type[nn.Module]):
        self.cls = cls
        self.state: dict[Any, Any] | None = None


class Leftover:
    """Stands where a checkpoint has an object that is not wanted; whatever is done to it, nothing happens."""

    __slots__ = ()


class Method:
    """The method of a layer that stands for its `forward`; fused convolutions have one."""

    __slots__ = ("owner", "name")

    def __init__(self, owner: Part, name: str):
        self.owner, self.name = owner, name


class Ordered(dict):
    """An OrderedDict; a pickle cannot give it attributes."""

    __slots__ = ()


class Kind:
    """One of numpy's dtypes, without a way to change numpy's own."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: np.dtype):
        self.dtype = dtype


class Array:
    """A numpy array in the making."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array: np.ndarray | None = None


# ----------------------------------------------------------------------------------------------- what functions do here


def of_kinds(arguments: tuple, *kinds: type | tuple[type, ...]) -> None:
    """Refuse arguments of a function that are not exactly of `kinds`."""
    wanted = [kind if isinstance(kind, tuple) else (kind,) for kind in kinds]
    if len(arguments) != len(kinds) or not all(type(a) in kind for a, kind in zip(arguments, wanted)):
        raise Refusal(f"calls a function with {', '.join(type(a).__name__ for a in arguments) or 'nothing'}")


def tensor(*arguments: Any) -> torch.Tensor:
    """Do `_rebuild_tensor` and `_rebuild_tensor_v2`: storage, offset, size, stride, gradient; nothing hung into it."""
    storage, offset, size, stride = arguments[:4]
    of_kinds((storage, offset), torch.storage.TypedStorage, int)
    numbers = [*size, *stride] if type(size) in (tuple, torch.Size) and type(stride) is tuple else [None]
    if offset < 0 or len(size) != len(stride) or not all(type(n) is int and n >= 0 for n in numbers):
        raise Refusal("has a tensor without a shape")
    reach = offset + sum((n - 1) * step for n, step in zip(size, stride)) + 1
    if math.prod(size) and (reach > storage._size() or math.prod(size) > max(storage._size(), EXPANDED)):
        raise Refusal("has a tensor that is larger than what is stored of it")
    grad = arguments[4] if len(arguments) > 4 else False
    of_kinds((grad,), bool)
    if any(arguments[6:]):
        raise Refusal("has a tensor that is conjugated or negated when it is used")
    return torch._utils._rebuild_tensor_v2(storage, offset, tuple(size), stride, grad, {})


def parameter(*arguments: Any) -> nn.Parameter:
    """Do `_rebuild_parameter`: a tensor, whether it learns, hooks that are not set."""
    of_kinds(arguments[:2], torch.Tensor, bool)
    return nn.Parameter(*arguments[:2])


def ordered(*arguments: Any) -> Ordered:
    of_kinds(arguments, *([list] * len(arguments[:1])))
    found = Ordered()
    for pair in arguments[0] if arguments else ():
        if type(pair) not in (list, tuple) or len(pair) != 2:
            raise Refusal(f"makes an OrderedDict of an object of {type(pair).__name__}")
        put(found, [*pair])
    return found


def put(filled: dict[Any, Any], items: list[Any]) -> None:
    """Put keys and values, in turn, into a dict."""
    for key in items[::2]:
        check_key(key)
    filled.update(zip(items[::2], items[1::2]))


def check_key(key: Any) -> None:
    """Refuse what is no number and no text, nor a tuple of them: to hash nested ones may take for ever."""
    parts = key if type(key) is tuple else (key,)
    wrong = next((part for part in parts if type(part) not in KEYS and not isinstance(part, np.generic)), None)
    if wrong is not None:
        raise Refusal(f"has an object of {type(wrong).__name__} for a key")


def numpy_dtype(*arguments: Any) -> Kind:
    code = arguments[0] if arguments else None
    found = np.dtype(code) if type(code) is str and code.strip("<>|=")[:1] in tuple("biufUS") else None
    if found is None or found.kind not in "biufUS" or found.fields or found.subdtype:
        raise Refusal(f"has {code!r} for a kind of number")
    return Kind(found)


def numpy_scalar(*arguments: Any) -> Any:
    of_kinds(arguments, Kind, bytes)
    kind, raw = arguments
    return np.frombuffer(raw, kind.dtype, 1)[0]


def numpy_array(*arguments: Any) -> Array:
    return Array()  # what is in it comes as its state


def encoded(*arguments: Any) -> bytes:
    """Do what numpy's bytes need of `codecs.encode`."""
    of_kinds(arguments, str, str)
    if arguments[1] != "latin1":
        raise Refusal(f"encodes bytes as {arguments[1]!r}")
    return arguments[0].encode("latin1")


def empty_bytes(*arguments: Any) -> bytes:
    """Do what pickles of protocol 2 need of `bytes`."""
    of_kinds(arguments)
    return b""


def attribute(*arguments: Any) -> Leftover | Method:
    """Do what a leftover's hooks need of `getattr`, which on anything else opens every door.

    A segmentation model keeps `Detect.forward` as an attribute; it gets its own host's again where it is modernized. A
    fused convolution keeps its `forward_fuse` as its `forward`.
    """
    owner, name = arguments
    if type(owner) is Part and name == "forward_fuse":
        return Method(owner, name)
    of_layer = type(owner) is Name and owner.cls is not None and name == "forward"
    if type(owner) is not Leftover and not of_layer:
        raise Refusal(f"takes {name!r} from an object of {type(owner).__name__}")
    return Leftover()


def values(cls: type, *kinds: type) -> Callable[..., Any]:
    """Return a function that makes a `cls` of arguments of these kinds."""

    def make(*arguments: Any) -> Any:
        of_kinds(arguments, *([kinds] * len(arguments)))
        for argument in arguments if cls in (set, frozenset) else ():
            for item in argument:
                check_key(item)
        return cls(*arguments)

    return make


KEYS = (type(None), bool, int, float, str, bytes)
EXPANDED = 2**22  # elements of a tensor that stands for more than is stored of it: grids of old models do
PATHS = ("PosixPath", "WindowsPath", "Path", "PurePosixPath", "PureWindowsPath", "PurePath")
BUILTINS = {
    "set": values(set, list, set, tuple),
    "frozenset": values(frozenset, list, set, tuple),
    "float": values(float, str, float, int),
    "int": values(int, str, float, int),
    "bytes": empty_bytes,
    "getattr": attribute,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "torch._utils _rebuild_tensor": tensor,
    "torch._utils _rebuild_tensor_v2": tensor,
    "torch._utils _rebuild_parameter": parameter,
    "torch.serialization _get_layout": lambda *name: torch.serialization._get_layout(*name),
    "torch Size": values(torch.Size, tuple, list),
    "torch device": values(torch.device, str, int),
    "numpy dtype": numpy_dtype,
    **{f"numpy.{core}.multiarray scalar": numpy_scalar for core in ("core", "_core")},  # numpy 1 and 2
    **{f"numpy.{core}.multiarray _reconstruct": numpy_array for core in ("core", "_core")},
    "numpy ndarray": numpy_array,  # named as an argument only
    "collections OrderedDict": ordered,
    "_codecs encode": encoded,
    **{f"pathlib {name}": values(pathlib.PurePath, str) for name in PATHS},
    **{f"{module} {name}": made for module in ("builtins", "__builtin__") for name, made in BUILTINS.items()},
}


# ----------------------------------------------------------------------------------------------------- the interpreter


def machine(find: Callable[[str, str], Any], stored: Callable[[str], int | None] | None = None) -> types.ModuleType:
    """Return what `torch.load` takes for the module `pickle`.

    Args:
        find: module and name -> `Name`, a `Leftover`, or anything that is fit to be a value. Raises what refuses.
        stored: key of a storage -> how many bytes there are of it, None where that is not known.
    """

    class Unpickler(Interpreter):
        def find_class(self, module: str, name: str) -> Any:
            return find(module, name)

        def stored(self, key: str) -> int | None:
            return stored(key) if stored else None

    return pickle_module("inert_pickle", Unpickler)


def pickle_module(name: str, unpickler: Callable[..., Any]) -> types.ModuleType:
    """Return what `torch.load` takes for its `pickle_module`, with this class of unpickler in it."""
    shim = types.ModuleType(name)
    vars(shim).update(
        Unpickler=unpickler,
        load=lambda stream, **kwargs: unpickler(stream, **kwargs).load(),
        UnpicklingError=pickle.UnpicklingError,
    )
    return shim


class Interpreter(pickle._Unpickler):
    """Python's own unpickler, whose operations know inert objects only.

    Attributes:
        stack: what the pickle has made and not used yet. append: puts something onto it.
        pop_mark: takes off it what came since the last mark, and returns that.
    """

    dispatch = dict(pickle._Unpickler.dispatch)
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def stored(self, key: str) -> int | None:
        """Return how many bytes there are of a storage, None where that is not known."""
        return None

    def call(self, function: Any, arguments: Any) -> Any:
        if type(function) is Leftover:
            return Leftover()
        known = FUNCTIONS.get(f"{function.module} {function.name}") if type(function) is Name else None
        if known is None or type(arguments) is not tuple:
            what = function.name if type(function) is Name else f"an object of {type(function).__name__}"
            raise Refusal(f"calls {what}(…)")
        return known(*arguments)

    def new(self, cls: Any) -> Any:
        if type(cls) is Leftover:
            return cls
        if type(cls) is not Name or cls.cls is None:
            raise Refusal("makes an object of what is no class of layers")
        return Part(cls.cls)

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self.call(self.stack[-1], arguments)

    def load_newobj(self) -> None:
        self.stack.pop()
        self.stack[-1] = self.new(self.stack[-1])

    def load_newobj_ex(self) -> None:
        del self.stack[-2:]
        self.stack[-1] = self.new(self.stack[-1])

    def load_build(self) -> None:
        state = self.stack.pop()
        built = self.stack[-1]
        if type(built) is Part and built.state is None and type(state) is dict:
            built.state = state
        elif type(built) is Kind and type(state) is tuple and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            built.dtype = built.dtype.newbyteorder(state[1])
        elif type(built) is Array and built.array is None and type(state) is tuple and len(state) == 5:
            _, shape, kind, by_columns, raw = state
            of_kinds((shape, kind, raw), tuple, Kind, bytes)
            built.array = np.frombuffer(raw, kind.dtype).reshape(shape, order="F" if by_columns else "C").copy()
        elif type(built) not in (Leftover, Ordered):
            raise Refusal(f"changes an object of {type(built).__name__}")

    def load_binpersid(self) -> None:
        """Bring a storage, unless more is claimed than there is: not every torch looks, and reads what lies behind."""
        wanted = self.stack.pop()
        of_kinds((wanted,), tuple)
        if wanted[:1] == ("storage",):  # before torch 1.6 there were classes, too
            kind, key, _, count = (*wanted[1:], None, None, None, None)[:4]
            of_kinds((key, count), str, int)
            there = self.stored(key)
            if there is not None and not 0 <= count * torch._utils._element_size(kind.dtype) <= there:
                raise pickle.UnpicklingError(f"it claims {count} numbers where {there} bytes are stored")
        self.append(self.persistent_load(wanted))

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.fill(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self.fill(self.stack[-1], items)

    def fill(self, filled: Any, items: list[Any]) -> None:
        if type(filled) in (dict, Ordered):
            put(filled, items)
        elif type(filled) is not Leftover:
            raise Refusal(f"puts something into an object of {type(filled).__name__}")

    def load_append(self) -> None:
        value = self.stack.pop()
        self.extend(self.stack[-1], [value])

    def load_appends(self) -> None:
        items = self.pop_mark()
        self.extend(self.stack[-1], items)

    def extend(self, extended: Any, items: list[Any]) -> None:
        if type(extended) is list:
            extended.extend(items)
        elif type(extended) is not Leftover:
            raise Refusal(f"puts something into an object of {type(extended).__name__}")

    def load_additems(self) -> None:
        items = self.pop_mark()
        if type(self.stack[-1]) is not set:
            raise Refusal(f"puts something into an object of {type(self.stack[-1]).__name__}")
        for item in items:
            check_key(item)
        self.stack[-1].update(items)

    def load_unknown(self) -> None:
        raise Refusal("has an instruction that no checkpoint needs")


UNKNOWN = (
    *(pickle.INST, pickle.OBJ, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.PERSID),
    *(pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
)
OPERATIONS: dict[int, Callable[[Any], None]] = {
    pickle.REDUCE[0]: Interpreter.load_reduce,
    pickle.NEWOBJ[0]: Interpreter.load_newobj,
    pickle.NEWOBJ_EX[0]: Interpreter.load_newobj_ex,
    pickle.BUILD[0]: Interpreter.load_build,
    pickle.BINPERSID[0]: Interpreter.load_binpersid,
    pickle.SETITEM[0]: Interpreter.load_setitem,
    pickle.SETITEMS[0]: Interpreter.load_setitems,
    pickle.APPEND[0]: Interpreter.load_append,
    pickle.APPENDS[0]: Interpreter.load_appends,
    pickle.ADDITEMS[0]: Interpreter.load_additems,
    **{code[0]: Interpreter.load_unknown for code in UNKNOWN},
}
Interpreter.dispatch |= OPERATIONS
