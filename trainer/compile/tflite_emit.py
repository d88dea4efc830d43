"""Which tensors of a .tflite model hold a flat graph's values, in which layouts, and what both kinds of ops need.

Letters: B batch, C and O channels in and out, (H, W) and (H', W') image in and out, (h, w) kernel or window.
"""

from __future__ import annotations

import math
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


class Lowering:
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
        self._cut_places: dict[tuple[str, Shape], list[int]] = {}
        self._largest: dict[tuple[str, Shape], list[int]] = {}
        self._padded: dict[tuple[int, Pads], int] = {}
        self._unfolded: dict[tuple[int, Shape, Shape, bool], int] = {}

    def put_row(self, node: Node, tensor: int) -> None:
        self._row[node.output] = self.model.reshape(tensor, self.shapes[node.output])

    def put_last(self, node: Node, tensor: int) -> None:
        shape = self.shapes[node.output]
        self._last[node.output] = self.model.reshape(tensor, to_last(shape))

    def put_places(self, node: Node, size: Shape, places: list[int]) -> None:
        """One (C,H',W',B) for each place of a window of this size, in row-major order."""
        self._placed[node.output] = size, places

    def is_last(self, name: str) -> bool:
        """Held batch-last, whole or in places, and in no other way."""
        return (name in self._last or name in self._placed) and name not in self._row

    def places(self, name: str, size: Shape) -> list[int]:
        """What `put_places` was given, or cut out of the whole."""
        held, places = self._placed.get(name, (None, []))
        if held == size:
            return places
        if (name, size) not in self._cut_places:
            self._cut_places[name, size] = places_of(self.model, self.last(name), size)
        return self._cut_places[name, size]

    def largest(self, name: str, size: Shape, count: int) -> list[int]:
        """Of the first one, the first two, ... of the tensor's places, element by element, up to the first `count`."""
        places = self.places(name, size)
        running = self._largest.setdefault((name, size), places[:1])
        for place in places[len(running) : count]:
            inputs, shape = [running[-1], place], self.model.shape(place)
            running.append(self.model.operator("MAXIMUM", inputs, shape, options_of("MaximumMinimum")))
        return running[:count]

    def row(self, name: str) -> int:
        if name not in self._row:
            self._row[name] = self._make_row(name)
        return self._row[name]

    def last(self, name: str) -> int:
        if name not in self._last and name in self._placed:
            size, places = self._placed[name]
            _, _, H, W = self.shapes[name]
            self._last[name] = whole_of(self.model, places, size, (H, W))
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
        return self.model.reshape(self.row(name), to_last((1,) * (rank - len(shape)) + shape))

    def axis(self, axis: int, rank: int, *, last: bool) -> int:
        return (axis - 1) % rank if last else axis

    def padded(self, x: int, pads: Pads) -> int:
        """Made once for the forward pass and the weight's gradient."""
        if (x, pads) not in self._padded:
            self._padded[x, pads] = padded(self.model, x, pads)
        return self._padded[x, pads]

    def unfold(self, x: int, kernel: Shape, stride: Shape, *, backwards: bool = False) -> int:
        """(C,H,W,B) -> (h w C, H', W', B), taps in row-major order of the kernel or against it; each is made once."""
        key = (x, kernel, stride, backwards)
        if key not in self._unfolded:
            self._unfolded[key] = unfold(self.model, x, kernel, stride, backwards=backwards)
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


def to_last(shape: Shape) -> Shape:
    return (*shape[1:], *shape[:1])


def options_of(name: str, **values: Any) -> Any:
    options = getattr(schema, f"{name}OptionsT")()
    for key, value in values.items():
        setattr(options, key, value)
    return options


# ---------------------------------------------------------------- what ops are made of


def product(model: ModelBuilder, a: int, b: int, *, flip_a: bool = False, flip_b: bool = False) -> int:
    """2-D; flip: the operand is read transposed."""
    rows = model.shape(a)[1 if flip_a else 0]
    columns = model.shape(b)[0 if flip_b else 1]
    return model.operator("BATCH_MATMUL", [a, b], (rows, columns), options_of("BatchMatMul", adjX=flip_a, adjY=flip_b))


