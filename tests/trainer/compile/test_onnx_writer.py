"""Every op of the table, written as ONNX and run, against the numpy executor; shapes reach every branch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before onnxruntime is imported

import onnxruntime as ort

from edge.runtime.check import OPS, infer
from edge.runtime.graph import FloatArray, Graph, Node, Shape
from edge.runtime.numpy_ import Executable
from trainer.compile.onnx_writer import IR_VERSION, OPSET, plan_layouts, write_onnx
from trainer.compile.simplify import simplify

TOLERANCE = 2e-6
"""Of one op on values near 1 in float32, relative to the largest result; a few hundred products included."""

B = 4


class Sheet:
    """Writes a small graph down, node by node."""

    def __init__(self, **inputs: Shape) -> None:
        self.inputs = inputs
        self.shapes: dict[str, Shape] = dict(inputs)
        self.nodes: list[Node] = []
        self.constants: dict[str, FloatArray] = {}

    def constant(self, name: str, value: FloatArray) -> str:
        self.constants[name], self.shapes[name] = value, value.shape
        return name

    def op(self, op: str, *inputs: str, out: str, **attributes: Any) -> str:
        self.shapes[out] = infer(op, [self.shapes[name] for name in inputs], attributes)
        self.nodes.append(Node(op=op, inputs=inputs, output=out, attributes=attributes))
        return out

    def graph(self, *outputs: str) -> Graph:
        return Graph(
            inputs=tuple(self.inputs),
            outputs=outputs,
            shapes=self.shapes,
            constants=self.constants,
            nodes=tuple(self.nodes),
        )


def run_onnx(content: bytes, inputs: Sequence[FloatArray]) -> list[FloatArray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [tensor.name for tensor in session.get_inputs()]
    return [np.asarray(value) for value in session.run(None, dict(zip(names, inputs, strict=True)))]


def draw(graph: Graph, *, positive: bool = False) -> list[FloatArray]:
    random = np.random.default_rng(5)
    values = [np.asarray(random.standard_normal(graph.shapes[name]), np.float32) for name in graph.inputs]
    return [np.asarray(np.abs(value) + np.float32(0.1)) for value in values] if positive else values


def assert_agrees(graph: Graph, inputs: Sequence[FloatArray] | None = None) -> None:
    values = draw(graph) if inputs is None else inputs
    expected = Executable(graph).run(values)
    for name, want, got in zip(graph.outputs, expected, run_onnx(write_onnx(graph), values), strict=True):
        assert got.shape == graph.shapes[name]
        np.testing.assert_allclose(
            got, want, rtol=0, atol=TOLERANCE * max(1.0, float(np.abs(want).max())), err_msg=name
        )


def single(op: str, *shapes: Shape, **attributes: Any) -> Graph:
    sheet = Sheet(**{f"i{k}": shape for k, shape in enumerate(shapes)})
    sheet.op(op, *sheet.inputs, out="y", **attributes)
    return sheet.graph("y")


SINGLES: dict[str, list[Graph]] = {
    **{op: [single(op, (3, 1, 5), (4, 1)), single(op, (2, 3), ())] for op in ("add", "sub", "mul", "div", "maximum")},
    **{op: [single(op, (4, 7))] for op in ("neg", "exp", "tanh", "sigmoid", "relu", "log", "sqrt")},
    "relu_grad": [single("relu_grad", (4, 5), (4, 5))],
    "softmax": [single("softmax", (4, 5))],
    "log_softmax": [single("log_softmax", (4, 5))],
    "sum": [
        single("sum", (3, 4, 5), axes=axes, keepdims=keepdims)
        for axes in ([0], [1, 2], [0, 1, 2])
        for keepdims in (False, True)
    ],
    "max": [
        single("max", (3, 4, 5), axes=axes, keepdims=keepdims) for axes in ([0, 2], [1]) for keepdims in (False, True)
    ],
    "matmul": [
        single("matmul", (3, 4)[:: -1 if a else 1], (4, 5)[:: -1 if b else 1], transpose_a=a, transpose_b=b)
        for a in (False, True)
        for b in (False, True)
    ],
    "gemm": [
        single("gemm", (3, 4), (5, 4), c, transpose_a=False, transpose_b=True, beta=beta)
        for c, beta in (((5,), 1.0), ((3, 5), -0.5), ((), 2.0))
    ],
    "reshape": [single("reshape", (3, 4), shape=[2, 6]), single("reshape", (1,), shape=[])],
    "transpose": [single("transpose", (2, 3, 4), perm=[2, 0, 1])],
    "expand": [single("expand", (3, 1), shape=[2, 3, 4])],
    "concat": [single("concat", (2, 3), (2, 1), (2, 2), axis=1)],
    "slice": [single("slice", (4, 6), axis=1, start=2, stop=5)],
}

STRIDES = [((1, 1), (1, 1)), ((1, 1), (0, 0)), ((2, 2), (1, 1)), ((2, 1), (0, 2)), ((1, 3), (2, 0))]
KERNELS = [(3, 3), (2, 4), (1, 1)]
CHANNELS = [(2, 5), (5, 2)]


@pytest.mark.parametrize(("op", "case"), [(op, case) for op, cases in SINGLES.items() for case in range(len(cases))])
def test_an_op_alone(op: str, case: int) -> None:
    graph = SINGLES[op][case]
    assert_agrees(graph, draw(graph, positive=op in {"div", "log", "sqrt"}))


def test_every_op_of_the_table_is_tested_here() -> None:
    images = {"conv2d", "conv2d_dx", "conv2d_dw", "max_pool2d", "max_pool2d_grad", "max_grad"}
    assert set(SINGLES) | images == set(OPS)


def test_max_grad_shares_among_ties() -> None:
    sheet = Sheet(x=(2, 3), g=(2, 1))
    sheet.op("max", "x", out="y", axes=[1], keepdims=True)
    sheet.op("max_grad", "g", "x", "y", out="dx", axes=[1])
    x = np.asarray([[1, 3, 3], [2, 1, 0]], np.float32)
    assert_agrees(sheet.graph("y", "dx"), [x, np.asarray([[4], [5]], np.float32)])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("stride", "padding"), STRIDES)
def test_convolution_alone(stride: Shape, padding: Shape, kernel: Shape, channels: tuple[int, int], bias: bool) -> None:
    C, O = channels  # noqa: E741
    sheet = Sheet(x=(B, C, 7, 8), w=(O, C, *kernel), **({"b": (O,)} if bias else {}))
    sheet.op("conv2d", *sheet.inputs, out="y", stride=list(stride), padding=list(padding))
    assert_agrees(sheet.graph("y"))


@pytest.mark.parametrize("wanted", ["dw", "dx", "dw dx", "y dw", "y dw dx"])
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("stride", "padding"), STRIDES)
def test_gradients_of_a_convolution(
    stride: Shape, padding: Shape, kernel: Shape, channels: tuple[int, int], wanted: str
) -> None:
    C, O = channels  # noqa: E741
    where = {"stride": list(stride), "padding": list(padding)}
    forward = Sheet(x=(B, C, 7, 8), w=(O, C, *kernel))
    forward.op("conv2d", "x", "w", out="y", **where)
    sheet = Sheet(x=(B, C, 7, 8), w=(O, C, *kernel), g=forward.shapes["y"])
    for name in wanted.split():
        if name == "y":
            sheet.op("conv2d", "x", "w", out="y", **where)
        elif name == "dx":
            sheet.op("conv2d_dx", "g", "w", out="dx", shape=[B, C, 7, 8], **where)
        else:
            sheet.op("conv2d_dw", "g", "x", out="dw", shape=[O, C, *kernel], **where)
    assert_agrees(sheet.graph(*wanted.split()))


@pytest.mark.parametrize("size", [(2, 2), (3, 2), (1, 2), (2, 1)])
@pytest.mark.parametrize("image", [(6, 8), (7, 9)])
def test_pooling_and_its_gradient(image: Shape, size: Shape) -> None:
    sheet = Sheet(x=(B, 3, *image), g=(B, 3, image[0] // size[0], image[1] // size[1]))
    sheet.op("max_pool2d", "x", out="y", size=list(size))
    sheet.op("max_pool2d_grad", "g", "x", "y", out="dx", size=list(size))
    assert_agrees(sheet.graph("y", "dx"))
    assert_agrees(sheet.graph("y"))


def test_the_first_maximum_of_a_window_takes_the_gradient() -> None:
    sheet = Sheet(x=(1, 1, 2, 4), g=(1, 1, 1, 2))
    sheet.op("max_pool2d", "x", out="y", size=[2, 2])
    sheet.op("max_pool2d_grad", "g", "x", "y", out="dx", size=[2, 2])
    x = np.asarray([[[[1, 3, 0, 0], [3, 3, 0, 0]]]], np.float32)
    _, dx = run_onnx(write_onnx(sheet.graph("y", "dx")), [x, np.asarray([[[[5, 7]]]], np.float32)])
    np.testing.assert_array_equal(dx, [[[[0, 5, 7, 0], [0, 0, 0, 0]]]])


def network(first: str, *, rows: int = 8, stride: int = 1, more_out: bool = False, keep: bool = False) -> Graph:
    """Convolution, relu and pooling in either order, convolution, relu, FC: with all gradients, as they are lowered."""
    C, O = (3, 6) if more_out else (6, 3)  # noqa: E741
    where = {"stride": [1, 1], "padding": [1, 1]}
    second = {"stride": [stride, stride], "padding": [1, 1]}
    half = (rows // 2, 4)
    out = ((half[0] - 1) // stride + 1, (half[1] - 1) // stride + 1)
    F = O * out[0] * out[1]
    s = Sheet(w1=(C, 2, 3, 3), b1=(C,), w2=(O, C, 3, 3), b2=(O,), w3=(5, F), x=(B, 2, rows, 8), g=(B, 5))
    s.op("conv2d", "x", "w1", "b1", out="z1", **where)
    if first == "pool":
        s.op("max_pool2d", "z1", out="p1", size=[2, 2])
        s.op("relu", "p1", out="a1")
    else:
        s.op("relu", "z1", out="r1")
        s.op("max_pool2d", "r1", out="a1", size=[2, 2])
    s.op("conv2d", "a1", "w2", "b2", out="z2", **second)
    s.op("relu", "z2", out="a2")
    s.op("reshape", "a2", out="f", shape=[B, F])
    s.op("matmul", "f", "w3", out="scores", transpose_a=False, transpose_b=True)
    s.op("matmul", "g", "f", out="dw3", transpose_a=True, transpose_b=False)
    s.op("matmul", "g", "w3", out="df", transpose_a=False, transpose_b=False)
    s.op("reshape", "df", out="da2", shape=[B, O, *out])
    s.op("relu_grad", "da2", "a2", out="dz2")
    s.op("sum", "dz2", out="db2", axes=[0, 2, 3], keepdims=False)
    s.op("conv2d_dw", "dz2", "a1", out="dw2", shape=[O, C, 3, 3], **second)
    s.op("conv2d_dx", "dz2", "w2", out="da1", shape=[B, C, *half], **second)
    if first == "pool":
        s.op("relu_grad", "da1", "a1", out="dp1")
        s.op("max_pool2d_grad", "dp1", "z1", "p1", out="dz1", size=[2, 2])
    else:
        s.op("max_pool2d_grad", "da1", "r1", "a1", out="dr1", size=[2, 2])
        s.op("relu_grad", "dr1", "r1", out="dz1")
    s.op("sum", "dz1", out="db1", axes=[0, 2, 3], keepdims=True)
    s.op("conv2d_dw", "dz1", "x", out="dw1", shape=[C, 2, 3, 3], **where)
    middle = ["r1", "dr1"] if first == "relu" else ["z1", "dz1"]
    return s.graph("scores", "dw3", "db2", "dw2", "db1", "dw1", *(middle if keep else []))


NETWORKS = [
    dict(first=first, rows=rows, stride=stride, more_out=more_out, keep=keep)
    for first in ("pool", "relu")
    for rows in (8, 9)
    for stride in (1, 2)
    for more_out in (False, True)
    for keep in (False, True)
]


@pytest.mark.parametrize("settings", NETWORKS, ids=str)
def test_a_whole_network_with_its_gradients(settings: dict[str, Any]) -> None:
    assert_agrees(network(**settings))


@pytest.mark.parametrize("settings", NETWORKS, ids=str)
def test_a_simplified_network_computes_the_same_and_nothing_for_nobody(settings: dict[str, Any]) -> None:
    graph = network(**settings)
    simple = simplify(graph)
    assert len(simple.nodes) <= len(graph.nodes) + 2  # a bias that goes behind a pooling: reshape and add
    values, content = draw(graph), write_onnx(simple)
    for want, *found in zip(
        Executable(graph).run(values), Executable(simple).run(values), run_onnx(content, values), strict=True
    ):
        for got in found:
            np.testing.assert_allclose(got, want, rtol=0, atol=TOLERANCE * max(1.0, float(np.abs(want).max())))
    written = onnx.load_from_string(content).graph
    read = {name for node in written.node for name in node.input} | {output.name for output in written.output}
    assert {name for node in written.node for name in node.output} <= read
    assert {constant.name for constant in written.initializer} <= read


def test_a_tensor_that_is_pooled_is_computed_in_the_places_of_its_window() -> None:
    layouts = plan_layouts(network("pool"))
    assert layouts["z1"] == layouts["dz1"] == (2, 2)
    assert layouts["f"] == (1, 1)
    assert "scores" not in layouts
    assert plan_layouts(network("pool", rows=9))["z1"] == (1, 1)


@pytest.mark.parametrize("c", [(9,), (1, 9), (B, 1), (B, 9), ()], ids=str)
def test_a_layer_of_more_units_than_samples_is_computed_batch_last(c: Shape) -> None:
    s = Sheet(x=(B, 6), w=(9, 6), c=c, v=(9, 2), g=(B, 9))
    s.op("gemm", "x", "w", "c", out="z", transpose_a=False, transpose_b=True, beta=0.5)
    s.op("relu", "z", out="a")
    s.op("relu_grad", "g", "a", out="dz")
    s.op("matmul", "a", "v", out="scores", transpose_a=False, transpose_b=False)
    s.op("matmul", "dz", "x", out="dw", transpose_a=True, transpose_b=False)
    s.op("sum", "dz", out="db", axes=[0], keepdims=False)
    graph = s.graph("scores", "dw", "db")
    assert set(plan_layouts(graph)) == {"z", "a", "dz", "g"}
    assert_agrees(graph)


def test_one_number_a_channel_beside_an_image() -> None:
    sheet = Sheet(x=(B, 3, 4, 4), w=(2, 3, 1, 1), scale=(2, 1, 1), shift=(), odd=(4,))
    sheet.op("conv2d", "x", "w", out="y", stride=[1, 1], padding=[0, 0])
    sheet.op("mul", "y", "scale", out="a")
    sheet.op("add", "shift", "a", out="b")
    sheet.op("mul", "b", "odd", out="c")  # one number a column has no batch-last form here
    sheet.op("sum", "b", out="d", axes=[2], keepdims=False)
    assert_agrees(sheet.graph("b", "c", "d"))


def test_constants_are_baked_in() -> None:
    sheet = Sheet(x=(2, 3))
    sheet.constant("k", np.asarray([1, 2, 3], np.float32))
    sheet.op("mul", "x", "k", out="y")
    assert_agrees(sheet.graph("y"))


def test_the_same_graph_gives_the_same_bytes_of_plain_operators() -> None:
    content = write_onnx(network("pool"))
    assert content == write_onnx(network("pool"))
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
    assert model.ir_version == IR_VERSION
    assert {node.domain for node in model.graph.node} == {""}


def test_an_unknown_op_is_refused_by_name() -> None:
    graph = Graph(
        inputs=("x",),
        outputs=("y",),
        shapes={"x": (1,), "y": (1,)},
        constants={},
        nodes=(Node(op="erf", inputs=("x",), output="y"),),
    )
    with pytest.raises(ValueError, match="'erf'"):
        write_onnx(graph)
