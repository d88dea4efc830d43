"""Convolution and pooling, forward and backward, as matrix products and element-wise nodes on batch-last tensors.

Letters: B batch, C and O channels in and out, (h, w) kernel or window, K = C h w, N = H' W' B.

    y  (O, N)     = w (O, K) x unfold(x) (K, N)
    dw (O, K)     = g (O, N) x unfold(x)^T                                    or, with as many lines as O h w,
    dw (O h w, C) = fold(g) (O h w, H W B) x x (C, H W B)^T
    dx (C, H W B) = w^T (C, O h w) x fold(g)

unfold(x) holds for each tap of the kernel the pixel it sees, fold(g) for each tap the output that saw the pixel. Where
neither is needed by a weight's gradient, a convolution with stride 1 is one Conv node on a single image of W B
columns, with a dilation of B: it unfolds in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge.runtime.graph import Graph, Node
from trainer.compile.onnx_emit import WHOLE, Emitter, Rows, Window, gathered

STEP_SLOPE = 3e38
"""HardSigmoid(slope, 0) is min(max(slope x, 0), 1): 1 for every x > 0 down to 3e-39, one vectorised node where
Greater and Cast, or Where (fifteen times as slow as Mul in onnxruntime 1.32), would be two."""

IMAGE_INPUTS = {
    "conv2d": (0,),
    "conv2d_dx": (0,),
    "conv2d_dw": (0, 1),
    "max_pool2d": (0,),
    "max_pool2d_grad": (0, 1, 2),
}
"""Which inputs of an op are images (B, C, H, W)."""

IMAGE_OUTPUTS = frozenset({"conv2d", "conv2d_dx", "max_pool2d", "max_pool2d_grad"})


def pooling_windows(graph: Graph) -> dict[str, Window]:
    """Tensors that are pooled without a rest, with their window: x and its gradient."""
    windows: dict[str, Window] = {}
    for node in graph.nodes:
        if node.op not in ("max_pool2d", "max_pool2d_grad"):
            continue
        x = node.inputs[0] if node.op == "max_pool2d" else node.inputs[1]
        h, w = _pair(node, "size")
        _, _, H, W = graph.shapes[x]
        if H % h == 0 and W % w == 0:
            for name in (x, node.output) if node.op == "max_pool2d_grad" else (x,):
                windows.setdefault(name, (h, w))
    return windows


def conv2d(e: Emitter, node: Node) -> None:
    x, w, *bias = node.inputs
    window = e.home(node.output)
    e.put(node.output, window, _conv2d(e, node, x, w, window))
    if not bias:
        return
    values = [e.op("Add", y, _column(e, bias[0])) for y in e.batch_last(node.output, window)]
    e.put(node.output, window, values)


def _conv2d(e: Emitter, node: Node, x: str, w: str, window: Window) -> list[str]:
    if window == WHOLE and _dilated(node) and not _unfolds(e, x, w):
        return [_dilated_conv(e, node, x, kernel=e.plain(w), size=e.shape(w)[2:], padding=_pair(node, "padding"))]
    kernel = _matrix(e, w)
    return [e.op("MatMul", kernel, columns) for columns in _unfold(e, node, x, w=w, y=node.output)]


def conv2d_dw(e: Emitter, node: Node) -> None:
    g, x = node.inputs
    O, C, h, w = e.shape(node.output)  # noqa: E741
    if _prefers_fold(e.graph, node):
        folded = _fold(e, node, g, (h, w), e.shape(x))
        (whole,) = e.batch_last(x)
        product = e.op("Gemm", whole, folded, transB=1)  # (C, N) x (O h w, N)^T -> (C, O h w)
        turned = e.op("Transpose", e.reshape(product, (C, O, h * w)), perm=[1, 0, 2])  # (O, C, h w)
        e.put(node.output, None, [e.reshape(turned, (O, C, h, w), out=node.output)])
        return
    window = e.home(g)
    total: tuple[str, ...] = ()
    for part, columns in zip(e.batch_last(g, window), _unfold(e, node, x, w=node.output, y=g), strict=True):
        total = (e.op("Gemm", part, columns, *total, transB=1),)  # (O, N) x (K, N)^T -> (O, K)
    e.put(node.output, None, [e.reshape(total[0], (O, C, h, w), out=node.output)])


def conv2d_dx(e: Emitter, node: Node) -> None:
    g, w = node.inputs
    _, C, h, width = e.shape(w)
    py, px = _pair(node, "padding")
    if _folds(e, node) or (_dilated(node) and (py >= h or px >= width)):
        turned = e.op("Transpose", e.plain(w), perm=[1, 0, 2, 3])  # (O, C, h, w) -> (C, O, h, w)
        folded = _fold(e, node, g, (h, width), e.shape(node.output))
        value = e.op("MatMul", e.reshape(turned, (C, -1)), folded)  # (C, O h w) x (O h w, N)
    elif _dilated(node):
        padding = (h - 1 - py, width - 1 - px)
        value = _dilated_conv(e, node, g, kernel=_turned_round(e, w), size=(h, width), padding=padding)
    else:
        value = _added_shares(e, node)
    e.put(node.output, WHOLE, [value])


def max_pool2d(e: Emitter, node: Node) -> None:
    (x,), size = node.inputs, _pair(node, "size")
    e.put(node.output, WHOLE, [_largest(e, x, size, size[0] * size[1])[-1]])


def _largest(e: Emitter, x: str, size: Window, count: int) -> list[str]:
    """Of the first one, the first two, ... of the window's places, element by element, up to the first `count`."""
    parts = e.batch_last(x, size)
    running: list[str] = e.once(("largest", x, size)) or e.once(("largest", x, size), [parts[0]])
    for part in parts[len(running) : count]:
        running.append(e.op("Max", running[-1], part))
    return running[:count]


