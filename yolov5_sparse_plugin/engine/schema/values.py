"""What the fields of a recipe's modifiers may be: each reader returns the value of what the recipe says, or refuses it.

A reader raises ValueError with what was expected; the schema adds the place, the field and what was found.
"""

import math
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, Optional

from pydantic import BeforeValidator

ALL, ALL_PRUNABLE = "__ALL__", "__ALL_PRUNABLE__"
FROM_PARAM = "__FROM_PARAM__"  # an initial sparsity: the one that the weights have


def number(value: Any) -> float:
    """A finite number; true and false are none, for YAML's sake `1e-3` in quotes is one."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError("expected a number")
    return found


def within(low: float, high: float = math.inf, what: str = "a number") -> Callable[[Any], float]:
    """Return a reader of numbers from `low` to `high`."""

    def read(value: Any) -> float:
        if not low <= number(value) <= high:
            raise ValueError(f"expected {what}, {low:g} " + ("or more" if high == math.inf else f"to {high:g}"))
        return number(value)

    return read


def positive(value: Any) -> float:
    if number(value) <= 0:
        raise ValueError("expected a number above 0")
    return number(value)


def whole(value: Any) -> int:
    if number(value) != int(number(value)) or number(value) < 0:
        raise ValueError("expected a whole number, 0 or more")
    return int(number(value))


def count(value: Any) -> int:
    if whole(value) < 1:
        raise ValueError("expected a whole number, 1 or more")
    return whole(value)


def set_or_not(value: Any) -> float:
    if number(value) < 0 and number(value) != -1:
        raise ValueError("expected an epoch, 0 or later (or -1: not set)")
    return number(value)


def beginning(value: Any) -> float:
    """When something starts; SparseML takes -1 for the beginning, and then reckons from an epoch -1."""
    return max(set_or_not(value), 0.0)


def epoch(value: Any) -> float:
    if number(value) < 0:
        raise ValueError("expected an epoch, 0 or later; -1 has no meaning here")
    return number(value)


def unused(value: Any) -> float:
    if number(value) != -1:
        raise ValueError("it would change nothing. Leave it out")
    return -1.0


def sparsity(value: Any) -> float:
    if not 0 <= number(value) < 1:
        percent = f" ({number(value):g} % is {number(value) / 100:g})" if 1 < number(value) < 100 else ""
        raise ValueError(f"expected a share of zeros, from 0 to less than 1{percent}")
    return number(value)


def initial(value: Any) -> Any:
    return value if value == FROM_PARAM else sparsity(value)


def final(value: Any) -> Any:
    """A sparsity, or several with the parameters that each is for."""
    if not isinstance(value, dict):
        return sparsity(value)
    found = {sparsity(key): names(words) for key, words in value.items()}
    if {ALL, ALL_PRUNABLE} & {word for words in found.values() for word in words}:
        raise ValueError("expected names of parameters, or patterns such as 're:model.*conv.weight', for each sparsity")
    return found


def values(value: Any) -> Any:
    return [values(inner) for inner in value] if isinstance(value, list) else number(value)


def null(value: Any) -> Any:
    """SparseML writes None into checkpoints as 'null' or 'None'."""
    return None if value in ("null", "None", "none") else value


def names(value: Any) -> list[str]:
    """A list of names, or of patterns that begin with `re:`."""
    if isinstance(value, str):
        raise ValueError(f"expected a list: write [{value}]")
    if not isinstance(value, (list, tuple)) or not all(isinstance(word, str) for word in value):
        raise ValueError("expected a list of names")
    for word in value:
        if word.startswith("re:"):
            try:
                re.compile(word[3:])
            except (re.error, RecursionError) as error:
                raise ValueError(f"{word!r} is not a regular expression: {error}") from error
    return list(value)


def parameters(value: Any) -> Any:
    """Names of parameters, or one of the words for all of them."""
    if isinstance(value, str) and value.upper() in (ALL, ALL_PRUNABLE):
        return value.upper()
    if isinstance(value, str):
        raise ValueError(f"expected {ALL_PRUNABLE}, {ALL} or a list: write [{value!r}]")
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"expected {ALL_PRUNABLE}, {ALL}, or a list of names and of patterns that begin with 're:'")
    return names(value)


def some_parameters(value: Any) -> Any:
    if not parameters(value):
        raise ValueError(f"it is empty. For all weights: {ALL_PRUNABLE}")
    return parameters(value)


def groups(value: Any) -> list[int]:
    """Places of groups among the optimizer's; YOLOv5's are 0: biases, 1: weights, 2: batch norm."""
    if not isinstance(value, list) or not value:
        raise ValueError("expected a list of groups' numbers, for example [0]")
    return [whole(place) for place in value]


def mask(value: Any) -> Any:
    if isinstance(value, list):
        pair = value[:2] if all(size == 1 for size in value[2:]) else value
        if len(pair) == 2 and all(type(size) is int and size > 0 for size in pair):
            return pair
    elif isinstance(value, str) and (value in ("unstructured", "block4") or nm_sparsity(value) is not None):
        return value
    raise ValueError("expected unstructured, block4, a block such as [1, 4], or N:M such as 2:4 (N of M weights stay)")


def nm_sparsity(mask_type: Any) -> Optional[float]:
    """Return the share of zeros of an N:M mask, None of any other."""
    match = re.fullmatch(r"(\d+):(\d+)", mask_type) if isinstance(mask_type, str) else None
    if match is None or not 0 < int(match.group(1)) < int(match.group(2)):
        return None
    return 1 - int(match.group(1)) / int(match.group(2))


def eight(value: Any) -> int:
    if value is not None and value is not False and number(value) != 8:  # SparseML's own example has `False`
        raise ValueError("expected 8: no other number of bits can be exported")
    return 8


def keys(value: Any) -> list[Any]:
    if not isinstance(value, list) or not all(type(key) in (int, str) for key in value):
        raise ValueError("expected a list of outputs' names or places")
    return value


def structure(value: Any) -> str:
    if value not in ("filter", "channel"):
        raise ValueError("expected filter or channel")
    return value


def no_steps(value: Any) -> None:
    if null(value) not in (None, 0):
        raise ValueError("ranges are observed while the model trains; nothing is calibrated. Leave it out")


def full_range(value: Any) -> bool:
    if value is not False:
        raise ValueError("expected false: a range of 7 bits, for CPUs without VNNI, cannot be exported")
    return False


def whole_tensor(value: Any) -> Literal["tensor"]:
    if value != "tensor":
        raise ValueError("expected tensor: engines take one scale for an activation; weights may have one a channel")
    return "tensor"


def scheme(value: Any) -> Any:
    """A scheme, or one by name; `default` is the modifier's, or SparseML's."""
    if isinstance(value, str) and value not in ("default", "deepsparse", "tensorrt", "null", "None", "none"):
        raise ValueError("expected default, deepsparse, tensorrt, or 'key: value' lines")
    if value in ("deepsparse", "tensorrt"):
        return {
            "input_activations": {"num_bits": 8, "symmetric": value == "tensorrt"},
            "weights": {"num_bits": 8, "symmetric": True},
            "target_hardware": value,
        }
    return None if isinstance(value, str) else value


Number = Annotated[float, BeforeValidator(number)]
Positive = Annotated[float, BeforeValidator(positive)]
Whole = Annotated[int, BeforeValidator(whole)]
Count = Annotated[int, BeforeValidator(count)]
Start = Annotated[float, BeforeValidator(beginning)]
End = Annotated[float, BeforeValidator(set_or_not)]
Epoch = Annotated[float, BeforeValidator(epoch)]
Unused = Annotated[float, BeforeValidator(unused)]
Rate = Annotated[float, BeforeValidator(within(0, 1))]
NotNegative = Annotated[float, BeforeValidator(within(0))]
Sparsity = Annotated[float, BeforeValidator(sparsity)]
InitialSparsity = Annotated[Any, BeforeValidator(initial)]
FinalSparsity = Annotated[Any, BeforeValidator(final)]
Names = Annotated[list[str], BeforeValidator(names)]
Parameters = Annotated[Any, BeforeValidator(parameters)]
SomeParameters = Annotated[Any, BeforeValidator(some_parameters)]
Values = Annotated[Any, BeforeValidator(values)]
Groups = Annotated[list[int], BeforeValidator(groups)]
Mask = Annotated[Any, BeforeValidator(mask)]
Bits = Annotated[int, BeforeValidator(eight)]
FullRange = Annotated[bool, BeforeValidator(full_range)]
WholeTensor = Annotated[Literal["tensor"], BeforeValidator(whole_tensor)]
Keys = Annotated[list[Any], BeforeValidator(keys)]
Interpolation = Literal["linear", "cubic", "inverse_cubic"]
Structure = Annotated[str, BeforeValidator(structure)]
NoSteps = Annotated[None, BeforeValidator(no_steps)]
Fuse = Annotated[Optional[Literal["no_fuse", "conv_bn_relus"]], BeforeValidator(null)]
OptionalEpoch = Annotated[Optional[Epoch], BeforeValidator(null)]
OptionalNames = Annotated[Optional[Names], BeforeValidator(null)]
