"""The flat graph as a .tflite file with built-in operators that tflite-runtime 2.14 and ai-edge-litert both run.

Images are kept **batch-last**, (C, H, W, B), from the first convolution to the flattening, and every convolution is an
unfolding (slices, each a run of at least B floats) and a matrix product. Measured on one x86 core with ai-edge-litert
2.3, batch 32, 8 -> 16 channels, 14 x 14, 3 x 3: CONV_2D with weights that are no constants takes 1.14 ms (XNNPACK
refuses them), unfolding and product 0.51 ms; from one channel at 28 x 28 it is 1.14 against 0.25 ms. Flattening
batch-last images costs nothing: the product that follows reads its operand transposed. FULLY_CONNECTED with such
weights takes 0.32 ms for 32 x 784 x 128, BATCH_MATMUL 0.12 ms. The numbers of other layouts are in docs/adr/0005.

Layouts and what all ops are made of are in `trainer.compile.tflite_emit`, convolutions and pooling in
`trainer.compile.tflite_images`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edge.runtime.graph import Graph, Node
from trainer.compile import tflite_images as images
from trainer.compile.tflite_emit import Lowering, concatenated, cut, gate, options_of, product, to_last
from trainer.compile.tflite_model import ModelBuilder


def write_tflite(graph: Graph) -> bytes:
    """Inputs and outputs stand in the graph's order; the same graph gives the same bytes.

    Raises ValueError on an op or a rank that this version cannot write.
    """
    lowering = Lowering(graph)
    for node in graph.nodes:
        if node.op not in _OPS:
            raise ValueError(f"op {node.op!r} is not in the table of edge.runtime.graph: lower it to ops that are")
        _OPS[node.op](lowering, node)
    return lowering.finish()


# ---------------------------------------------------------------- elementwise


def _unary(operator: str, options: str | None = None) -> Callable[[Lowering, Node], None]:
    def lower(lowering: Lowering, node: Node) -> None:
        name = node.inputs[0]
        last = lowering.is_last(name)
        x = lowering.last(name) if last else lowering.row(name)
        y = lowering.model.operator(operator, [x], lowering.model.shape(x), options and options_of(options))
        (lowering.put_last if last else lowering.put_row)(node, y)

    return lower


def _binary(operator: str, options: str) -> Callable[[Lowering, Node], None]:
    def lower(lowering: Lowering, node: Node) -> None:
        shape = lowering.shapes[node.output]
        names = _unexpanded(lowering, node)
        last = _wants_last(lowering, names, len(shape))
        inputs = [lowering.operand(name, len(shape), last=last) for name in names]
        y = lowering.model.operator(operator, inputs, to_last(shape) if last else shape, options_of(options))
        (lowering.put_last if last else lowering.put_row)(node, y)

    return lower


def _wants_last(lowering: Lowering, names: tuple[str, ...], rank: int) -> bool:
    return rank > 1 and any(lowering.is_last(name) and len(lowering.shapes[name]) == rank for name in names)


def _unexpanded(lowering: Lowering, node: Node) -> tuple[str, ...]:
    """The node's inputs, an expanded one replaced by its source where broadcasting comes to the same shape."""
    names = list(node.inputs)
    for place, name in enumerate(names):
        maker = lowering.producer.get(name)
        if maker is None or maker.op != "expand":
            continue
        others = [lowering.shapes[other] for other in (*names[:place], *names[place + 1 :])]
        source = maker.inputs[0]
        if np.broadcast_shapes(lowering.shapes[source], *others) == lowering.shapes[node.output]:
            names[place] = source
    return tuple(names)


def _relu_grad(lowering: Lowering, node: Node) -> None:
    """As g * clip(relu(y) * STEEP, -1, 1): a comparison and SELECT_V2 take three times as long, thirty on 2.14."""
    g, y = node.inputs
    shape = lowering.shapes[node.output]
    last = _wants_last(lowering, node.inputs, len(shape))
    inputs = [lowering.operand(name, len(shape), last=last) for name in (g, y)]
    positive = y in lowering.producer and lowering.producer[y].op == "relu"
    product = gate(lowering.model, inputs[0], inputs[1], positive=positive)
    (lowering.put_last if last else lowering.put_row)(node, product)


def _softmax(lowering: Lowering, node: Node) -> None:
    x = lowering.row(node.inputs[0])
    shape = lowering.shapes[node.output]
    lowering.put_row(node, lowering.model.operator("SOFTMAX", [x], shape, options_of("Softmax", beta=1.0)))


def _log_softmax(lowering: Lowering, node: Node) -> None:
    x = lowering.row(node.inputs[0])
    shape = lowering.shapes[node.output]
    lowering.put_row(node, lowering.model.operator("LOG_SOFTMAX", [x], shape, options_of("LogSoftmax")))


# ---------------------------------------------------------------- reductions


def _reduce(operator: str) -> Callable[[Lowering, Node], None]:
    def lower(lowering: Lowering, node: Node) -> None:
        name = node.inputs[0]
        last = lowering.is_last(name)
        x = lowering.last(name) if last else lowering.row(name)
        axes = [lowering.axis(axis, len(lowering.shapes[name]), last=last) for axis in node.attributes["axes"]]
        if last:
            y = _reduced(lowering.model, operator, x, axes)
            rank = len(lowering.shapes[name])
            lowering.put_row(node, lowering.model.transpose(y, (rank - 1, *range(rank - 1))))
            return
        inputs = [x, lowering.model.integers(*axes)]
        options = options_of("Reducer", keepDims=bool(node.attributes["keepdims"]))
        lowering.put_row(node, lowering.model.operator(operator, inputs, lowering.shapes[node.output], options))

    return lower


