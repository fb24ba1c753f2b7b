"""What is wrong with a modifier, in words: pydantic's errors speak of Python's types, and not of the nearest word."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from yolov5_sparse_plugin.engine.schema.base import Modifier
from yolov5_sparse_plugin.engine.schema.quantization import (
    FuseArguments,
    LegacyQuantizationModifier,
    ObserverArguments,
    QuantizationArguments,
    QuantizationModifier,
    Scheme,
)
from yolov5_sparse_plugin.errors import nearest


def faults(model: type[Modifier], error: ValidationError) -> list[tuple[str, str]]:
    """Return what is wrong with a modifier: the field ("" for the modifier as a whole), and a sentence about it.

    Unknown fields come first: one that is misspelt makes another one missing.
    """
    errors = sorted(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    return [(str(each["loc"][0]) if each["loc"] else "", problem(each, model)) for each in errors]


def problem(error: Mapping[str, Any], model: type[BaseModel]) -> str:
    """Put one of pydantic's errors into a sentence: the field, what was found, what is allowed, the nearest word."""
    *owners, last = error["loc"] or [""]
    name, found, kind = ".".join(map(str, error["loc"])), shown(error["input"]), error["type"]
    if kind == "extra_forbidden":
        other = next((form for form in FORMS if form is not model and last in form.model_fields), None)
        if model in FORMS and other and not owners:
            mine = sorted(set(model.model_fields) - set(other.model_fields))
            return f"has the key {last!r} of one of its two forms beside keys of the other ({', '.join(mine[:4])}, …)."
        owner = f"{'.'.join(map(str, owners))} has" if owners else "has"
        return f"{owner} no key {last!r}. {nearest(str(last), part_of(model, owners).model_fields)}"
    if kind == "missing":
        return f"needs {name}."
    if kind == "value_error":
        text = str(error["ctx"]["error"])
        return f"{name} {found}: {text}." if name else f"{text}."
    if kind == "literal_error":
        words = re.findall(r"'(\w+)'", error["ctx"]["expected"])
        near = f" {nearest(str(error['input']), words)}" if len(words) > 1 else ""
        return f"{name} {found}: expected {error['ctx']['expected']}.{near}"
    return f"{name} {found}: {EXPECTED.get(kind, error['msg'])}."


EXPECTED = {
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "dict_type": "expected 'key: value' lines",
    "model_type": "expected 'key: value' lines",
    "list_type": "expected a list",
    "string_type": "expected a word",
}
FORMS = (QuantizationModifier, LegacyQuantizationModifier)
PARTS: dict[str, type[BaseModel]] = {
    **dict.fromkeys(("scheme", "scheme_overrides"), Scheme),
    **dict.fromkeys(("input_activations", "weights", "output_activations"), QuantizationArguments),
    **dict.fromkeys(("kwargs", "activation_qconfig_kwargs", "weight_qconfig_kwargs"), ObserverArguments),
    "model_fuse_fn_kwargs": FuseArguments,
}


def part_of(model: type[BaseModel], path: Sequence[Any]) -> type[BaseModel]:
    """Return the class of the part of a modifier that `path` leads to."""
    return next((PARTS[name] for name in reversed(path) if name in PARTS), model)


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"
