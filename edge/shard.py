"""A device's own data, one .npz of local samples, and the pool of shared inputs that a program may bring along.

    a shard     train_x (n, ...)   train_y (n,)   test_x (m, ...)   test_y (m,)   scale ()  optional
    pool.npz    x (M, ...)   scale ()  optional

Both are checked once and kept in the type they were stored in.

x may be uint8 or float16 (MNIST as uint8 takes 0.4 MB for 500 samples, as float32 1.6 MB); a batch becomes float32
and is multiplied by `scale` when it is drawn. Letters: n training samples, m test samples, M inputs
of the pool, L labels, B batch.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge.wire.manifest import POOL_FILE, Manifest

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]

MAX_POOL_BYTES = 64 * 2**20
"""Unpacked; 1,000 images of 28 x 28 bytes take 0.8 MB."""

_ARRAYS = ("train_x", "train_y", "test_x", "test_y")


class ShardError(ValueError):
    """The data file cannot be trained on; the message says what to change."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shard:
    train_x: NDArray[Any]
    """(n, *input_shape) as stored."""
    train_y: IntArray
    """(n,) labels, 0..L-1."""
    test_x: NDArray[Any]
    """(m, *input_shape) as stored; m may be 0."""
    test_y: IntArray
    scale: float
    """What a stored value is multiplied by."""

    @property
    def samples(self) -> int:
        """Of the training set: n."""
        return len(self.train_y)

    def counts(self, labels: int) -> NDArray[np.uint32]:
        """(L,) training samples of each label."""
        return np.bincount(self.train_y, minlength=labels).astype(np.uint32)

    def batch(self, indices: IntArray, size: int) -> tuple[FloatArray, IntArray]:
        """Training samples at `indices` (b,), b <= size -> x (size, *input_shape) padded with zeros, y (b,)."""
        stored, y = self.train_x.take(indices, axis=0), self.train_y.take(indices)
        scaled: FloatArray = (stored * np.float32(self.scale)).astype(np.float32, copy=False)  # (b, *input_shape)
        if len(indices) == size:
            return scaled, y
        x = np.zeros((size, *self.train_x.shape[1:]), np.float32)
        x[: len(indices)] = scaled
        return x, y

    def test_batches(self, size: int) -> Iterator[tuple[FloatArray, IntArray]]:
        """The test set in order, at most `size` samples at a time: x (b, *input_shape), y (b,)."""
        for start in range(0, len(self.test_y), size):
            part = slice(start, start + size)
            x = np.multiply(self.test_x[part], np.float32(self.scale), dtype=np.float32, casting="unsafe")
            yield x, self.test_y[part]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pool:
    """Inputs without labels, the same on every device."""

    x: NDArray[Any]
    """(M, *input_shape) as stored."""
    scale: float

    def batch(self, indices: IntArray) -> FloatArray:
        """Inputs at `indices` (b,) -> (b, *input_shape)."""
        x: FloatArray = np.multiply(self.x[indices], np.float32(self.scale), dtype=np.float32, casting="unsafe")
        return x


def load_pool(data: bytes, manifest: Manifest) -> Pool:
    """The program's `pool.npz`. Raises ShardError that says what is wrong with it."""
    path = Path(POOL_FILE)
    arrays = _read_arrays(path, io.BytesIO(data), ("x",), limit=MAX_POOL_BYTES)
    if "x" not in arrays or len(arrays["x"]) == 0:
        raise ShardError(f"{path}: no x with inputs in it; make the program again with `potstill trainer pool`")
    x = _samples(path, "x", arrays["x"], manifest.input_shape)
    return Pool(x=x, scale=_scale(path, arrays.get("scale")))


