"""Finds and solves arithmetic in a sentence."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction

_EXPRESSION = re.compile(r"[-(\d][\d\s.+\-*/x\u00d7\u00f7()]{1,80}")
# A hyphen or slash without spaces is more often a date, a phone number or "24/7" than arithmetic.
_IS_SUM = re.compile(r"[\d)]\s*[+*x\u00d7\u00f7]\s*[-(\d]|[\d)]\s+[-/]\s+[-(\d]")
_ONLY_SUM = re.compile(
    r"^(?:(?:what\s+is|what's|calculate|compute|solve)\s+)?([-(\d][\d\s.+\-*/x\u00d7\u00f7()]{1,80}?)\s*=?\s*\??$", re.I
)
_WORDS = (
    (re.compile(r"\b(?:multiplied by|times)\b", re.I), "*"),
    (re.compile(r"\b(?:divided by|over)\b", re.I), "/"),
    (re.compile(r"\bplus\b", re.I), "+"),
    (re.compile(r"\bminus\b", re.I), "-"),
)
_SYMBOLS = str.maketrans({"x": "*", "\u00d7": "*", "\u00f7": "/"})
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def find_expression(sentence: str) -> str | None:
    """The first expression in a sentence, with words replaced by operators; None if there is none."""
    for pattern, sign in _WORDS:
        sentence = pattern.sub(sign, sentence)
    if (only := _ONLY_SUM.match(sentence.strip())) and re.search(r"\d\s*[-+*/x\u00d7\u00f7]\s*[-(\d]", only[1]):
        return only[1].strip()
    for match in _EXPRESSION.finditer(sentence):
        text = match[0].strip().rstrip(" .+-*/x\u00d7\u00f7(")
        if _IS_SUM.search(text):
            return text
    return None


def solve(expression: str) -> str | None:
    """The value as text, exact for an integer, otherwise to six places; None if it cannot be computed."""
    source = expression.translate(_SYMBOLS)
    if "**" in source.replace(" ", "") or len(source) > 80:
        return None
    try:
        value = _value(ast.parse(source, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, TypeError, RecursionError):
        return None
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.6f}".rstrip("0").rstrip(".")


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return Fraction(str(node.value))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and (apply := _OPERATORS.get(type(node.op))):
        return apply(_value(node.left), _value(node.right))
    raise ValueError("not a sum")