def _reduced(model: ModelBuilder, operator: str, x: int, axes: list[int]) -> int:
    """Axes are kept with size 1."""
    shape = tuple(1 if axis in axes else side for axis, side in enumerate(model.shape(x)))
    return model.operator(operator, [x, model.integers(*sorted(axes))], shape, options_of("Reducer", keepDims=True))


def _hits(model: ModelBuilder, x: int, y: int) -> int:
    """1.0 where x equals y, else 0.0; y broadcasts to x."""
    shape = model.shape(x)
    equal = model.operator("EQUAL", [x, y], shape, options_of("Equal"), dtype="bool")
    types = dict(inDataType=schema.TensorType.BOOL, outDataType=schema.TensorType.FLOAT32)
    return model.operator("CAST", [equal], shape, options_of("Cast", **types))


def _max_grad(lowering: Lowering, node: Node) -> None:
    g, x, y = node.inputs
    rank, model = len(lowering.shapes[x]), lowering.model
    last = lowering.is_last(x)
    axes = [lowering.axis(axis, rank, last=last) for axis in node.attributes["axes"]]
    gradient, values, largest = (lowering.operand(name, rank, last=last) for name in (g, x, y))
    hits = _hits(model, values, largest)
    ties = _reduced(model, "SUM", hits, axes)
    share = model.operator("DIV", [gradient, ties], model.shape(ties), options_of("Div"))
    result = model.operator("MUL", [hits, share], model.shape(values), options_of("Mul"))
    (lowering.put_last if last else lowering.put_row)(node, result)


# ---------------------------------------------------------------- matrix products


def _matmul(lowering: Lowering, node: Node) -> None:
    lowering.put_row(node, _matmul_of(lowering, node))


def _matmul_of(lowering: Lowering, node: Node) -> int:
    flips = [bool(node.attributes["transpose_a"]), bool(node.attributes["transpose_b"])]
    tensors: list[int] = []
    for place, name in enumerate(node.inputs[:2]):
        last = lowering.is_last(name)  # batch-last in two dimensions is the transpose
        tensors.append(lowering.last(name) if last else lowering.row(name))
        flips[place] ^= last
    return product(lowering.model, tensors[0], tensors[1], flip_a=flips[0], flip_b=flips[1])


def _gemm(lowering: Lowering, node: Node) -> None:
    model, beta = lowering.model, float(node.attributes["beta"])
    product = _matmul_of(lowering, node)
    c = lowering.row(node.inputs[2])
    if beta != 1:
        c = model.operator("MUL", [c, model.scalar(beta)], model.shape(c), options_of("Mul"))
    lowering.put_row(node, model.operator("ADD", [product, c], model.shape(product), options_of("Add")))


# ---------------------------------------------------------------- shapes


def _reshape(lowering: Lowering, node: Node) -> None:
    name = node.inputs[0]
    old, new = lowering.shapes[name], lowering.shapes[node.output]
    if lowering.is_last(name) and len(new) > 1 and old[0] == new[0]:
        lowering.put_last(node, lowering.last(name))
    else:
        lowering.put_row(node, lowering.row(name))


def _transpose(lowering: Lowering, node: Node) -> None:
    lowering.put_row(node, lowering.model.transpose(lowering.row(node.inputs[0]), tuple(node.attributes["perm"])))


def _expand(lowering: Lowering, node: Node) -> None:
    """Nothing yet: who can broadcast reads the source, who cannot makes the tensor (`Lowering.row`)."""


def _concat(lowering: Lowering, node: Node) -> None:
    shape = lowering.shapes[node.output]
    last = _wants_last(lowering, node.inputs, len(shape))
    parts = [lowering.last(name) if last else lowering.row(name) for name in node.inputs]
    y = concatenated(lowering.model, parts, lowering.axis(node.attributes["axis"], len(shape), last=last))
    (lowering.put_last if last else lowering.put_row)(node, y)


def _slice(lowering: Lowering, node: Node) -> None:
    name, start = node.inputs[0], int(node.attributes["start"])
    last = lowering.is_last(name)
    x = lowering.last(name) if last else lowering.row(name)
    axis = lowering.axis(node.attributes["axis"], len(lowering.shapes[name]), last=last)
    begin = [start if place == axis else 0 for place in range(len(lowering.shapes[name]))]
    shape = lowering.shapes[node.output]
    y = cut(lowering.model, x, begin, list(to_last(shape) if last else shape))
    (lowering.put_last if last else lowering.put_row)(node, y)


_OPS: dict[str, Callable[[Lowering, Node], None]] = {
    "add": _binary("ADD", "Add"),
    "sub": _binary("SUB", "Sub"),
    "mul": _binary("MUL", "Mul"),
    "div": _binary("DIV", "Div"),
    "maximum": _binary("MAXIMUM", "MaximumMinimum"),
    "neg": _unary("NEG", "Neg"),
    "exp": _unary("EXP", "Exp"),
    "log": _unary("LOG"),
    "sqrt": _unary("SQRT"),
    "tanh": _unary("TANH"),
    "sigmoid": _unary("LOGISTIC"),
    "relu": _unary("RELU"),
    "relu_grad": _relu_grad,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "sum": _reduce("SUM"),
    "max": _reduce("REDUCE_MAX"),
    "max_grad": _max_grad,
    "matmul": _matmul,
    "gemm": _gemm,
    "reshape": _reshape,
    "transpose": _transpose,
    "expand": _expand,
    "conv2d": images.conv2d,
    "conv2d_dx": images.conv2d_dx,
    "conv2d_dw": images.conv2d_dw,
    "max_pool2d": images.max_pool2d,
    "max_pool2d_grad": images.max_pool2d_grad,
    "concat": _concat,
    "slice": _slice,
}
