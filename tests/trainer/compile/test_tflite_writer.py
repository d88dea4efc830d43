"""Every op of the table, written as .tflite and run, against the numpy executor; shapes reach every branch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from edge.runtime.graph import FloatArray, Graph, Node, Shape
from edge.runtime.numpy_ import Executable
from trainer.compile.tflite_model import ALIGNMENT
from trainer.compile.tflite_writer import write_tflite

TOLERANCE = 2e-6
"""Of one op on values near 1 in float32; products of up to a hundred terms included."""

PAIR = {"transpose_a": False, "transpose_b": False}


def graph_of(*nodes: Node, inputs: dict[str, Shape], constants: dict[str, FloatArray] | None = None) -> Graph:
    """Shapes follow from running it: the numpy executor needs only some of them beforehand, which the nodes give."""
    constants = constants or {}
    shapes = dict(inputs) | {name: value.shape for name, value in constants.items()}
    shapes |= {node.output: tuple(node.attributes.pop("out")) for node in nodes}
    return Graph(
        inputs=tuple(inputs),
        outputs=tuple(node.output for node in nodes),
        shapes=shapes,
        constants=constants,
        nodes=nodes,
    )


def node(op: str, inputs: str, output: str, out: Shape, **attributes: Any) -> Node:
    return Node(op=op, inputs=tuple(inputs.split()), output=output, attributes={"out": out, **attributes})


def run_tflite(content: bytes, inputs: Sequence[FloatArray]) -> list[FloatArray]:
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    for detail, value in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def assert_agrees(graph: Graph, *, positive: bool = False, tolerance: float = TOLERANCE) -> None:
    random = np.random.default_rng(5)
    draws = [random.standard_normal(graph.shapes[name]).astype(np.float32) for name in graph.inputs]
    if positive:
        draws = [np.abs(value) + np.float32(0.1) for value in draws]
    expected = Executable(graph).run(draws)
    for name, want, got in zip(graph.outputs, expected, run_tflite(write_tflite(graph), draws), strict=True):
        assert got.shape == graph.shapes[name]
        np.testing.assert_allclose(
            got, want, rtol=tolerance, atol=tolerance * max(1.0, float(np.abs(want).max())), err_msg=name
        )


A: Shape = (4, 3, 5, 6)  # (B,C,H,W), all different
BROADCASTS: list[tuple[Shape, Shape, Shape]] = [
    ((4, 6), (4, 6), (4, 6)),
    ((4, 6), (6,), (4, 6)),
    ((4, 6), (4, 1), (4, 6)),
    ((4, 6), (), (4, 6)),
    ((), (4, 6), (4, 6)),
    ((1,), (), (1,)),
    ((1, 3, 1, 1), A, A),
]


@pytest.mark.parametrize("op", ["add", "sub", "mul", "div", "maximum"])
def test_two_operands_broadcast(op: str) -> None:
    for a, b, out in BROADCASTS:
        assert_agrees(graph_of(node(op, "a b", "y", out), inputs={"a": a, "b": b}), positive=op == "div")


@pytest.mark.parametrize("op", ["neg", "exp", "log", "sqrt", "tanh", "sigmoid", "relu"])
@pytest.mark.parametrize("shape", [(), (7,), (4, 6), A])
def test_one_operand(op: str, shape: Shape) -> None:
    assert_agrees(graph_of(node(op, "x", "y", shape), inputs={"x": shape}), positive=op in {"log", "sqrt"})


def test_relu_grad_by_input_and_by_output() -> None:
    nodes = (node("relu", "x", "y", A), node("relu_grad", "g x", "a", A), node("relu_grad", "g y", "b", A))
    assert_agrees(graph_of(*nodes, inputs={"x": A, "g": A}))


def test_relu_grad_is_exact_for_small_and_large_numbers() -> None:
    graph = graph_of(node("relu_grad", "g y", "z", (6,)), inputs={"g": (6,), "y": (6,)})
    g = np.full(6, 0.7, np.float32)
    y = np.asarray([1e-37, -1e-37, 0.0, 3e38, -3e38, 1.0], np.float32)
    np.testing.assert_array_equal(run_tflite(write_tflite(graph), [g, y])[0], g * (y > 0))


@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
def test_softmax(op: str) -> None:
    assert_agrees(graph_of(node(op, "x", "y", (4, 10)), inputs={"x": (4, 10)}))


@pytest.mark.parametrize("op", ["sum", "max"])
@pytest.mark.parametrize("axes", [[0], [1], [0, 2, 3], [2, 3], [0, 1, 2, 3]])
@pytest.mark.parametrize("keepdims", [False, True])
def test_reductions_of_row_major_and_batch_last(op: str, axes: list[int], keepdims: bool) -> None:
    out = tuple(1 if axis in axes else side for axis, side in enumerate(A) if keepdims or axis not in axes)
    pooled = (4, 3, 5, 2)
    out_pooled = tuple(1 if axis in axes else side for axis, side in enumerate(pooled) if keepdims or axis not in axes)
    nodes = (
        node(op, "x", "y", out, axes=axes, keepdims=keepdims),
        node("max_pool2d", "x", "p", pooled, size=[1, 3]),
        node(op, "p", "z", out_pooled, axes=axes, keepdims=keepdims),
    )
    assert_agrees(graph_of(*nodes, inputs={"x": A}))


def test_max_grad_shares_ties() -> None:
    nodes = (
        node("max", "x", "y", (4, 1, 5, 1), axes=[1, 3], keepdims=True),
        node("max_grad", "g x y", "z", A, axes=[1, 3]),
    )
    graph = graph_of(*nodes, inputs={"x": A, "g": (4, 1, 5, 1)})
    assert_agrees(graph)
    x, g = np.zeros(A, np.float32), np.ones((4, 1, 5, 1), np.float32)
    np.testing.assert_allclose(run_tflite(write_tflite(graph), [x, g])[1], np.full(A, 1 / 18), rtol=1e-6)


@pytest.mark.parametrize("flip_a", [False, True])
@pytest.mark.parametrize("flip_b", [False, True])
def test_products(flip_a: bool, flip_b: bool) -> None:
    a, b = ((8, 5) if flip_a else (5, 8)), ((7, 8) if flip_b else (8, 7))
    flips = {"transpose_a": flip_a, "transpose_b": flip_b}
    nodes = (
        node("matmul", "a b", "m", (5, 7), **flips),
        node("gemm", "a b c", "y", (5, 7), **flips, beta=1.0),
        node("gemm", "a b d", "z", (5, 7), **flips, beta=-0.5),
    )
    assert_agrees(graph_of(*nodes, inputs={"a": a, "b": b, "c": (7,), "d": (5, 7)}))


@pytest.mark.parametrize("flip", [False, True])
def test_flattened_images_go_into_products(flip: bool) -> None:
    pooled: Shape = (4, 3, 5, 2)
    nodes = (
        node("max_pool2d", "x", "p", pooled, size=[1, 3]),
        node("reshape", "p", "f", (4, 30), shape=[4, 30]),
        node("matmul", "f w", "y", (4, 7), transpose_a=False, transpose_b=True),
        node("matmul", "g f", "dw", (7, 30), transpose_a=True, transpose_b=False),
        node("matmul", "g w", "df", (4, 30), **PAIR),
        node("reshape", "df", "dp", pooled, shape=list(pooled)),
        node("max_pool2d_grad", "dp x p", "dx", A, size=[1, 3]),
    )
    assert_agrees(graph_of(*(nodes if not flip else nodes[:4]), inputs={"x": A, "w": (7, 30), "g": (4, 7)}))


def test_shapes() -> None:
    nodes = (
        node("reshape", "x", "a", (4, 90), shape=[4, 90]),
        node("transpose", "a", "b", (90, 4), perm=[1, 0]),
        node("transpose", "x", "c", (6, 5, 4, 3), perm=[3, 2, 0, 1]),
        node("expand", "k", "d", A, shape=list(A)),
        node("add", "x d", "e", A),
        node("concat", "x x", "f", (4, 6, 5, 6), axis=1),
        node("slice", "f", "h", (4, 2, 5, 6), axis=1, start=2, stop=4),
        node("max_pool2d", "x", "p", (4, 3, 5, 3), size=[1, 2]),
        node("concat", "p p", "q", (8, 3, 5, 3), axis=0),
        node("slice", "q", "r", (3, 3, 5, 3), axis=0, start=2, stop=5),
        node("mul", "p k", "s", (4, 3, 5, 3)),
        node("mul", "p l", "t", (4, 3, 5, 3)),
        node("reshape", "p", "u", (2, 6, 15), shape=[2, 6, 15]),
        node("transpose", "p", "v", (3, 4, 3, 5), perm=[3, 0, 1, 2]),
    )
    assert_agrees(graph_of(*nodes, inputs={"x": A, "k": (1, 3, 1, 1), "l": (3, 1, 1)}))


CONVOLUTIONS = [  # C, O, (H,W), kernel, stride, padding
    (1, 8, (8, 8), (3, 3), (1, 1), (1, 1)),
    (3, 4, (7, 9), (3, 3), (1, 1), (0, 0)),
    (3, 2, (7, 9), (3, 2), (2, 1), (1, 0)),
    (2, 5, (9, 8), (3, 3), (2, 2), (1, 1)),
    (2, 5, (9, 9), (5, 3), (3, 2), (2, 1)),
    (9, 4, (1, 32), (1, 5), (1, 1), (0, 2)),
    (9, 4, (1, 33), (1, 4), (1, 3), (0, 0)),
    (6, 20, (5, 5), (1, 1), (1, 1), (0, 0)),
    (2, 3, (5, 5), (1, 1), (2, 2), (1, 1)),
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolutions(case: tuple[int, int, Shape, Shape, Shape, Shape]) -> None:
    C, O, image, kernel, stride, padding = case  # noqa: E741
    x, w = (4, C, *image), (O, C, *kernel)
    out = tuple((side + 2 * p - k) // s + 1 for side, p, k, s in zip(image, padding, kernel, stride, strict=True))
    g = (4, O, *out)
    moves = {"stride": list(stride), "padding": list(padding)}
    nodes = (
        node("conv2d", "x w", "y", g, **moves),
        node("conv2d", "x w b", "yb", g, **moves),
        node("conv2d_dx", "g w", "dx", x, **moves, shape=list(x)),
        node("conv2d_dw", "g x", "dw", w, **moves, shape=list(w)),
        node("relu", "yb", "r", g),
        node("relu_grad", "g r", "rg", g),
    )
    assert_agrees(graph_of(*nodes, inputs={"x": x, "w": w, "b": (O,), "g": g}), tolerance=1e-5)


@pytest.mark.parametrize(("size", "image"), [((2, 2), (8, 6)), ((2, 2), (7, 9)), ((1, 4), (1, 30)), ((3, 2), (9, 4))])
def test_max_pooling(size: Shape, image: Shape) -> None:
    x, y = (4, 3, *image), (4, 3, image[0] // size[0], image[1] // size[1])
    nodes = (
        node("max_pool2d", "x", "y", y, size=list(size)),
        node("max_pool2d_grad", "g x y", "dx", x, size=list(size)),
    )
    assert_agrees(graph_of(*nodes, inputs={"x": x, "g": y}))


@pytest.mark.parametrize(("stride", "outputs"), [((1, 1), 5), ((1, 1), 2), ((2, 1), 5)])
def test_a_convolution_that_is_only_pooled(stride: Shape, outputs: int) -> None:
    """It is computed in the places of the window, and so are its gradients."""
    moves = {"stride": list(stride), "padding": [1, 1]}
    x, w, rows = (4, 3, 12, 8), (outputs, 3, 3, 3), 12 // stride[0]
    y, pooled = (4, outputs, rows, 8), (4, outputs, rows // 3, 4)
    nodes = (
        node("conv2d", "x w b", "y", y, **moves),
        node("max_pool2d", "y", "p", pooled, size=[3, 2]),
        node("max_pool2d_grad", "g y p", "d", y, size=[3, 2]),
        node("conv2d_dx", "d w", "dx", x, **moves, shape=list(x)),
        node("conv2d_dw", "d x", "dw", w, **moves, shape=list(w)),
    )
    graph = graph_of(*nodes, inputs={"x": x, "w": w, "b": (outputs,), "g": pooled})
    assert_agrees(replace(graph, outputs=("p", "dx", "dw")), tolerance=1e-5)


def test_the_first_of_tied_maxima_takes_the_gradient() -> None:
    nodes = (
        node("max_pool2d", "x", "y", (1, 1, 1, 1), size=[2, 2]),
        node("max_pool2d_grad", "g x y", "d", (1, 1, 2, 2), size=[2, 2]),
    )
    graph = graph_of(*nodes, inputs={"x": (1, 1, 2, 2), "g": (1, 1, 1, 1)})
    x = np.asarray([[[[1, 3], [3, 3]]]], np.float32)
    dx = run_tflite(write_tflite(graph), [x, np.full((1, 1, 1, 1), 6, np.float32)])[1]
    np.testing.assert_array_equal(dx, np.asarray([[[[0, 6], [0, 0]]]], np.float32))


@pytest.mark.parametrize("rows", [8, 9])  # 9: a rest that no window covers
def test_every_operator_is_read(rows: int) -> None:
    x, pooled = (4, 3, rows, 6), (4, 3, 4, 3)
    moves = {"stride": [1, 1], "padding": [1, 1]}
    nodes = (
        node("conv2d", "x w", "y", x, **moves),
        node("max_pool2d", "y", "p", pooled, size=[2, 2]),
        node("max_pool2d_grad", "g y p", "d", x, size=[2, 2]),
        node("conv2d_dw", "d x", "dw", (3, 3, 3, 3), **moves, shape=[3, 3, 3, 3]),
    )
    graph = replace(graph_of(*nodes, inputs={"x": x, "w": (3, 3, 3, 3), "g": pooled}), outputs=("p", "dw"))
    assert_agrees(graph, tolerance=1e-5)
    (written,) = schema.ModelT.InitFromPackedBuf(write_tflite(graph)).subgraphs
    read = {*written.outputs} | {tensor for operator in written.operators for tensor in operator.inputs}
    assert {tensor for operator in written.operators for tensor in operator.outputs} <= read


def test_an_input_and_a_constant_can_be_outputs() -> None:
    constants = {"k": np.asarray([1, 2], np.float32)}
    graph = Graph(
        inputs=("x",),
        outputs=("x", "k", "y", "y"),
        shapes={"x": (2,), "k": (2,), "y": (2,)},
        constants=constants,
        nodes=(Node(op="add", inputs=("x", "k"), output="y"),),
    )
    got = run_tflite(write_tflite(graph), [np.asarray([5, 7], np.float32)])
    np.testing.assert_array_equal(got, [[5, 7], [1, 2], [6, 9], [6, 9]])


def sample_graph() -> Graph:
    constants = {"k": np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6)}
    nodes = (node("mul", "x k", "a", (4, 6)), node("softmax", "a", "y", (4, 6)))
    return graph_of(*nodes, inputs={"x": (4, 6)}, constants=constants)


def test_same_graph_same_bytes() -> None:
    assert write_tflite(sample_graph()) == write_tflite(sample_graph())


def test_constants_are_aligned_as_the_schema_asks() -> None:
    content = write_tflite(sample_graph())
    model = schema.Model.GetRootAs(content)
    found = 0
    for number in range(model.BuffersLength()):
        buffer = model.Buffers(number)
        if not buffer.DataIsNone() and buffer.DataLength():
            position = buffer._tab.Vector(buffer._tab.Offset(4))
            assert position % ALIGNMENT == 0
            found += 1
    assert found == 1


def test_every_operator_is_old_enough_for_the_last_32_bit_runtime() -> None:
    """tflite-runtime 2.14 registers BROADCAST_TO from 2, everything else from 1."""
    nodes = (
        node("expand", "k", "e", A, shape=list(A)),
        node("max_pool2d", "x", "p", (4, 3, 5, 3), size=[1, 2]),
        node("max_pool2d_grad", "p x p", "d", A, size=[1, 2]),
    )
    model = schema.ModelT.InitFromPackedBuf(write_tflite(graph_of(*nodes, inputs={"x": A, "k": (1, 3, 1, 1)})))
    versions = {code.builtinCode: code.version for code in model.operatorCodes}
    assert versions.pop(schema.BuiltinOperator.BROADCAST_TO) == 2
    assert set(versions.values()) == {1}


def test_an_unknown_op_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="op 'fft' is not in the table"):
        write_tflite(graph_of(node("fft", "x", "y", (4,)), inputs={"x": (4,)}))
