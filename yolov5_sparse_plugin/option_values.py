"""What an option's value may look like: each reader turns what was typed, or found, into the value, or refuses it.

A reader takes the value and how the user named the option, for its message; it raises OptionError.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from yolov5_sparse_plugin.errors import OptionError, nearest

TARGETS = ("onnxruntime", "openvino", "deepsparse")
ENGINES = ("sparseml", "native")
REPORTS = ("full", "fast", "none")
ZOO_SOURCES = ("directory", "cache", "mirror", "vendor")  # in the order in which they are asked


def text(value: Any, name: str) -> str:
    if not isinstance(value, (str, os.PathLike)) or not str(value).strip():
        raise OptionError(f"{name}: needs a value, a path or a name; got {value!r}.")
    return str(value)


def scalar(value: str) -> Any:
    """Turn a word of `k=v` into int, float, bool or, failing that, str (YAML alone reads 1e-3 as a string)."""
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return {"true": True, "false": False, "null": None, "none": None}.get(value.lower(), value)


def mapping(value: Any, name: str) -> dict[str, Any]:
    if isinstance(value, str):
        words = value.strip()
        if words.startswith("{"):
            try:
                value = json.loads(words)
            except ValueError as error:
                raise OptionError(f"{name}: {value!r} is not valid JSON ({error}).") from error
        else:
            pairs = [word.partition("=") for word in words.split(",")]
            if not all(key.strip() and sign for key, sign, _ in pairs):
                raise OptionError(f"{name}: expected 'name=value,name=value' or JSON, got {value!r}.")
            value = {key.strip(): scalar(word.strip()) for key, _, word in pairs}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise OptionError(
            f"{name}: expected 'name=value,name=value', JSON or a dict, got {value!r} ({type(value).__name__})."
        )
    # NumPy's numbers, of a call from Python
    return {key: inner.item() if hasattr(inner, "item") else inner for key, inner in value.items()}


def texts(value: Any, name: str) -> list[str]:
    if isinstance(value, str):
        value = [word for word in value.split(os.pathsep if os.pathsep in value else ",") if word.strip()]
    if not isinstance(value, (list, tuple)):
        raise OptionError(f"{name}: expected one or more paths, got {value!r}.")
    return [text(word, name) for word in value]


def switch(value: Any, name: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    found = value if isinstance(value, bool) else words.get(str(value).lower())
    if found is None:
        raise OptionError(f"{name}: a switch, true or false; got {value!r}.")
    return found


def whole(value: Any, name: str) -> int:
    if isinstance(value, bool) or not str(value).isdigit():
        raise OptionError(f"{name}: expected a whole number, got {value!r}.")
    return int(value)


def images(value: Any, name: str) -> int:
    if whole(value, name) < 1:
        raise OptionError(f"{name}: expected 1 or more images, got {value!r}.")
    return int(value)


def steps(value: Any, name: str) -> int | None:
    """A count of batches; -1 leaves it to upstream, as the predecessor's option had it."""
    if str(value) == "-1":
        return None
    if whole(value, name) < 1:
        raise OptionError(f"{name}: expected 1 or more batches, or -1 for upstream's own choice; got {value!r}.")
    return int(value)


def target(value: Any, name: str) -> str:
    if value not in TARGETS:
        raise OptionError(f"{name}: no target {value!r}. {nearest(str(value), TARGETS)}")
    return value


def engine(value: Any, name: str) -> str:
    if value not in ENGINES:
        raise OptionError(f"{name}: no engine {value!r}. {nearest(str(value), ENGINES)}")
    return value


def report(value: Any, name: str) -> str:
    if value not in REPORTS:
        raise OptionError(f"{name}: no report {value!r}. {nearest(str(value), REPORTS)}")
    return value


def sources(value: Any, name: str) -> list[str]:
    words = [word.strip() for word in texts(value, name)]
    for word in words:
        if word not in ZOO_SOURCES:
            raise OptionError(f"{name}: no source {word!r}. {nearest(word, ZOO_SOURCES)}")
    return words


def seconds(value: Any, name: str) -> float:
    try:
        found = -1.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = -1.0
    if not 0 < found < 1e6:
        raise OptionError(f"{name}: expected a number of seconds, got {value!r}.")
    return found
