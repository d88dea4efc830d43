"""What the aggregator lets in, and the reason for everything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import admit
from broker.settings import RunSettings
from edge.wire.codec import FrameError, Reason, encode
from edge.wire.labels import pack_labels
from edge.wire.messages import (
    Birth,
    Done,
    Gone,
    LabelUpload,
    Message,
    Method,
    ParameterUpload,
    Report,
    Seat,
    Seeds,
    SeedUpload,
    Upload,
)
from edge.wire.options import FldOptions, ShareOptions
from edge.wire.rows import code_counts, code_rows, read_counts

FD = RunSettings(
    run=7, program=b"prog", schema=b"\x01\x02la", labels=10, parameters=5, devices=3, method=Method.FD, bits=4
)
FL, ALONE = replace(FD, method=Method.FL), replace(FD, method=Method.ALONE)
FLD = replace(FD, method=Method.FLD, size=6, options=FldOptions(seeds=4))
MIX = replace(FLD, method=Method.MIX2FLD)
SHARE = replace(FD, method=Method.SHARE, options=ShareOptions(inputs=7))
SOFT = replace(SHARE, options=ShareOptions(inputs=7, bits=4))


def logits(labels: int = 10, bits: int = 4, run: int = 7, check: int = 0x0102) -> Upload:
    counts = read_counts(code_counts(np.full(labels, 30)))
    rows = code_rows(np.full((labels, labels), 1 / labels), bits)
    return Upload(run=run, round=3, check=check, counts=counts, logits=rows)


def labelled(inputs: int = 7, means: Upload | None = None) -> LabelUpload:
    return LabelUpload(means=means or logits(), labels=pack_labels(np.arange(inputs) % 10, 10))


def softly(inputs: int = 7) -> LabelUpload:
    return LabelUpload(means=logits(), labels=code_rows(np.full((inputs, 10), 0.1), 4).data)


def with_seeds(
    count: int = 4, *, size: int = 6, label: int = 9, mixed: bool = False, means: Upload | None = None
) -> Message:
    first = np.full(count, label, np.uint32)
    second = np.full(count if mixed else 0, 0, np.uint32)
    seeds = Seeds(x=np.zeros((count, size), np.uint8), first=first, second=second, scale=1.0, offset=0.0)
    return SeedUpload(means=means or logits(), seeds=seeds)


def parameters(count: int = 5, run: int = 7, check: int = 0x0102) -> ParameterUpload:
    return ParameterUpload(run=run, round=3, check=check, samples=9, parameters=np.zeros(count, np.float32))


def born(labels: int = 10, schema: bytes = FD.schema) -> Birth:
    samples = np.full(labels, 2**32 - 1, np.uint32)
    text = "\N{GRINNING FACE}" * 64
    return Birth(profile=text, runtime=text, version=text, program=FD.program, schema=schema, samples=samples)


REPORT = Report(
    run=7,
    round=3,
    accuracy=0.3,
    loss=0.1,
    payload_up=2**64 - 1,
    payload_down=2**64 - 1,
    stream_up=2**64 - 1,
    stream_down=2**64 - 1,
    train_s=0.1,
)
DONE = Done(run=7, round=3)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (FD, logits()),
        (FL, parameters()),
        (ALONE, DONE),
        (FLD, logits()),
        (FLD, with_seeds()),
        (FLD, with_seeds(1)),
        (MIX, with_seeds(mixed=True)),
        (SHARE, logits()),
        (SHARE, labelled()),
        (SOFT, softly()),
    ],
)
def test_the_methods_upload_is_let_in(run: RunSettings, message: Message) -> None:
    assert admit.upload(encode(message), run) == message


@pytest.mark.parametrize("bits", [32, 16, 8, 4, 3])
def test_the_largest_upload_fits_its_limit(bits: int) -> None:
    run = replace(FD, run=2**32 - 1, bits=bits)
    message = replace(logits(bits=bits), run=2**32 - 1, round=1_000_000)
    assert admit.upload(encode(message), run) == message


@pytest.mark.parametrize("message", [born(), Gone()])
def test_births_and_departures_are_let_in(message: Message) -> None:
    assert admit.birth(encode(message), FD) == message


def test_a_birth_for_another_schema_is_left_to_the_round_machine() -> None:
    assert admit.birth(encode(born(labels=3, schema=bytes(4))), FD) == born(labels=3, schema=bytes(4))


def test_reports_are_let_in() -> None:
    assert admit.report(encode(REPORT), FD) == REPORT


Check = Callable[[bytes, RunSettings], Message]


@pytest.mark.parametrize(
    ("check", "run", "message", "reason"),
    [
        (admit.upload, FD, logits(run=8), Reason.RUN),
        (admit.upload, FD, logits(check=0x0103), Reason.SCHEMA),
        (admit.upload, FD, logits(bits=3), Reason.BITS),
        (admit.upload, FD, logits(labels=9), Reason.SHAPE),
        (admit.upload, FD, logits(labels=12), Reason.SHAPE),
        (admit.upload, FD, logits(bits=32), Reason.BITS),
        (admit.upload, FD, logits(labels=12, bits=32), Reason.TOO_LONG),
        (admit.upload, FD, parameters(), Reason.UNEXPECTED),
        (admit.upload, FD, DONE, Reason.UNEXPECTED),
        (admit.upload, FL, parameters(run=8), Reason.RUN),
        (admit.upload, FL, parameters(check=1), Reason.SCHEMA),
        (admit.upload, FL, parameters(count=4), Reason.SHAPE),
        (admit.upload, FL, parameters(count=100), Reason.TOO_LONG),
        (admit.upload, FL, DONE, Reason.UNEXPECTED),
        (admit.upload, ALONE, replace(DONE, run=8), Reason.RUN),
        (admit.upload, ALONE, logits(), Reason.UNEXPECTED),
        (admit.upload, FD, labelled(), Reason.UNEXPECTED),
        (admit.upload, FD, with_seeds(1, size=1), Reason.UNEXPECTED),
        (admit.upload, SHARE, with_seeds(1, size=1), Reason.UNEXPECTED),
        (admit.upload, FLD, labelled(), Reason.UNEXPECTED),
        (admit.upload, SHARE, labelled(6), Reason.RANGE),
        (admit.upload, SHARE, labelled(8), Reason.RANGE),
        (admit.upload, SOFT, softly(6), Reason.RANGE),
        (admit.upload, SHARE, labelled(means=logits(run=8)), Reason.RUN),
        (admit.upload, SHARE, labelled(means=logits(bits=3)), Reason.BITS),
        (admit.upload, SHARE, labelled(2000), Reason.TOO_LONG),
        (admit.upload, FLD, with_seeds(5, size=5), Reason.SHAPE),
        (admit.upload, FLD, with_seeds(4, size=5), Reason.SHAPE),
        (admit.upload, FLD, with_seeds(mixed=True), Reason.SHAPE),
        (admit.upload, MIX, with_seeds(), Reason.SHAPE),
        (admit.upload, FLD, with_seeds(label=10), Reason.RANGE),
        (admit.upload, FLD, with_seeds(means=logits(check=1)), Reason.SCHEMA),
        (admit.upload, FLD, with_seeds(100), Reason.TOO_LONG),
        (admit.upload, FLD, parameters(), Reason.UNEXPECTED),
        (admit.birth, FD, born(labels=9), Reason.SHAPE),
        (admit.birth, FD, DONE, Reason.UNEXPECTED),
        (admit.report, FD, replace(REPORT, run=8), Reason.RUN),
        (admit.report, FD, Seat(run=7, seat=0), Reason.UNEXPECTED),
    ],
)
def test_the_rest_is_refused_with_its_reason(check: Check, run: RunSettings, message: Message, reason: Reason) -> None:
    with pytest.raises(FrameError) as refused:
        check(encode(message), run)
    assert refused.value.reason == reason
    assert refused.value.detail


@given(
    st.binary(max_size=150),
    st.sampled_from([FD, FL, ALONE, FLD, MIX, SHARE, SOFT]),
    st.sampled_from([admit.upload, admit.birth, admit.report]),
)
def test_any_bytes_are_answered(frame: bytes, run: RunSettings, check: Check) -> None:
    for data in (frame, b"\x88\x01\x02\x07\x03\x19\x01\x02" + frame):
        try:
            message = check(data, run)
        except FrameError:
            continue
        assert encode(message) == data
