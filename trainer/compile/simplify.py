"""Passes over the flat graph: the same numbers from fewer nodes.

Each rule looks at one node and returns what to put in its place: other nodes (the last yields the same tensor), the
name of an equal tensor, or None to leave it. All rules run over the graph until none finds anything, then tensors and
constants are renamed in order.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from edge.runtime.check import check_graph, infer
from edge.runtime.graph import FloatArray, Graph, Node, Shape
from edge.runtime.numpy_ import Executable


@dataclass(frozen=True, slots=True)
class _View:
    """What a rule may look at: the graph as it stands."""

    shapes: dict[str, Shape]
    constants: dict[str, FloatArray]
    makers: dict[str, Node]
    uses: Counter[str]
    readers: dict[str, set[str]]
    """The ops that read a tensor."""

    def maker(self, name: str, *ops: str) -> Node | None:
        """The node that yields `name`, if it is one of `ops`."""
        node = self.makers.get(name)
        return node if node is not None and node.op in ops else None

    def sole(self, name: str, *ops: str) -> Node | None:
        """The same, if nobody else reads it."""
        return self.maker(name, *ops) if self.uses[name] == 1 else None

    def is_scalar(self, name: str, value: float) -> bool:
        constant = self.constants.get(name)
        return constant is not None and constant.size == 1 and float(constant.ravel()[0]) == value


Found: TypeAlias = tuple[Node, ...] | Node | str | None
Rule: TypeAlias = Callable[[Node, _View], Found]


def simplify(graph: Graph) -> Graph:
    """The same function of the same inputs; raises ValueError if a rule broke the graph."""
    while True:
        smaller = _drop_dead(_merge_equal(_rewrite(_fold_constants(graph))))
        if smaller.nodes == graph.nodes:
            break
        graph = smaller
    graph = _rename(smaller)
    check_graph(graph)
    return graph


# ---------------------------------------------------------------- rules


def _skip_identity(node: Node, view: _View) -> str | None:
    """Sums and products with nothing in them, x + 0, x * 1, x / 1, x - 0, and shape ops that change nothing."""
    shape = view.shapes[node.output]
    if node.op in {"reshape", "expand"} and view.shapes[node.inputs[0]] == shape:
        return node.inputs[0]
    if node.op == "transpose" and node.attributes["perm"] == sorted(node.attributes["perm"]):
        return node.inputs[0]
    neutral = {"add": 0.0, "sub": 0.0, "mul": 1.0, "div": 1.0}.get(node.op)
    if neutral is None:
        return None
    a, b = node.inputs
    if view.is_scalar(b, neutral) and view.shapes[a] == shape:
        return a
    if node.op in {"add", "mul"} and view.is_scalar(a, neutral) and view.shapes[b] == shape:
        return b
    return None


def _join_shape_ops(node: Node, view: _View) -> Node | None:
    """Joined: reshape of reshape, transpose of transpose, expand of expand: one of each."""
    if node.op not in {"reshape", "transpose", "expand"}:
        return None
    inner = view.maker(node.inputs[0], node.op)
    if inner is None:
        return None
    attributes = node.attributes
    if node.op == "transpose":
        attributes = {"perm": [inner.attributes["perm"][axis] for axis in node.attributes["perm"]]}
    return replace(node, inputs=inner.inputs, attributes=attributes)


_BROADCASTING = frozenset({"add", "sub", "mul", "div", "maximum"})


def _let_broadcast(node: Node, view: _View) -> Node | None:
    """An expand before an op that broadcasts anyway."""
    if node.op not in _BROADCASTING:
        return None
    for index, name in enumerate(node.inputs):
        inner = view.maker(name, "expand")
        if inner is None:
            continue
        inputs = (*node.inputs[:index], inner.inputs[0], *node.inputs[index + 1 :])
        if infer(node.op, [view.shapes[i] for i in inputs], {}) == view.shapes[node.output]:
            return replace(node, inputs=inputs)
    return None


def _sum_without_keeping(node: Node, view: _View) -> Node | None:
    """reshape(sum(x, keepdims)) that only drops the ones: a sum that does not keep them."""
    inner = view.sole(node.inputs[0], "sum") if node.op == "reshape" else None
    if inner is None or not inner.attributes["keepdims"]:
        return None
    attributes = inner.attributes | {"keepdims": False}
    if infer("sum", [view.shapes[inner.inputs[0]]], attributes) != view.shapes[node.output]:
        return None
    return replace(inner, output=node.output, attributes=attributes)


_ELEMENTWISE = frozenset({*_BROADCASTING, "neg", "exp", "log", "sqrt", "tanh", "sigmoid", "relu", "relu_grad"})


def _reshape_after(node: Node, view: _View) -> tuple[Node, Node] | None:
    """An elementwise op on reshaped tensors of one shape: op first, then one reshape, which may meet its inverse."""
    if node.op not in _ELEMENTWISE:
        return None
    full = [name for name in node.inputs if view.shapes[name] != ()]
    inner = [view.maker(name, "reshape") for name in full]
    sources = [maker.inputs[0] for maker in inner if maker is not None]
    if not sources or len(sources) < len(full) or len({view.shapes[name] for name in (*full, node.output)}) != 1:
        return None
    if len({view.shapes[name] for name in sources}) != 1:
        return None
    before = dict(zip(full, sources, strict=True))
    early = replace(node, inputs=tuple(before.get(name, name) for name in node.inputs), output=f"{node.output}/early")
    late = Node(
        op="reshape", inputs=(early.output,), output=node.output, attributes={"shape": list(view.shapes[node.output])}
    )
    return early, late


_FLAG = ("transpose_a", "transpose_b")


def _transpose_into_product(node: Node, view: _View) -> Node | None:
    """matmul(transpose(a), b): a flag instead."""
    if node.op not in {"matmul", "gemm"}:
        return None
    for index in (0, 1):
        inner = view.maker(node.inputs[index], "transpose")
        if inner is not None and inner.attributes["perm"] == [1, 0]:
            inputs = (*node.inputs[:index], inner.inputs[0], *node.inputs[index + 1 :])
            return replace(node, inputs=inputs, attributes=_flipped(node.attributes, _FLAG[index]))
    return None


def _flipped(attributes: dict[str, Any], *keys: str) -> dict[str, Any]:
    return attributes | {key: not attributes[key] for key in keys}


def _transpose_of_product(node: Node, view: _View) -> Node | None:
    """transpose(a b) = b' a'."""
    inner = view.sole(node.inputs[0], "matmul") if node.op == "transpose" else None
    if inner is None or node.attributes["perm"] != [1, 0]:
        return None
    flags = {"transpose_a": not inner.attributes["transpose_b"], "transpose_b": not inner.attributes["transpose_a"]}
    return Node(op="matmul", inputs=inner.inputs[::-1], output=node.output, attributes=flags)


def _gemm(node: Node, view: _View) -> Node | None:
    """matmul(a, b) + c, and matmul(a, b) + beta * c."""
    if node.op != "add":
        return None
    for name, addend in (node.inputs, node.inputs[::-1]):
        product = view.sole(name, "matmul")
        if product is not None and view.shapes[name] == view.shapes[node.output]:
            beta, c = _scaled(addend, view)
            attributes = product.attributes | {"beta": beta}
            return Node(op="gemm", inputs=(*product.inputs, c), output=node.output, attributes=attributes)
    return None


def _scaled(name: str, view: _View) -> tuple[float, str]:
    """(beta, c) of a tensor beta * c."""
    inner = view.sole(name, "mul")
    if inner is not None:
        for c, factor in (inner.inputs, inner.inputs[::-1]):
            if factor in view.constants and view.shapes[factor] == () and view.shapes[c] == view.shapes[name]:
                return float(view.constants[factor]), c
    return 1.0, name


def _softmax(node: Node, view: _View) -> Node | None:
    """exp(log_softmax(x)) whose logarithm nobody else needs."""
    inner = view.sole(node.inputs[0], "log_softmax") if node.op == "exp" else None
    return None if inner is None else Node(op="softmax", inputs=inner.inputs, output=node.output)


_POOLING = frozenset({"max_pool2d", "max_pool2d_grad"})


def _pool_before_relu(node: Node, view: _View) -> tuple[Node, Node] | None:
    """max_pool2d(relu(x)) = relu(max_pool2d(x)), on a tensor smaller by the window, where nobody else reads relu(x)."""
    inner = view.maker(node.inputs[0], "relu") if node.op == "max_pool2d" else None
    if inner is None or not view.readers.get(inner.output, set()) <= {*_POOLING, "relu_grad"}:
        return None
    pool = replace(node, inputs=inner.inputs, output=f"{node.output}/pooled")
    return pool, replace(inner, inputs=(pool.output,), output=node.output)


def _mask_before_pool_gradient(node: Node, view: _View) -> tuple[Node, Node] | None:
    """relu_grad(max_pool2d_grad(g, x, y), x): mask g by the maximum y, which is positive where it lies in x."""
    inner = view.sole(node.inputs[0], "max_pool2d_grad") if node.op == "relu_grad" else None
    if inner is None or inner.inputs[1] != node.inputs[1]:
        return None
    g, x, y = inner.inputs
    mask = Node(op="relu_grad", inputs=(g, y), output=f"{node.output}/masked")
    return mask, replace(inner, inputs=(mask.output, x, y), output=node.output)


def _pool_gradient_of_relu(node: Node, view: _View) -> Node | None:
    """max_pool2d_grad(g, relu(x), relu(y)), g masked by relu(y): of x and y, whose positive maxima are the same."""
    if node.op != "max_pool2d_grad":
        return None
    g, x, y = node.inputs
    mask, image, largest = view.maker(g, "relu_grad"), view.maker(x, "relu"), view.maker(y, "relu")
    if mask is None or image is None or largest is None or mask.inputs[1] != y:
        return None
    return replace(node, inputs=(g, *image.inputs, *largest.inputs))


def _sum_of_pool_gradient(node: Node, view: _View) -> Node | None:
    """A sum over lines and columns: a pooling gradient adds up to the gradient it was shared from."""
    inner = view.maker(node.inputs[0], "max_pool2d_grad") if node.op == "sum" else None
    if inner is None or not {2, 3} <= set(node.attributes["axes"]):
        return None
    return replace(node, inputs=inner.inputs[:1])


def _bias_behind_pool(node: Node, view: _View) -> tuple[Node, ...] | None:
    """max_pool2d(conv2d(x, w, b)) = max_pool2d(conv2d(x, w)) + b, and its gradient, where nobody else reads it."""
    if node.op not in _POOLING:
        return None
    place = 0 if node.op == "max_pool2d" else 1
    conv = view.maker(node.inputs[place], "conv2d")
    if conv is None or len(conv.inputs) < 3 or not view.readers.get(conv.output, set()) <= _POOLING:
        return None
    *arguments, bias = conv.inputs
    bare = replace(conv, inputs=tuple(arguments), output=f"{node.output}/bare")
    pool = Node(op="max_pool2d", inputs=(bare.output,), output=f"{node.output}/pooled", attributes=node.attributes)
    if node.op == "max_pool2d_grad":
        return bare, pool, replace(node, inputs=(node.inputs[0], bare.output, pool.output))
    shape = [1, *view.shapes[bias], 1, 1]
    column = Node(op="reshape", inputs=(bias,), output=f"{node.output}/bias", attributes={"shape": shape})
    return bare, pool, column, Node(op="add", inputs=(pool.output, column.output), output=node.output)


_RULES: tuple[Rule, ...] = (
    _skip_identity,
    _join_shape_ops,
    _let_broadcast,
    _reshape_after,
    _sum_without_keeping,
    _transpose_into_product,
    _transpose_of_product,
    _gemm,
    _softmax,
    _pool_before_relu,
    _mask_before_pool_gradient,
    _pool_gradient_of_relu,
    _sum_of_pool_gradient,
    _bias_behind_pool,
)

# ---------------------------------------------------------------- passes


def _rewrite(graph: Graph) -> Graph:
    """One application of the rules to each node. A graph's outputs keep their names: they are never skipped."""
    uses = Counter(name for node in graph.nodes for name in node.inputs)
    uses.update(graph.outputs)
    readers = {name: {"output"} for name in graph.outputs}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, set()).add(node.op)
    view = _View(dict(graph.shapes), graph.constants, {node.output: node for node in graph.nodes}, uses, readers)
    same: dict[str, str] = {}
    nodes: list[Node] = []
    for original in graph.nodes:
        node = replace(original, inputs=tuple(same.get(name, name) for name in original.inputs))
        found = _first_match(node, view)
        if isinstance(found, str) and node.output not in graph.outputs:
            same[node.output] = found
            continue
        new = found if isinstance(found, tuple) else (found if isinstance(found, Node) else node,)
        for each in new:
            nodes.append(each)
            view.makers[each.output] = each
            view.shapes[each.output] = infer(each.op, [view.shapes[i] for i in each.inputs], each.attributes)
    return _name_results(replace(graph, shapes=view.shapes, nodes=tuple(nodes)))


