"""Compute a recipe's `eval(…)` expressions, with an end in sight.

SparseML takes any arithmetic, so that a recipe of 20 bytes, `eval(9**9**9)`, keeps a machine busy for days.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping
from typing import Any, Callable

import yaml

from yolov5_sparse_plugin.errors import RecipeError

LENGTH = 1000  # characters; the longest of the published recipes has 60
LARGEST = 2**64
PARTS = 100_000  # of a recipe once its YAML aliases are written out

OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: lambda base, exponent: float(base) ** exponent,  # a float overflows at once, where a whole number grows
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {f.__name__: f for f in (abs, float, int, max, min, round)}


class UnknownVariable(Exception):
    """An expression names a variable that is not known, or not yet; its text is the name."""


def evaluate(expression: str, variables: Mapping[str, float] | None = None) -> float:
    """Compute an expression: SparseML's arithmetic, with limits.

    Raises:
        UnknownVariable: it names one that has no value.
        ValueError: what else is wrong with it.
    """
    text = expression.strip()
    shown = text if len(text) <= 60 else text[:60] + "…"
    if len(text) > LENGTH:
        raise ValueError(f"eval({shown}) has {len(text)} characters, more than {LENGTH}")
    try:
        return _value(ast.parse(text, mode="eval").body, variables or {})
    except (SyntaxError, ArithmeticError, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"eval({shown}): {error}") from error


def _value(node: ast.AST, variables: Mapping[str, float]) -> float:
    if isinstance(node, ast.Name):
        if node.id not in variables:
            raise UnknownVariable(node.id)
        value = variables[node.id]
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        value = node.value
    elif isinstance(node, (ast.BinOp, ast.UnaryOp)) and type(node.op) in OPERATORS:
        operands = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.operand,)
        numbers = [_value(operand, variables) for operand in operands]
        value = OPERATORS[type(node.op)](*numbers)
        if isinstance(node.op, ast.Pow) and all(isinstance(n, int) for n in numbers):
            value = int(value) if value == int(value) else value
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS:
        arguments = [_value(argument, variables) for argument in node.args]
        if node.keywords or (node.func.id == "round" and len(arguments) > 1 and abs(arguments[1]) > 30):
            raise ValueError(f"{node.func.id}() takes numbers only")
        value = FUNCTIONS[node.func.id](*arguments)
    else:
        raise ValueError("only numbers, the recipe's variables, + - * / // % ** and " + ", ".join(FUNCTIONS))
    if not isinstance(value, (int, float)):
        raise ValueError("the result is no real number")
    if isinstance(value, int) and abs(value) > LARGEST:
        raise ValueError("a number that large has no use in a recipe")
    return value


def check_size(root: yaml.Node, source: str) -> None:
    """Refuse a recipe whose YAML aliases multiply it beyond measure.

    Raises:
        RecipeError: written out it has more than `PARTS` parts, or it contains itself.
    """
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, above: tuple[int, ...]) -> int:
        if id(node) in above:
            return PARTS + 1
        if id(node) not in sizes:
            inside = node.value if isinstance(node, yaml.CollectionNode) else ()
            parts = (part for item in inside for part in (item if isinstance(item, tuple) else (item,)))
            sizes[id(node)] = 1 + sum(size(part, (*above, id(node))) for part in parts)
        return sizes[id(node)]

    if size(root, ()) > PARTS:
        raise RecipeError(f"{source}: its YAML aliases make a recipe of more than {PARTS} parts. Write it out instead.")
