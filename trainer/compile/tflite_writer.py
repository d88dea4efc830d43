"""The flat graph as a .tflite file with built-in operators that tflite-runtime 2.14 and ai-edge-litert both run.

Images are kept **batch-last**, (C, H, W, B), from the first convolution to the flattening, and every convolution is an
unfolding (slices, each a run of at least B floats) and a matrix product. Measured on one x86 core with ai-edge-litert
2.3, batch 32, 8 -> 16 channels, 14 x 14, 3 x 3: CONV_2D with weights that are no constants takes 1.14 ms (XNNPACK
refuses them), unfolding and product 0.51 ms; from one channel at 28 x 28 it is 1.14 against 0.25 ms. Flattening
batch-last images costs nothing: the product that follows reads its operand transposed. FULLY_CONNECTED with such
weights takes 0.32 ms for 32 x 784 x 128, BATCH_MATMUL 0.12 ms. The numbers of other layouts are in docs/adr/0005.

Letters: B batch, C and O channels in and out, (H, W) and (H', W') image in and out, (h, w) kernel,
K = h w C, N = H' W' B.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edge.runtime.graph import Graph, Node
from edge.runtime.numpy_images import in_places
from trainer.compile.tflite_model import ModelBuilder, Shape

STEEP = 3.0e38
"""clip(y * STEEP, -1, 1) is the sign of every normal float32; an infinite product is clipped too."""

Pads: TypeAlias = tuple[int, int, int, int]
"""top, bottom, left, right; a negative pad cuts."""


def write_tflite(graph: Graph) -> bytes:
    """Inputs and outputs stand in the graph's order; the same graph gives the same bytes.

    Raises ValueError on an op or a rank that this version cannot write.
    """
    lowering = _Lowering(graph)
    for node in graph.nodes:
        if node.op not in _OPS:
            raise ValueError(f"op {node.op!r} is not in the table of edge.runtime.graph: lower it to ops that are")
        _OPS[node.op](lowering, node)
    return lowering.finish()


class _Lowering:
    """Which tensor of the model holds which value of the graph, row-major or batch-last (first axis moved to last)."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.shapes = graph.shapes
        self.model = ModelBuilder("potstill")
        self.producer = {node.output: node for node in graph.nodes}
        self._row = {name: self.model.tensor(graph.shapes[name], name) for name in graph.inputs}
        self._last: dict[str, int] = {}
        self.windows = in_places(graph)
        self._placed: dict[str, tuple[Shape, list[int]]] = {}
        self._largest: dict[tuple[str, Shape], list[int]] = {}
        self._padded: dict[tuple[int, Pads], int] = {}
        self._unfolded: dict[tuple[int, Shape, Shape, bool], int] = {}

    def put_row(self, node: Node, tensor: int) -> None:
        self._row[node.output] = self.model.reshape(tensor, self.shapes[node.output])

    def put_last(self, node: Node, tensor: int) -> None:
        shape = self.shapes[node.output]
        self._last[node.output] = self.model.reshape(tensor, _to_last(shape))

    def put_places(self, node: Node, size: Shape, places: list[int]) -> None:
        """One (C,H',W',B) for each place of a window of this size, in row-major order."""
        self._placed[node.output] = size, places

    def is_last(self, name: str) -> bool:
        """Held batch-last, whole or in places, and in no other way."""
        return (name in self._last or name in self._placed) and name not in self._row

    def places(self, name: str, size: Shape) -> list[int]:
        """What `put_places` was given, or cut out of the whole."""
        held, places = self._placed.get(name, (None, []))
        return places if held == size else _places(self.model, self.last(name), size)

    def largest(self, name: str, size: Shape) -> list[int]:
        """Of the first one, the first two, ... of the tensor's places, element by element: the last is the pooling."""
        if (name, size) not in self._largest:
            places = self.places(name, size)
            running = [places[0]]
            for place in places[1:]:
                shape = self.model.shape(place)
                running.append(self.model.operator("MAXIMUM", [running[-1], place], shape, _options("MaximumMinimum")))
            self._largest[name, size] = running
        return self._largest[name, size]

    def row(self, name: str) -> int:
        if name not in self._row:
            self._row[name] = self._make_row(name)
        return self._row[name]

    def last(self, name: str) -> int:
        if name not in self._last and name in self._placed:
            size, places = self._placed[name]
            _, _, H, W = self.shapes[name]
            self._last[name] = _whole(self.model, places, size, (H, W))
        if name not in self._last:
            rank = len(self.shapes[name])
            self._last[name] = self.model.transpose(self.row(name), (*range(1, rank), 0))
        return self._last[name]

    def _make_row(self, name: str) -> int:
        if name in self.graph.constants:
            return self.model.constant(self.graph.constants[name], name)
        if name in self._last or name in self._placed:
            rank = len(self.shapes[name])
            return self.model.transpose(self.last(name), (rank - 1, *range(rank - 1)))
        source, shape = self.producer[name].inputs[0], self.shapes[name]  # an expansion nobody could do without
        inputs = [self.row(source), self.model.integers(*shape)]
        return self.model.operator("BROADCAST_TO", inputs, shape, schema.BroadcastToOptionsT(), version=2)

    def operand(self, name: str, rank: int, *, last: bool) -> int:
        """What an elementwise operator of this rank reads."""
        shape = self.shapes[name]
        if not last or math.prod(shape) == 1:
            return self.row(name)
        if len(shape) == rank:
            return self.last(name)
        return self.model.reshape(self.row(name), _to_last((1,) * (rank - len(shape)) + shape))

    def axis(self, axis: int, rank: int, *, last: bool) -> int:
        return (axis - 1) % rank if last else axis

    def padded(self, x: int, pads: Pads) -> int:
        """Made once for the forward pass and the weight's gradient."""
        if (x, pads) not in self._padded:
            self._padded[x, pads] = _padded(self.model, x, pads)
        return self._padded[x, pads]

    def unfold(self, x: int, kernel: Shape, stride: Shape, *, backwards: bool = False) -> int:
        """(C,H,W,B) -> (h w C, H', W', B), taps in row-major order of the kernel or against it; each is made once."""
        key = (x, kernel, stride, backwards)
        if key not in self._unfolded:
            self._unfolded[key] = _unfold(self.model, x, kernel, stride, backwards=backwards)
        return self._unfolded[key]

    def finish(self) -> bytes:
        taken = {*(self._row[name] for name in self.graph.inputs)}
        outputs: list[int] = []
        for name in self.graph.outputs:
            tensor = self.row(name)
            if tensor in taken or name in self.graph.constants:
                tensor = self.model.copy(tensor, self.shapes[name])
            taken.add(tensor)
            outputs.append(tensor)
        return self.model.finish([self._row[name] for name in self.graph.inputs], outputs)


