"""A torch module -> the files of a program: graphs, ONNX, .tflite, initial state, manifest with every file's hash."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
from torch import nn

from edge.runtime.graph import FloatArray, Graph
from edge.runtime.program import INITIAL, MANIFEST
from edge.wire.manifest import FORMAT, Manifest
from trainer.compile.lower import CROSS_ENTROPY, PREDICT_BATCH, layout, lower
from trainer.compile.optimise import Optimiser, optimiser_state

Writer = Callable[[Graph], bytes]

_WRITERS = {
    "onnx": ("trainer.compile.onnx_writer", "write_onnx"),
    "tflite": ("trainer.compile.tflite_writer", "write_tflite"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    manifest: Manifest
    files: dict[str, bytes]
    """All files of the program's folder, the manifest among them."""


def pack(
    module: nn.Module,
    *,
    name: str,
    input_shape: tuple[int, ...],
    labels: tuple[str, ...],
    optimiser: Optimiser,
    batch: int,
    predict_batch: int = PREDICT_BATCH,
    loss: str = CROSS_ENTROPY,
    clip: float = 0.0,
) -> Packed:
    """Raises `Unsupported` (a ValueError) where the module cannot be lowered."""
    train, predict = lower(
        module,
        input_shape=input_shape,
        labels=len(labels),
        batch=batch,
        optimiser=optimiser,
        predict_batch=predict_batch,
        loss=loss,
        clip=clip,
    )
    parameters = layout(module)
    state = optimiser_state(optimiser, parameters)
    files = {INITIAL: _npy(_initial(module, sum(int(np.prod(tensor.shape, dtype=np.int64)) for tensor in state)))}
    for step, graph in (("train", train), ("predict", predict)):
        files[f"{step}.graph.json"] = graph.to_json().encode()
        files |= {f"{step}.{kind}": write(graph) for kind, write in _writers().items()}
    manifest = Manifest(
        format=FORMAT,
        name=name,
        labels=labels,
        input_shape=input_shape,
        batch=batch,
        predict_batch=predict_batch,
        optimiser=optimiser,
        parameters=parameters,
        optimiser_state=state,
        files={name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())},
        loss=loss,
        clip=clip,
    )
    return Packed(manifest=manifest, files=files | {MANIFEST: manifest.to_json().encode()})


def write_folder(packed: Packed, folder: Path) -> None:
    """The manifest last: a folder whose writing was cut short is refused, not half-believed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    for name, data in packed.files.items():
        (folder / name).write_bytes(data)


def _writers() -> dict[str, Writer]:
    return {kind: getattr(import_module(module), function) for kind, (module, function) in _WRITERS.items()}


def _initial(module: nn.Module, extra: int) -> FloatArray:
    """(S,): the module's parameters as they are now, then zeros."""
    flat = [p.detach().numpy().ravel() for _, p in module.named_parameters()]
    return np.concatenate([*flat, np.zeros(extra, np.float32)]).astype(np.float32)


def _npy(array: FloatArray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=(1, 0), allow_pickle=False)
    return file.getvalue()
