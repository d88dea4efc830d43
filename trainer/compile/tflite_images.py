"""Convolution and pooling, forward and backward, as built-in operators of .tflite on batch-last images.

Letters: B batch, C and O channels in and out, (H, W) and (H', W') image in and out, (h, w) kernel or window,
K = h w C, N = H' W' B.
"""

from __future__ import annotations

import math

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edge.runtime.graph import Node
from trainer.compile.tflite_emit import (
    Lowering,
    concatenated,
    cut,
    each_place,
    gate,
    options_of,
    padded,
    product,
    whole_of,
)
from trainer.compile.tflite_model import ModelBuilder, Shape

# ---------------------------------------------------------------- convolution


def _folds_rows(C: int, O: int, kernel: Shape, stride: Shape) -> bool:  # noqa: E741
    """Whether only the kernel's columns are unfolded, and its rows added up after the product.

    Rows moved: h w C for the whole unfolding, w C and h O for this. Measured with ai-edge-litert (ms, whole against
    this; 3 x 3, batch 32): 16 -> 8 at 14 x 14 1.48 and 0.53, 8 -> 16 0.62 and 0.44, 64 -> 32 at 24 x 24 47 and 23.
    """
    h, w = kernel
    return stride[0] == 1 and h > 1 and w * C + h * O <= h * w * C


def _correlated(
    lowering: Lowering, x: int, weight: int, kernel: Shape, stride: Shape, *, backwards: bool = False
) -> int:
    """Of x (C,H,W,B), already padded, and a weight (O,C,h,w): (O,H',W',B). Backwards: the kernel is turned round."""
    model, (h, w) = lowering.model, kernel
    O, C = model.shape(weight)[:2]  # noqa: E741
    if not _folds_rows(C, O, kernel, stride):
        unfolded = lowering.unfold(x, kernel, stride, backwards=backwards)  # (h w C, H', W', B)
        matrix = model.reshape(model.transpose(weight, (0, 2, 3, 1)), (O, h * w * C))
        y = product(model, matrix, _matrix(model, unfolded))
        return model.reshape(y, (O, *model.shape(unfolded)[1:]))
    unfolded = lowering.unfold(x, (1, w), stride, backwards=backwards)  # (w C, H, W', B)
    _, H, columns, B = model.shape(unfolded)
    matrix = model.reshape(model.transpose(weight, (2, 0, 3, 1)), (h * O, w * C))
    y = model.reshape(product(model, matrix, _matrix(model, unfolded)), (h * O, H, columns, B))
    starts = [h - 1 - i if backwards else i for i in range(h)]
    return _added(
        model, [cut(model, y, [i * O, start, 0, 0], [O, H - h + 1, columns, B]) for i, start in enumerate(starts)]
    )


def _added(model: ModelBuilder, parts: list[int]) -> int:
    total = parts[0]
    for part in parts[1:]:
        total = model.operator("ADD", [total, part], model.shape(total), options_of("Add"))
    return total


def _matrix(model: ModelBuilder, x: int) -> int:
    """(C,H,W,B) -> (C, H W B)."""
    shape = model.shape(x)
    return model.reshape(x, (shape[0], math.prod(shape[1:])))


def conv2d(lowering: Lowering, node: Node) -> None:
    if node.output in lowering.windows:
        size = lowering.windows[node.output]
        lowering.put_places(node, size, [_convolved(lowering, node, size, place) for place in each_place(size)])
    else:
        lowering.put_last(node, _convolved(lowering, node, (1, 1), (0, 0)))


def _convolved(lowering: Lowering, node: Node, size: Shape, place: Shape) -> int:
    """The whole (C,H',W',B), or one place of the windows of a pooling."""
    model, weight = lowering.model, lowering.row(node.inputs[1])
    x, stride = _seen_from(lowering, node, node.inputs[0], size, place)
    y = _correlated(lowering, x, weight, model.shape(weight)[2:], stride)
    if len(node.inputs) == 3:
        bias = model.reshape(lowering.row(node.inputs[2]), (model.shape(y)[0], 1, 1, 1))
        y = model.operator("ADD", [y, bias], model.shape(y), options_of("Add"))
    return y


def _seen_from(lowering: Lowering, node: Node, x: str, size: Shape, place: Shape) -> tuple[int, Shape]:
    """A convolution's input, padded, from where this place of a window sees it; the stride from window to window."""
    (sy, sx), (py, px) = node.attributes["stride"], node.attributes["padding"]
    pads = (py - sy * place[0], py, px - sx * place[1], px)
    return lowering.padded(lowering.last(x), pads), (sy * size[0], sx * size[1])


def conv2d_dw(lowering: Lowering, node: Node) -> None:
    """The forward pass's unfolded input times g, added up over the places of a window where g lies in them."""
    model, (g, x) = lowering.model, node.inputs
    O, C, h, w = lowering.shapes[node.output]  # noqa: E741
    size = lowering.windows.get(g, (1, 1))
    parts = lowering.places(g, size) if size != (1, 1) else [lowering.last(g)]
    seen = [_seen_from(lowering, node, x, size, place) for place in each_place(size)]
    dw = _added(model, [_dw_of(lowering, *each, part, (h, w)) for each, part in zip(seen, parts, strict=True)])
    lowering.put_row(node, model.transpose(model.reshape(dw, (h * w, C, O)), (2, 1, 0)))