def _to_last(shape: Shape) -> Shape:
    return (*shape[1:], *shape[:1])


def _options(name: str, **values: Any) -> Any:
    options = getattr(schema, f"{name}OptionsT")()
    for key, value in values.items():
        setattr(options, key, value)
    return options


# ---------------------------------------------------------------- elementwise


def _unary(operator: str, options: str | None = None) -> Callable[[_Lowering, Node], None]:
    def lower(lowering: _Lowering, node: Node) -> None:
        name = node.inputs[0]
        last = lowering.is_last(name)
        x = lowering.last(name) if last else lowering.row(name)
        y = lowering.model.operator(operator, [x], lowering.model.shape(x), options and _options(options))
        (lowering.put_last if last else lowering.put_row)(node, y)

    return lower


def _binary(operator: str, options: str) -> Callable[[_Lowering, Node], None]:
    def lower(lowering: _Lowering, node: Node) -> None:
        shape = lowering.shapes[node.output]
        names = _unexpanded(lowering, node)
        last = _wants_last(lowering, names, len(shape))
        inputs = [lowering.operand(name, len(shape), last=last) for name in names]
        y = lowering.model.operator(operator, inputs, _to_last(shape) if last else shape, _options(options))
        (lowering.put_last if last else lowering.put_row)(node, y)

    return lower


def _wants_last(lowering: _Lowering, names: tuple[str, ...], rank: int) -> bool:
    return rank > 1 and any(lowering.is_last(name) and len(lowering.shapes[name]) == rank for name in names)


def _unexpanded(lowering: _Lowering, node: Node) -> tuple[str, ...]:
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


