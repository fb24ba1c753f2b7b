"""The recipe language: YAML with variables and `eval(…)` goes in, modifiers with plain values come out.

A recipe is data, whoever wrote it. Every one, typed, one-shot or inside a checkpoint, comes through `parse`: it names
no file and no address, and its modifiers and their fields are those of the schema, which every engine shares.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import yaml
from pydantic import ValidationError
from yaml.constructor import SafeConstructor
from yaml.representer import SafeRepresenter

from yolov5_sparse_plugin.engine import schema
from yolov5_sparse_plugin.engine.expressions import UnknownVariable, check_size, evaluate
from yolov5_sparse_plugin.engine.schema_faults import faults
from yolov5_sparse_plugin.errors import RecipeError, nearest
from yolov5_sparse_plugin.recipes_io import RecipeText

GROUP = "modifiers"  # what the name of a list of modifiers contains
FRAMEWORK = "pytorch."  # recipes may write `!pytorch.QuantizationModifier`
IGNORED = ("log_types",)  # recipes of 2021 have it; SparseML has long dropped it


@dataclass(frozen=True)
class Entry:
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
    spec: schema.Modifier | None = None

    def where(self, source: str, name: str = "") -> str:
        """Return, for a message, the place of the modifier or of one of its fields."""
        return f"{source}, line {self.lines.get(name, self.line)}: {self.tag}"


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
    entries: tuple[Entry, ...]
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
    stages = find_stages(root, source)
    if variables:
        override([root, *stages.values()], variables, source)
    above = compute_variables(root, {}, source)
    for stage in stages.values():
        fill_in(stage, compute_variables(stage, above, source), source)
    fill_in(root, above, source, besides=stages)
    entries = [
        read(node, stage, source)
        for stage, container in (stages or {None: root}).items()
        for node in modifiers_in(container, source)
        if only is None or tag_of(node) in only
    ]
    if not entries and only is None:
        raise RecipeError(f"{source}: no modifier found. Modifiers stand in lists whose name ends in 'modifiers'.")
    checked = tuple(check(entry, others, source) for entry in entries)
    return Recipe(in_block_style(root), source, checked, above)


# ------------------------------------------------------------------------------------------------------------ its YAML


class Loader(yaml.SafeLoader):
    """PyYAML's, but for numbers: `1e-3` is one, as everywhere else, and `2:4` is none (124, in the YAML of 1999)."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("int", "float")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


NUMBER = list("-+0123456789.")
Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][0-9_]*)\Z"), NUMBER)
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z"
    ),
    NUMBER,
)


def compose(recipe: RecipeText) -> yaml.MappingNode:
    """Return a recipe's YAML as nodes, which know their lines."""
    try:
        root = yaml.compose(recipe.text, Loader=Loader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise RecipeError(
            f"{recipe.source}: not valid YAML{where}: {getattr(error, 'problem', error)}. "
            "Indent with spaces and put patterns such as 're:.*' in quotes."
        ) from error
    if not isinstance(root, yaml.MappingNode) or tag_of(root):
        raise RecipeError(f"{recipe.source}: a recipe is a YAML mapping with '*_modifiers' lists; this is not one.")
    return root


def in_block_style(root: yaml.Node) -> str:
    """Return a recipe's text as people write it, one key a line."""
    for node in nodes_of(root):
        if isinstance(node, yaml.CollectionNode):
            node.flow_style = False
    return yaml.serialize(root, Dumper=yaml.SafeDumper)


def nodes_of(root: yaml.Node) -> Iterator[yaml.Node]:
    """Yield a node and all that is below it, in no particular order."""
    stack = [root]
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, yaml.CollectionNode):
            stack.extend(child for item in node.value for child in (item if isinstance(item, tuple) else (item,)))


def line_of(node: yaml.Node) -> int:
    return node.start_mark.line + 1 if node.start_mark else 0


VALUES = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map", "merge"))


def plain(node: yaml.Node, source: str) -> Any:
    """Return the value of a node: numbers, strings, booleans and None, in lists and dicts.

    Raises:
        RecipeError: it is something else: a date, a set, an object of Python's, a modifier out of its place.
    """
    for each in nodes_of(node):
        if each.tag not in VALUES:
            raise RecipeError(
                f"{source}, line {line_of(each)}: found {each.tag!r} where a value belongs. Values are numbers, "
                "strings, true, false, null, and lists or mappings of them; modifiers stand in lists whose name ends "
                "in 'modifiers'."
            )
    try:
        return SafeConstructor().construct_document(node)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise RecipeError(
            f"{source}, line {line_of(node)}: not a value: {getattr(error, 'problem', None) or error}."
        ) from error


# ----------------------------------------------------------------------------------------------------------- its parts


def tag_of(node: yaml.Node) -> str | None:
    """Return the modifier that a node is, None if it is none."""
    return node.tag[1:].removeprefix(FRAMEWORK) if node.tag.startswith("!") else None


def is_stage(node: yaml.Node) -> bool:
    """Return whether this is a mapping that holds lists of modifiers."""
    return isinstance(node, yaml.MappingNode) and not tag_of(node) and any(GROUP in str(k.value) for k, _ in node.value)


def is_group(key: yaml.Node, value: yaml.Node) -> bool:
    """Return whether this is a list of modifiers, or a single one."""
    return tag_of(value) is not None or (isinstance(value, yaml.SequenceNode) and GROUP in str(key.value))


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


def modifiers_in(container: yaml.MappingNode, source: str) -> Iterator[yaml.Node]:
    """Yield the modifiers of a recipe without stages, or of a stage."""
    for key, value in container.value:
        if tag_of(value) is not None:
            yield value
            continue
        for item in value.value if isinstance(value, yaml.SequenceNode) else ():
            if is_group(key, value) and tag_of(item) is None:
                raise RecipeError(
                    f"{source}, line {line_of(item)}: no modifier: its name, '!QuantizationModifier' for example, is "
                    "missing."
                )
            if is_group(key, value):
                yield item