def _dw_of(lowering: Lowering, x: int, stride: Shape, g: int, kernel: Shape) -> int:
    """Of x (C,H,W,B), already padded, and g (O,H',W',B): (h w C, O).

    One product, or one for each row of the kernel where rows are not unfolded.
    """
    model, (h, w) = lowering.model, kernel
    C, O = model.shape(x)[0], model.shape(g)[0]  # noqa: E741
    if not _folds_rows(C, O, kernel, stride):
        return _outer(model, lowering.unfold(x, kernel, stride), g)
    unfolded = lowering.unfold(x, (1, w), stride)  # (w C, H, W', B)
    shape = [w * C, *model.shape(g)[1:]]
    rows = [cut(model, unfolded, [0, i, 0, 0], shape) for i in range(h)]
    return concatenated(model, [_outer(model, row, g) for row in rows], 0)


def _outer(model: ModelBuilder, x: int, g: int) -> int:
    """Of x (K,H',W',B) and g (O,H',W',B): (K,O), the sum over everything else.

    The larger of the two comes first: XNNPACK's product is faster so (0.20 against 0.33 ms at 72 and 16).
    """
    x, g = _matrix(model, x), _matrix(model, g)
    if model.shape(x)[0] >= model.shape(g)[0]:
        return product(model, x, g, flip_b=True)
    return model.transpose(product(model, g, x, flip_b=True), (1, 0))


def conv2d_dx(lowering: Lowering, node: Node) -> None:
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
    g = padded(model, g, (h - 1 - py, H + py - rows, w - 1 - px, W + px - columns))
    weight = model.transpose(lowering.row(node.inputs[1]), (1, 0, 2, 3))
    lowering.put_last(node, _correlated(lowering, g, weight, (h, w), (1, 1), backwards=True))


def _added_shares(lowering: Lowering, node: Node) -> int:
    """Input gradient of strides: what each output gives each of its taps, then each pixel's shares added.

    Every sy-th row and sx-th column gets its shares from the same taps, each shifted by whole outputs.
    """
    model, (sy, sx), (py, px) = lowering.model, node.attributes["stride"], node.attributes["padding"]
    O, C, h, w = lowering.shapes[node.inputs[1]]  # noqa: E741
    H, W = lowering.shapes[node.output][2:]
    g = lowering.last(node.inputs[0])
    _, rows, columns, B = model.shape(g)
    kernel = model.reshape(model.transpose(lowering.row(node.inputs[1]), (2, 3, 1, 0)), (h * w * C, O))
    given = model.reshape(product(model, kernel, _matrix(model, g)), (h * w * C, rows, columns, B))
    more = ((h - 1) // sy, (w - 1) // sx)

    def share(i: int, j: int) -> int:
        tap = cut(model, given, [(i * w + j) * C, 0, 0, 0], [C, rows, columns, B])
        return padded(model, tap, (i // sy, more[0] - i // sy, j // sx, more[1] - j // sx))

    nothing = np.zeros((C, rows + more[0], columns + more[1], B), np.float32)
    places = [
        _added(model, [share(i, j) for i in range(a, h, sy) for j in range(b, w, sx)])
        if a < h and b < w
        else model.constant(nothing)
        for a, b in each_place((sy, sx))
    ]
    top, left = (rows + more[0]) * sy, (columns + more[1]) * sx
    return padded(model, whole_of(model, places, (sy, sx), (top, left)), (-py, H + py - top, -px, W + px - left))


# ---------------------------------------------------------------- pooling


def max_pool2d(lowering: Lowering, node: Node) -> None:
    """Of a whole image one operator: channels stand where it expects the batch, and the batch for channels."""
    (name,), size = node.inputs, tuple(node.attributes["size"])
    if name in lowering.windows:
        lowering.put_last(node, lowering.largest(name, size, math.prod(size))[-1])
        return
    model, x = lowering.model, lowering.last(name)
    C, H, W, B = model.shape(x)
    sides = dict(strideH=size[0], strideW=size[1], filterHeight=size[0], filterWidth=size[1])
    options = options_of("Pool2D", padding=schema.Padding.VALID, **sides)
    lowering.put_last(node, model.operator("MAX_POOL_2D", [x], (C, H // size[0], W // size[1], B), options))


def max_pool2d_grad(lowering: Lowering, node: Node) -> None:
    """From the last place to the first, a place takes g if it beats all places before it: the first maximum wins."""
    model, size = lowering.model, tuple(node.attributes["size"])
    g, x, _ = node.inputs
    left, shape = lowering.last(g), lowering.model.shape(lowering.last(g))
    places, largest = lowering.places(x, size), lowering.largest(x, size, math.prod(size) - 1)
    shares: list[int] = []
    for place, before in zip(places[:0:-1], largest[::-1], strict=True):
        taken = gate(model, left, model.operator("SUB", [place, before], shape, options_of("Sub")), positive=False)
        left = model.operator("SUB", [left, taken], shape, options_of("Sub"))
        shares.append(taken)
    lowering.put_places(node, size, [left, *reversed(shares)])
