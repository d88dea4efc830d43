"""The exact claims see every wrong formula: each operator, sign, number and weight, changed one at a time.

A mutant is the module's own source with one node of its syntax tree changed. Docstrings, type hints and dataclass
machinery are not formulas. The few changes that change no value are listed, with the reason.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch

from trainer.ntk import analytic, exact, kernels, predict

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

SWAPPED: dict[type[ast.operator], ast.operator] = {
    ast.Add: ast.Sub(),
    ast.Sub: ast.Add(),
    ast.Mult: ast.Div(),
    ast.Div: ast.Mult(),
    ast.Pow: ast.Mult(),
    ast.MatMult: ast.Add(),
}
WEIGHTS = {
    "lam",
    "gamma",
    "alpha",
    "speed",
    "share",
    "workers",
    "periods",
    "weight",
    "taught",
    "rate",
    "steps",
    "angle",
}
"""Names of what multiplies something in a formula: each use is doubled (or raised by one where it counts)."""


class Place:
    """One node, by its number in the tree, and how to change it in place."""

    def __init__(self, number: int, text: str, apply: Callable[[ast.AST], ast.AST]) -> None:
        self.number, self.text, self.apply = number, text, apply


def _changes(node: ast.AST) -> Iterator[tuple[str, Callable[[ast.AST], ast.AST]]]:
    if isinstance(node, ast.BinOp) and type(node.op) in SWAPPED:
        other = SWAPPED[type(node.op)]
        yield f"{type(node.op).__name__} -> {type(other).__name__}", lambda n: _with(n, op=other)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "sign dropped", lambda n: n.operand  # type: ignore[attr-defined]
    value = node.value if isinstance(node, ast.Constant) else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield f"{value} -> {value + 1}", lambda n: _with(n, value=value + 1)
    named = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
    if named in WEIGHTS and isinstance(node.ctx, ast.Load):  # type: ignore[attr-defined]
        yield f"{named} -> 2 {named}", lambda n: ast.BinOp(ast.Constant(2), ast.Mult(), n)  # type: ignore[arg-type]


def _with(node: ast.AST, **fields: object) -> ast.AST:
    for name, value in fields.items():
        setattr(node, name, value)
    return node


def places(source: str) -> list[Place]:
    """Each named by its statement and, where a statement has several of the kind, by its number there."""
    tree = ast.parse(source)
    skipped = {id(inner) for outer in ast.walk(tree) for inner in _not_formulas(outer)}
    statements = {
        id(inner): ast.unparse(outer).splitlines()[0]
        for outer in ast.walk(tree)  # outer ones first, so that a node ends up with its innermost statement
        if isinstance(outer, ast.stmt)
        for inner in ast.walk(outer)
    }
    found: list[Place] = []
    for number, node in enumerate(ast.walk(tree)):
        if id(node) not in skipped:
            for change, apply in _changes(node):
                text = f"{statements.get(id(node), '')} | {change}"
                twins = sum(place.text.rpartition(" #")[0] == text for place in found)
                found.append(Place(number, f"{text} #{twins + 1}", apply))
    return found


def _not_formulas(node: ast.AST) -> Iterator[ast.AST]:
    """Type hints and what checks arguments."""
    if isinstance(node, ast.FunctionDef):
        parts: list[ast.AST | None] = [node.returns, *(arg.annotation for arg in node.args.args + node.args.kwonlyargs)]
        parts += node.body if node.name == "__post_init__" else []
        for part in parts:
            yield from ast.walk(part) if part else ()
    if isinstance(node, ast.Raise | ast.AnnAssign):
        yield from ast.walk(node if isinstance(node, ast.Raise) else node.annotation)


def mutant(source: str, place: Place, name: str) -> ModuleType:
    tree = ast.parse(source)
    target = next(node for number, node in enumerate(ast.walk(tree)) if number == place.number)

    class Change(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            return place.apply(node) if node is target else self.generic_visit(node)

    module = ModuleType(name)
    sys.modules[name] = module  # dataclasses look their module up
    changed = ast.fix_missing_locations(Change().visit(tree))
    assert isinstance(changed, ast.Module)
    code = compile(changed, name, "exec")
    exec(code, module.__dict__)  # noqa: S102 - our own source, one node changed
    return module


def seen(module: ModuleType, claims: Callable[[ModuleType], Iterator[exact.Claim]]) -> bool:
    """Whether a claim fails; a formula that raises has failed as loudly as can be."""
    try:
        return any(not claim.passed for claim in claims(module))
    except (RuntimeError, ValueError, TypeError, IndexError, ZeroDivisionError):
        return True


def survivors(module: ModuleType, claims: Callable[[ModuleType], Iterator[exact.Claim]]) -> tuple[int, list[str]]:
    source, name = inspect.getsource(module), "mutant_of_" + module.__name__.rpartition(".")[2]
    found = places(source)
    try:
        return len(found), [place.text for place in found if not seen(mutant(source, place, name), claims)]
    finally:
        sys.modules.pop(name, None)


KNOWN: exact.Known = {}
"""What the predictions' dynamics come to: no mutant changes them."""


