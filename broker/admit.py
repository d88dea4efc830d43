"""Checks on what a device sends, before the round machine sees it. Pure: bytes in, message or `FrameError` out.

The codec has already refused what is wrong by itself; here a frame is held against the run: its number, its label
schema, its method, its bits, its shape. Which *round* it is for is the round machine's business (`broker.round`). The
caller counts `FrameError.reason`, acknowledges the message (sending it again would change nothing) and goes on.
"""

from __future__ import annotations

from typing import TypeVar

from broker.round import RunSettings
from edge.wire.codec import (
    METER_LIMIT,
    SMALL_LIMIT,
    FrameError,
    Reason,
    birth_limit,
    decode,
    parameters_limit,
    upload_limit,
)
from edge.wire.messages import Birth, Done, Gone, Message, Meter, Method, ParameterUpload, Report, Upload
from edge.wire.rows import FLOAT_BITS

M = TypeVar("M", bound=Message)


def upload(frame: bytes, run: RunSettings) -> Upload | ParameterUpload | Done:
    """What a device gives to a round of this run. Raises `FrameError`."""
    if run.method is Method.FD:
        return _logits(frame, run)
    if run.method is Method.FL:
        return _parameters(frame, run)
    done = _of_kind(Done, frame, SMALL_LIMIT)
    _check_run(done.run, run)
    return done


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


def _logits(frame: bytes, run: RunSettings) -> Upload:
    # The limit is that of the widest rows, so that a device with another plan's bits is told so.
    message = _of_kind(Upload, frame, upload_limit(run.labels, max(FLOAT_BITS)))
    _check_run(message.run, run)
    _check_schema(message.check, run)
    if len(message.counts) != run.labels:
        raise FrameError(Reason.SHAPE, f"{len(message.counts)} labels, the run has {run.labels}")
    if message.logits.bits != run.bits:
        raise FrameError(Reason.BITS, f"{message.logits.bits} bits, the plan says {run.bits}")
    return message


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
