"""Read a recipe for SparseML, and name its faults: line, word, nearest word that exists."""

from __future__ import annotations

import re
from typing import Any

import yaml

from yolov5_sparse_plugin.engine import compat  # noqa: F401  first: shims, and no analytics

from sparseml.optim.helpers import evaluate_recipe_yaml_str_equations, update_recipe_variables  # isort: skip
from yolov5_sparse_plugin.engine.expressions import check_size
from yolov5_sparse_plugin.engine.modifiers import TAG_PREFIX, modifier_classes, modifier_keys
from yolov5_sparse_plugin.errors import RecipeError, nearest
from yolov5_sparse_plugin.recipes_io import RecipeText


def parse(recipe: RecipeText, variables: dict[str, Any]) -> str:
    """Return the recipe's YAML with `variables` put in and every `eval(…)` computed.

    Raises:
        RecipeError: not YAML, an unknown variable, modifier or key, or an expression that cannot be computed.
    """
    try:
        root = yaml.compose(recipe.text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise RecipeError(
            f"{recipe.source}: not valid YAML{where}: {getattr(error, 'problem', error)}. "
            "Indent with spaces and put patterns such as 're:.*' in quotes."
        ) from error
    if not isinstance(root, yaml.MappingNode):
        raise RecipeError(f"{recipe.source}: a recipe is a YAML mapping with '*_modifiers' lists; this is not one.")
    check_size(root, recipe.source)
    check_modifiers(root, recipe.source)
    known = re.findall(r"^[ ]*(\w+)[ ]*:", recipe.text, re.M)
    for name in variables:
        if name not in known:
            raise RecipeError(
                f"{recipe.source}: --sparse-recipe-args sets {name!r}, which this recipe does not have. "
                + nearest(name, known)
            )
    text = in_block_style(root)
    try:
        if variables:
            text = update_recipe_variables(text, variables)
        return evaluate_recipe_yaml_str_equations(text)
    except Exception as error:
        raise RecipeError(f"{recipe.source}: cannot compute the recipe's variables: {error}") from error


def in_block_style(root: yaml.Node) -> str:
    """Return a recipe's text as SparseML can read it: its pattern for tags fails on `!Modifier {start_epoch: 0.0}`."""
    stack = [root]
    while stack:
        node = stack.pop()
        if isinstance(node, yaml.CollectionNode):
            node.flow_style = False
            stack.extend(child for item in node.value for child in (item if isinstance(item, tuple) else (item,)))
    return yaml.serialize(root)


def check_modifiers(root: yaml.MappingNode, source: str) -> None:
    """Refuse modifiers and keys that SparseML does not know, by name (its own errors show Python internals)."""
    classes, count = modifier_classes(), 0
    stack: list[yaml.Node] = [root]
    while stack:
        node = stack.pop()
        if isinstance(node, yaml.MappingNode):
            stack.extend(value for _, value in node.value)
        elif isinstance(node, yaml.SequenceNode):
            stack.extend(node.value)
        tag = node.tag[1:] if node.tag.startswith("!") else None
        if tag is None:
            continue
        count += 1
        tag = tag[len(TAG_PREFIX) - 1 :] if tag.startswith(TAG_PREFIX[1:]) else tag
        line = node.start_mark.line + 1
        if tag not in classes:
            raise RecipeError(f"{source}, line {line}: no modifier {tag!r}. {nearest(tag, classes)}")
        if isinstance(node, yaml.MappingNode):
            allowed = modifier_keys(classes[tag])
            for key, _ in node.value:
                if key.value not in allowed:
                    raise RecipeError(
                        f"{source}, line {key.start_mark.line + 1}: {tag} has no key {key.value!r}. "
                        + nearest(key.value, allowed)
                    )
    if not count:
        raise RecipeError(f"{source}: no modifier found. Modifiers stand in lists whose name ends in 'modifiers'.")


def matches(pattern: str, name: str) -> bool:
    """Return whether `name` is meant by `pattern`, by SparseML's rule: `re:` matches from the start, else equality."""
    return bool(re.match(pattern[3:], name)) if pattern.startswith("re:") else pattern == name
