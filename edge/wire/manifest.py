"""A program's manifest: what it is called on the wire, its labels, its shapes. Read by device and broker alike.

Pure: text in, value out. Loading and checking the files beside it is `edge.runtime.program`'s.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from edge.wire.messages import DIGEST_BYTES

FORMAT = 1
"""Version of the program format; a device refuses any other."""

POOL_FILE = "pool.npz"
"""Of a program: inputs that every device of a fleet has, for `share`."""

OPTIMISERS = ("sgd", "momentum", "adam")
LOSSES = ("cross-entropy", "squared-error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """One tensor of the state, in the order of the flat vector."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    format: int
    name: str
    """Letters, digits, '-', '_' and '.', at most 64."""
    labels: tuple[str, ...]
    """Names of the L labels, in order: the label schema."""
    input_shape: tuple[int, ...]
    """Of one sample, without the batch."""
    batch: int
    """B of the train graph."""
    predict_batch: int
    optimiser: str
    parameters: tuple[Tensor, ...]
    """The model's parameters, in the order of the flat vector (P,)."""
    optimiser_state: tuple[Tensor, ...]
    """Extra tensors that travel with the parameters; empty for SGD."""
    files: dict[str, str]
    """File name beside the manifest -> SHA-256, hexadecimal."""
    loss: str = LOSSES[0]
    """Of the train graph: soft-target cross entropy, or squared error (a critic; `edge.runtime.protocol`)."""
    clip: float = 0.0
    """Largest norm of the whole gradient; 0: as it is."""

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"program format {self.format}, this version reads {FORMAT}: compile the program again")
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", self.name):
            raise ValueError(f"program name {self.name!r}: letters, digits, '-', '_' and '.', at most 64")
        if self.loss not in LOSSES:
            raise ValueError(f"loss {self.loss!r}: one of {', '.join(LOSSES)}")
        if len(self.labels) < self._least_labels or len(set(self.labels)) != len(self.labels):
            raise ValueError("a program has at least two labels (squared error: one output), each with its own name")
        if not 0 <= self.clip < math.inf:
            raise ValueError("clip is the largest norm of a gradient, or 0 for none")
        if self.optimiser not in OPTIMISERS:
            raise ValueError(f"optimiser {self.optimiser!r}: one of {', '.join(OPTIMISERS)}")
        if self.batch < 1 or self.predict_batch < 1 or min(self.input_shape, default=1) < 1:
            raise ValueError("batches and input shape are positive")
        if any("/" in name or name.startswith(".") for name in self.files):
            raise ValueError("a program's files lie beside its manifest")

    @property
    def digest(self) -> bytes:
        """First 4 bytes of the SHA-256 over the canonical manifest, which names every file's SHA-256."""
        return hashlib.sha256(self.to_json().encode()).digest()[:DIGEST_BYTES]

    @property
    def schema(self) -> bytes:
        """First 4 bytes of the SHA-256 over the labels' names in order."""
        return _schema(self.labels)

    @property
    def _least_labels(self) -> int:
        return 2 if self.loss == LOSSES[0] else 1

    @property
    def target_width(self) -> int:
        """Of a row that the train graph takes: L, or 2 L for squared error (values, then their weights)."""
        return len(self.labels) * (1 if self.loss == LOSSES[0] else 2)

    @property
    def sample_size(self) -> int:
        """Numbers of one sample."""
        return _size(self.input_shape)

    @property
    def parameter_count(self) -> int:
        """P."""
        return sum(_size(tensor.shape) for tensor in self.parameters)

    @property
    def state_count(self) -> int:
        """S: parameters and optimiser state."""
        return self.parameter_count + sum(_size(tensor.shape) for tensor in self.optimiser_state)

    def to_json(self) -> str:
        """Canonical: sorted keys, no white space to choose; a loss and a clip that are the default are not named."""
        fields = asdict(self)
        if self.loss == LOSSES[0]:
            del fields["loss"]
        if self.clip == 0:
            del fields["clip"]
        return json.dumps(fields, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


@lru_cache(maxsize=8)
def _schema(labels: tuple[str, ...]) -> bytes:
    """Asked for at every message."""
    return hashlib.sha256(json.dumps(labels, ensure_ascii=False).encode()).digest()[:DIGEST_BYTES]


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size


def parse_manifest(text: str) -> Manifest:
    """Raises ValueError that says what is wrong; never anything else."""
    try:
        raw = json.loads(text)
        return Manifest(
            **{
                **_fields(raw),
                "labels": tuple(str(label) for label in raw["labels"]),
                "input_shape": tuple(int(side) for side in raw["input_shape"]),
                "parameters": _tensors(raw["parameters"]),
                "optimiser_state": _tensors(raw["optimiser_state"]),
                "clip": float(raw.get("clip", 0)),
            }
        )
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError, json.JSONDecodeError) as problem:
        raise ValueError(f"not a program manifest: {problem}") from problem


def _fields(raw: dict[str, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in raw.items()}


def _tensors(raw: list[dict[str, Any]]) -> tuple[Tensor, ...]:
    return tuple(Tensor(name=str(t["name"]), shape=tuple(int(side) for side in t["shape"])) for t in raw)
