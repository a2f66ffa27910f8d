"""Every check of a module, found in its syntax, and for each one how to take it away.

    subject = Subject.read("verifier.crl")
    subject.mutants[0].removed  # `not raised: if certificate.serial in self.serials`

Nothing here names a check. Whoever writes a new one in the verifier gets its mutants with it.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import CodeType
from typing import TypeAlias

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
Display: TypeAlias = ast.Tuple | ast.List | ast.Set
_MUTATORS = {"add", "append", "discard", "extend", "setdefault", "sort", "update"}
_OTHER_BOUND: dict[type[ast.cmpop], ast.cmpop] = {
    ast.Lt: ast.LtE(),
    ast.LtE: ast.Lt(),
    ast.Gt: ast.GtE(),
    ast.GtE: ast.Gt(),
}
# Made once, when the module is loaded: other code for the function would not change it.
_NOT_CODE = {"annotation", "decorator_list", "returns"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One check taken away. `edit` changes the subject's tree for good: apply it in a child."""

    module: str
    line: int
    source: str  #              the line of code, without indentation
    removed: str  #             what is missing now
    function: tuple[str, int]  # qualified name and first line of the outermost function
    lines: range  #             a test that runs none of these cannot tell the difference
    edit: Callable[[], None]

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is, wherever it stands."""
        return self.module, self.source, self.removed

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.source}\n    {self.removed}"


@dataclass(slots=True)
class Subject:
    """One module, parsed once, and all its mutants."""

    module: str
    path: str
    tree: ast.Module
    mutants: list[Mutant] = field(default_factory=list)

    @classmethod
    def read(cls, module: str) -> Subject:
        spec = find_spec(module)
        assert spec is not None, f"no module {module}"
        assert spec.origin is not None, f"{module} has no source"
        text = Path(spec.origin).read_text("utf-8")
        subject = cls(module, spec.origin, ast.parse(text, spec.origin))
        for name, function in _outermost(subject.tree):
            subject.mutants += _Finder(subject, text.splitlines(), name, function).found()
        subject.mutants.sort(key=lambda mutant: mutant.line)
        return subject

    def code(self, function: tuple[str, int]) -> CodeType:
        """What the outermost function compiles to, as the tree stands now."""
        todo = [compile(self.tree, self.path, "exec", dont_inherit=True)]
        while todo:
            code = todo.pop()
            if (code.co_qualname, code.co_firstlineno) == function:
                return code
            todo += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        raise AssertionError(f"{self.module} has no function {function}")


def _outermost(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    todo: list[tuple[str, ast.stmt]] = [("", node) for node in tree.body]
    while todo:
        prefix, node = todo.pop(0)
        if isinstance(node, Function):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            todo += [(f"{prefix}{node.name}.", inner) for inner in node.body]


class _Finder:
    """Walks one outermost function."""

    def __init__(self, subject: Subject, text: list[str], name: str, function: Function) -> None:
        self._subject, self._text, self._function = subject, text, function
        first = min([function.lineno, *(d.lineno for d in function.decorator_list)])
        self._name = (name, first)
        self._mutants: list[Mutant] = []
        self._seen: set[tuple[int, str]] = set()
        self._place: dict[ast.AST, tuple[ast.AST, str, int | None]] = {}
        self._enter(function)
        self._constants = {
            target.id: node.value
            for node in subject.tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }

    def _enter(self, parent: ast.AST) -> None:
        for part, value in ast.iter_fields(parent):
            several = isinstance(value, list)
            for index, inner in enumerate(value if several else [value]):
                if not isinstance(inner, ast.AST) or isinstance(inner, ast.arguments):
                    continue
                if part not in _NOT_CODE:
                    self._place[inner] = (parent, part, index if several else None)
                    self._enter(inner)

    def found(self) -> list[Mutant]:
        for node in list(self._place):
            match node:
                case ast.Raise():
                    self._refusal(node)
                case ast.Return(value=ast.Constant(value=False)) if self._decides(node):
                    self._refusal(node)
                case ast.Return(value=ast.expr() as value) if self._decides(node):
                    if not isinstance(value, ast.Constant):
                        self._swap(value, ast.Constant(True), "always true", value)
                        self._parts(value)
                case ast.Expr(value=ast.Call() as call) if self._is_for_refusal(call):
                    self._swap(node, ast.Pass(), f"not called: {ast.unparse(call)[:90]}", node)
                case ast.Call():
                    self._passed_through(node)
                case ast.For(iter=ast.Tuple() | ast.List() as table):
                    self._rows(table, "row")
                case ast.Assign(targets=[ast.Name()], value=value):
                    self._assigned(value)
                case ast.AugAssign(value=value):
                    self._assigned(value)
                case ast.Compare():
                    self._bounds(node)
                case ast.comprehension():
                    if isinstance(node.iter, Display):
                        self._rows(node.iter, "member")
                    for condition in node.ifs:
                        self._parts(condition)
                case ast.IfExp() if not self._is_wording(node):
                    self._swap(node, node.body, f"always: {ast.unparse(node.body)}", node)
                    self._swap(node, node.orelse, f"always: {ast.unparse(node.orelse)}", node)
                case ast.Name(ctx=ast.Load()) if node.id in self._constants:
                    self._constant(node)
        for node in list(self._place):
            # What refuses nothing decides something all the same.
            if isinstance(node, ast.If) and (id(node.test), "not taken") not in self._seen:
                self._condition(node.test, taken=False)
        return self._mutants

    # What is found

    def _refusal(self, node: ast.stmt) -> None:
        parent, part, _ = self._place[node]
        if isinstance(parent, ast.ExceptHandler):
            if isinstance(node, ast.Return):
                self._swap(node, ast.Return(ast.Constant(True)), "true instead of false", node)
            return  # a translation of a refusal, not a refusal of its own
        if isinstance(parent, ast.If):
            self._condition(parent.test, taken=part == "orelse")
        elif isinstance(node, ast.Raise):
            self._swap(node, ast.Pass(), "not raised", node)
        for guard in self._ways_around(node):
            self._condition(guard.test, taken=True)

    def _ways_around(self, node: ast.stmt) -> Iterator[ast.If]:
        """Conditions further up under which the refusal is not reached at all."""
        last = isinstance(node, ast.Raise) and not isinstance(self._place[node][0], ast.If)
        while node is not self._function:
            parent, part, index = self._place[node]
            block = getattr(parent, part)
            if isinstance(block, list) and isinstance(node, ast.stmt):
                for before in block[:index]:
                    inner = ast.walk(before) if last else iter([before])
                    for guard in inner:
                        if isinstance(guard, ast.If) and isinstance(
                            guard.body[-1], ast.Return | ast.Continue | ast.Break
                        ):
                            yield guard
            assert isinstance(parent, ast.stmt | ast.ExceptHandler | ast.match_case)
            node, last = parent, False  # type: ignore[assignment]

    def _decides(self, node: ast.AST) -> bool:
        """Is this inside a function that answers yes or no?"""
        while not isinstance(node, Function):
            if isinstance(node, ast.Lambda):
                return False
            node = self._place[node][0]
        return isinstance(node.returns, ast.Name) and node.returns.id == "bool"

    def _is_for_refusal(self, call: ast.Call) -> bool:
        statement = self._place[call][0]
        if isinstance(self._place[statement][0], ast.ExceptHandler):
            return False  # it words a refusal
        notes = {
            item.optional_vars.id
            for node in self._place
            if isinstance(node, ast.With)
            for item in node.items
            if isinstance(item.optional_vars, ast.Name)
        }
        match call.func:
            case ast.Name(id=name):
                return name not in notes
            case ast.Attribute(attr=name):
                return name not in _MUTATORS
        return True

    def _is_wording(self, node: ast.AST) -> bool:
        """Inside a message, or the list of what is translated into one: it decides nothing."""
        if isinstance(node, ast.IfExp) and _is_text(node.body) and _is_text(node.orelse):
            return True
        while node in self._place:
            if isinstance(node, ast.Raise | ast.JoinedStr):
                return True
            if isinstance(self._place[node][0], ast.ExceptHandler) and isinstance(node, ast.expr):
                return True
            if isinstance(node, ast.Expr):
                return not (isinstance(node.value, ast.Call) and self._is_for_refusal(node.value))
            node = self._place[node][0]
        return False

    def _passed_through(self, call: ast.Call) -> None:
        """`at = require_instant(at)`: a check whose value is its argument."""
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        name = call.func.id if isinstance(call.func, ast.Name) else name
        if isinstance(self._place[call][0], ast.Expr):
            pass
        elif name.startswith("require_") and len(call.args) == 1 and not call.keywords:
            self._swap(call, call.args[0], f"not called: {name}", call)
        if "require" in name or name == "covering":
            for value in [*call.args, *(keyword.value for keyword in call.keywords)]:
                if isinstance(value, Display):
                    self._rows(value, "member")

    def _assigned(self, value: ast.expr) -> None:
        if isinstance(value, ast.Tuple | ast.List):
            self._rows(value, "member")
        elif isinstance(value, ast.Compare) or (
            isinstance(value, ast.BoolOp)
            and all(isinstance(v, ast.Compare | ast.BoolOp | ast.UnaryOp) for v in value.values)
        ):
            self._parts(value)

    def _constant(self, name: ast.Name) -> None:
        """A collection written at the top of the module, used in here."""
        value = self._constants[name.id]
        if isinstance(value, ast.Call) and value.args:
            value = value.args[0]  # frozenset({…})
        if self._is_wording(name):
            return
        around = ast.unparse(self._place[name][0]).split("\n")[0][:60]
        if isinstance(value, Display):
            for index, item in enumerate(value.elts):
                rest = copy.copy(value)
                rest.elts = [e for i, e in enumerate(value.elts) if i != index]
                new = (
                    rest if rest.elts or isinstance(rest, ast.Tuple) else ast.Tuple([], ast.Load())
                )
                what = f"{name.id} without {ast.unparse(item)} in: {around}"
                self._swap(name, new, what, name)
        elif isinstance(value, ast.Dict):
            for index, key in enumerate(value.keys):
                keys = [k for i, k in enumerate(value.keys) if i != index]
                values = [v for i, v in enumerate(value.values) if i != index]
                what = f"{name.id} without {ast.unparse(key) if key else '**'} in: {around}"
                self._swap(name, ast.Dict(keys, values), what, name)

    # How it is taken away

    def _condition(self, test: ast.expr, *, taken: bool) -> None:
        what = "always taken" if taken else "never taken"
        self._seen.add((id(test), "not taken"))
        self._swap(test, ast.Constant(taken), f"{what}: if {ast.unparse(test)[:90]}", test)
        self._parts(test)

    def _parts(self, test: ast.expr) -> None:
        """Each operand of a compound condition, each half of a chain, by itself."""
        match test:
            case ast.BoolOp(values=values):
                for index, value in enumerate(values):
                    rest = [v for i, v in enumerate(values) if i != index]
                    new = rest[0] if len(rest) == 1 else ast.BoolOp(test.op, rest)
                    self._swap(test, new, f"without: {ast.unparse(value)[:90]}", value)
                    self._parts(value)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                self._parts(operand)
            case ast.BinOp(left=left, right=right):
                for side in (left, right):
                    if isinstance(side, Display):
                        self._rows(side, "member")
            case ast.Compare(left=left, ops=ops, comparators=[*_, right]):
                if len(ops) > 1:
                    halves = [left, *test.comparators]
                    for index, op in enumerate(ops):
                        kept = 1 - index if len(ops) == 2 else None
                        if kept is not None:
                            new = ast.Compare(halves[kept], [ops[kept]], [halves[kept + 1]])
                            lost = ast.Compare(halves[index], [op], [halves[index + 1]])
                            self._swap(test, new, f"without: {ast.unparse(lost)}", test)
                elif isinstance(left, ast.Tuple) and isinstance(right, ast.Tuple):
                    self._pairs(test, left, right)
                elif isinstance(ops[0], ast.In | ast.NotIn) and isinstance(right, Display):
                    self._rows(right, "member")

    def _pairs(self, test: ast.Compare, left: ast.Tuple, right: ast.Tuple) -> None:
        if len(left.elts) == len(right.elts) and len(left.elts) > 1:
            for index, item in enumerate(left.elts):
                sides = [
                    ast.Tuple([e for i, e in enumerate(side.elts) if i != index], ast.Load())
                    for side in (left, right)
                ]
                new = ast.Compare(sides[0], test.ops, [sides[1]])
                self._swap(test, new, f"not compared: {ast.unparse(item)}", test)

    def _rows(self, table: Display, what: str) -> None:
        for index, item in enumerate(table.elts):
            rest = [e for i, e in enumerate(table.elts) if i != index]
            new: ast.expr = ast.Tuple(rest, ast.Load())
            if rest and not isinstance(table, ast.Tuple):
                new = (
                    type(table)(rest) if isinstance(table, ast.Set) else ast.List(rest, ast.Load())
                )
            text = f"without the {what}: {ast.unparse(item)[:90]}"
            self._swap(table, new, text, item)

    def _bounds(self, test: ast.Compare) -> None:
        for index, op in enumerate(test.ops):
            if type(op) in _OTHER_BOUND:
                ops = list(test.ops)
                ops[index] = _OTHER_BOUND[type(op)]
                new = ast.Compare(test.left, ops, test.comparators)
                self._swap(test, new, f"bound moved: {ast.unparse(new)[:90]}", test)

    def _swap(self, old: ast.AST, new: ast.AST, what: str, at: ast.AST) -> None:
        """Note a mutant that puts `new` where `old` stands; `at` is the line people look at."""
        if (id(old), what) in self._seen:
            return
        self._seen.add((id(old), what))
        parent, part, index = self._place[old]

        def edit() -> None:
            ast.copy_location(new, old)
            ast.fix_missing_locations(new)
            if index is None:
                setattr(parent, part, new)
            else:
                getattr(parent, part)[index] = new

        statement: ast.AST = old
        while not isinstance(statement, ast.stmt):
            statement = self._place[statement][0]
        first, last = _span(statement) if isinstance(old, ast.stmt) else _header(statement)
        line: int = at.lineno  # type: ignore[attr-defined]
        self._mutants.append(
            Mutant(
                module=self._subject.module,
                line=line,
                source=self._text[line - 1].strip(),
                removed=what,
                function=self._name,
                lines=range(first, last + 1),
                edit=edit,
            )
        )


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _span(node: ast.stmt) -> tuple[int, int]:
    return node.lineno, node.end_lineno or node.lineno


def _header(node: ast.stmt) -> tuple[int, int]:
    """The lines of a statement without those of the statements inside it."""
    first, last = _span(node)
    inner = [child.lineno for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return first, max(first, min(inner) - 1) if inner else last
