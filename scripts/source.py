"""The package's source, read for the texts that its calls pass on: what `codes` lists is found here.

An expression is followed through local names, the parameters of helper functions (once for each way in which they are
called), defaults, conditions, constants of modules and what functions return. What comes from outside stays open.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
DEPTH = 6
"""How many helper functions may stand between the words and the error that says them."""

Names = Mapping[str, "Given"]


class Given(NamedTuple):
    """An expression and the place where it is written."""

    node: ast.expr | None
    at: Place


@dataclass(frozen=True)
class Place:
    """A function of a module, with what its parameters are in one call of it."""

    module: str
    function: str = ""
    names: Names = field(default_factory=dict)

    def bound(self, names: Names) -> Place:
        return Place(self.module, self.function, names)


@dataclass(frozen=True)
class Call:
    """One call in the source, and who is called: `module:qualified.name`."""

    node: ast.Call
    callee: str
    at: Place


class Source:
    """The whole package: its functions, its calls, and its modules' names."""

    def __init__(self) -> None:
        self.globals: dict[str, dict[str, Any]] = {}
        self.functions: dict[str, ast.FunctionDef | ast.AsyncFunctionDef] = {}
        self.calls: list[Call] = []
        trees = {}
        for path in sorted((ROOT / "x402").rglob("*.py")):
            if path.name == "__main__.py":
                continue
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            trees[module] = ast.parse(path.read_text(encoding="utf-8"))
            self.globals[module] = _names_in(module, trees[module])
        for module, tree in trees.items():
            self._visit(module, tree, "", "")
        self.callers: dict[str, list[Call]] = {}
        for call in self.calls:
            self.callers.setdefault(call.callee, []).append(call)

    def _visit(self, module: str, node: ast.AST, function: str, owner: str) -> None:
        for child in ast.iter_child_nodes(node):
            inside, inner_owner = function, owner
            if isinstance(child, ast.ClassDef):
                inner_owner = child.name
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not function:
                inside = f"{owner}.{child.name}" if owner else child.name
                self.functions[f"{module}:{inside}"] = child
            if isinstance(child, ast.Call):
                callee = self._callee(module, child.func, owner)
                self.calls.append(Call(child, callee, Place(module, function)))
            self._visit(module, child, inside, inner_owner)

    def _callee(self, module: str, called: ast.expr, owner: str) -> str:
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) and called.value.id == "self":
            return f"{module}:{owner}.{called.attr}"
        found = self.value(called, module)
        return f"{getattr(found, '__module__', '')}:{getattr(found, '__qualname__', '')}"

    def value(self, node: ast.expr | None, module: str) -> Any:
        """What an expression of names of a module stands for, or None."""
        if not isinstance(node, ast.Name | ast.Attribute):
            return None
        if isinstance(node, ast.Name):
            return self.globals[module].get(node.id)
        return getattr(self.value(node.value, module), node.attr, None)

    def arguments(self, call: Call, place: Place) -> dict[str, Given]:
        """The parameters of the called function in this call; defaults where nothing is given."""
        function = self.functions[call.callee]
        parameters = [*function.args.posonlyargs, *function.args.args]
        if parameters and parameters[0].arg in ("self", "cls"):
            parameters = parameters[1:]
        home = Place(call.callee.partition(":")[0])
        given: dict[str, Given] = {}
        for parameter, default in zip(reversed(parameters), reversed(function.args.defaults), strict=False):
            given[parameter.arg] = Given(default, home)
        for parameter, fallback in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
            given[parameter.arg] = Given(fallback, home)
        for parameter, argument in zip(parameters, call.node.args, strict=False):
            given[parameter.arg] = Given(argument, place)
        return given | {word.arg: Given(word.value, place) for word in call.node.keywords if word.arg}

    def places(self, call: Call, depth: int = DEPTH) -> Iterator[Place]:
        """The function around a call, once for each way in which it is called itself."""
        function = f"{call.at.module}:{call.at.function}"
        callers = self.callers.get(function, []) if depth else []
        yield call.at
        for caller in callers:
            for place in self.places(caller, depth - 1):
                yield call.at.bound(self.arguments(caller, place))

    def values(self, given: Given, depth: int = DEPTH) -> set[str | int]:
        """All texts and numbers that an expression can be, as far as the source tells."""
        node, place = given
        if node is None or depth < 0:
            return set()
        if isinstance(node, ast.Constant):
            return {node.value} if isinstance(node.value, str | int) and not isinstance(node.value, bool) else set()
        if isinstance(node, ast.IfExp):
            return self._union((node.body, node.orelse), place, depth)
        if isinstance(node, ast.BoolOp):
            return self._union(node.values, place, depth)
        if isinstance(node, ast.Subscript):
            return _leaves(self.value(node.value, place.module))
        known = list(self.known(given))
        if known:
            return {value for meant in known for value in self.values(meant, depth - 1)}
        return _leaves(self.value(node, place.module))

    def _union(self, nodes: Sequence[ast.expr], place: Place, depth: int) -> set[str | int]:
        return {value for node in nodes for value in self.values(Given(node, place), depth)}

    def known(self, given: Given) -> Iterator[Given]:
        """What a parameter or a local name is set to, or what a call of our own returns; nothing when that is open."""
        node, place = given
        if isinstance(node, ast.Call):
            yield from self._returned(node, place, None)
        if not isinstance(node, ast.Name):
            return
        if node.id in place.names:
            yield place.names[node.id]
            return
        for step in ast.walk(self.functions.get(f"{place.module}:{place.function}", ast.Module([], []))):
            if not isinstance(step, ast.Assign):
                continue
            for target in step.targets:
                names = [ast.unparse(part) for part in target.elts] if isinstance(target, ast.Tuple) else []
                if ast.unparse(target) == node.id:
                    yield Given(step.value, place)
                elif node.id in names and isinstance(step.value, ast.Tuple):
                    yield Given(step.value.elts[names.index(node.id)], place)
                elif node.id in names and isinstance(step.value, ast.Call):
                    yield from self._returned(step.value, place, names.index(node.id))

    def _returned(self, node: ast.Call, place: Place, position: int | None) -> Iterator[Given]:
        callee = self._callee(place.module, node.func, place.function.partition(".")[0])
        function = self.functions.get(callee)
        for step in ast.walk(function) if function is not None else ():
            if isinstance(step, ast.Return) and step.value is not None:
                home = Place(callee.partition(":")[0], callee.partition(":")[2])
                if position is None:
                    yield Given(step.value, home)
                elif isinstance(step.value, ast.Tuple):
                    yield Given(step.value.elts[position], home)

    def words(self, given: Given, depth: int = DEPTH) -> str:
        """A message as a template; empty when it is somebody else's."""
        node, place = given
        if node is None or depth < 0:
            return ""
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, str) else ""
        if isinstance(node, ast.Subscript):
            return self.words(Given(node.value, place), depth)
        if isinstance(node, ast.JoinedStr):
            return "".join(self._piece(part, place, depth) for part in node.values)
        if isinstance(node, ast.BoolOp | ast.IfExp):
            parts = node.values if isinstance(node, ast.BoolOp) else [node.body, node.orelse]
            return next(filter(None, (self.words(Given(part, place), depth) for part in parts)), "")
        if isinstance(node, ast.Name):
            return next(filter(None, (self.words(meant, depth - 1) for meant in self.known(given))), "")
        return ""

    def _piece(self, part: ast.expr, place: Place, depth: int) -> str:
        if not isinstance(part, ast.FormattedValue):
            return self.words(Given(part, place), depth)
        told = self.words(Given(part.value, place), depth)
        return told or f"{{{_short(part.value)}}}"


def _names_in(module: str, tree: ast.Module) -> dict[str, Any]:
    """A module's names, with those that it imports inside of functions."""
    names = dict(vars(importlib.import_module(module)))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("x402"):
            home = importlib.import_module(node.module or "")
            names |= {alias.asname or alias.name: getattr(home, alias.name, None) for alias in node.names}
    return names


def _leaves(value: Any) -> set[str | int]:
    if isinstance(value, str | int) and not isinstance(value, bool):
        return {value}
    if isinstance(value, Mapping):
        value = tuple(value.values())
    return {leaf for leaf in value if isinstance(leaf, str)} if isinstance(value, tuple) else set()


def _short(node: ast.expr) -> str:
    """One word for what stands in braces."""
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
        return node.slice.value
    if isinstance(node, ast.Subscript):
        return _short(node.value)
    if isinstance(node, ast.Call):
        return _short(node.args[0] if node.args else node.func)
    if isinstance(node, ast.BoolOp):
        return _short(node.values[0])
    if isinstance(node, ast.Attribute):
        return "error" if node.attr == "__name__" else node.attr.strip("_")
    return node.id.strip("_").lower() if isinstance(node, ast.Name) else "…"