def _relu_grad(lowering: _Lowering, node: Node) -> None:
    """As g * clip(relu(y) * STEEP, -1, 1): a comparison and SELECT_V2 take three times as long, thirty on 2.14."""
    g, y = node.inputs
    shape = lowering.shapes[node.output]
    last = _wants_last(lowering, node.inputs, len(shape))
    inputs = [lowering.operand(name, len(shape), last=last) for name in (g, y)]
    positive = y in lowering.producer and lowering.producer[y].op == "relu"
    product = _gate(lowering.model, inputs[0], inputs[1], positive=positive)
    (lowering.put_last if last else lowering.put_row)(node, product)


def _gate(model: ModelBuilder, g: int, y: int, *, positive: bool) -> int:
    shape = model.shape(y)
    if not positive:
        y = model.operator("RELU", [y], shape)
    clipped = _options("Mul", fusedActivationFunction=schema.ActivationFunctionType.RELU_N1_TO_1)
    mask = model.operator("MUL", [y, model.scalar(STEEP)], shape, clipped)
    return model.operator("MUL", [g, mask], shape, _options("Mul"))


def _softmax(lowering: _Lowering, node: Node) -> None:
    x = lowering.row(node.inputs[0])
    shape = lowering.shapes[node.output]
    lowering.put_row(node, lowering.model.operator("SOFTMAX", [x], shape, _options("Softmax", beta=1.0)))


def _log_softmax(lowering: _Lowering, node: Node) -> None:
    x = lowering.row(node.inputs[0])
    shape = lowering.shapes[node.output]
    lowering.put_row(node, lowering.model.operator("LOG_SOFTMAX", [x], shape, _options("LogSoftmax")))


# ---------------------------------------------------------------- reductions


def _reduce(operator: str) -> Callable[[_Lowering, Node], None]:
    def lower(lowering: _Lowering, node: Node) -> None:
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
        options = _options("Reducer", keepDims=bool(node.attributes["keepdims"]))
        lowering.put_row(node, lowering.model.operator(operator, inputs, lowering.shapes[node.output], options))

    return lower


def _reduced(model: ModelBuilder, operator: str, x: int, axes: list[int]) -> int:
    """Axes are kept with size 1."""
    shape = tuple(1 if axis in axes else side for axis, side in enumerate(model.shape(x)))
    return model.operator(operator, [x, model.integers(*sorted(axes))], shape, _options("Reducer", keepDims=True))


def _hits(model: ModelBuilder, x: int, y: int) -> int:
    """1.0 where x equals y, else 0.0; y broadcasts to x."""
    shape = model.shape(x)
    equal = model.operator("EQUAL", [x, y], shape, _options("Equal"), dtype="bool")
    types = dict(inDataType=schema.TensorType.BOOL, outDataType=schema.TensorType.FLOAT32)
    return model.operator("CAST", [equal], shape, _options("Cast", **types))


def _max_grad(lowering: _Lowering, node: Node) -> None:
    g, x, y = node.inputs
    rank, model = len(lowering.shapes[x]), lowering.model
    last = lowering.is_last(x)
    axes = [lowering.axis(axis, rank, last=last) for axis in node.attributes["axes"]]
    gradient, values, largest = (lowering.operand(name, rank, last=last) for name in (g, x, y))
    hits = _hits(model, values, largest)
    ties = _reduced(model, "SUM", hits, axes)
    share = model.operator("DIV", [gradient, ties], model.shape(ties), _options("Div"))
    result = model.operator("MUL", [hits, share], model.shape(values), _options("Mul"))
    (lowering.put_last if last else lowering.put_row)(node, result)


# ---------------------------------------------------------------- matrix products


def _product(model: ModelBuilder, a: int, b: int, *, flip_a: bool = False, flip_b: bool = False) -> int:
    """2-D; flip: the operand is read transposed."""
    rows = model.shape(a)[1 if flip_a else 0]
    columns = model.shape(b)[0 if flip_b else 1]
    return model.operator("BATCH_MATMUL", [a, b], (rows, columns), _options("BatchMatMul", adjX=flip_a, adjY=flip_b))


def _matmul(lowering: _Lowering, node: Node) -> None:
    lowering.put_row(node, _matmul_of(lowering, node))