def max_pool2d_grad(e: Emitter, node: Node) -> None:
    """From the last place to the first, a place takes g if it beats every place before it: the first maximum wins."""
    g, x, _ = node.inputs
    size = _pair(node, "size")
    parts, largest = e.batch_last(x, size), _largest(e, x, size, size[0] * size[1] - 1)
    (left,) = e.batch_last(g)
    shares: list[str] = []
    for part, before in zip(parts[:0:-1], largest[::-1], strict=True):
        taken = e.op("Mul", left, step(e, e.op("Sub", part, before)))
        left = e.op("Sub", left, taken)
        shares.append(taken)
    e.put(node.output, size, [left, *reversed(shares)])
    if e.home(node.output) != size:  # lines or columns that no window covers: they get zeros
        whole = Rows(e, node.output, size).split(WHOLE)
        e.drop(node.output, size)
        e.put(node.output, WHOLE, whole)


def step(e: Emitter, x: str) -> str:
    """1 where x > 0, else 0."""
    return e.op("HardSigmoid", x, alpha=STEP_SLOPE, beta=0.0)


def channel_sum(e: Emitter, name: str) -> str:
    """Sum over batch, lines and columns: (C, 1)."""
    parts = e.batch_last(name, e.home(name))
    sums = [e.op("ReduceSum", part, e.ints(1), keepdims=1) for part in parts]
    return sums[0] if len(sums) == 1 else e.op("Sum", *sums)


# ---------------------------------------------------------------- which of the equations


def _prefers_fold(graph: Graph, node: Node) -> bool:
    """Whether a weight's gradient shares fold(g) with the input's: where that is asked for, and O < C."""
    g, _ = node.inputs
    O, C = graph.shapes[node.output][:2]  # noqa: E741
    return O < C and any(other.op == "conv2d_dx" and other.inputs[0] == g for other in graph.nodes)


def _unfolds(e: Emitter, x: str, w: str) -> bool:
    """Whether a weight's gradient reads unfold(x)."""
    return any(
        node.op == "conv2d_dw"
        and node.inputs[1] == x
        and e.shape(node.output) == e.shape(w)
        and not _prefers_fold(e.graph, node)
        for node in e.graph.nodes
    )


def _folds(e: Emitter, node: Node) -> bool:
    """Whether a weight's gradient reads fold(g), g the input of this conv2d_dx."""
    return any(
        other.op == "conv2d_dw" and other.inputs[0] == node.inputs[0] and _prefers_fold(e.graph, other)
        for other in e.graph.nodes
    )


def _dilated(node: Node) -> bool:
    """Whether a Conv node on one wide image computes it. Bringing the places of a window together costs less."""
    return _pair(node, "stride") == (1, 1)


# ---------------------------------------------------------------- parts


def _dilated_conv(e: Emitter, node: Node, x: str, *, kernel: str, size: Sequence[int], padding: tuple[int, int]) -> str:
    """The whole x (C, H W B) as one image (1, C, H, W B) -> (O, H' W' B)."""
    B, C, H, W = e.shape(x)
    (whole,) = e.batch_last(x)
    py, px = padding
    image = e.reshape(whole, (1, C, H, W * B))
    y = e.op(
        "Conv", image, kernel, kernel_shape=list(size), dilations=[1, B], pads=[py, px * B, py, px * B], strides=[1, 1]
    )
    return e.reshape(y, (e.shape(node.output)[1], -1))


