"""Edits as text, as shown by `repr` of an edit and taken by the command line.

    z[3][-1, 5] = 0
    x[10][7:] += 4 * v.npy
    logits[-1, [13, 198]] = -inf        # a comment
    "model.layers[3].mlp.down_proj.input"[..., 123] = 3

An edit is NAME[LAYER][INDEX] OP VALUE, without [LAYER] for points that are not per layer or have
the layer in their name. INDEX has integers, slices, lists of integers, ... and the spans PROMPT,
NEW and DECIDING. VALUE is a number, or [FACTOR *] FILE.npy. Names with characters other than
letters, digits and _ . / - are in double quotes.
"""

import ast
import json
import re
from typing import Any

import numpy as np

from ..arguments import shown
from ..errors import EditError, EditTypeError
from ..files.array import read
from ..messages import printable
from .edit import Edit, as_values
from .index import Index, Span, read_index

_EDIT = re.compile(
    r"""\s*(?P<name>"(?:[^"\\]|\\.)*"|[A-Za-z_][\w.]*)
        \s*(?:\[\s*(?P<layer>[+-]?\d{1,9})\s*\]\s*(?=\[))?
        \[(?P<index>[^\[\]]*(?:\[[^\[\]]*\][^\[\]]*)*)\]
        \s*(?P<op>\+=|-=|\*=|=)
        \s*(?P<value>\S.*?)\s*""",
    re.VERBOSE,
)
_NUMBER = r"[+-]?(?:inf|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
_VALUE = re.compile(
    rf"""(?P<number>{_NUMBER}) | (?:(?P<factor>{_NUMBER})\s*\*\s*)?
         (?P<file>"(?:[^"\\]|\\.)*"|[\w./~-]+\.npy)""",
    re.VERBOSE,
)
_COMMENT = re.compile(r"""((?:"(?:[^"\\]|\\.)*"|[^"#])*)#.*""", re.DOTALL)
MOST_CHARACTERS = 4096


def parse(text: str) -> Edit:
    """Parse one edit. EditError; FileError and FormatError for its file."""
    if not isinstance(text, str):
        raise EditTypeError(f"an edit as text is a str, not {shown(text)}")
    without = _COMMENT.fullmatch(text)
    found = (
        _EDIT.fullmatch(without[1] if without else text) if len(text) <= MOST_CHARACTERS else None
    )
    if not found:
        raise EditError(
            f"{printable(text, 80)!r} is not an edit; write POINT[LAYER][INDEX] = VALUE, such as"
            f" 'z[3][-1, 5] = 0' or 'x[10][7:] += 4 * v.npy'"
        )
    value, file, factor = _value(found["value"])
    layer = None if found["layer"] is None else int(found["layer"])
    return Edit(
        _text(found["name"]),
        layer,
        parse_index(found["index"]),
        found["op"],
        as_values(value),
        file=file,
        factor=factor,
    )


def _text(word: str) -> str:
    if not word.startswith('"'):
        return word
    try:
        return str(json.loads(word))
    except ValueError:
        raise EditError(f"{printable(word, 80)} is not a string of JSON") from None


def _value(text: str) -> tuple[Any, str | None, float | None]:
    """The value, its file, and the file's factor."""
    found = _VALUE.fullmatch(text)
    if not found:
        raise EditError(
            f"{printable(text, 80)!r} is not a value; give a number, a file.npy, or 2 * file.npy"
        )
    if found["number"]:
        return float(found["number"]), None, None
    file = _text(found["file"])
    if not file.endswith(".npy"):
        raise EditError(f"{printable(file, 80)}: values of an edit come from a .npy file")
    values = read(file)
    if values.dtype.kind not in "fiu":
        raise EditError(
            f"{printable(file, 80)}: holds {values.dtype}; the value of an edit is real numbers"
        )
    if found["factor"] is None:
        return values, file, None
    factor = np.float32(found["factor"])
    with np.errstate(over="ignore", invalid="ignore"):
        return factor * values, file, float(factor)


def parse_index(text: str) -> Index:
    """Parse the text between the brackets. EditError."""
    try:
        tree = ast.parse(f"_[{text}]", mode="eval").body
        assert isinstance(tree, ast.Subscript) and isinstance(tree.value, ast.Name)
        items = tree.slice.elts if isinstance(tree.slice, ast.Tuple) else [tree.slice]
        return read_index(tuple(_item(item) for item in items))
    except (SyntaxError, ValueError, TypeError, AssertionError, RecursionError, MemoryError):
        raise EditError(
            f"[{printable(text, 80)}] is not an index; it has integers, slices, lists of integers,"
            f" ..., PROMPT, NEW and DECIDING"
        ) from None


def _item(node: ast.expr | None) -> Any:
    if node is None:
        return None
    if isinstance(node, ast.Slice):
        return slice(_item(node.lower), _item(node.upper), _item(node.step))
    if isinstance(node, ast.List):
        return [_item(item) for item in node.elts]
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return Span[node.attr] if node.value.id == "lp" else _refuse(node)
    if isinstance(node, ast.Name):
        return Span[node.id] if node.id in Span.__members__ else _refuse(node)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_number(node.operand)
    if isinstance(node, ast.Constant) and node.value is ...:
        return ...
    return _number(node)


def _number(node: ast.expr) -> int:
    value = node.value if isinstance(node, ast.Constant) else None
    return value if type(value) is int else _refuse(node)


def _refuse(node: ast.expr) -> Any:
    raise ValueError(ast.dump(node))