def _matmul_of(lowering: _Lowering, node: Node) -> int:
    flips = [bool(node.attributes["transpose_a"]), bool(node.attributes["transpose_b"])]
    tensors: list[int] = []
    for place, name in enumerate(node.inputs[:2]):
        last = lowering.is_last(name)  # batch-last in two dimensions is the transpose
        tensors.append(lowering.last(name) if last else lowering.row(name))
        flips[place] ^= last
    return _product(lowering.model, tensors[0], tensors[1], flip_a=flips[0], flip_b=flips[1])


def _gemm(lowering: _Lowering, node: Node) -> None:
    model, beta = lowering.model, float(node.attributes["beta"])
    product = _matmul_of(lowering, node)
    c = lowering.row(node.inputs[2])
    if beta != 1:
        c = model.operator("MUL", [c, model.scalar(beta)], model.shape(c), _options("Mul"))
    lowering.put_row(node, model.operator("ADD", [product, c], model.shape(product), _options("Add")))


# ---------------------------------------------------------------- shapes


def _reshape(lowering: _Lowering, node: Node) -> None:
    name = node.inputs[0]
    old, new = lowering.shapes[name], lowering.shapes[node.output]
    if lowering.is_last(name) and len(new) > 1 and old[0] == new[0]:
        lowering.put_last(node, lowering.last(name))
    else:
        lowering.put_row(node, lowering.row(name))


def _transpose(lowering: _Lowering, node: Node) -> None:
    lowering.put_row(node, lowering.model.transpose(lowering.row(node.inputs[0]), tuple(node.attributes["perm"])))


def _expand(lowering: _Lowering, node: Node) -> None:
    """Nothing yet: who can broadcast reads the source, who cannot makes the tensor (`_Lowering.row`)."""


def _concat(lowering: _Lowering, node: Node) -> None:
    shape = lowering.shapes[node.output]
    last = _wants_last(lowering, node.inputs, len(shape))
    parts = [lowering.last(name) if last else lowering.row(name) for name in node.inputs]
    y = _concatenated(lowering.model, parts, lowering.axis(node.attributes["axis"], len(shape), last=last))
    (lowering.put_last if last else lowering.put_row)(node, y)


def _concatenated(model: ModelBuilder, parts: list[int], axis: int) -> int:
    if len(parts) == 1:
        return parts[0]
    shape = list(model.shape(parts[0]))
    shape[axis] = sum(model.shape(part)[axis] for part in parts)
    return model.operator("CONCATENATION", parts, tuple(shape), _options("Concatenation", axis=axis))


def _slice(lowering: _Lowering, node: Node) -> None:
    name, start = node.inputs[0], int(node.attributes["start"])
    last = lowering.is_last(name)
    x = lowering.last(name) if last else lowering.row(name)
    axis = lowering.axis(node.attributes["axis"], len(lowering.shapes[name]), last=last)
    begin = [start if place == axis else 0 for place in range(len(lowering.shapes[name]))]
    shape = lowering.shapes[node.output]
    y = _cut(lowering.model, x, begin, list(_to_last(shape) if last else shape))
    (lowering.put_last if last else lowering.put_row)(node, y)


def _cut(model: ModelBuilder, x: int, begin: list[int], shape: list[int]) -> int:
    if tuple(shape) == model.shape(x):
        return x
    inputs = [x, model.integers(*begin), model.integers(*shape)]
    return model.operator("SLICE", inputs, tuple(shape), _options("Slice"))


def _padded(model: ModelBuilder, x: int, pads: Pads) -> int:
    """(C,H,W,B): zeros around the image, or less of it."""
    top, bottom, left, right = pads
    C, H, W, B = model.shape(x)
    begin = [0, max(-top, 0), max(-left, 0), 0]
    x = _cut(model, x, begin, [C, H - begin[1] - max(-bottom, 0), W - begin[2] - max(-right, 0), B])
    widths = [(0, 0), (max(top, 0), max(bottom, 0)), (max(left, 0), max(right, 0)), (0, 0)]
    if not np.any(widths):
        return x
    shape = tuple(side + sum(width) for side, width in zip(model.shape(x), widths, strict=True))
    return model.operator("PAD", [x, model.constant(np.asarray(widths, np.int32))], shape, _options("Pad"))


# ---------------------------------------------------------------- convolution


