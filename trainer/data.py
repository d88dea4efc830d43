"""Data sets: what the fleet trains on and is tested on. Read from disk or from scikit-learn, never downloaded.

`digits` is in scikit-learn; `mnist:DIR` reads the official IDX files, `npz:DIR` one .npz a device (data that is
federated by nature). Nothing here unpickles. Formats and where to get the files: docs/data.md.

Letters: n samples, L labels.
"""

from __future__ import annotations

import gzip
import zipfile
import zlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

Inputs: TypeAlias = NDArray[Any]
"""(n, ...) uint8, float16 or float32, as stored; a shard's `scale` brings it to what the model takes."""
Labels: TypeAlias = NDArray[np.uint8]

DIGITS_POOL = 1000
"""Of scikit-learn's 1,797 digits: this many to deal to devices, the other 797 are the common test set."""

MNIST_POOL, MNIST_PUBLIC, MNIST_TEST = slice(0, 5000), slice(5000, 6000), slice(6000, 10000)
"""Of the shuffled t10k files: to deal, for the methods that need a shared pool, to test."""

SHUFFLE_SEED = 12345
"""Of the fixed shuffles below: the same pool and the same test set in every run of every version."""

MNIST_SIDE = 28
SHARD_KEYS = ("train_x", "train_y", "test_x", "test_y")


class DataError(ValueError):
    """The data is not there or not what it should be. The message says which files are expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    x: Inputs
    y: Labels
    """(n,)"""

    def __post_init__(self) -> None:
        if self.y.ndim != 1 or len(self.x) != len(self.y):
            raise ValueError(f"{len(self.x)} inputs and {self.y.shape} labels: one label a sample")

    def __len__(self) -> int:
        return len(self.y)

    def take(self, indices: NDArray[np.int64]) -> Samples:
        return Samples(x=self.x[indices], y=self.y[indices])


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceData:
    """What one device holds, and what it is tested on."""

    train: Samples
    test: Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    name: str
    label_count: int
    """L: labels are 0 .. L-1."""
    scale: float
    """Inputs are multiplied by it after conversion to float32."""
    pool: Samples
    """To be dealt to the devices."""
    test: Samples
    """Common to all devices; none of it is in the pool."""
    public: Samples | None = None
    """Put aside for methods with a shared, unlabelled pool; in neither pool nor test. Its labels are for checks."""
    natural: tuple[DeviceData, ...] = ()
    """One entry a device where the data is federated by nature; pool and test are then its concatenation."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return tuple(self.pool.x.shape[1:])


def load_dataset(spec: str) -> Dataset:
    """`digits`, `mnist:DIR` or `npz:DIR`. Raises DataError."""
    kind, _, folder = spec.partition(":")
    if spec == "digits":
        return load_digits()
    if kind == "mnist" and folder:
        return load_mnist(Path(folder))
    if kind == "npz" and folder:
        return load_npz(Path(folder))
    if kind == "features" and folder:
        return with_features(load_npz(Path(folder)))
    raise DataError(
        f"unknown data {spec!r}: give digits, mnist:DIR (IDX files), npz:DIR (one .npz a device) or features:DIR "
        "(the same, of sensor windows)"
    )


# ---------------------------------------------------------------- scikit-learn's digits


def load_digits() -> Dataset:
    """1,797 handwritten digits, 8x8, grey values 0-16 (Alpaydin & Kaynak 1998, UCI; in scikit-learn, BSD)."""
    try:  # its file alone: importing scikit-learn takes two seconds of a processor, reading the file 4 ms
        file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
        rows = np.loadtxt(str(file), np.uint8, delimiter=",")  # (n, 64 + 1)
    except (PackageNotFoundError, FileNotFoundError) as problem:
        raise DataError("the digits come with scikit-learn: pip install 'potstill[demo]'") from problem
    samples = Samples(x=rows[:, :64].reshape(-1, 1, 8, 8), y=rows[:, 64])
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(samples))
    return Dataset(
        name="digits",
        label_count=10,
        scale=1 / 16,
        pool=samples.take(order[:DIGITS_POOL]),
        test=samples.take(order[DIGITS_POOL:]),
    )


# ---------------------------------------------------------------- MNIST


def load_mnist(folder: Path) -> Dataset:
    """The official IDX files (LeCun, Cortes, Burges; CC BY-SA 3.0): t10k alone, or train and t10k.

    The test set is the same 4,000 t10k images either way (positions 6000-9999 of a fixed shuffle). The device pool is
    train's 60,000 images where they are there, else positions 0-4999 of that shuffle.
    """
    t10k = _mnist_pair(folder, "t10k")
    if t10k is None:
        raise DataError(_mnist_expected(folder, "no t10k files"))
    if len(t10k) < MNIST_TEST.stop:
        raise DataError(f"{folder}: {len(t10k)} t10k images, the official file has {MNIST_TEST.stop}")
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(t10k))
    return Dataset(
        name="mnist",
        label_count=10,
        scale=1 / 255,
        pool=_mnist_pair(folder, "train") or t10k.take(order[MNIST_POOL]),
        test=t10k.take(order[MNIST_TEST]),
        public=t10k.take(order[MNIST_PUBLIC]),
    )