def read(node: yaml.Node, stage: str | None, source: str) -> Entry:
    """Return the modifier that a node is."""
    tag, line = tag_of(node), line_of(node)
    if isinstance(node, yaml.ScalarNode) and not node.value:
        return Entry(tag, {}, line, {}, stage)
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(f"{source}, line {line}: {tag} needs 'key: value' lines.")
    names = [key.value for key, _ in node.value]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RecipeError(f"{source}, line {line}: {tag} has the key {twice!r} twice. Keep one.")
    lines = {key.value: line_of(key) for key, _ in node.value}
    fields = plain(yaml.MappingNode("tag:yaml.org,2002:map", node.value, node.start_mark), source)
    return Entry(tag, {name: value for name, value in fields.items() if name not in IGNORED}, line, lines, stage)


# ------------------------------------------------------------------------------------------------------- its variables


def is_expression(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.value.startswith("eval(") and node.value.endswith(")")


def variables_in(container: yaml.MappingNode) -> dict[str, yaml.Node]:
    """Return the variables of a recipe or of a stage, name -> node of the value."""
    return {str(k.value): value for k, value in container.value if not is_group(k, value) and not is_stage(value)}


def override(places: Sequence[yaml.MappingNode], variables: Mapping[str, Any], source: str) -> None:
    """Put the user's values in place of the recipe's, wherever it has a variable of that name.

    Args:
        places: the recipe's root and its stages; changed.

    Raises:
        RecipeError: there is no such variable.
    """
    known = {name for place in places for name in variables_in(place)}
    for name, value in variables.items():
        if name not in known:
            raise RecipeError(
                f"{source}: --sparse-recipe-args sets {name!r}, which this recipe does not have. "
                + (nearest(name, known) if known else "It has no variables.")
            )
        for place in places:
            own = name in variables_in(place)
            place.value = [(k, as_node(value, old) if own and k.value == name else old) for k, old in place.value]


def as_node(value: Any, old: yaml.Node) -> yaml.Node:
    """Return a node of this value that stands where `old` stands."""
    node = SafeRepresenter().represent_data(value)
    node.start_mark = old.start_mark
    return node


def compute_variables(container: yaml.MappingNode, above: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the values of the variables of a recipe, or of a stage and of the recipe `above` it."""
    nodes = variables_in(container)
    waiting = {name: node for name, node in nodes.items() if is_expression(node)}
    found = {name: value for name, value in above.items() if name not in waiting}
    found.update({name: plain(node, source) for name, node in nodes.items() if name not in waiting})
    while waiting:
        before = len(waiting)
        for name, node in list(waiting.items()):
            with contextlib.suppress(UnknownVariable):
                found[name] = compute(node, found, source)
                del waiting[name]
        if len(waiting) == before:
            refuse_unknown(next(iter(waiting.values())), found, waiting, source)
    return found


def fill_in(
    container: yaml.MappingNode, variables: Mapping[str, Any], source: str, besides: Collection[str] = ()
) -> None:
    """Put values, in place, where expressions stand in a recipe or in a stage, at any depth.

    Args:
        besides: keys of stages, which have variables of their own.
    """

    def value(node: yaml.Node) -> yaml.Node:
        if not is_expression(node):
            return node
        try:
            return as_node(compute(node, variables, source), node)
        except UnknownVariable:
            refuse_unknown(node, variables, (), source)

    own = [child for key, child in container.value if key.value not in besides]
    for node in [container, *(inner for child in own for inner in nodes_of(child))]:
        if isinstance(node, yaml.MappingNode):
            node.value = [(key, value(child)) for key, child in node.value]
        elif isinstance(node, yaml.SequenceNode):
            node.value = [value(child) for child in node.value]


def compute(node: yaml.ScalarNode, variables: Mapping[str, Any], source: str) -> Any:
    """Return the value of an `eval(…)`: a number, or any variable as it is.

    Raises:
        UnknownVariable: one has no value, or none yet.
        RecipeError: it cannot be computed.
    """
    inner = node.value[len("eval(") : -1].strip()
    if inner in variables:
        return variables[inner]
    try:
        return evaluate(inner, {name: value for name, value in variables.items() if isinstance(value, (int, float))})
    except ValueError as error:
        raise RecipeError(f"{source}, line {line_of(node)}: cannot compute the recipe's variables: {error}") from error


def refuse_unknown(
    node: yaml.ScalarNode, variables: Mapping[str, Any], waiting: Collection[str], source: str
) -> NoReturn:
    """Say which variable of an expression has no value, and why."""
    try:
        compute(node, variables, source)
    except UnknownVariable as error:
        name = str(error)
        why = f"there is no variable {name!r}. {nearest(name, [*variables, *waiting])}"
        if name in waiting:
            why = f"{name!r} depends on itself."
        elif name in variables:
            why = f"{name!r} is {variables[name]!r}, not a number."
        where = f"{source}, line {line_of(node)}"
        raise RecipeError(f"{where}: cannot compute the recipe's variables: {node.value}: {why}") from error
    raise AssertionError(node.value)


# ----------------------------------------------------------------------------------------------------- what it may say


def check(entry: Entry, others: Mapping[str, Collection[str]], source: str) -> Entry:
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
    return replace(entry, spec=spec, fields=spec.model_dump(exclude_unset=True))


def matches(pattern: str, name: str) -> bool:
    """Return whether `name` is meant by `pattern`, by SparseML's rule: `re:` matches from the start, else equality."""
    return bool(re.match(pattern[3:], name)) if pattern.startswith("re:") else pattern == name
