"""The recipe language: YAML with variables and `eval(…)` goes in, modifiers with plain values come out.

A recipe is data, whoever wrote it. Every one, typed, one-shot or inside a checkpoint, comes through `parse`: it names
no file and no address, and its modifiers and their fields are those of the schema, which every engine shares.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Optional, TypeVar

import yaml
from pydantic import ValidationError

from yolov5_sparse_plugin.engine import schema
from yolov5_sparse_plugin.engine.expressions import check_size
from yolov5_sparse_plugin.engine.schema.faults import faults
from yolov5_sparse_plugin.engine.variables import compute_variables, fill_in, override
from yolov5_sparse_plugin.engine.yaml_nodes import (
    check_keys,
    compose,
    in_block_style,
    is_group,
    is_stage,
    line_of,
    plain,
    tag_of,
    written_out,
)
from yolov5_sparse_plugin.errors import RecipeError, nearest
from yolov5_sparse_plugin.recipes_io import RecipeText

IGNORED = ("log_types",)  # recipes of 2021 have it; SparseML has long dropped it
Spec = TypeVar("Spec", bound=Optional[schema.Modifier], covariant=True)


@dataclass(frozen=True)
class Entry(Generic[Spec]):
    """One modifier, as a recipe writes it.

    Attributes:
        tag: its class, without `!`. fields: plain values by name, every expression computed.
        line, lines: where it stands, and each field by its name.
        stage: the stage that it belongs to, None in a recipe without stages.
        spec: the same as the schema has it; None of a modifier of a hook file.
    """

    tag: str
    fields: dict[str, Any]
    line: int
    lines: dict[str, int]
    stage: str | None
    spec: Spec

    def where(self, source: str, name: str = "") -> str:
        """Return, for a message, the place of the modifier or of one of its fields."""
        return f"{source}, line {self.lines.get(name, self.line)}: {self.tag}"


AnyEntry = Entry[Optional[schema.Modifier]]


@dataclass(frozen=True)
class Recipe:
    """A recipe that has passed.

    Attributes:
        text: its YAML with all variables resolved; this is what a checkpoint keeps.
        source: where it came from, for messages.
        entries: its modifiers, in order.
        variables: those of its root, computed.
    """

    text: str
    source: str
    entries: tuple[AnyEntry, ...]
    variables: dict[str, Any]

    @property
    def stages(self) -> list[str]:
        """The names of its stages, in order; none where it has none."""
        return list(dict.fromkeys(entry.stage for entry in self.entries if entry.stage is not None))


def parse(
    recipe: RecipeText,
    variables: Mapping[str, Any],
    others: Mapping[str, Collection[str]],
    only: Collection[str] | None = None,
) -> Recipe:
    """Read a recipe, with `variables` put in and every `eval(…)` computed.

    Args:
        others: modifiers of hook files, which are no part of the schema -> their keys.
        only: modifiers to take, by name, of a recipe that has been executed; the others are not looked at.

    Raises:
        RecipeError: not YAML, an unknown variable, modifier or key, an expression that cannot be computed, or a value
            that a recipe may not have.
    """
    source = recipe.source
    root = compose(recipe)
    check_size(root, source)
    root = written_out(root)
    check_keys(root, source)
    stages = find_stages(root, source)
    if variables:
        override([root, *stages.values()], variables, source)
    above = compute_variables(root, {}, source)
    for stage in stages.values():
        fill_in(stage, compute_variables(stage, above, source), source)
    fill_in(root, above, source, besides=stages)
    places: list[tuple[str | None, yaml.MappingNode]] = [*stages.items()] or [(None, root)]
    entries = [
        read(tag, node, stage, source)
        for stage, container in places
        for tag, node in modifiers_in(container, source)
        if only is None or tag in only
    ]
    if not entries and only is None:
        raise RecipeError(f"{source}: no modifier found. Modifiers stand in lists whose name ends in 'modifiers'.")
    checked = tuple(check(entry, others, source) for entry in entries)
    return Recipe(in_block_style(root), source, checked, above)


# ----------------------------------------------------------------------------------------------------------- its parts


def find_stages(root: yaml.MappingNode, source: str) -> dict[str, yaml.MappingNode]:
    """Return a recipe's stages by name; none where its modifiers stand in its root."""
    stages = {str(key.value): value for key, value in root.value if is_stage(value)}
    loose = next((key for key, value in root.value if is_group(key, value)), None)
    if stages and loose is not None:
        raise RecipeError(
            f"{source}, line {line_of(loose)}: {loose.value!r} stands beside the stage {next(iter(stages))!r}. A "
            "recipe has its modifiers in stages or without, not both: put this list into a stage, or undo the stages."
        )
    return stages


def modifiers_in(container: yaml.MappingNode, source: str) -> Iterator[tuple[str, yaml.Node]]:
    """Yield the modifiers of a recipe without stages, or of a stage, by their names."""
    for key, value in container.value:
        single = tag_of(value)
        if single is not None:
            yield single, value
            continue
        for item in value.value if is_group(key, value) else ():
            tag = tag_of(item)
            if tag is None:
                raise RecipeError(
                    f"{source}, line {line_of(item)}: no modifier: its name, '!QuantizationModifier' for example, is "
                    "missing."
                )
            yield tag, item


def read(tag: str, node: yaml.Node, stage: str | None, source: str) -> Entry[None]:
    """Return the modifier that a node is."""
    line = line_of(node)
    if isinstance(node, yaml.ScalarNode) and not node.value:
        return Entry(tag, {}, line, {}, stage, None)
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(f"{source}, line {line}: {tag} needs 'key: value' lines.")
    lines = {key.value: line_of(key) for key, _ in node.value}
    fields = plain(yaml.MappingNode("tag:yaml.org,2002:map", node.value, node.start_mark), source)
    fields = {name: value for name, value in fields.items() if name not in IGNORED}
    return Entry(tag, fields, line, lines, stage, None)


# ----------------------------------------------------------------------------------------------------- what it may say


def check(entry: Entry[None], others: Mapping[str, Collection[str]], source: str) -> AnyEntry:
    """Return an entry with the values that the schema makes of its fields.

    Raises:
        RecipeError: naming the line, the field, what was found and what is allowed.
    """
    if entry.tag in others:
        for name in entry.fields:
            if name not in others[entry.tag]:
                raise RecipeError(f"{entry.where(source, name)}: no key {name!r}. {nearest(name, others[entry.tag])}")
        return entry
    if entry.tag in schema.REFUSED:
        why, instead = schema.REFUSED[entry.tag]
        raise RecipeError(f"{entry.where(source)} cannot run here: {why}. Instead: {instead}.")
    if entry.tag not in schema.MODIFIERS:
        raise RecipeError(
            f"{source}, line {entry.line}: no modifier {entry.tag!r}. {nearest(entry.tag, schema.MODIFIERS)} (One of "
            "your own needs its file: --sparse-hooks.)"
        )
    model = schema.model_of(entry.tag, entry.fields)
    try:
        spec = model(**entry.fields)
    except ValidationError as error:
        name, words = faults(model, error)[0]
        between = " " if words.startswith(("has no key", "needs ")) else ": "
        raise RecipeError(f"{entry.where(source, name)}{between}{words}") from error
    return Entry(entry.tag, spec.model_dump(exclude_unset=True), entry.line, entry.lines, entry.stage, spec)


def matches(pattern: str, name: str) -> bool:
    """Return whether `name` is meant by `pattern`, by SparseML's rule: `re:` matches from the start, else equality."""
    return bool(re.match(pattern[3:], name)) if pattern.startswith("re:") else pattern == name