def _mnist_pair(folder: Path, part: str) -> Samples | None:
    """Images (n, 1, 28, 28) and labels of one part; None where neither file is there."""
    images, labels = _mnist_file(folder, part, "images", 3), _mnist_file(folder, part, "labels", 1)
    if images is None and labels is None:
        return None
    if images is None or labels is None:
        raise DataError(_mnist_expected(folder, f"only one of the two {part} files"))
    x, y = read_idx(images, dimensions=3), read_idx(labels, dimensions=1)
    if x.shape[1:] != (MNIST_SIDE, MNIST_SIDE):
        raise DataError(f"{images}: images of {x.shape[1]} x {x.shape[2]} pixels, MNIST's are 28 x 28")
    if len(x) != len(y):
        raise DataError(f"{images} holds {len(x)} images and {labels} {len(y)} labels: files of different sets?")
    if len(y) and y.max() > 9:
        raise DataError(f"{labels}: a label {y.max()}, MNIST's are 0-9")
    return Samples(x=x[:, np.newaxis], y=y)  # (n, 28, 28) -> (n, 1, 28, 28)


def _mnist_file(folder: Path, part: str, what: str, dimensions: int) -> Path | None:
    names = [f"{part}-{what}{dot}idx{dimensions}-ubyte{end}" for dot in "-." for end in ("", ".gz")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _mnist_expected(folder: Path, finding: str) -> str:
    if not folder.is_dir():
        finding = "no such folder"
    return (
        f"{folder}: {finding}. Expected t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte (each may end in .gz); "
        "train-images-idx3-ubyte and train-labels-idx1-ubyte beside them are used too"
    )


def read_idx(path: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes, gzip or not. Raises DataError.

    Format (yann.lecun.com/exdb/mnist): two zero bytes, type 0x08 (unsigned byte), the number of dimensions, each
    dimension as a big-endian uint32, then the values in row-major order.
    """
    try:
        with path.open("rb") as raw:
            if raw.read(2) != b"\x1f\x8b":
                raw.seek(0)
                return _parse_idx(raw, path, dimensions)
        with gzip.open(path) as unpacked:
            return _parse_idx(unpacked, path, dimensions)  # type: ignore[arg-type]
    except (OSError, EOFError, zlib.error) as problem:
        raise DataError(f"{path}: cannot be read ({problem}): get the file again") from problem


def _parse_idx(stream: BinaryIO, path: Path, dimensions: int) -> NDArray[np.uint8]:
    head = stream.read(4 + 4 * dimensions)
    if head[:4] != bytes([0, 0, 8, dimensions]):
        raise DataError(f"{path}: starts with {head[:4].hex() or 'nothing'}, an IDX file with 000008{dimensions:02x}")
    if len(head) != 4 + 4 * dimensions:
        raise DataError(f"{path}: ends inside its header: get the file again")
    shape = tuple(int(side) for side in np.frombuffer(head, ">u4", offset=4))
    size = int(np.prod(shape, dtype=np.uint64)) if max(shape) < 2**24 else -1
    if not 0 < size <= 2**31:
        raise DataError(f"{path}: its header asks for {' x '.join(map(str, shape))} values: not an official file")
    body = stream.read(size + 1)
    if len(body) != size:
        found = "more" if len(body) > size else str(len(body))
        raise DataError(f"{path}: {size} values expected after the header, {found} found: get the file again")
    return np.frombuffer(body, np.uint8).reshape(shape)


# ---------------------------------------------------------------- one .npz a device


def load_npz(folder: Path) -> Dataset:
    """Data that is federated by nature: every .npz of the folder is one device, in the order of their names."""
    files = sorted(folder.glob("*.npz"))
    if not files:
        finding = "no .npz files" if folder.is_dir() else "no such folder"
        raise DataError(f"{folder}: {finding}. Expected one .npz a device with {', '.join(SHARD_KEYS)}")
    loaded = [read_shard(path) for path in files]
    (_, scale), shape = loaded[0], loaded[0][0].train.x.shape[1:]
    for path, (device, its_scale) in zip(files, loaded, strict=True):
        if device.train.x.shape[1:] != shape or its_scale != scale:
            raise DataError(
                f"{path}: samples {device.train.x.shape[1:]} with scale {its_scale:g}, "
                f"in {files[0].name} they are {shape} with {scale:g}: all devices must agree"
            )
    devices = tuple(device for device, _ in loaded)
    pool, test = _concatenate([d.train for d in devices]), _concatenate([d.test for d in devices])
    return Dataset(
        name=folder.resolve().name,
        label_count=int(max(pool.y.max(), test.y.max())) + 1,
        scale=scale,
        pool=pool,
        test=test,
        natural=devices,
    )


FEATURES = 15
"""Of a channel."""


def with_features(dataset: Dataset) -> Dataset:
    """Windows (n, C, T) of sensors as 15 features a channel, (n, 15 C): for small dense models.

    Each feature is standardised by mean and deviation over the last sixth of the devices (of 30 persons five, those
    that a fleet of 25 leaves over as the pool): what a workstation knows before the fleet starts. Raises DataError.
    """
    if len(dataset.input_shape) != 2 or len(dataset.natural) < 2:
        raise DataError(f"{dataset.name}: features are made of windows (n, C, T) of at least two devices")
    rest = dataset.natural[-max(1, len(dataset.natural) // 6) :]
    known = np.concatenate([window_features(device.train.x) for device in rest])
    mean, deviation = known.mean(axis=0), known.std(axis=0) + 1e-6

    def made(samples: Samples) -> Samples:
        x = (window_features(samples.x) - mean) / deviation
        return Samples(x=np.clip(x, -10, 10).astype(np.float32), y=samples.y)

    natural = tuple(DeviceData(train=made(device.train), test=made(device.test)) for device in dataset.natural)
    return Dataset(
        name=f"{dataset.name} features",
        label_count=dataset.label_count,
        scale=1.0,
        pool=_concatenate([device.train for device in natural]),
        test=_concatenate([device.test for device in natural]),
        natural=natural,
    )


def window_features(x: Inputs) -> NDArray[np.float64]:
    """(n, C, T) -> (n, 15 C): moments, order statistics, differences, crossings and bands of the spectrum."""
    x = x.astype(np.float64)
    centred = x - x.mean(axis=2, keepdims=True)  # (n, C, T)
    steps = np.diff(x, axis=2)
    power = np.abs(np.fft.rfft(centred, axis=2))[:, :, 1:] ** 2 / x.shape[2]  # (n, C, T/2)
    low, middle, high = (band.sum(axis=2) for band in np.split(power, [4, 16], axis=2))
    columns = [
        x.mean(axis=2),
        x.std(axis=2),
        *np.quantile(x, [0, 0.25, 0.5, 0.75, 1], axis=2),
        np.abs(centred).mean(axis=2),
        np.abs(steps).mean(axis=2),
        steps.std(axis=2),
        np.abs(np.diff(np.sign(centred), axis=2)).mean(axis=2),
        np.log(low + 1e-6),
        np.log(middle + 1e-6),
        np.log(high + 1e-6),
        power.argmax(axis=2),
    ]
    assert len(columns) == FEATURES
    return np.stack(columns, axis=2).reshape(len(x), -1)  # (n, C, 15) -> (n, 15 C)


def read_shard(path: Path) -> tuple[DeviceData, float]:
    """A device's .npz, checked: -> its samples, and the scale (1 where the file has none). Raises DataError."""
    try:
        with path.open("rb") as stream, np.lib.npyio.NpzFile(stream, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files if key in {*SHARD_KEYS, "scale"}}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as problem:
        raise DataError(f"{path}: not an .npz of plain arrays ({problem})") from problem
    missing = [key for key in SHARD_KEYS if key not in arrays]
    if missing:
        raise DataError(f"{path}: no {', '.join(missing)}; expected {', '.join(SHARD_KEYS)} and optionally scale")
    scale = arrays.get("scale", np.float64(1))
    if scale.shape != () or scale.dtype.kind not in "fiu" or not np.isfinite(scale) or scale <= 0:
        raise DataError(f"{path}: scale is one positive number")
    train, test = (_checked(path, part, arrays[f"{part}_x"], arrays[f"{part}_y"]) for part in ("train", "test"))
    if train.x.shape[1:] != test.x.shape[1:]:
        raise DataError(f"{path}: train samples are {train.x.shape[1:]}, test samples {test.x.shape[1:]}")
    return DeviceData(train=train, test=test), float(scale)


def _checked(path: Path, part: str, x: Inputs, y: NDArray[Any]) -> Samples:
    if x.ndim < 2 or y.shape != (len(x),) or len(x) == 0:
        raise DataError(f"{path}: {part}_x is (n, ...) and {part}_y (n,), n >= 1; found {x.shape} and {y.shape}")
    if x.dtype not in (np.uint8, np.float16, np.float32, np.float64):
        raise DataError(f"{path}: {part}_x is {x.dtype}; uint8, float16, float32 or float64 can be trained on")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise DataError(f"{path}: {part}_x holds NaN or infinity: clean the data first")
    if y.dtype.kind not in "iu" or y.min() < 0 or y.max() > 255:
        raise DataError(f"{path}: {part}_y is whole numbers 0-255")
    return Samples(x=x.astype(np.float32) if x.dtype == np.float64 else x, y=y.astype(np.uint8))


def _concatenate(parts: list[Samples]) -> Samples:
    return Samples(x=np.concatenate([part.x for part in parts]), y=np.concatenate([part.y for part in parts]))
