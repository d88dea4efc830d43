"""A program is loaded whole or refused with a reason."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge.runtime.check import check_graph, infer
from edge.runtime.choose import RuntimeMissing, choose, installed, load_runtime
from edge.runtime.graph import Graph, Node, parse_graph
from edge.runtime.program import Program, ProgramRefused, load_program
from trainer.programs import SHIPPED, shipped


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(shipped("har-cnn"), tmp_path / "program"))


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    return path


def with_file(folder: Path, name: str, data: bytes) -> Path:
    """Replace a file and its hash in the manifest."""
    (folder / name).write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = hashlib.sha256(data).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize("name", SHIPPED)
def test_folder_and_zip_are_the_same_program(name: str, tmp_path: Path) -> None:
    from_folder = load_program(shipped(name))
    from_zip = load_program(zipped(Path(shutil.copytree(shipped(name), tmp_path / "p"))))
    assert from_zip.digest == from_folder.digest
    assert from_zip.files == from_folder.files
    assert from_folder.initial.shape == (from_folder.manifest.state_count,)
    assert not from_folder.initial.flags.writeable
    for step in ("train", "predict"):
        check_graph(from_folder.graph(step))


def refused(path: Path, reason: str) -> None:
    with pytest.raises(ProgramRefused, match=reason):
        load_program(path)


def test_nothing_there(tmp_path: Path) -> None:
    refused(tmp_path / "missing", "potstill trainer compile")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "potstill trainer compile")
    (tmp_path / "text.zip").write_text("no archive")
    refused(tmp_path / "text.zip", "zip")


def test_a_changed_file(folder: Path) -> None:
    (folder / "train.onnx").write_bytes(b"another step")
    refused(folder, "train.onnx is not the file its manifest names")
    refused(zipped(folder), "train.onnx is not the file its manifest names")


def test_a_missing_file(folder: Path) -> None:
    (folder / "predict.tflite").unlink()
    with pytest.raises(ProgramRefused):
        load_program(folder)
    refused(zipped(folder), "no predict.tflite in the archive")


def test_another_format(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"format": 1', '"format": 2'))
    refused(folder, "compile the program again")
    (folder / "manifest.json").write_bytes(b"\xff\xfe")
    refused(folder, "manifest.json")


def test_a_zip_bomb(folder: Path) -> None:
    """What a file unpacks to counts: a manifest of zeros, a thousandth of its size in the archive."""
    (folder / "manifest.json").write_bytes(bytes(8 * 2**20))
    path = zipped(folder)
    assert path.stat().st_size < 2**20
    refused(path, "manifest.json is larger than")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(3, np.float32),
        np.full(12_812, np.nan, np.float32),
        np.zeros(12_812, np.float64),
        np.array([None] * 3, object),
    ],
    ids=["short", "not finite", "doubles", "objects"],
)
def test_another_initial_state(folder: Path, array: np.ndarray) -> None:
    assert load_program(folder).manifest.state_count == 12_812
    refused(with_file(folder, "initial.npy", npy(array)), "initial.npy")


def test_an_initial_state_that_claims_to_be_huge(folder: Path) -> None:
    header = npy(np.zeros(3, np.float32)).replace(b"(3,),", b"(3000000000000,),")
    refused(with_file(folder, "initial.npy", header), "initial.npy")


def test_a_graph_that_does_not_fit_the_manifest(folder: Path) -> None:
    swapped = (folder / "predict.graph.json").read_bytes()
    program = load_program(with_file(folder, "train.graph.json", swapped))
    with pytest.raises(ProgramRefused, match="not those of the manifest"):
        program.graph("train")
    program = load_program(with_file(folder, "train.graph.json", b"[" * 100_000))
    with pytest.raises(ProgramRefused, match=r"train\.graph\.json"):
        program.graph("train")


# ---------------------------------------------------------------- graphs


def small(**changes: object) -> Graph:
    node = Node(op="add", inputs=("a", "c"), output="y")
    graph = Graph(
        inputs=("a",),
        outputs=("y",),
        shapes={"a": (2, 3), "c": (3,), "y": (2, 3)},
        constants={"c": np.ones(3, np.float32)},
        nodes=(node,),
    )
    return replace(graph, **changes)  # type: ignore[arg-type]


def test_a_good_graph_passes() -> None:
    check_graph(small())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"nodes": (Node(op="pickle", inputs=("a",), output="y"),)}, "unknown op"),
        ({"nodes": (Node(op="add", inputs=("a",), output="y"),)}, "takes 2 to 2 inputs"),
        ({"nodes": (Node(op="add", inputs=("a", "b"), output="y"),)}, "nothing before it computes"),
        ({"nodes": (Node(op="add", inputs=("a", "c"), output="c"),)}, "taken twice"),
        ({"nodes": (Node(op="add", inputs=("a", "c"), output="y", attributes={"axis": 1}),)}, "attributes"),
        ({"nodes": ()}, "no node computes"),
        ({"inputs": ("a", "a")}, "different names"),
        ({"shapes": {"a": (2, 3), "c": (3,), "y": (3, 2)}}, "declares"),
        ({"shapes": {"a": (2, 0), "c": (3,), "y": (2, 3)}}, "no possible shape"),
        ({"shapes": {"a": (2, 4), "c": (3,), "y": (2, 3)}}, "broadcast"),
        ({"constants": {"c": np.full(3, np.inf, np.float32)}}, "finite"),
    ],
)
def test_a_malformed_graph_is_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_graph(small(**changes))


@pytest.mark.parametrize(
    ("op", "shapes", "attributes"),
    [
        ("matmul", [(2, 3), (2, 3)], {"transpose_a": False, "transpose_b": False}),
        ("matmul", [(2, 3), (3,)], {"transpose_a": False, "transpose_b": False}),
        ("matmul", [(2, 3), (3, 2)], {"transpose_a": 0, "transpose_b": False}),
        ("gemm", [(2, 3), (3, 2), (3, 2)], {"transpose_a": False, "transpose_b": False, "beta": 1.0}),
        ("gemm", [(2, 3), (3, 2), (2,)], {"transpose_a": False, "transpose_b": False, "beta": float("nan")}),
        ("reshape", [(2, 3)], {"shape": [5]}),
        ("reshape", [(2, 3)], {"shape": [-2, -3]}),
        ("transpose", [(2, 3)], {"perm": [0, 0]}),
        ("expand", [(2, 3)], {"shape": [2, 4]}),
        ("expand", [(1,)], {"shape": [2**40]}),
        ("sum", [(2, 3)], {"axes": [-1], "keepdims": True}),
        ("sum", [(2, 3)], {"axes": [2], "keepdims": True}),
        ("max_grad", [(2, 3), (2, 3), (2, 1)], {"axes": [1]}),
        ("softmax", [()], {}),
        ("relu_grad", [(2,), (3,)], {}),
        ("conv2d", [(1, 2, 4, 4), (3, 1, 3, 3)], {"stride": [1, 1], "padding": [0, 0]}),
        ("conv2d", [(1, 2, 4, 4), (3, 2, 5, 3)], {"stride": [1, 1], "padding": [0, 0]}),
        ("conv2d", [(1, 2, 4, 4), (3, 2, 3, 3)], {"stride": [0, 1], "padding": [0, 0]}),
        ("conv2d", [(1, 2, 4, 4), (3, 2, 3, 3), (2,)], {"stride": [1, 1], "padding": [0, 0]}),
        ("conv2d_dx", [(1, 3, 4, 4), (3, 2, 3, 3)], {"stride": [1, 1], "padding": [0, 0], "shape": [1, 2, 4, 4]}),
        ("conv2d_dw", [(1, 3, 4, 4), (1, 2, 4, 4)], {"stride": [1, 1], "padding": [0, 0], "shape": [3, 2, 3, 3]}),
        ("max_pool2d", [(2, 2, 4)], {"size": [2, 2]}),
        ("max_pool2d", [(1, 1, 4, 4)], {"size": [5, 5]}),
        ("max_pool2d_grad", [(1, 1, 2, 2), (1, 1, 4, 4), (1, 1, 2, 1)], {"size": [2, 2]}),
        ("concat", [(2, 3), (3, 3)], {"axis": 1}),
        ("slice", [(2, 3)], {"axis": 1, "start": 2, "stop": 4}),
    ],
)
def test_what_an_op_cannot_do(op: str, shapes: list[tuple[int, ...]], attributes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        infer(op, shapes, attributes)


def test_text_that_is_no_graph() -> None:
    for text in ("", "[]", "{}", '{"inputs": 3}'):
        with pytest.raises(ValueError, match="not a flat graph"):
            parse_graph(text)


# ---------------------------------------------------------------- which runtime


@pytest.fixture
def program() -> Program:
    return load_program(shipped("har-cnn"))


def test_the_best_installed_is_taken_and_the_reason_given(program: Program) -> None:
    assert choose(program, None, ("onnx", "tflite", "numpy", "torch")).name == "onnx"
    chosen = choose(program, None, ("tflite", "numpy"))
    assert chosen.name == "tflite"
    assert "onnx is not installed" in chosen.reason
    assert choose(program, None, ("numpy", "torch")).name == "numpy"


def test_a_forced_runtime_is_taken_or_its_install_command_given(program: Program) -> None:
    assert choose(program, "numpy", ("onnx", "numpy")).name == "numpy"
    with pytest.raises(RuntimeMissing, match=r"pip install 'potstill\[onnx\]'"):
        choose(program, "onnx", ("numpy",))
    with pytest.raises(ValueError, match="one of onnx, tflite, numpy, torch"):
        choose(program, "jax", ("numpy",))


def test_a_program_without_the_file_goes_to_the_next_runtime(program: Program) -> None:
    bare = replace(program, files={name: data for name, data in program.files.items() if not name.endswith(".onnx")})
    assert choose(bare, None, ("onnx", "tflite", "numpy")).name == "tflite"
    with pytest.raises(RuntimeMissing, match=r"no train\.onnx"):
        choose(bare, "onnx", ("onnx",))
    with pytest.raises(ProgramRefused, match=r"no train\.onnx"):
        bare.file("train.onnx")


def test_installed_asks_without_importing() -> None:
    assert installed(lambda name: object() if name == "tflite_runtime" else None) == ("tflite",)
    assert installed(lambda _: None) == ()


def test_loading_gives_the_runtime_chosen(program: Program) -> None:
    assert load_runtime(program, "numpy").name == f"numpy {np.__version__}"