def _first_match(node: Node, view: _View) -> Found:
    for rule in _RULES:
        found = rule(node, view)
        if found is not None:
            return found
    return None


def _name_results(graph: Graph) -> Graph:
    """An output that is only another tensor's reshape to its own shape takes that tensor's place, where it can."""
    makers = {node.output: node for node in graph.nodes}
    for node in graph.nodes:
        source = node.inputs[0] if node.inputs else ""
        is_end = (
            node.output in graph.outputs and node.op == "reshape" and source in makers and source not in graph.outputs
        )
        if is_end and graph.shapes[source] == graph.shapes[node.output]:
            return _name_results(_renamed_tensor(graph, node, source))
    return graph


def _renamed_tensor(graph: Graph, end: Node, source: str) -> Graph:
    name = {source: end.output}
    nodes = tuple(
        replace(n, inputs=tuple(name.get(i, i) for i in n.inputs), output=name.get(n.output, n.output))
        for n in graph.nodes
        if n is not end
    )
    return replace(graph, nodes=nodes)


FOLD_ELEMENTS = 4096
"""Larger results are computed in the step: a mask of this size is 16 kB in each of a program's six files."""


def _fold_constants(graph: Graph) -> Graph:
    """Nodes whose inputs are all constants, computed once."""
    constants = dict(graph.constants)
    nodes: list[Node] = []
    for node in graph.nodes:
        small = node.op != "expand" and int(np.prod(graph.shapes[node.output])) <= FOLD_ELEMENTS
        if small and node.output not in graph.outputs and all(name in constants for name in node.inputs):
            constants[node.output] = _evaluate(node, graph.shapes, constants)
        else:
            nodes.append(node)
    return replace(graph, constants=constants, nodes=tuple(nodes))