def _unfold(e: Emitter, node: Node, x: str, *, w: str, y: str) -> list[str]:
    """(K, N) for each place of y's window; shared between the forward pass and the weight's gradient."""
    kernel, window = e.shape(w)[2:], e.home(y)
    (sy, sx), (py, px) = _pair(node, "stride"), _pair(node, "padding")
    key = ("unfold", x, kernel, (sy, sx), (py, px), window)
    known: list[str] | None = e.once(key)
    if known is None:
        _, _, rows, columns = e.shape(y)
        source = Rows(e, x, e.home(x))
        known = [
            source.gather(
                _taps(kernel[0], np.arange(i, rows, window[0]) * sy - py),
                _taps(kernel[1], np.arange(j, columns, window[1]) * sx - px),
            )
            for i in range(window[0])
            for j in range(window[1])
        ]
        e.once(key, known)
    return known


def _taps(kernel: int, origins: NDArray[np.int64]) -> NDArray[np.int64]:
    """(kernel, outputs): the line or column each tap sees from each output, whose first tap lies at its origin."""
    return np.arange(kernel)[:, None] + origins[None]


def _fold(e: Emitter, node: Node, g: str, kernel: tuple[int, int], image: tuple[int, ...]) -> str:
    """(O h w, H W B): for each tap and pixel the output that saw the pixel through the tap."""
    stride, padding = _pair(node, "stride"), _pair(node, "padding")
    key = ("fold", g, kernel, stride, padding)
    known: str | None = e.once(key)
    if known is None:
        lines, columns = (_seen_by(kernel[k], image[2 + k], stride[k], padding[k]) for k in (0, 1))
        known = Rows(e, g, e.home(g)).gather(lines, columns)
        e.once(key, known)
    return known


def _turned_round(e: Emitter, w: str) -> str:
    """(O, C, h, w) -> (C, O, h, w), the last tap first: a product, for a Slice with steps of -1 takes twice as long."""
    _, C, h, width = e.shape(w)
    taps = e.reshape(e.op("Transpose", e.plain(w), perm=[1, 0, 2, 3]), (-1, h * width))
    last_first = e.constant(np.eye(h * width, dtype=np.float32)[::-1])
    return e.reshape(e.op("MatMul", taps, last_first), (C, -1, h, width))


def _added_shares(e: Emitter, node: Node) -> str:
    """Input gradient (C, H W B) of strides: what each output gives each of its taps, then each pixel's shares added.

    fold(g) would be zeros for the most part: a pixel has h w / (strides) shares and not h w.
    """
    g, w = node.inputs
    B, C, H, W = e.shape(node.output)
    O, _, h, width = e.shape(w)  # noqa: E741
    *_, rows, columns = e.shape(g)
    count = C * h * width * rows * columns  # shares; the next row is zeros
    kernel = e.op("Concat", _matrix(e, w), e.constant(np.zeros((O, 1), np.float32)), axis=1)
    given = e.op("Gemm", kernel, e.batch_last(g)[0], transA=1)  # (O, K + 1)^T x (O, N) -> (K + 1, N)
    stride, padding = _pair(node, "stride"), _pair(node, "padding")
    line = _share_terms(H, rows, h, stride[0], padding[0], steps=(width * rows * columns, columns), zero=count)
    column = _share_terms(W, columns, width, stride[1], padding[1], steps=(rows * columns, 1), zero=count)
    channel = np.arange(C) * (count // C)
    each = len(line) * len(column)
    shares = gathered(e, e.reshape(given, (-1, B)), channel, line, column, last=count)
    shares = e.reshape(shares, (C, each, -1))
    ones = e.constant(np.ones((1, each), np.float32))  # ReduceSum takes five times as long as the product
    return e.reshape(e.op("MatMul", ones, shares), (C, -1))


def _share_terms(
    pixels: int, outputs: int, taps: int, stride: int, padding: int, *, steps: tuple[int, int], zero: int
) -> NDArray[np.int64]:
    """(shares, pixels): tap and output of each share a pixel gets, as terms of its row; `zero` where there is none."""
    place = np.arange(pixels)[None] + padding
    tap = place % stride + np.arange(0, taps, stride)[:, None]
    output = (place - tap) // stride
    exists = (tap < taps) & (output >= 0) & (output < outputs)
    return np.where(exists, tap * steps[0] + output * steps[1], zero)


def _seen_by(kernel: int, pixels: int, stride: int, padding: int) -> NDArray[np.int64]:
    """(kernel, pixels): the output whose tap lies on the pixel, -1 where there is none."""
    shifted = np.arange(pixels)[None] + padding - np.arange(kernel)[:, None]
    return np.where(shifted % stride == 0, shifted // stride, -1)


def _matrix(e: Emitter, w: str) -> str:
    """(O, C, h, w) -> (O, K)."""
    known: str | None = e.once(("matrix", w))
    if known is None:
        known = e.reshape(e.plain(w), (e.shape(w)[0], -1))
        e.once(("matrix", w), known)
    return known


def _column(e: Emitter, bias: str) -> str:
    return e.reshape(e.plain(bias), (-1, 1))


def _pair(node: Node, key: str) -> tuple[int, int]:
    first, second = node.attributes[key]
    return int(first), int(second)
