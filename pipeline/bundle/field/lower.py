"""Lowers a module of this project to what Python 3.6 reads, for ``bundle.pyz``.

The field has Python 3.6 (Anolis 8) and 3.7 (Kylin V10). The lowering changes as little as it can: it drops
``from __future__ import annotations``, every annotation (a dataclass's field keeps a dummy, which makes it one) and
``if TYPE_CHECKING:`` blocks; and it writes ``return *a, b`` in a way that has always been syntax. What else Python 3.6
does not know is refused, see :mod:`pipeline.bundle.field.rules`: the module has to be written otherwise.
"""

from __future__ import annotations

import ast
from typing import TypeVar

from pipeline.bundle.field import rules
from pipeline.core.errors import PipelineError

OLDEST = (3, 6)

_Node = TypeVar("_Node", bound=ast.AST)


class LoweringError(PipelineError):
    """A module uses something that Python 3.6 does not have: a defect of this project."""


def lower(source: str, name: str) -> str:
    """Return a module's source for Python 3.6.

    Args:
        source: the module, as Python 3.11 reads it.
        name: its file, for the error.

    Raises:
        LoweringError: it uses something that Python 3.6 does not have; every such line is named.
    """
    tree = ast.parse(source, name)
    known = rules.numbers_and_sets(tree)
    lowered = ast.fix_missing_locations(_Lowering().visit(tree))
    found = rules.faults(lowered, known)
    if found:
        lines = "\n".join(f"{name}:{line}: {words}" for line, words in found)
        raise LoweringError(lines, hint="write it so that Python 3.6 can run it: bundle.pyz carries this module")
    text = ast.unparse(lowered) + "\n"
    try:
        ast.parse(text, f"{name} (lowered)", feature_version=OLDEST)
    except SyntaxError as error:
        raise LoweringError(
            f"{name}: once lowered: {error.msg}: {error.text}", hint="write it as Python 3.6 has it"
        ) from error
    return text


class _Lowering(ast.NodeTransformer):
    """Takes away what only type checkers read."""

    def __init__(self) -> None:
        self._in_dataclass = False

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom | None:
        if node.module != "__future__":
            return node
        node.names = [alias for alias in node.names if alias.name != "annotations"]
        return node if node.names else None

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        if _type_checking(node.test):
            return [inner for statement in node.orelse for inner in _listed(self.visit(statement))]
        self.generic_visit(node)
        return _filled(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        outer, self._in_dataclass = self._in_dataclass, any(map(_makes_dataclass, node.decorator_list))
        self.generic_visit(node)
        self._in_dataclass = outer
        return _filled(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        outer, self._in_dataclass = self._in_dataclass, False
        node.returns = None
        self.generic_visit(node)
        self._in_dataclass = outer
        return _filled(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt | None:
        if node.value is not None:
            node.value = self.visit(node.value)
        if self._in_dataclass and not _class_variable(node.annotation):
            node.annotation = ast.copy_location(ast.Name("object", ast.Load()), node)
            return node
        if node.value is None:
            return None
        return ast.copy_location(ast.Assign([node.target], node.value), node)

    def visit_Tuple(self, node: ast.Tuple) -> ast.expr:
        """Write ``*a, b`` as ``tuple([*a, b])``: without parentheses, a later ast.unparse writes new syntax."""
        self.generic_visit(node)
        if not isinstance(node.ctx, ast.Load) or not any(isinstance(item, ast.Starred) for item in node.elts):
            return node
        items = ast.List(node.elts, ast.Load())
        return ast.copy_location(ast.Call(ast.Name("tuple", ast.Load()), [items], []), node)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        return _filled(node)


def _filled(node: _Node) -> _Node:
    """Give a block whose statements are all gone the one that does nothing."""
    body = getattr(node, "body", None)
    if body == [] and not isinstance(node, ast.Module):
        node.body = [ast.Pass()]  # type: ignore[attr-defined]
    return node


def _listed(visited: ast.AST | list[ast.stmt] | None) -> list[ast.stmt]:
    if visited is None:
        return []
    return visited if isinstance(visited, list) else [visited]  # type: ignore[list-item]


def _type_checking(test: ast.expr) -> bool:
    return rules.last_word(test) == "TYPE_CHECKING"


def _makes_dataclass(decorator: ast.expr) -> bool:
    return rules.last_word(decorator.func if isinstance(decorator, ast.Call) else decorator) == "dataclass"


def _class_variable(annotation: ast.expr) -> bool:
    return rules.last_word(annotation) == "ClassVar"
