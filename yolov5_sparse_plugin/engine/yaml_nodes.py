"""A recipe's YAML as nodes, which know their lines, and as plain values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeVar

import yaml
from yaml.constructor import SafeConstructor

from yolov5_sparse_plugin.errors import RecipeError
from yolov5_sparse_plugin.recipes_io import RecipeText

GROUP = "modifiers"  # what the name of a list of modifiers contains
FRAMEWORK = "pytorch."  # recipes may write `!pytorch.QuantizationModifier`
AnyNode = TypeVar("AnyNode", bound=yaml.Node)


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


def written_out(node: AnyNode) -> AnyNode:
    """Return a copy in which nothing stands in two places: a modifier with an alias may be in two stages, and is two.

    Args:
        node: of a recipe whose size was checked.
    """
    copy = type(node)(node.tag, node.value, node.start_mark, node.end_mark)
    if isinstance(node, yaml.MappingNode):
        copy.value = [(written_out(key), written_out(value)) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        copy.value = [written_out(item) for item in node.value]
    return copy


def check_keys(root: yaml.Node, source: str) -> None:
    """Refuse keys that are no words and no numbers, and those that a mapping has twice: YAML would take the last.

    Raises:
        RecipeError: naming the first.
    """
    for mapping in (node for node in nodes_of(root) if isinstance(node, yaml.MappingNode)):
        seen: dict[Any, int] = {}
        for key, _ in mapping.value:
            if key.tag == MERGE:
                continue
            if key.tag not in KEYS or (mapping is root and key.tag != KEYS[0]):
                raise RecipeError(
                    f"{source}, line {line_of(key)}: {found_key(key)} is no name. Put it in quotes if it is one."
                )
            name = plain(key, source)
            if name in seen:
                raise RecipeError(
                    f"{source}, line {line_of(key)}: {key.value!r} stands there twice, first in line {seen[name]}. "
                    "Keep one."
                )
            seen[name] = line_of(key)


def found_key(key: yaml.Node) -> str:
    return repr(key.value) if isinstance(key, yaml.ScalarNode) else "a list or a mapping"


MERGE = "tag:yaml.org,2002:merge"
KEYS = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float"))
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
        if isinstance(each, yaml.ScalarNode) and each.tag != MERGE:
            try:
                SafeConstructor().construct_document(each)
            except (yaml.YAMLError, ValueError, LookupError, OverflowError) as error:  # `!!int ""`, `!!bool perhaps`
                kind = each.tag.rpartition(":")[2]
                raise RecipeError(f"{source}, line {line_of(each)}: {each.value!r} is no value of {kind}.") from error
    try:
        return SafeConstructor().construct_document(node)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise RecipeError(
            f"{source}, line {line_of(node)}: not a value: {getattr(error, 'problem', None) or error}."
        ) from error


def tag_of(node: yaml.Node) -> str | None:
    """Return the modifier that a node is, None if it is none."""
    return node.tag[1:].removeprefix(FRAMEWORK) if node.tag.startswith("!") else None


def is_stage(node: yaml.Node) -> bool:
    """Return whether this is a mapping that holds lists of modifiers."""
    return isinstance(node, yaml.MappingNode) and not tag_of(node) and any(GROUP in str(k.value) for k, _ in node.value)


def is_group(key: yaml.Node, value: yaml.Node) -> bool:
    """Return whether this is a list of modifiers, or a single one."""
    return tag_of(value) is not None or (isinstance(value, yaml.SequenceNode) and GROUP in str(key.value))
