"""Small changes to a module's source, one at a time: each should make some test fail."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Mutant", "mutants"]

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
}


@dataclass(frozen=True)
class Mutant:
    """A changed source: the line, what stood there, what stands there now, and the whole text."""

    line: int
    before: str
    after: str
    source: str


def mutants(source: str) -> Iterator[Mutant]:
    """Every mutant of a module. Messages, annotations, `raise` and `__all__` are left alone."""
    number = 0
    while True:
        tree = ast.parse(source)
        changer = _Changer(number)
        changed = changer.visit(tree)
        if changer.done is None:
            return
        line, before, after = changer.done
        yield Mutant(line, before, after, ast.unparse(ast.fix_missing_locations(changed)))
        number += 1


class _Changer(ast.NodeTransformer):
    """Makes the change of one number, counted in the order of the walk."""

    def __init__(self, number: int) -> None:
        self._left = number
        self.done: tuple[int, str, str] | None = None

    def _change(self, node: ast.AST, changed: ast.AST) -> ast.AST:
        if self.done is None and self._left == 0:
            self.done = (node.lineno, ast.unparse(node).splitlines()[0], ast.unparse(changed).splitlines()[0])  # type: ignore[attr-defined]
            return changed
        self._left -= 1
        return node

    # What is not changed

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return self._change(node, ast.copy_location(ast.Pass(), node))

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        return node  # for the type checker

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        return node

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        node.kw_defaults = [None if each is None else self.visit(each) for each in node.kw_defaults]
        node.defaults = [self.visit(each) for each in node.defaults]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.args = self.visit_arguments(node.args)  # type: ignore[assignment]
        node.body = [self.visit(each) for each in node.body]
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.body = [self.visit(each) for each in node.body]
        return node

    def visit_Module(self, node: ast.Module) -> ast.AST:
        node.body = [
            self.visit(each) if isinstance(each, (ast.FunctionDef, ast.ClassDef)) else each for each in node.body
        ]
        return node

    # What is changed

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        other = _COMPARISONS.get(type(node.ops[0]))
        if other is None:
            return node
        return self._change(
            node, ast.copy_location(ast.Compare(node.left, [other(), *node.ops[1:]], node.comparators), node)
        )

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        other = _ARITHMETIC.get(type(node.op))
        if other is None or isinstance(node.left, ast.JoinedStr):
            return node
        return self._change(node, ast.copy_location(ast.BinOp(node.left, other(), node.right), node))

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        self.generic_visit(node)
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        return self._change(node, ast.copy_location(ast.BoolOp(other, node.values), node))

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.op, (ast.Not, ast.USub, ast.Invert)):
            return node
        return self._change(node, node.operand)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, bool):
            return self._change(node, ast.copy_location(ast.Constant(not node.value), node))
        if isinstance(node.value, int):
            return self._change(node, ast.copy_location(ast.Constant(node.value + 1), node))
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.test, (ast.Name, ast.Attribute, ast.Call, ast.Subscript)):  # the others change by themselves
            negated = ast.copy_location(ast.UnaryOp(ast.Not(), node.test), node)
            node.test = self._change(node.test, negated)  # type: ignore[assignment]
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        self.generic_visit(node)
        return self._change(node, ast.copy_location(ast.IfExp(node.test, node.orelse, node.body), node))

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if isinstance(node.value, ast.Constant):
            return node
        self.generic_visit(node)
        if isinstance(node.value, ast.Call):
            return self._change(node, ast.copy_location(ast.Pass(), node))
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        self.generic_visit(node)
        return self._change(node, ast.copy_location(ast.Pass(), node))
