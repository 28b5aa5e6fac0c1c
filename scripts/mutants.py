"""Small wrongs done to a module, one at a time: what mutation testing tries on our guards.

The operators are cosmic-ray's, and four of our own: a guard's `raise` or call is left out, a function returns
nothing, `in` is turned round, an `except` catches nothing. Left alone are annotations, which nothing evaluates, and
the arguments of `@dataclass`.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import parso
from cosmic_ray import ast as trees
from cosmic_ray import mutating
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator

ROOT = Path(__file__).resolve().parent.parent

_COMPARISONS = (
    "Eq_NotEq Eq_LtE Eq_GtE NotEq_Eq NotEq_Lt NotEq_Gt Lt_LtE Lt_GtE LtE_Lt LtE_Gt "
    "Gt_GtE Gt_LtE GtE_Gt GtE_Lt Is_IsNot IsNot_Is"
)
_BINARY = (
    "Add_Sub Sub_Add Mul_FloorDiv FloorDiv_Mul Mod_FloorDiv Pow_Mul LShift_RShift RShift_LShift "
    "BitOr_BitAnd BitAnd_BitOr BitXor_BitAnd"
)
_OTHERS = (
    "AddNot ReplaceAndWithOr ReplaceOrWithAnd ReplaceTrueWithFalse ReplaceFalseWithTrue ReplaceBreakWithContinue "
    "ReplaceContinueWithBreak NumberReplacer RemoveDecorator ZeroIterationForLoop "
    "ReplaceUnaryOperator_Delete_Not ReplaceUnaryOperator_USub_UAdd"
)

_parse: Any = parso.parse
_operator: Any = get_operator

Position = tuple[tuple[int, int], tuple[int, int]]
"""Line (from 1) and column (from 0), of the first character and of the one after the last."""


class _OurOperator(Operator):
    @classmethod
    def examples(cls) -> tuple[()]:
        return ()


class LeaveOut(_OurOperator):
    """`raise X` and a call whose result nobody takes become `pass`."""

    def mutation_positions(self, node: Any) -> Iterator[Position]:
        if node.type == "simple_stmt" and node.children[0].type in ("raise_stmt", "atom_expr"):
            yield node.children[0].start_pos, node.children[0].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        statement = node.children[0]
        node.children[0] = _parse(statement.get_first_leaf().prefix + "pass")
        return node


class ReturnNothing(_OurOperator):
    """`return x` becomes `return None`, except where that says the same to an `if`."""

    def mutation_positions(self, node: Any) -> Iterator[Position]:
        if node.type == "return_stmt" and node.children[1].get_code().strip() not in ("None", "False"):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        node.children[1] = _parse(" None")
        return node


class TurnMembership(_OurOperator):
    """`in` becomes `not in`, and the other way round."""

    def mutation_positions(self, node: Any) -> Iterator[Position]:
        if node.type == "comparison" and node.children[1].get_code().split() in (["in"], ["not", "in"]):
            yield node.children[1].start_pos, node.children[1].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        turned = " in" if node.children[1].get_code().split() == ["not", "in"] else " not in"
        node.children[1] = parso.python.tree.Operator(turned.strip(), node.children[1].start_pos, " ")
        return node


class CatchNothing(_OurOperator):
    """`except X` becomes `except ()`; cosmic-ray's own operator cannot read a dotted name."""

    def mutation_positions(self, node: Any) -> Iterator[Position]:
        if node.type == "except_clause":
            yield node.children[1].start_pos, node.children[1].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        node.children[1] = _parse(" ()")
        return node


@dataclass(frozen=True)
class Mutant:
    """One wrong in one module: the whole source with it, and the line that it changes."""

    module: str
    """The file, from the repository's root."""
    operator: str
    line: int
    was: str
    becomes: str
    source: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What a list of survivors knows it by; lines may move."""
        return self.module, self.was, self.becomes


def operators() -> dict[str, Any]:
    """Every operator by its name."""
    names = [f"ReplaceComparisonOperator_{pair}" for pair in _COMPARISONS.split()]
    names += [f"ReplaceBinaryOperator_{pair}" for pair in _BINARY.split()]
    found = {name: _operator(f"core/{name}")() for name in [*names, *_OTHERS.split()]}
    return found | {kind.__name__: kind() for kind in (LeaveOut, ReturnNothing, TurnMembership, CatchNothing)}


def mutants(module: str) -> list[Mutant]:
    """All mutants of a file of the package that compile, in the order of their lines."""
    source = (ROOT / module).read_text(encoding="utf-8")
    spared = list(_spared(ast.parse(source)))
    seen, found = {source}, []
    for name, operator in operators().items():
        for occurrence, (start, end) in enumerate(_positions(operator, source)):
            if any(first <= start and end <= last for first, last in spared):
                continue
            changed = _code(source, operator, occurrence)
            if changed is None or changed in seen or not _compiles(changed):
                continue
            seen.add(changed)
            was, becomes = _difference(source, changed)
            found.append(Mutant(module, name, start[0], was, becomes, changed))
    return sorted(found, key=lambda mutant: (mutant.line, mutant.operator, mutant.becomes))


def _code(source: str, operator: Any, occurrence: int) -> str | None:
    mutate: Any = mutating.mutate_code
    changed = mutate(source, operator, occurrence)
    return None if changed is None else str(changed)


def _positions(operator: Any, source: str) -> Iterator[Position]:
    nodes: Any = trees.ast_nodes
    for node in nodes(trees.get_ast(source)):
        yield from operator.mutation_positions(node)


def _spared(tree: ast.Module) -> Iterator[Position]:
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign | ast.arg) and node.annotation is not None:
            yield _span(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is not None:
            yield _span(node.returns)
        elif isinstance(node, ast.ClassDef):
            yield from (_span(each) for each in node.decorator_list if isinstance(each, ast.Call))


def _span(node: ast.expr) -> Position:
    return (node.lineno, node.col_offset), (node.end_lineno or node.lineno, node.end_col_offset or 0)


def _compiles(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def _difference(source: str, changed: str) -> tuple[str, str]:
    lines = [line for line in difflib.ndiff(source.splitlines(), changed.splitlines()) if line[:1] in "+-"]
    was = " ".join(line[2:].strip() for line in lines if line[0] == "-")
    return was, " ".join(line[2:].strip() for line in lines if line[0] == "+")
