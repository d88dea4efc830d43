"""Shard files: what one device is given to train and to be tested on (.npz, docs/data.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.data import Dataset, DeviceData, Inputs, Samples
from trainer.partition import Split, SplitError, partition

DEFAULT_SAMPLES = {"digits": 60, "mnist": 500}
"""Samples a device where none are asked for; other data is shared out whole."""


def default_samples(dataset: Dataset, devices: int) -> int:
    most = max(1, len(dataset.pool) // max(1, devices))
    return min(most, DEFAULT_SAMPLES.get(dataset.name, most))


def deal(
    dataset: Dataset, split: Split, *, devices: int, samples: int, seed: int, own_test: bool = False
) -> tuple[DeviceData, ...]:
    """One entry a device. Every device is tested on the common test set, or on its own where the data has one.

    `samples` means nothing for a natural split: a device keeps what it has. Raises SplitError.
    """
    if split.kind == "natural":
        return _natural(dataset, devices, own_test=own_test)
    if own_test:
        raise SplitError(f"split {split} has one common test set; a test set of each device's own needs split natural")
    shares = partition(
        split, dataset.pool.y, devices=devices, samples=samples, label_count=dataset.label_count, seed=seed
    )
    return tuple(DeviceData(train=dataset.pool.take(share), test=dataset.test) for share in shares)


def _natural(dataset: Dataset, devices: int, *, own_test: bool) -> tuple[DeviceData, ...]:
    if not dataset.natural:
        raise SplitError(f"{dataset.name} has no devices of its own: give iid, fd, mix2fld or dirichlet:ALPHA")
    if not 1 <= devices <= len(dataset.natural):
        raise SplitError(f"{devices} devices: {dataset.name} has files for 1 to {len(dataset.natural)}")
    chosen = dataset.natural[:devices]
    if own_test:
        return chosen
    common = Samples(
        x=np.concatenate([device.test.x for device in chosen]), y=np.concatenate([device.test.y for device in chosen])
    )
    return tuple(DeviceData(train=device.train, test=common) for device in chosen)


def left_over(dataset: Dataset, split: Split, *, devices: int, samples: int, seed: int) -> Inputs:
    """Inputs that no device trains on and nobody is tested on: the pool of the methods that label shared inputs.

    MNIST has 1,000 put aside; of data with devices of its own it is those of the devices that are not in the fleet;
    else what `deal` deals to nobody. May be empty. Raises SplitError.
    """
    if dataset.public is not None:
        return dataset.public.x
    if dataset.natural:
        rest = dataset.natural[devices:]
        return np.concatenate([device.train.x for device in rest]) if rest else dataset.pool.x[:0]
    shares = partition(
        split, dataset.pool.y, devices=devices, samples=samples, label_count=dataset.label_count, seed=seed
    )
    return np.asarray(dataset.pool.x[np.setdiff1d(np.arange(len(dataset.pool)), np.concatenate(shares))])


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardFile:
    device: str
    path: Path
    counts: tuple[int, ...]
    """(L,) training samples of each label."""
    test_samples: int


def device_names(devices: int) -> tuple[str, ...]:
    """Short, because they ride in every topic: d0, d1, ..."""
    return tuple(f"d{number}" for number in range(devices))


def write_shards(folder: Path, shards: tuple[DeviceData, ...], *, scale: float, label_count: int) -> list[ShardFile]:
    """`folder`/d0.npz, d1.npz, ...; raises FileExistsError where the folder holds .npz files already."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("*.npz")):
        raise FileExistsError(f"{folder} already holds .npz files: name another folder, or remove them first")
    files = []
    for device, shard in zip(device_names(len(shards)), shards, strict=True):
        path = folder / f"{device}.npz"
        with path.open("wb") as stream:
            np.savez_compressed(
                stream,
                train_x=shard.train.x,
                train_y=shard.train.y,
                test_x=shard.test.x,
                test_y=shard.test.y,
                scale=np.float32(scale),
            )
        counts = label_counts(shard.train.y, label_count)
        files.append(ShardFile(device=device, path=path, counts=counts, test_samples=len(shard.test)))
    return files


def label_counts(y: NDArray[np.uint8], label_count: int) -> tuple[int, ...]:
    """(n,) -> (L,)"""
    return tuple(int(count) for count in np.bincount(y, minlength=label_count))
