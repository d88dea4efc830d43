"""A small real program for the tests of the device: softmax regression on 8 x 8 images, a flat graph written by hand.

logits = softmax(x w + b); loss = -(1/B) sum target log p; gradient on the scores = (sum(target) p - target) / B.
Letters: B batch, L labels, F features.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.runtime.graph import Graph, Node, Shape
from edge.runtime.program import Program, load_program
from edge.wire.manifest import FORMAT, Manifest, Tensor

B, F, L = 32, 64, 10


def _node(op: str, inputs: str, output: str, **attributes: object) -> Node:
    return Node(op=op, inputs=tuple(inputs.split()), output=output, attributes=attributes)


def _train_graph() -> Graph:
    shapes: dict[str, Shape] = {
        **dict.fromkeys(("w", "dw", "step_w", "new_w"), (F, L)),
        **dict.fromkeys(("b", "db", "step_b", "new_b"), (L,)),
        **dict.fromkeys(("target", "z", "p", "logp", "cross", "pulled", "g_sum", "g"), (B, L)),
        "x": (B, 1, 8, 8),
        "flat": (B, F),
        "weight": (B, 1),
        **dict.fromkeys(("lr", "total", "loss", "minus", "batch"), ()),
    }
    nodes = (
        _node("reshape", "x", "flat", shape=[B, F]),
        _node("gemm", "flat w b", "z", transpose_a=False, transpose_b=False, beta=1.0),
        _node("softmax", "z", "p"),
        _node("log_softmax", "z", "logp"),
        _node("mul", "target logp", "cross"),
        _node("sum", "cross", "total", axes=[0, 1], keepdims=False),
        _node("mul", "total minus", "loss"),
        _node("sum", "target", "weight", axes=[1], keepdims=True),
        _node("mul", "weight p", "pulled"),
        _node("sub", "pulled target", "g_sum"),
        _node("div", "g_sum batch", "g"),
        _node("matmul", "flat g", "dw", transpose_a=True, transpose_b=False),
        _node("sum", "g", "db", axes=[0], keepdims=False),
        _node("mul", "dw lr", "step_w"),
        _node("sub", "w step_w", "new_w"),
        _node("mul", "db lr", "step_b"),
        _node("sub", "b step_b", "new_b"),
    )
    constants = {"minus": np.array(-1 / B, np.float32), "batch": np.array(B, np.float32)}
    return Graph(
        inputs=("w", "b", "x", "target", "lr"),
        outputs=("new_w", "new_b", "loss", "p"),
        shapes=shapes,
        constants=constants,
        nodes=nodes,
    )


def _predict_graph() -> Graph:
    nodes = (
        _node("reshape", "x", "flat", shape=[B, F]),
        _node("gemm", "flat w b", "z", transpose_a=False, transpose_b=False, beta=1.0),
        _node("softmax", "z", "p"),
    )
    shapes: dict[str, Shape] = {"w": (F, L), "b": (L,), "x": (B, 1, 8, 8), "flat": (B, F), "z": (B, L), "p": (B, L)}
    return Graph(inputs=("w", "b", "x"), outputs=("p",), shapes=shapes, constants={}, nodes=nodes)


def write_program(folder: Path, *, name: str = "linear", pool: int = 0) -> Path:
    """Manifest and files of the program, with a pool of so many inputs where there are any, into a new folder."""
    folder.mkdir(parents=True)
    initial = io.BytesIO()
    np.lib.format.write_array(initial, np.zeros(F * L + L, "<f4"), version=(1, 0))
    files = {
        "initial.npy": initial.getvalue(),
        "train.graph.json": _train_graph().to_json().encode(),
        "predict.graph.json": _predict_graph().to_json().encode(),
    }
    if pool:
        shared = io.BytesIO()
        np.savez(shared, x=_images(np.random.default_rng(99), pool)[0], scale=np.float32(1 / 255))
        files["pool.npz"] = shared.getvalue()
    for file, data in files.items():
        (folder / file).write_bytes(data)
    manifest = Manifest(
        format=FORMAT,
        name=name,
        labels=tuple("0123456789"),
        input_shape=(1, 8, 8),
        batch=B,
        predict_batch=B,
        optimiser="sgd",
        parameters=(Tensor(name="w", shape=(F, L)), Tensor(name="b", shape=(L,))),
        optimiser_state=(),
        files={file: hashlib.sha256(data).hexdigest() for file, data in files.items()},
    )
    (folder / "manifest.json").write_text(manifest.to_json())
    return folder


def write_shard(file: Path, *, seed: int = 0, n: int = 300, m: int = 100) -> Path:
    """Images whose label is the brightest of ten pixels: softmax regression learns it in a few steps."""
    x, y = _images(np.random.default_rng(seed), n + m)
    np.savez(file, train_x=x[:n], train_y=y[:n], test_x=x[n:], test_y=y[n:], scale=np.float32(1 / 255))
    return file


def _images(rng: np.random.Generator, n: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(n, 8, 8), (n,)."""
    y = rng.integers(0, L, n).astype(np.uint8)
    x = rng.integers(0, 100, (n, 8, 8)).astype(np.uint8)
    x.reshape(n, F)[np.arange(n), y] = 255
    return x, y


@pytest.fixture
def linear_folder(tmp_path: Path) -> Path:
    return write_program(tmp_path / "linear")


@pytest.fixture
def linear_program(linear_folder: Path) -> Program:
    return load_program(linear_folder)


@pytest.fixture
def shard_file(tmp_path: Path) -> Path:
    return write_shard(tmp_path / "d0.npz")
