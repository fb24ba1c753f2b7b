"""Stubs: the `zoo:` addresses of sparse models, in their long and their short form."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from yolov5_sparse_plugin.errors import ZooError, nearest

PREFIX = "zoo:"
LONG = "zoo:cv/detection/yolov5-s/pytorch/ultralytics/coco/pruned75_quant-none"
SHORT = "zoo:yolov5-s-coco-pruned75_quantized"
PARTS = 7  # domain, task, architecture, framework, repository, data set, name
QUERIES = ("recipe_type", "recipe")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

# published by the vendor until 2025, as its documentation named them: for suggestions, no proof that one exists
_PUBLISHED = {
    "n": ("pruned40_quant-none",),
    "s": (
        "base-none",
        "pruned-aggressive_96",
        "pruned_quant-aggressive_94",
        "pruned35_quant-none-vnni",
        "pruned65-none",
        "pruned65_quant-none",
        "pruned75_quant-none",
        "pruned85_quant-none",
    ),
    "m": ("base-none", "pruned70_quant-none"),
    "l": ("base-none", "pruned-aggressive_98", "pruned_quant-aggressive_95", "pruned90_quant-none"),
    "x": ("pruned80_quant-none",),
}
PUBLISHED = tuple(
    f"cv/detection/yolov5-{size}/pytorch/ultralytics/coco/{name}"
    for size, names in _PUBLISHED.items()
    for name in names
)


@dataclass(frozen=True)
class Stub:
    """A model's address.

    Attributes:
        path: the long form without prefix and query; also the model's folder in a zoo.
        recipe_type: `transfer`, `transfer_learn`, `original` or the name of another recipe; None: not said.
        typed_short: whether the short form was typed, which the vendor's server knows by its own name.
    """

    path: str
    recipe_type: str | None = None
    typed_short: bool = False

    def __str__(self) -> str:
        return PREFIX + self.path + (f"?recipe_type={self.recipe_type}" if self.recipe_type else "")

    @property
    def transfer(self) -> bool:
        """Whether what a transfer starts from was asked for."""
        return (self.recipe_type or "").startswith("transfer")

    @property
    def short(self) -> str:
        """The short form without prefix, as the vendor's client names the model's folder in its cache."""
        _, _, architecture, _, _, data, name = self.path.split("/")
        return f"{architecture}-{data}-{spellings(name)[-1]}"

    @property
    def addresses(self) -> list[str]:
        """Both forms, as the vendor's server may know the model; the one that was typed first."""
        parent, _, name = self.path.rpartition("/")
        if self.typed_short:
            return [self.short, f"{parent}/{spellings(name)[1]}"]
        return [self.path, self.short]

    @property
    def places(self) -> list[str]:
        """Folders of a zoo that may hold this model: the two forms spell some names differently."""
        parent, _, name = self.path.rpartition("/")
        return [f"{parent}/{spelling}" for spelling in dict.fromkeys(spellings(name))]


def is_stub(address: object) -> bool:
    return isinstance(address, str) and address.strip().startswith(PREFIX)


def spellings(name: str) -> list[str]:
    """Return a model's name as it stands, then as the long form (`…_quant-none`) and the short one (`…_quantized`)."""
    plain = re.sub(r"-none$", "", name)
    stem = re.sub(r"_quant(ized)?$", "", plain)
    long, short = (f"{stem}_quant", f"{stem}_quantized") if stem != plain else (plain, plain)
    return [name, f"{long}-none", long, short]


def parse(address: str) -> Stub:
    """Read a stub.

    Raises:
        ZooError: it is none, or would name a file outside of a zoo.
    """
    words = address.strip()
    if not is_stub(words):
        raise ZooError(f"{address!r}: a stub starts with {PREFIX!r}, for example {LONG} or {SHORT}.")
    path, mark, query = words[len(PREFIX) :].partition("?")
    parts = path.split("/")
    short = len(parts) == 1
    if short:
        pieces = path.split("-")
        if len(pieces) < 4 or not all(pieces[:3]):
            raise ZooError(
                f"{address}: the short form is zoo:ARCHITECTURE-SIZE-DATASET-NAME, for example {SHORT}. "
                + suggestion(path, [Stub(known).short for known in PUBLISHED])
            )
        parts = ["cv", "detection", "-".join(pieces[:2]), "pytorch", "ultralytics", pieces[2], "-".join(pieces[3:])]
    if len(parts) != PARTS:
        raise ZooError(
            f"{address}: the long form has {PARTS} parts between slashes, this has {len(parts)}: {LONG}. "
            + suggestion(path, PUBLISHED)
        )
    for part in parts:
        if not is_word(part):
            raise ZooError(
                f"{address}: {part!r} cannot be part of a stub. Use letters, digits, '_', '-' and '.', as in {LONG}."
            )
    return Stub("/".join(parts), _recipe_type(address, query) if mark else None, short)


def is_word(part: str) -> bool:
    """Return whether `part` can name a folder in a zoo: nothing hidden, no way out of it."""
    return bool(_WORD.fullmatch(part)) and ".." not in part and len(part) < 100


def _recipe_type(address: str, query: str) -> str | None:
    found: dict[str, str] = {}
    for word in query.split("&"):
        key, sign, value = word.partition("=")
        if key not in QUERIES:
            raise ZooError(f"{address}: a stub has no {key!r} after the '?'. {nearest(key, QUERIES)}")
        if not sign or not is_word(value):
            raise ZooError(f"{address}: {key} needs a recipe's name, for example ?recipe_type=transfer; got {value!r}.")
        found[key] = value
    return found.get("recipe_type") or found.get("recipe")


def suggestion(path: str, known: Iterable[str], where: str = "") -> str:
    """Return a sentence with the stubs closest to `path`, or nothing where none is close."""
    close = difflib.get_close_matches(path, sorted(set(known)), n=3, cutoff=0.6)
    return f"Nearest{where}: " + ", ".join(PREFIX + c for c in close) + "." if close else ""
