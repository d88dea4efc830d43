"""A program on the device: the folder or .zip that `potstill trainer compile` wrote, loaded and checked.

Everything is checked before anything runs: format version, sizes, the SHA-256 of every file, the initial state.
A .zip is read in memory, never unpacked to disk.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge.runtime.check import check_graph
from edge.runtime.graph import FloatArray, Graph, Shape, parse_graph
from edge.wire.manifest import Manifest, Tensor, parse_manifest

MANIFEST = "manifest.json"
INITIAL = "initial.npy"
GRAPHS = ("train.graph.json", "predict.graph.json")

MAX_FILE_BYTES = 64 * 2**20
"""Of one file of a program; 784-128-10's largest is 0.4 MB, and a board of 512 MB holds two such at once."""
MAX_MANIFEST_BYTES = 2**20
MAX_FILES = 32


class ProgramRefused(ValueError):  # noqa: N818 - named by what happened; the caller gets another program
    """The program is damaged, of another format, or not a program: compile or copy it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Letters: P parameters, S >= P parameters and optimiser state."""

    manifest: Manifest
    initial: FloatArray
    """(S,) the state every device starts from; read-only."""
    files: dict[str, bytes]
    """The files the manifest names, checked against its hashes."""

    @property
    def digest(self) -> bytes:
        return self.manifest.digest

    def file(self, name: str) -> bytes:
        """Raises ProgramRefused where the program was compiled without this file."""
        if name not in self.files:
            raise ProgramRefused(
                f"program {self.manifest.name!r} has no {name}: compile it again with `pip install 'potstill[trainer]'`"
            )
        return self.files[name]

    def graph(self, step: str) -> Graph:
        """The flat graph of "train" or "predict", checked against the op table and the manifest."""
        try:
            graph = parse_graph(self.file(f"{step}.graph.json").decode())
            check_graph(graph)
            _check_signature(graph, self.manifest, step)
        except (ValueError, RecursionError) as problem:
            raise ProgramRefused(f"{step}.graph.json: {problem}") from problem
        return graph


def load_program(path: Path) -> Program:
    """The program in a folder or .zip. Raises ProgramRefused that says what is wrong and what to do."""
    try:
        if path.is_dir():
            return _check(lambda name, limit: _read_from_folder(path, name, limit))
        with zipfile.ZipFile(path) as archive:
            return _check(lambda name, limit: _read_from_zip(archive, name, limit))
    except FileNotFoundError as problem:
        raise ProgramRefused(
            f"no program at {path}: give the folder or .zip that `potstill trainer compile` wrote"
        ) from problem
    except (ProgramRefused, zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as problem:
        raise ProgramRefused(f"{path}: {problem}") from problem


def _check(read: Callable[[str, int], bytes]) -> Program:
    try:
        manifest = parse_manifest(read(MANIFEST, MAX_MANIFEST_BYTES).decode())
    except ValueError as problem:
        raise ProgramRefused(f"{MANIFEST}: {problem}") from problem
    if not {INITIAL, *GRAPHS} <= manifest.files.keys() or len(manifest.files) > MAX_FILES:
        raise ProgramRefused(f"a program has {INITIAL}, {' and '.join(GRAPHS)}, and at most {MAX_FILES} files")
    files = {name: read(name, MAX_FILE_BYTES) for name in manifest.files}
    for name, data in files.items():
        if hashlib.sha256(data).hexdigest() != manifest.files[name]:
            raise ProgramRefused(f"{name} is not the file its manifest names: copy or compile the program again")
    return Program(manifest=manifest, initial=_initial(files.pop(INITIAL), manifest.state_count), files=files)


def _read_from_folder(folder: Path, name: str, limit: int) -> bytes:
    with (folder / name).open("rb") as file:
        return _within(file.read(limit + 1), name, limit)


def _read_from_zip(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    try:
        with archive.open(name) as file:
            return _within(file.read(limit + 1), name, limit)  # what it unpacks to counts, not what its header says
    except KeyError as problem:
        raise ProgramRefused(f"no {name} in the archive") from problem


def _within(data: bytes, name: str, limit: int) -> bytes:
    if len(data) > limit:
        raise ProgramRefused(f"{name} is larger than {limit} bytes")
    return data


def _initial(data: bytes, count: int) -> FloatArray:
    """(S,) float32, finite; the header is read before anything is allocated."""
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0(file)
    except ValueError as problem:
        raise ProgramRefused(f"{INITIAL}: {problem}") from problem
    if version != (1, 0) or header != ((count,), False, np.dtype("<f4")) or len(data) - file.tell() != 4 * count:
        raise ProgramRefused(f"{INITIAL} is not the {count} float32 numbers of the manifest")
    initial = np.frombuffer(data, "<f4", offset=file.tell()).astype(np.float32, copy=False)
    if not np.isfinite(initial).all():
        raise ProgramRefused(f"{INITIAL} holds numbers that are not finite")
    return initial


def _check_signature(graph: Graph, manifest: Manifest, step: str) -> None:
    """Inputs and outputs as the manifest says, in its order."""
    L, x = len(manifest.labels), manifest.input_shape
    if step == "train":
        state = _shapes((*manifest.parameters, *manifest.optimiser_state))
        target = (manifest.batch, manifest.target_width)
        wants = [*state, (manifest.batch, *x), target, ()], [*state, (), (manifest.batch, L)]
    else:
        B = manifest.predict_batch
        wants = [*_shapes(manifest.parameters), (B, *x)], [(B, L)]
    found = [graph.shapes[name] for name in graph.inputs], [graph.shapes[name] for name in graph.outputs]
    if found != wants:
        raise ValueError("its inputs and outputs are not those of the manifest: compile the program again")


def _shapes(tensors: tuple[Tensor, ...]) -> list[Shape]:
    return [tensor.shape for tensor in tensors]