def test_the_unchanged_source_passes_as_a_mutant_would() -> None:
    nothing = Place(0, "nothing", lambda node: node)
    unchanged = mutant(inspect.getsource(predict), nothing, "mutant_of_predict")
    assert not seen(unchanged, lambda module: exact.prediction_claims(module, KNOWN))
    sys.modules.pop("mutant_of_predict")


FAR = "far = (1 - (1 - gap) ** count) / torch.where(gap == 0, 1, gap)"
NEAR = (
    "near = torch.where(small == 0, count, "
    "-torch.expm1(count * torch.log1p(-small)) / torch.where(small == 0, 1, small))"
)
STILL = (
    "return torch.where(still, self.eta * self.t, "
    "-torch.expm1(-self.eta * self.t * rate) / torch.where(still, 1, rate))"
)
EQUIVALENT_PREDICT = {
    # compared with zero, or counted, nothing but a scale changes
    "still = rate == 0 | rate -> 2 rate #1",
    "one = torch.eye(len(weight), dtype=decay.dtype) | weight -> 2 weight #1",
    # denominators that stand in where the quotient is not taken
    f"{STILL} | 1 -> 2 #1",
    f"{NEAR} | 1 -> 2 #1",
    f"{NEAR} | 0 -> 1 #2",
    f"{FAR} | 1 -> 2 #2",
    f"{FAR} | 0 -> 1 #1",  # at a gap of 1 the denominator is 1 either way
    # beyond a gap of 0.5 the other branch is taken
    "small = torch.clamp(gap, max=0.5) | 0.5 -> 1.5 #1",
}
ANGLE = "angle = torch.where(same, 0.0, torch.arccos((k / norm).clamp(-1, 1)))"
EQUIVALENT_ANALYTIC = {f"{ANGLE} | 1 -> 2 #1", f"{ANGLE} | 1 -> 2 #2"}
"""The clamp guards against rounding past the ends; no pair of the claims rounds past them."""


EQUIVALENT_KERNELS = {
    "outputs = left[0].shape[1] | 0 -> 1 #1",  # every parameter's Jacobian has L rows a sample
    "outputs = network(parameters, x[:1]).shape[1] | 1 -> 2 #2",  # one sample or two: L is L
    "outputs = network(parameters, x1[:1]).shape[1] | 1 -> 2 #2",
    "return image if form == 'full' else image.gather(1, output.expand(len(x1), 1))[:, 0] | 1 -> 2 #2",
}
"""Beside these, how much memory a block may take: it changes no value."""


@pytest.mark.slow
def test_every_change_to_the_predictions_fails_a_claim() -> None:
    torch.set_num_threads(1)
    count, alive = survivors(predict, lambda module: exact.prediction_claims(module, KNOWN))
    assert count > 150
    assert len(alive) == len(set(alive))
    assert set(alive) == EQUIVALENT_PREDICT


def test_every_change_to_the_infinite_width_kernels_fails_a_claim() -> None:
    known: exact.Known = {}
    count, alive = survivors(analytic, lambda module: exact.analytic_claims(module, known))
    assert count > 30
    assert set(alive) == EQUIVALENT_ANALYTIC


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The use of `x.T`:UserWarning")
def test_every_change_to_the_empirical_kernels_fails_a_claim() -> None:
    torch.set_num_threads(1)
    count, alive = survivors(kernels, lambda module: exact.kernel_claims(module, ("dense",)))
    assert count > 50
    assert {text for text in alive if "memory" not in text.lower()} == EQUIVALENT_KERNELS