def gate(model: ModelBuilder, g: int, y: int, *, positive: bool) -> int:
    shape = model.shape(y)
    if not positive:
        y = model.operator("RELU", [y], shape)
    clipped = options_of("Mul", fusedActivationFunction=schema.ActivationFunctionType.RELU_N1_TO_1)
    mask = model.operator("MUL", [y, model.scalar(STEEP)], shape, clipped)
    return model.operator("MUL", [g, mask], shape, options_of("Mul"))


def concatenated(model: ModelBuilder, parts: list[int], axis: int) -> int:
    if len(parts) == 1:
        return parts[0]
    shape = list(model.shape(parts[0]))
    shape[axis] = sum(model.shape(part)[axis] for part in parts)
    return model.operator("CONCATENATION", parts, tuple(shape), options_of("Concatenation", axis=axis))


def cut(model: ModelBuilder, x: int, begin: list[int], shape: list[int]) -> int:
    if tuple(shape) == model.shape(x):
        return x
    inputs = [x, model.integers(*begin), model.integers(*shape)]
    return model.operator("SLICE", inputs, tuple(shape), options_of("Slice"))


def padded(model: ModelBuilder, x: int, pads: Pads) -> int:
    """(C,H,W,B): zeros around the image, or less of it."""
    top, bottom, left, right = pads
    C, H, W, B = model.shape(x)
    begin = [0, max(-top, 0), max(-left, 0), 0]
    x = cut(model, x, begin, [C, H - begin[1] - max(-bottom, 0), W - begin[2] - max(-right, 0), B])
    widths = [(0, 0), (max(top, 0), max(bottom, 0)), (max(left, 0), max(right, 0)), (0, 0)]
    if not np.any(widths):
        return x
    shape = tuple(side + sum(width) for side, width in zip(model.shape(x), widths, strict=True))
    return model.operator("PAD", [x, model.constant(np.asarray(widths, np.int32))], shape, options_of("Pad"))


# ---------------------------------------------------------------- images


def unfold(model: ModelBuilder, x: int, kernel: Shape, stride: Shape, *, backwards: bool) -> int:
    """Strided taps are slices too: rows and columns are grouped by the stride, and a tap takes one place of each."""
    (h, w), (sy, sx) = kernel, stride
    C, H, W, B = model.shape(x)
    tap = [C, (H - h) // sy + 1, (W - w) // sx + 1, B]  # (C,H',W',B)
    rows, columns = tap[1] + (h - 1) // sy, tap[2] + (w - 1) // sx  # groups of sy rows, of sx columns
    if (sy, sx) != (1, 1):
        x = padded(model, x, (0, rows * sy - H, 0, columns * sx - W))
        x = model.reshape(x, (C, rows, sy * columns, sx * B))
    places = [(i, j) for i in range(h) for j in range(w)]
    if backwards:
        places.reverse()
    starts = [[0, i // sy, i % sy * columns + j // sx, j % sx * B] for i, j in places]
    return concatenated(model, [cut(model, x, start, tap) for start in starts], 0)


def each_place(size: Shape) -> list[Shape]:
    return [(i, j) for i in range(size[0]) for j in range(size[1])]


def places_of(model: ModelBuilder, x: int, size: Shape) -> list[int]:
    """(C,H,W,B) -> (C,H',W',B) for each place of the window: runs of B floats, as strided taps are."""
    C, H, W, B = model.shape(x)
    rows, columns = H // size[0], W // size[1]
    x = padded(model, x, (0, rows * size[0] - H, 0, columns * size[1] - W))
    x = model.reshape(x, (C, rows, size[0] * columns, size[1] * B))
    return [cut(model, x, [0, 0, i * columns, j * B], [C, rows, columns, B]) for i, j in each_place(size)]


def whole_of(model: ModelBuilder, places: list[int], size: Shape, sides: Shape) -> int:
    """And back, zeros where no window lies."""
    (h, w), (C, rows, columns, B) = size, model.shape(places[0])
    lines = [concatenated(model, places[i * w : (i + 1) * w], 3) for i in range(h)]
    lines = [model.reshape(line, (C, rows, 1, columns * w * B)) for line in lines]
    x = model.reshape(concatenated(model, lines, 2), (C, rows * h, columns * w, B))
    return padded(model, x, (0, sides[0] - rows * h, 0, sides[1] - columns * w))