def load_shard(path: Path, manifest: Manifest) -> Shard:
    """Read and check a shard for a program. Raises ShardError that says what to change."""
    arrays = _read(path)
    missing = [name for name in _ARRAYS if name not in arrays]
    if missing:
        raise ShardError(
            f"{path}: no {', '.join(missing)}; a shard holds {', '.join(_ARRAYS)} (test sets may be empty)"
        )
    shard = Shard(
        train_x=_samples(path, "train_x", arrays["train_x"], manifest.input_shape),
        train_y=_labels(path, "train_y", arrays["train_y"], len(manifest.labels)),
        test_x=_samples(path, "test_x", arrays["test_x"], manifest.input_shape),
        test_y=_labels(path, "test_y", arrays["test_y"], len(manifest.labels)),
        scale=_scale(path, arrays.get("scale")),
    )
    if len(shard.train_y) == 0:
        raise ShardError(f"{path}: the training set is empty; give this device at least one sample")
    for part, x, y in (("train", shard.train_x, shard.train_y), ("test", shard.test_x, shard.test_y)):
        if len(x) != len(y):
            raise ShardError(f"{path}: {part}_x has {len(x)} samples and {part}_y {len(y)}; they must be equal")
    return shard


def _read(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as file:
            return _read_arrays(path, file, _ARRAYS)
    except FileNotFoundError as problem:
        raise ShardError(f"{path}: no such file; give the device's .npz with --data") from problem
    except OSError as problem:
        raise ShardError(f"{path}: {problem}; see that this process may read it") from problem


def _read_arrays(
    path: Path, file: BinaryIO, names: tuple[str, ...], *, limit: int | None = None
) -> dict[str, NDArray[Any]]:
    try:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ShardError(f"{path}: one .npy array; save {', '.join(names)} with numpy.savez")
        unpacked = sum(info.file_size for info in archive.zip.infolist()) if archive.zip is not None else 0
        if limit is not None and unpacked > limit:
            raise ShardError(f"{path}: {unpacked} bytes unpacked, at most {limit} are read")
        return {name: archive[name] for name in archive.files if name in {*names, "scale"}}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as problem:
        if isinstance(problem, ShardError):
            raise
        raise ShardError(
            f"{path}: not a readable .npz of plain arrays ({problem}); write it with numpy.savez, without objects"
        ) from problem


def _samples(path: Path, name: str, x: NDArray[Any], input_shape: tuple[int, ...]) -> NDArray[Any]:
    """(n, ...) -> (n, *input_shape), in the stored type (float64 becomes float32)."""
    if x.ndim < 1 or x.dtype.kind not in "buif":
        raise ShardError(f"{path}: {name} holds {x.dtype} of shape {x.shape}; numbers of shape (n, ...) are wanted")
    shape = x.shape[1:]
    if not _same_layout(shape, input_shape):
        if prod(shape) == prod(input_shape):
            what = "only flattening and sides of 1 are put right, so save it in the program's order of axes"
        else:
            what = f"give a program for such samples (trainer compile --input-shape {','.join(map(str, shape))})"
        raise ShardError(f"{path}: a sample of {name} has shape {shape}, the program wants {input_shape}; {what}")
    if x.dtype.kind == "f" and not bool(np.isfinite(x).all()):
        raise ShardError(f"{path}: {name} holds NaN or infinity; clean the data before training")
    narrow = x.astype(np.float32) if x.dtype.itemsize > 4 else x
    return narrow.reshape(len(x), *input_shape)


def _same_layout(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Equal up to sides of 1, or one of the two is the other flattened."""
    squeezed, target = (tuple(side for side in s if side != 1) for s in (shape, wanted))
    flat = min(len(squeezed), len(target)) <= 1
    return prod(shape) == prod(wanted) and (squeezed == target or flat)


def _labels(path: Path, name: str, y: NDArray[Any], labels: int) -> IntArray:
    if y.ndim != 1 or (y.dtype.kind not in "ui" and y.size):
        raise ShardError(f"{path}: {name} holds {y.dtype} of shape {y.shape}; whole numbers of shape (n,) are wanted")
    if y.size and not 0 <= int(y.min()) <= int(y.max()) < labels:
        raise ShardError(
            f"{path}: {name} runs from {y.min()} to {y.max()}, the program's labels from 0 to {labels - 1}; "
            "number the labels in the program's order"
        )
    return y.astype(np.int64)


def _scale(path: Path, scale: NDArray[Any] | None) -> float:
    if scale is None:
        return 1.0
    if scale.ndim != 0 or scale.dtype.kind not in "uif" or not np.isfinite(scale) or float(scale) <= 0:
        raise ShardError(f"{path}: scale is {scale!r}; one positive number is wanted, such as 1/255 for bytes")
    return float(scale)