def _evaluate(node: Node, shapes: dict[str, Shape], constants: dict[str, FloatArray]) -> FloatArray:
    alone = Graph(inputs=node.inputs, outputs=(node.output,), shapes=shapes, constants={}, nodes=(node,))
    result = Executable(alone).run([constants[name] for name in node.inputs])[0]
    return np.array(result, np.float32).reshape(shapes[node.output])


def _merge_equal(graph: Graph) -> Graph:
    """Equal ops on equal inputs, and equal constants: the first of them serves all."""
    same: dict[str, str] = {}
    first: dict[Any, str] = {}
    constants: dict[str, FloatArray] = {}
    for name, value in graph.constants.items():
        earlier = first.setdefault((value.shape, value.tobytes()), name)
        if earlier == name:
            constants[name] = value
        else:
            same[name] = earlier
    nodes: list[Node] = []
    for original in graph.nodes:
        node = replace(original, inputs=tuple(same.get(name, name) for name in original.inputs))
        key = (node.op, node.inputs, json.dumps(node.attributes, sort_keys=True))
        found = first.get(key)
        if found is not None and node.output not in graph.outputs:
            same[node.output] = found
            continue
        first.setdefault(key, node.output)
        nodes.append(node)
    return replace(graph, constants=constants, nodes=tuple(nodes))


