"""Checks on what a device sends, before the round machine sees it. Pure: bytes in, message or `FrameError` out.

The codec has already refused what is wrong by itself; here a frame is held against the run: its number, its label
schema, its method, its bits, its shape. Which *round* it is for is the round machine's business (`broker.round`). The
caller counts `FrameError.reason`, acknowledges the message (sending it again would change nothing) and goes on.
"""

from __future__ import annotations

from typing import TypeVar

from broker.settings import RunSettings
from edge.wire.codec import FrameError, Reason, decode
from edge.wire.labels import read_votes, votes_bytes
from edge.wire.limits import (
    METER_LIMIT,
    SMALL_LIMIT,
    birth_limit,
    label_upload_limit,
    memory_limit,
    pairs_limit,
    parameters_limit,
    seed_upload_limit,
    upload_limit,
)
from edge.wire.messages import (
    AnyUpload,
    Birth,
    Done,
    Gone,
    LabelUpload,
    MemoryUpload,
    Message,
    Meter,
    Method,
    PairsUpload,
    ParameterUpload,
    Report,
    Seeds,
    SeedUpload,
    Upload,
)
from edge.wire.options import AgentOptions, FldOptions, ShareOptions
from edge.wire.proxy import POLICY_BITS
from edge.wire.rows import FLOAT_BITS

M = TypeVar("M", bound=Message)


def upload(frame: bytes, run: RunSettings) -> AnyUpload:
    """What a device gives to a round of this run. Raises `FrameError`."""
    if run.method in {Method.FL, Method.FRL}:
        return _parameters(frame, run)
    if isinstance(run.options, AgentOptions):
        return _memory(frame, run, run.options)
    if run.method is Method.ALONE:
        done = _of_kind(Done, frame, SMALL_LIMIT)
        _check_run(done.run, run)
        return done
    message = decode(frame, limit=_limit(run))
    if isinstance(message, LabelUpload) and isinstance(run.options, ShareOptions):
        _check_means(message.means, run)
        _check_votes(message.labels, run.options, run)
        return message
    if isinstance(message, SeedUpload) and isinstance(run.options, FldOptions):
        _check_means(message.means, run)
        _check_seeds(message.seeds, run.options, run)
        return message
    if not isinstance(message, Upload):
        raise _unexpected(message, "Upload")
    _check_means(message, run)
    return message


def _limit(run: RunSettings) -> int:
    """Bytes of the longest upload; of the widest rows, so that a device with another plan's bits is told so."""
    widest = max(FLOAT_BITS)
    if isinstance(run.options, ShareOptions):
        return label_upload_limit(run.labels, widest, votes_bytes(run.options, run.labels))
    if isinstance(run.options, FldOptions):
        return seed_upload_limit(run.labels, widest, run.options.seeds, run.size)
    return upload_limit(run.labels, widest)


def birth(frame: bytes, run: RunSettings) -> Birth | Gone:
    """Whether a device is there. Raises `FrameError`. Another program is for the round machine, which says so."""
    message = decode(frame, limit=birth_limit(run.labels))
    if isinstance(message, Birth):
        if message.schema == run.schema and len(message.samples) != run.labels:
            raise FrameError(Reason.SHAPE, f"samples of {len(message.samples)} labels, the run has {run.labels}")
        return message
    if isinstance(message, Gone):
        return message
    raise _unexpected(message, "Birth or Gone")


def report(frame: bytes, run: RunSettings) -> Report | Meter:
    """A device's instrumentation. Raises `FrameError`."""
    message = decode(frame, limit=METER_LIMIT)
    if not isinstance(message, Report | Meter):
        raise _unexpected(message, "Report or Meter")
    _check_run(message.run, run)
    return message


def _check_means(means: Upload, run: RunSettings) -> None:
    _check_run(means.run, run)
    _check_schema(means.check, run)
    if len(means.counts) != run.labels:
        raise FrameError(Reason.SHAPE, f"{len(means.counts)} labels, the run has {run.labels}")
    if means.logits.bits != run.bits:
        raise FrameError(Reason.BITS, f"{means.logits.bits} bits, the plan says {run.bits}")


def _check_votes(labels: bytes, options: ShareOptions, run: RunSettings) -> None:
    try:
        read_votes(labels, options, run.labels)
    except ValueError as problem:
        raise FrameError(Reason.RANGE, f"labels of shared inputs: {problem}") from problem


def _check_seeds(seeds: Seeds, options: FldOptions, run: RunSettings) -> None:
    count, size = seeds.x.shape
    if size != run.size or count > options.seeds:
        raise FrameError(
            Reason.SHAPE, f"{count} seeds of {size} numbers, at most {options.seeds} of {run.size} are asked for"
        )
    if len(seeds.second) != (0 if run.method is Method.FLD else count):
        raise FrameError(Reason.SHAPE, f"seeds are {'raw' if run.method is Method.FLD else 'mixed pairs'} in this run")
    if max(int(seeds.first.max()), int(seeds.second.max(initial=0))) >= run.labels:
        raise FrameError(Reason.RANGE, f"a seed's label beyond the {run.labels} there are")


def _memory(frame: bytes, run: RunSettings, options: AgentOptions) -> MemoryUpload | PairsUpload:
    """`run.size` is the number of components of a state, `run.labels` that of the actions."""
    if run.method is Method.PD:
        raw = _of_kind(PairsUpload, frame, pairs_limit(run.size + run.labels - 1))
        _check_run(raw.run, run)
        _check_schema(raw.check, run)
        if (raw.pairs.components, raw.pairs.numbers.shape[1]) != (run.size, run.size + run.labels - 1):
            raise FrameError(Reason.SHAPE, f"pairs of other than {run.size} components and {run.labels} actions")
        return raw
    told = _of_kind(MemoryUpload, frame, memory_limit(options.bins**run.size, run.labels, max(POLICY_BITS)))
    _check_run(told.run, run)
    _check_schema(told.check, run)
    memory = told.memory
    if (memory.bins, memory.components, memory.actions) != (options.bins, run.size, run.labels):
        raise FrameError(
            Reason.SHAPE, f"a memory of other than {options.bins} bins, {run.size} components, {run.labels} actions"
        )
    if memory.bits != run.bits:
        raise FrameError(Reason.BITS, f"{memory.bits} bits, the plan says {run.bits}")
    return told


def _parameters(frame: bytes, run: RunSettings) -> ParameterUpload:
    message = _of_kind(ParameterUpload, frame, parameters_limit(run.parameters))
    _check_run(message.run, run)
    _check_schema(message.check, run)
    if len(message.parameters) != run.parameters:
        raise FrameError(Reason.SHAPE, f"{len(message.parameters)} parameters, the program has {run.parameters}")
    return message


def _of_kind(kind: type[M], frame: bytes, limit: int) -> M:
    message = decode(frame, limit=limit)
    if not isinstance(message, kind):
        raise _unexpected(message, kind.__name__)
    return message


def _unexpected(message: Message, expected: str) -> FrameError:
    return FrameError(Reason.UNEXPECTED, f"{type(message).__name__}, expected {expected}")


def _check_run(number: int, run: RunSettings) -> None:
    if number != run.run:
        raise FrameError(Reason.RUN, f"run {number}, this is run {run.run}")


def _check_schema(check: int, run: RunSettings) -> None:
    if check != int.from_bytes(run.schema[:2], "big"):
        raise FrameError(Reason.SCHEMA, f"label schema {check:04x}, the run's begins with {run.schema[:2].hex()}")
