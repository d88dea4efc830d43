"""What a worker process does for one run: a device's round, the server's round, a measurement. Needs no network.

A worker is handed `Settings` and arrays; the data, the split and the programs it makes for itself, and keeps.
"""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from edge.runtime.choose import load_runtime
from edge.runtime.program import Program, load_program
from edge.runtime.protocol import Runtime
from edge.wire.manifest import Manifest
from edge.wire.streams import FLEET
from trainer.data import Dataset, DeviceData, Inputs, Samples, load_dataset
from trainer.partition import parse_split, resolve
from trainer.reference.methods import method
from trainer.reference.settings import POOLED, RunError, Settings
from trainer.reference.site import Arrays, FloatArray, Message, Site
from trainer.shards import deal, device_names, left_over

INITIAL = 11
"""Last word of the seed of redrawn parameters: no `Purpose`, for no device draws them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    dataset: Dataset
    shards: tuple[DeviceData, ...]
    pool: Inputs
    """Unlabelled, held by all; empty where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A half of a round."""

    memory: Arrays
    message: Message
    cpu_s: float
    scores: dict[str, float]
    """Accuracy by test set, where it was to be measured: `common`, and `own` where each device has one."""


def device_round(  # noqa: PLR0917 - an engine hands over positions
    settings: Settings, number: int, round_: int, memory: Arrays, broadcast: Arrays, measure: bool
) -> Done:
    """Device `number`'s half."""
    site = site_of(settings, number, round_)
    began = time.thread_time()
    memory, message = method(settings.method).device(site, memory, broadcast)
    cpu_s = time.thread_time() - began
    if not all(np.isfinite(value).all() for value in memory.values() if value.dtype.kind == "f"):
        raise RunError(
            f"{settings.method}, {settings.split}, seed {settings.seed}: device {number} diverged in round {round_}; "
            "take a lower --lr"
        )
    return Done(memory=memory, message=message, cpu_s=cpu_s, scores=_scores(site) if measure else {})


def server_round(settings: Settings, round_: int, memory: Arrays, uploads: list[Arrays]) -> Done:
    """The server's half."""
    site = site_of(settings, None, round_)
    began = time.thread_time()
    memory, message = method(settings.method).server(site, memory, uploads)
    return Done(memory=memory, message=message, cpu_s=time.thread_time() - began, scores={})


def scores_of_model(settings: Settings, number: int, model: FloatArray | None) -> dict[str, float]:
    """Accuracy of a model (P,), or of the initial one, on the test sets of device `number`."""
    site = site_of(settings, number, 0)
    site.runtime.set_state(site.state)
    if model is not None:
        site.runtime.set_parameters(model)
    return _scores(site)


def _scores(site: Site) -> dict[str, float]:
    world = _world_of(site.settings)
    sets = {"common": world.dataset.test if not world.dataset.natural else _everybody(site.settings)}
    if world.dataset.natural:
        sets["own"] = world.shards[site.number].test
    return {name: _accuracy(site, samples) for name, samples in sets.items()}


def _accuracy(site: Site, samples: Samples) -> float:
    return float(np.mean(site.predict(samples.x).argmax(axis=1) == samples.y))


def site_of(settings: Settings, number: int | None, round_: int) -> Site:
    """Device `number` in a round; None: the server."""
    world = _world_of(settings)
    at = 0 if number is None else number
    folder = settings.programs[at % len(settings.programs)]
    program = _program(folder)
    model = settings.models[at % len(settings.models)] if settings.models else ""
    empty = Samples(x=world.dataset.pool.x[:0], y=world.dataset.pool.y[:0])
    return Site(
        settings=settings,
        device=FLEET if number is None else device_names(settings.devices)[number],
        number=at,
        round=round_,
        labels=len(program.manifest.labels),
        batch=program.manifest.batch,
        train=empty if number is None else world.shards[at].train,
        pool=world.pool,
        scale=world.dataset.scale,
        runtime=_runtime(folder, settings.runtime, model),
        state=program.initial if settings.initial == "program" else redraw(program.manifest, settings.seed),
    )


@lru_cache(maxsize=16)
def _program(folder: str) -> Program:
    return load_program(Path(folder))


@lru_cache(maxsize=16)
def _runtime(folder: str, name: str, model: str) -> Runtime:
    """One for all devices of this program in this process: a state is set before a round and read after it."""
    if name == "eager":
        from trainer.reference.eager import EagerRuntime

        return EagerRuntime(_program(folder).manifest, model)
    return load_runtime(_program(folder), name)


def redraw(manifest: Manifest, seed: int) -> FloatArray:
    """Initial state (S,) for a seed: U(-k, k), k = 1 / sqrt(fan in), as torch draws linear and convolution layers.

    A bias takes the fan-in of the weight before it. The optimiser's state begins at 0.
    """
    rng = np.random.Generator(np.random.PCG64([seed, INITIAL, zlib.crc32(manifest.name.encode())]))
    parts, fan_in = [], 1
    for tensor in manifest.parameters:
        if len(tensor.shape) > 1:
            fan_in = int(np.prod(tensor.shape[1:]))
        parts.append(rng.uniform(-1, 1, int(np.prod(tensor.shape))) / np.sqrt(fan_in))
    state = np.zeros(manifest.state_count, np.float32)
    state[: manifest.parameter_count] = np.concatenate(parts)
    return state


def _world_of(settings: Settings) -> World:
    return world(
        settings.data, settings.split, settings.devices, settings.samples, settings.seed, settings.method in POOLED
    )


@lru_cache(maxsize=8)
def _dataset(spec: str) -> Dataset:
    return load_dataset(spec)


@lru_cache(maxsize=8)
def world(data: str, split: str, devices: int, samples: int, seed: int, pooled: bool) -> World:  # noqa: PLR0917
    """Data dealt to devices, and the pool. Raises DataError, SplitError, RunError."""
    dataset = _dataset(data)
    parsed = resolve(parse_split(split), samples, dataset.label_count)
    natural = parsed.kind == "natural"
    shards = deal(dataset, parsed, devices=devices, samples=samples, seed=seed, own_test=natural)
    pool = dataset.pool.x[:0]
    if pooled:
        pool = left_over(dataset, parsed, devices=devices, samples=samples, seed=seed)
    if pooled and not len(pool):
        raise RunError("the method labels inputs that no device holds: leave some over, with fewer --devices")
    return World(dataset=dataset, shards=shards, pool=pool)


@lru_cache(maxsize=2)
def _everybody(settings: Settings) -> Samples:
    """The test samples of all devices of the fleet."""
    shards = _world_of(settings).shards
    return Samples(
        x=np.concatenate([device.test.x for device in shards]), y=np.concatenate([device.test.y for device in shards])
    )