def _drop_dead(graph: Graph) -> Graph:
    """Nodes and constants that no output needs."""
    needed = set(graph.outputs)
    nodes: list[Node] = []
    for node in reversed(graph.nodes):
        if node.output in needed:
            needed.update(node.inputs)
            nodes.append(node)
    constants = {name: value for name, value in graph.constants.items() if name in needed}
    return replace(graph, constants=constants, nodes=tuple(nodes[::-1]))


def _rename(graph: Graph) -> Graph:
    """c0, c1, ... and t0, t1, ... in order, and only the shapes of what is there: equal programs give equal text."""
    kept = {*graph.inputs, *graph.outputs}
    new = {name: f"c{index}" for index, name in enumerate(graph.constants)}
    new |= {n.output: f"t{i}" for i, n in enumerate(n for n in graph.nodes if n.output not in kept)}
    nodes = tuple(
        replace(n, inputs=tuple(new.get(i, i) for i in n.inputs), output=new.get(n.output, n.output))
        for n in graph.nodes
    )
    names = (*graph.inputs, *graph.constants, *(n.output for n in graph.nodes))
    return Graph(
        inputs=graph.inputs,
        outputs=graph.outputs,
        shapes={new.get(name, name): graph.shapes[name] for name in names},
        constants={new[name]: value for name, value in graph.constants.items()},
        nodes=nodes,
    )