def _unfold(model: ModelBuilder, x: int, kernel: Shape, stride: Shape, *, backwards: bool) -> int:
    """Strided taps are slices too: rows and columns are grouped by the stride, and a tap takes one place of each."""
    (h, w), (sy, sx) = kernel, stride
    C, H, W, B = model.shape(x)
    tap = [C, (H - h) // sy + 1, (W - w) // sx + 1, B]  # (C,H',W',B)
    rows, columns = tap[1] + (h - 1) // sy, tap[2] + (w - 1) // sx  # groups of sy rows, of sx columns
    if (sy, sx) != (1, 1):
        x = _padded(model, x, (0, rows * sy - H, 0, columns * sx - W))
        x = model.reshape(x, (C, rows, sy * columns, sx * B))
    places = [(i, j) for i in range(h) for j in range(w)]
    if backwards:
        places.reverse()
    starts = [[0, i // sy, i % sy * columns + j // sx, j % sx * B] for i, j in places]
    return _concatenated(model, [_cut(model, x, start, tap) for start in starts], 0)


def _folds_rows(C: int, O: int, kernel: Shape, stride: Shape) -> bool:  # noqa: E741
    """Whether only the kernel's columns are unfolded, and its rows added up after the product.

    Rows moved: h w C for the whole unfolding, w C and h O for this. Measured with ai-edge-litert (ms, whole against
    this; 3 x 3, batch 32): 16 -> 8 at 14 x 14 1.48 and 0.53, 8 -> 16 0.62 and 0.44, 64 -> 32 at 24 x 24 47 and 23.
    """
    h, w = kernel
    return stride[0] == 1 and h > 1 and w * C + h * O <= h * w * C


def _correlated(
    lowering: _Lowering, x: int, weight: int, kernel: Shape, stride: Shape, *, backwards: bool = False
) -> int:
    """Of x (C,H,W,B), already padded, and a weight (O,C,h,w): (O,H',W',B). Backwards: the kernel is turned round."""
    model, (h, w) = lowering.model, kernel
    O, C = model.shape(weight)[:2]  # noqa: E741
    if not _folds_rows(C, O, kernel, stride):
        unfolded = lowering.unfold(x, kernel, stride, backwards=backwards)  # (h w C, H', W', B)
        matrix = model.reshape(model.transpose(weight, (0, 2, 3, 1)), (O, h * w * C))
        y = _product(model, matrix, _matrix(model, unfolded))
        return model.reshape(y, (O, *model.shape(unfolded)[1:]))
    unfolded = lowering.unfold(x, (1, w), stride, backwards=backwards)  # (w C, H, W', B)
    _, H, columns, B = model.shape(unfolded)
    matrix = model.reshape(model.transpose(weight, (2, 0, 3, 1)), (h * O, w * C))
    y = model.reshape(_product(model, matrix, _matrix(model, unfolded)), (h * O, H, columns, B))
    starts = [h - 1 - i if backwards else i for i in range(h)]
    return _added(
        model, [_cut(model, y, [i * O, start, 0, 0], [O, H - h + 1, columns, B]) for i, start in enumerate(starts)]
    )


def _added(model: ModelBuilder, parts: list[int]) -> int:
    total = parts[0]
    for part in parts[1:]:
        total = model.operator("ADD", [total, part], model.shape(total), _options("Add"))
    return total


def _matrix(model: ModelBuilder, x: int) -> int:
    """(C,H,W,B) -> (C, H W B)."""
    shape = model.shape(x)
    return model.reshape(x, (shape[0], math.prod(shape[1:])))


def _conv2d(lowering: _Lowering, node: Node) -> None:
    if node.output in lowering.windows:
        size = lowering.windows[node.output]
        lowering.put_places(node, size, [_convolved(lowering, node, size, place) for place in _each(size)])
    else:
        lowering.put_last(node, _convolved(lowering, node, (1, 1), (0, 0)))


def _convolved(lowering: _Lowering, node: Node, size: Shape, place: Shape) -> int:
    """The whole (C,H',W',B), or one place of the windows of a pooling."""
    model, weight = lowering.model, lowering.row(node.inputs[1])
    x, stride = _seen_from(lowering, node, node.inputs[0], size, place)
    y = _correlated(lowering, x, weight, model.shape(weight)[2:], stride)
    if len(node.inputs) == 3:
        bias = model.reshape(lowering.row(node.inputs[2]), (model.shape(y)[0], 1, 1, 1))
        y = model.operator("ADD", [y, bias], model.shape(y), _options("Add"))
    return y


def _seen_from(lowering: _Lowering, node: Node, x: str, size: Shape, place: Shape) -> tuple[int, Shape]:
    """A convolution's input, padded, from where this place of a window sees it; the stride from window to window."""
    (sy, sx), (py, px) = node.attributes["stride"], node.attributes["padding"]
    pads = (py - sy * place[0], py, px - sx * place[1], px)
    return lowering.padded(lowering.last(x), pads), (sy * size[0], sx * size[1])


def _each(size: Shape) -> list[Shape]:
    return [(i, j) for i in range(size[0]) for j in range(size[1])]


def _conv2d_dw(lowering: _Lowering, node: Node) -> None:
    """The forward pass's unfolded input times g, added up over the places of a window where g lies in them."""
    model, (g, x) = lowering.model, node.inputs
    O, C, h, w = lowering.shapes[node.output]  # noqa: E741
    size = lowering.windows.get(g, (1, 1))
    parts = lowering.places(g, size) if size != (1, 1) else [lowering.last(g)]
    seen = [_seen_from(lowering, node, x, size, place) for place in _each(size)]
    dw = _added(model, [_dw_of(lowering, *each, part, (h, w)) for each, part in zip(seen, parts, strict=True)])
    lowering.put_row(node, model.transpose(model.reshape(dw, (h * w, C, O)), (2, 1, 0)))


def _dw_of(lowering: _Lowering, x: int, stride: Shape, g: int, kernel: Shape) -> int:
    """Of x (C,H,W,B), already padded, and g (O,H',W',B): (h w C, O).

    One product, or one for each row of the kernel where rows are not unfolded.
    """
    model, (h, w) = lowering.model, kernel
    C, O = model.shape(x)[0], model.shape(g)[0]  # noqa: E741
    if not _folds_rows(C, O, kernel, stride):
        return _outer(model, lowering.unfold(x, kernel, stride), g)
    unfolded = lowering.unfold(x, (1, w), stride)  # (w C, H, W', B)
    shape = [w * C, *model.shape(g)[1:]]
    rows = [_cut(model, unfolded, [0, i, 0, 0], shape) for i in range(h)]
    return _concatenated(model, [_outer(model, row, g) for row in rows], 0)


def _outer(model: ModelBuilder, x: int, g: int) -> int:
    """Of x (K,H',W',B) and g (O,H',W',B): (K,O), the sum over everything else.

    The larger of the two comes first: XNNPACK's product is faster so (0.20 against 0.33 ms at 72 and 16).
    """
    x, g = _matrix(model, x), _matrix(model, g)
    if model.shape(x)[0] >= model.shape(g)[0]:
        return _product(model, x, g, flip_b=True)
    return model.transpose(_product(model, g, x, flip_b=True), (1, 0))


def _conv2d_dx(lowering: _Lowering, node: Node) -> None:
    """The convolution of g with the kernel turned round and its channels exchanged."""
    if tuple(node.attributes["stride"]) != (1, 1):
        lowering.put_last(node, _added_shares(lowering, node))
        return
    model = lowering.model
    h, w = lowering.shapes[node.inputs[1]][2:]
    H, W = lowering.shapes[node.output][2:]
    py, px = node.attributes["padding"]
    g = lowering.last(node.inputs[0])
    rows, columns = model.shape(g)[1:3]
    g = _padded(model, g, (h - 1 - py, H + py - rows, w - 1 - px, W + px - columns))
    weight = model.transpose(lowering.row(node.inputs[1]), (1, 0, 2, 3))
    lowering.put_last(node, _correlated(lowering, g, weight, (h, w), (1, 1), backwards=True))


def _added_shares(lowering: _Lowering, node: Node) -> int:
    """Input gradient of strides: what each output gives each of its taps, then each pixel's shares added.

    Every sy-th row and sx-th column gets its shares from the same taps, each shifted by whole outputs.
    """
    model, (sy, sx), (py, px) = lowering.model, node.attributes["stride"], node.attributes["padding"]
    O, C, h, w = lowering.shapes[node.inputs[1]]  # noqa: E741
    H, W = lowering.shapes[node.output][2:]
    g = lowering.last(node.inputs[0])
    _, rows, columns, B = model.shape(g)
    kernel = model.reshape(model.transpose(lowering.row(node.inputs[1]), (2, 3, 1, 0)), (h * w * C, O))
    given = model.reshape(_product(model, kernel, _matrix(model, g)), (h * w * C, rows, columns, B))
    more = ((h - 1) // sy, (w - 1) // sx)

    def share(i: int, j: int) -> int:
        tap = _cut(model, given, [(i * w + j) * C, 0, 0, 0], [C, rows, columns, B])
        return _padded(model, tap, (i // sy, more[0] - i // sy, j // sx, more[1] - j // sx))

    nothing = np.zeros((C, rows + more[0], columns + more[1], B), np.float32)
    places = [
        _added(model, [share(i, j) for i in range(a, h, sy) for j in range(b, w, sx)])
        if a < h and b < w
        else model.constant(nothing)
        for a, b in _each((sy, sx))
    ]
    top, left = (rows + more[0]) * sy, (columns + more[1]) * sx
    return _padded(model, _whole(model, places, (sy, sx), (top, left)), (-py, H + py - top, -px, W + px - left))


# ---------------------------------------------------------------- pooling


def _max_pool2d(lowering: _Lowering, node: Node) -> None:
    """Of a whole image one operator: channels stand where it expects the batch, and the batch for channels."""
    (name,), size = node.inputs, tuple(node.attributes["size"])
    if name in lowering.windows:
        lowering.put_last(node, lowering.largest(name, size)[-1])
        return
    model, x = lowering.model, lowering.last(name)
    C, H, W, B = model.shape(x)
    sides = dict(strideH=size[0], strideW=size[1], filterHeight=size[0], filterWidth=size[1])
    options = _options("Pool2D", padding=schema.Padding.VALID, **sides)
    lowering.put_last(node, model.operator("MAX_POOL_2D", [x], (C, H // size[0], W // size[1], B), options))


def _max_pool2d_grad(lowering: _Lowering, node: Node) -> None:
    """From the last place to the first, a place takes g if it beats all places before it: the first maximum wins."""
    model, size = lowering.model, tuple(node.attributes["size"])
    g, x, _ = node.inputs
    left, shape = lowering.last(g), lowering.model.shape(lowering.last(g))
    places, largest = lowering.places(x, size), lowering.largest(x, size)
    shares: list[int] = []
    for place, before in zip(places[:0:-1], largest[-2::-1], strict=True):
        taken = _gate(model, left, model.operator("SUB", [place, before], shape, _options("Sub")), positive=False)
        left = model.operator("SUB", [left, taken], shape, _options("Sub"))
        shares.append(taken)
    lowering.put_places(node, size, [left, *reversed(shares)])


def _places(model: ModelBuilder, x: int, size: Shape) -> list[int]:
    """(C,H,W,B) -> (C,H',W',B) for each place of the window: runs of B floats, as strided taps are."""
    C, H, W, B = model.shape(x)
    rows, columns = H // size[0], W // size[1]
    x = _padded(model, x, (0, rows * size[0] - H, 0, columns * size[1] - W))
    x = model.reshape(x, (C, rows, size[0] * columns, size[1] * B))
    return [_cut(model, x, [0, 0, i * columns, j * B], [C, rows, columns, B]) for i, j in _each(size)]


def _whole(model: ModelBuilder, places: list[int], size: Shape, sides: Shape) -> int:
    """And back, zeros where no window lies."""
    (h, w), (C, rows, columns, B) = size, model.shape(places[0])
    lines = [_concatenated(model, places[i * w : (i + 1) * w], 3) for i in range(h)]
    lines = [model.reshape(line, (C, rows, 1, columns * w * B)) for line in lines]
    x = model.reshape(_concatenated(model, lines, 2), (C, rows * h, columns * w, B))
    return _padded(model, x, (0, sides[0] - rows * h, 0, sides[1] - columns * w))


_OPS: dict[str, Callable[[_Lowering, Node], None]] = {
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
    "conv2d": _conv2d,
    "conv2d_dx": _conv2d_dx,
    "conv2d_dw": _conv2d_dw,
    "max_pool2d": _max_pool2d,
    "max_pool2d_grad": _max_pool2d_grad,
    "concat": _concat,
    "slice": _slice,
}
