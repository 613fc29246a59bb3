"""Conditions on runs and metrics, such as `val/accuracy>0.99 and model.name=='pyramid'`.

The syntax is Python's, but nothing is executed: a condition consists of names, numbers, strings and lists,
compared with each other and joined by `and`, `or` and `not`. Names may contain dots and slashes.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Lookup = Callable[[str], Any]
"""Returns the value of a name; None if it has none."""

_MOST_CHARACTERS, _MOST_PARTS, _MOST_DEPTH = 1000, 200, 30
_CONSTANTS: Mapping[str, object] = {"true": True, "false": False, "null": None}
_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, container: item in container,
    ast.NotIn: lambda item, container: item not in container,
}
# Words that Python reserves, but that occur in names.
_RESERVED = re.compile(r"\b(from|class|lambda|global|is|with)\b(?=[\w./]*\s*[<>=!.])")
_MARK = "_reserved_"


@dataclass(frozen=True)
class Condition:
    """A parsed condition."""

    text: str
    _tree: ast.expr

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Parse a condition. Raises `ValueError` with a message such as `must be …, found …`."""
        if len(text) > _MOST_CHARACTERS:
            raise ValueError(f"must have at most {_MOST_CHARACTERS:,} characters, found {len(text):,}")
        try:
            tree = ast.parse(_RESERVED.sub(rf"{_MARK}\1", text.strip()), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(
                f"must be a condition such as val/accuracy>0.99 and model.name=='mlp', found {text}"
            ) from error
        if len(list(ast.walk(tree))) > _MOST_PARTS:
            raise ValueError(f"must have at most {_MOST_PARTS} names, values and operators")
        _refuse_others(tree, _MOST_DEPTH)
        return cls(text, tree)

    @property
    def names(self) -> list[str]:
        """The names that the condition refers to, in order."""
        return list(dict.fromkeys(_names(self._tree)))

    def conjuncts(self) -> list[Condition]:
        """Return the conditions that a top-level `and` joins or, if there is none, the condition itself."""
        if isinstance(self._tree, ast.BoolOp) and isinstance(self._tree.op, ast.And):
            texts = [ast.unparse(value).replace(_MARK, "").replace(" / ", "/") for value in self._tree.values]
            return [Condition(text, value) for text, value in zip(texts, self._tree.values, strict=True)]
        return [self]

    def holds(self, lookup: Lookup) -> bool:
        """Return whether the condition holds.

        A missing value is null. Comparing values of different types holds only for `!=` and `not in`.
        """
        return bool(_evaluate(self._tree, lookup))


def _name(node: ast.expr) -> str | None:
    """Return the name that an expression represents, such as `val/accuracy`; None if it is not a name."""
    if isinstance(node, ast.Name):
        return None if node.id in _CONSTANTS else node.id.removeprefix(_MARK)
    if isinstance(node, ast.Attribute):
        left = _name(node.value)
        return left and f"{left}.{node.attr.removeprefix(_MARK)}"
    if (
        isinstance(node, ast.Subscript)
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, int)
    ):
        left = _name(node.value)
        return left and f"{left}.{node.slice.value}"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        left, right = _name(node.left), _name(node.right)
        return f"{left}/{right}" if left and right else None
    return None


def _children(node: ast.expr) -> Sequence[ast.expr] | None:
    """Return the parts of an expression; None if a condition may not contain such an expression."""
    if isinstance(node, ast.BoolOp):
        return node.values
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        return [node.operand]
    if isinstance(node, ast.Compare) and all(type(op) in _COMPARISONS for op in node.ops):
        return [node.left, *node.comparators]
    if isinstance(node, (ast.List, ast.Tuple)):
        return node.elts
    is_constant = isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str, type(None)))
    return () if is_constant or _name(node) or (isinstance(node, ast.Name) and node.id in _CONSTANTS) else None


def _refuse_others(node: ast.expr, depth: int) -> None:
    """Raise `ValueError` if an expression is nested too deeply or has parts that conditions may not contain."""
    children = _children(node)
    if children is None:
        raise ValueError(
            f"must consist of names, numbers, strings, comparisons, and, or and not, found {ast.unparse(node)}"
        )
    if depth == 0:
        raise ValueError(f"must not be nested more than {_MOST_DEPTH} levels deep")
    for child in children:
        _refuse_others(child, depth - 1)


def _names(node: ast.expr) -> list[str]:
    if name := _name(node):
        return [name]
    return [name for child in _children(node) or () for name in _names(child)]


def _evaluate(node: ast.expr, lookup: Lookup) -> Any:
    if name := _name(node):
        return lookup(name)
    if isinstance(node, ast.Name):
        return _CONSTANTS[node.id]
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.BoolOp):
        combine = all if isinstance(node.op, ast.And) else any
        return combine(_evaluate(value, lookup) for value in node.values)
    return _apply(node, [_evaluate(child, lookup) for child in _children(node) or ()])


def _apply(node: ast.expr, values: Sequence[Any]) -> Any:
    """Return the value of a unary operator, a comparison or a list whose operands have been evaluated."""
    if isinstance(node, ast.UnaryOp):
        return not values[0] if isinstance(node.op, ast.Not) else _negative(values[0])
    if isinstance(node, ast.Compare):
        pairs = zip(node.ops, values, values[1:], strict=False)
        return all(_compare(operation, left, right) for operation, left, right in pairs)
    return values


def _negative(value: Any) -> Any:
    return -value if isinstance(value, (int, float)) else None


def _compare(operation: ast.cmpop, left: Any, right: Any) -> bool:
    try:
        return bool(_COMPARISONS[type(operation)](left, right))
    except TypeError:  # ordering values of different types, or `in` with something other than a list
        return False
