"""A recipe's variables: set by the user, computed from each other, put in where `eval(…)` stands."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import yaml
from yaml.representer import SafeRepresenter

from yolov5_sparse_plugin.engine.expressions import UnknownVariable, evaluate
from yolov5_sparse_plugin.engine.yaml_nodes import is_group, is_stage, line_of, nodes_of, plain
from yolov5_sparse_plugin.errors import RecipeError, nearest

if TYPE_CHECKING:
    from typing_extensions import TypeGuard


def is_expression(node: yaml.Node) -> TypeGuard[yaml.ScalarNode]:
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
        if isinstance(value, float) and not math.isfinite(value):
            raise RecipeError(f"{source}: --sparse-recipe-args sets {name!r} to {value}, which is no number.")
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
