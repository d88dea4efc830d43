"""Frames: round trips, refusals, sizes, the CDDL schema, and cbor2 as the independent reader and writer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cbor2
import numpy as np
import pycddl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.wire import cbor
from edge.wire.codec import FrameError, Reason, decode, encode
from edge.wire.labels import pack_labels
from edge.wire.limits import (
    METER_LIMIT,
    SMALL_LIMIT,
    birth_limit,
    label_upload_limit,
    parameters_limit,
    plan_limit,
    seed_upload_limit,
    upload_limit,
)
from edge.wire.messages import (
    AGENTS,
    LARGEST,
    METER_KINDS,
    SEEDED,
    STREAM_COUNTS,
    Birth,
    Command,
    Done,
    Gone,
    LabelUpload,
    Message,
    Meter,
    Method,
    Order,
    Parameters,
    ParameterUpload,
    Plan,
    Report,
    Seat,
    Seeds,
    SeedUpload,
    Upload,
    WideArray,
)
from edge.wire.options import SHARED_BITS, AgentOptions, FldOptions, Options, ShareOptions
from edge.wire.rows import CodedRows, code_counts, code_rows, read_counts

LIMIT = 1_000_000
SCHEMA_FILE = Path(cbor.__file__).with_name("potstill.cddl")
CDDL = pycddl.Schema(SCHEMA_FILE.read_text())
BITS = (32, 16, 8, 4, 3)

# ---------------------------------------------------------------- every message there can be

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
rounds = st.integers(0, 1_000_000)
digests = st.binary(min_size=4, max_size=4)
texts = st.text(max_size=64).filter(lambda text: text.isprintable())
vectors = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=30).map(
    lambda values: np.array(values, np.float32)
)


def f32(low: float, high: float, *, exclude_min: bool = False) -> st.SearchStrategy[float]:
    return st.floats(low, high, width=32, exclude_min=exclude_min, allow_subnormal=False)


def coded(seed: int, rows: int, labels: int, bits: int) -> CodedRows:
    values = np.random.default_rng(seed).dirichlet(np.full(labels, 0.2), size=rows)
    return code_rows(values, bits)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    labels = draw(st.integers(1, 12))
    contributors = np.array(draw(st.lists(st.integers(0, 65535), min_size=labels, max_size=labels)), np.uint32)
    holders, bits = int(np.count_nonzero(contributors)), draw(st.sampled_from(BITS))
    total = draw(st.integers(1, 1_000_000))
    method = draw(st.sampled_from(Method))
    said = draw(options(method))
    return Plan(
        run=draw(u32),
        round=draw(st.integers(0, total)),
        rounds=total,
        method=method,
        steps=draw(st.integers(1, 1_000_000)),
        seed=draw(u32),
        lr=draw(f32(0, 999, exclude_min=True)),
        gamma=draw(f32(0, 999)),
        bits=bits,
        deadline_s=draw(f32(0, 7 * 86400, exclude_min=True)),
        qos=draw(st.integers(0, 1)),
        report=draw(st.booleans()),
        normalise=draw(st.booleans()),
        program=draw(digests),
        cohort=draw(st.frozensets(st.integers(0, 65535), max_size=20)),
        contributors=contributors,
        logits=coded(draw(u32), holders, labels, bits) if holders else None,
        options=() if said is None else said.to_plan(draw(st.integers(0, 9))),
        labels=draw(st.binary(max_size=40)) if method is Method.SHARE else b"",
    )


def options(method: Method) -> st.SearchStrategy[Options | None]:
    if method in SEEDED:
        seeds, steps = st.integers(1, 1000), st.integers(1, 1_000_000)
        rates = {"lr": f32(0, 999, exclude_min=True), "beta": f32(0, 999)}
        return st.builds(FldOptions, seeds=seeds, steps=steps, **rates, lam=f32(0.0625, 0.4375))
    if method is Method.SHARE:
        whole = {"buffer": st.integers(1, 1000), "shift": st.integers(0, 64), "warm_up": st.integers(0, 9)}
        return st.builds(ShareOptions, inputs=st.integers(0, 20_000), **whole, bits=st.sampled_from(SHARED_BITS))
    if method in AGENTS:
        whole = {"segment": st.integers(1, 64), "bins": st.integers(2, 1000), "epochs": st.integers(1, 1000)}
        rates = {"discount": f32(0.5, 1), "trace": f32(0, 1), "entropy": f32(0, 1), "distil_lr": f32(0.5, 1)}
        return st.builds(AgentOptions, **whole, **rates, average=st.booleans(), values=st.booleans())
    return st.none()


@st.composite
def uploads(draw: st.DrawFn) -> Upload:
    labels = draw(st.integers(1, 12))
    counts = read_counts(code_counts(np.array(draw(st.lists(u32, min_size=labels, max_size=labels)), np.uint32)))
    rows = coded(draw(u32), int(np.count_nonzero(counts)), labels, draw(st.sampled_from(BITS)))
    return Upload(run=draw(u32), round=draw(rounds), check=draw(st.integers(0, 65535)), counts=counts, logits=rows)


@st.composite
def seeds(draw: st.DrawFn) -> Seeds:
    count, size = draw(st.integers(1, 6)), draw(st.integers(1, 9))
    first = np.array(draw(st.lists(st.integers(0, 300), min_size=count, max_size=count)), np.uint32)
    mixed = draw(st.booleans())
    return Seeds(
        x=np.frombuffer(draw(st.binary(min_size=count * size, max_size=count * size)), np.uint8).reshape(count, size),
        first=first,
        second=first + np.uint32(1) if mixed else np.zeros(0, np.uint32),
        scale=draw(f32(0, 2.0**20, exclude_min=True)),
        offset=draw(f32(-(2.0**20), 2.0**20)) + 0.0,
    )


parameter_uploads = st.builds(
    ParameterUpload,
    run=u32,
    round=rounds,
    check=st.integers(0, 65535),
    samples=st.integers(1, 2**32 - 1),
    parameters=vectors,
)
births = st.builds(
    Birth,
    profile=texts,
    runtime=texts,
    version=texts,
    program=digests,
    schema=digests,
    samples=st.lists(u32, min_size=1, max_size=12).map(lambda values: np.array(values, np.uint32)),
)
reports = st.builds(
    Report,
    run=u32,
    round=rounds,
    accuracy=f32(0, 1),
    loss=st.floats(width=32),
    payload_up=u64,
    payload_down=u64,
    stream_up=u64,
    stream_down=u64,
    train_s=f32(0, 2.0**20),
)


def wide(length: int) -> st.SearchStrategy[WideArray]:
    return st.lists(u64, min_size=length, max_size=length).map(lambda values: np.array(values, np.uint64))


meters = st.builds(
    Meter,
    run=u32,
    round=rounds,
    **{
        f"{what}_{direction}": wide(len(METER_KINDS))
        for what in ("packets", "payload", "mqtt")
        for direction in ("up", "down")
    },
    stream=st.none() | wide(len(STREAM_COUNTS)),
    connects=u32,
    cpu_s=f32(0, 2.0**20),
    review_cpu_s=f32(0, 2.0**20),
    elapsed_s=f32(0, 2.0**20),
)
messages: st.SearchStrategy[Message] = st.one_of(
    plans(),
    uploads(),
    st.builds(LabelUpload, means=uploads(), labels=st.binary(min_size=1, max_size=50)),
    st.builds(SeedUpload, means=uploads(), seeds=seeds()),
    parameter_uploads,
    st.builds(Done, run=u32, round=rounds),
    st.builds(Parameters, run=u32, round=rounds, parameters=vectors),
    births,
    st.builds(Gone),
    st.builds(Seat, run=u32, seat=st.integers(0, 65535)),
    st.builds(Command, order=st.sampled_from(Order)),
    reports,
    meters,
)


def example_upload(labels: int = 10, bits: int = 8) -> Upload:
    counts = read_counts(code_counts(np.full(labels, 200, np.uint32)))
    return Upload(run=7, round=3, check=513, counts=counts, logits=coded(1, labels, labels, bits))


def example_plan(bits: int = 4, devices: int = 10) -> Plan:
    return Plan(
        run=2**32 - 1,
        round=3,
        rounds=30,
        method=Method.FD,
        steps=250,
        seed=1,
        lr=0.05,
        gamma=1.0,
        bits=bits,
        deadline_s=60.0,
        qos=1,
        report=True,
        normalise=False,
        program=b"prog",
        cohort=frozenset(range(devices)),
        contributors=np.full(10, devices, np.uint32),
        logits=coded(1, 10, 10, bits),
    )


def example_share_plan() -> Plan:
    """With 900 labels of the round before."""
    labels = pack_labels(np.random.default_rng(1).integers(0, 10, 900), 10)
    return replace(
        example_plan(), method=Method.SHARE, steps=32, lr=0.1, options=ShareOptions().to_plan(9), labels=labels
    )


def example_seed_upload() -> SeedUpload:
    first, second = np.array([1, 2], np.uint32), np.array([0, 7], np.uint32)
    x = np.arange(8, dtype=np.uint8).reshape(2, 4)
    return SeedUpload(means=example_upload(), seeds=Seeds(x=x, first=first, second=second, scale=1 / 255, offset=0.0))


# ---------------------------------------------------------------- round trips


@given(messages)
def test_a_message_survives_its_journey(message: Message) -> None:
    frame = encode(message)
    assert decode(frame, limit=len(frame)) == message


@given(messages)
def test_a_message_is_valid_by_the_schema(message: Message) -> None:
    CDDL.validate_cbor(encode(message))


@given(messages)
def test_cbor2_writes_the_same_bytes(message: Message) -> None:
    frame = encode(message)
    assert cbor2.dumps(cbor2.loads(frame), canonical=True) == frame


@given(messages, st.data())
def test_messages_differ_where_a_frame_does(message: Message, data: st.DataObject) -> None:
    other = data.draw(messages)
    assert (message == other) == (encode(message) == encode(other))
    assert len({message, other}) == 2 - (message == other)


def test_a_message_is_not_equal_to_something_else() -> None:
    assert Gone() != "gone"
    assert Done(run=1, round=2) != Seat(run=1, seat=2)


def test_only_the_last_plan_says_that_the_run_is_done() -> None:
    assert [replace(example_plan(), round=round_).done for round_ in (0, 29, 30)] == [False, False, True]


def test_a_plan_carries_float32_on_both_sides() -> None:
    assert replace(example_plan(), lr=0.1).lr == float(np.float32(0.1))


def test_a_diverged_loss_is_carried_as_the_largest_float() -> None:
    report = Report(
        run=1,
        round=1,
        accuracy=0.1,
        loss=float("nan"),
        payload_up=0,
        payload_down=0,
        stream_up=0,
        stream_down=0,
        train_s=0.5,
    )
    assert report.loss == LARGEST
    assert decode(encode(report), limit=SMALL_LIMIT) == report


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(("bits", "most"), [(8, 128), (4, 80)])
def test_an_upload_for_ten_labels_is_small(bits: int, most: int) -> None:
    largest = replace(example_upload(bits=bits), run=2**32 - 1, round=65535, check=65535)
    assert len(encode(largest)) <= most


def test_a_plan_for_ten_labels_is_small() -> None:
    assert len(encode(example_plan())) <= 120


def test_a_round_of_900_shared_labels_takes_at_most_500_bytes_each_way() -> None:
    """Frames whole: mean logits at 4 bits, 10 labels, 10 devices (docs/methods.md)."""
    plan = example_share_plan()
    sent = LabelUpload(means=replace(example_upload(bits=4), run=2**32 - 1, round=29), labels=plan.labels)
    assert len(encode(replace(plan, round=29))) <= 500
    assert len(encode(sent)) <= 500


@given(messages)
def test_limits_let_every_message_through(message: Message) -> None:
    longest = {
        Plan: lambda m: plan_limit(len(m.contributors), max(m.cohort, default=-1) + 1),
        Upload: lambda m: upload_limit(len(m.counts), m.logits.bits),
        LabelUpload: lambda m: label_upload_limit(len(m.means.counts), m.means.logits.bits, len(m.labels)),
        SeedUpload: lambda m: seed_upload_limit(len(m.means.counts), m.means.logits.bits, *m.seeds.x.shape),
        ParameterUpload: lambda m: parameters_limit(len(m.parameters)),
        Parameters: lambda m: parameters_limit(len(m.parameters)),
        Birth: lambda m: birth_limit(len(m.samples)),
        Meter: lambda _: METER_LIMIT,
    }
    limit: Callable[[Message], int] = longest.get(type(message), lambda _: SMALL_LIMIT)
    assert len(encode(message)) <= limit(message)


# ---------------------------------------------------------------- refusals

DONE = encode(Done(run=7, round=3))


def reason(frame: bytes, limit: int = LIMIT) -> Reason:
    with pytest.raises(FrameError) as refused:
        decode(frame, limit=limit)
    assert refused.value.detail
    assert str(refused.value.reason) in str(refused.value)
    return refused.value.reason


def edited(message: Message, **items: object) -> bytes:
    """The message's frame with some items replaced, written by cbor2: `i3` is item 3."""
    array = cbor2.loads(encode(message))
    for index, item in items.items():
        array[int(index[1:])] = item
    return bytes(cbor2.dumps(array, canonical=True))


def floats(tag: int, rows: np.ndarray) -> cbor2.CBORTag:
    return cbor2.CBORTag(tag, rows.astype("<f4" if tag == 85 else "<f2").tobytes())


NAN_ROWS = np.full((10, 10), np.nan)
OPTIONS = np.array([900.0, 3.0, 2.0])
HALVES = floats(84, OPTIONS)
FLD = floats(85, np.array([50, 32, 0.1, 1, 0.1]))
FLAT_ROWS = np.full((10, 10), 0.1)
BAD_SUM = np.full((10, 10), 0.2)
NEGATIVE = np.tile([1.2, -0.2] + [0.0] * 8, (10, 1))

REFUSED: list[tuple[str, bytes, Reason]] = [
    ("nothing", b"", Reason.NOT_CBOR),
    ("a map", b"\xa0", Reason.NOT_CBOR),
    ("an array with no end", b"\x9f\x02\x04\x07\x03\xff", Reason.NOT_CBOR),
    ("a byte string in pieces", b"\x82\x02\x5f\x41\x00\xff", Reason.NOT_CBOR),
    ("24 items", b"\x98\x18" + b"\x01" * 24, Reason.NOT_CBOR),
    ("a trailing byte", DONE + b"\x00", Reason.NOT_CBOR),
    ("cut short", DONE[:-1], Reason.NOT_CBOR),
    ("cut in a head", b"\x84\x02\x04\x1a\x00\x00", Reason.NOT_CBOR),
    ("a tag and nothing", b"\x83\x02\x05\xd8\x55", Reason.NOT_CBOR),
    ("a number in more bytes than it needs", b"\x84\x02\x04\x18\x07\x03", Reason.NOT_CBOR),
    ("a float in more bytes than it needs", b"\x82\x02\xfa\x3f\x80\x00\x00", Reason.NOT_CBOR),
    ("a double", b"\x82\x02\xfb\x3f\xb9\x99\x99\x99\x99\x99\x9a", Reason.NOT_CBOR),
    ("a huge declared array", b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff", Reason.NOT_CBOR),
    ("a huge declared string", b"\x82\x02\x5b\xff\xff\xff\xff\xff\xff\xff\xff", Reason.NOT_CBOR),
    ("deep nesting", b"\x81" * 100_000, Reason.NOT_CBOR),
    ("deep tags", b"\x82\x02" + b"\xd8\x55" * 100_000, Reason.NOT_CBOR),
    ("a tag that is not ours", b"\x82\x02\xc2\x41\x01", Reason.NOT_CBOR),
    ("a typed array of a number", b"\x82\x02\xd8\x55\x01", Reason.NOT_CBOR),
    ("a negative number", b"\x82\x02\x20", Reason.NOT_CBOR),
    ("true", b"\x82\x02\xf5", Reason.NOT_CBOR),
    ("text that is not UTF-8", b"\x82\x02\x61\xff", Reason.NOT_CBOR),
    ("nothing but a version", b"\x81\x02", Reason.SHAPE),
    ("version 1", b"\x84\x01\x04\x07\x03", Reason.OLDER),
    ("version 3", b"\x84\x03\x04\x07\x03", Reason.NEWER),
    ("version 2.0", b"\x84\xf9\x40\x00\x04\x07\x03", Reason.SHAPE),
    ("a kind of the future", b"\x84\x02\x17\x07\x03", Reason.KIND),
    ("a text for a kind", b"\x82\x02\x61a", Reason.KIND),
    ("one field too many", b"\x85\x02\x04\x07\x03\x00", Reason.SHAPE),
    ("a text for a run", b"\x84\x02\x04\x61a\x03", Reason.SHAPE),
    (
        "a number for a text",
        b"\x88\x02\x06\x07\x60\x60" + b"\x44" + bytes(4) + b"\x44" + bytes(4) + b"\x41\x01",
        Reason.SHAPE,
    ),
    ("a run of 2^32", edited(Done(run=7, round=3), i2=2**32), Reason.RANGE),
    ("a round of 1,000,001", edited(Done(run=7, round=3), i3=1_000_001), Reason.RANGE),
    ("an order we do not know", b"\x83\x02\x09\x03", Reason.RANGE),
    ("a seat of 65,536", edited(Seat(run=7, seat=3), i3=65536), Reason.RANGE),
    ("codes too short", edited(example_upload(), i7=bytes(99)), Reason.SHAPE),
    ("no labels", edited(example_upload(), i6=b"", i7=b""), Reason.SHAPE),
    ("counts as a number", edited(example_upload(), i6=3), Reason.SHAPE),
    ("a count that has another code", edited(example_upload(), i6=b"\x02" * 10), Reason.RANGE),
    ("7 bits", edited(example_upload(), i5=7, i7=bytes(88)), Reason.RANGE),
    ("floats for codes", edited(example_upload(), i7=floats(85, FLAT_ROWS)), Reason.SHAPE),
    ("codes for floats", edited(example_upload(bits=32), i7=bytes(400)), Reason.SHAPE),
    ("float16 for float32", edited(example_upload(bits=32), i7=floats(84, FLAT_ROWS)), Reason.SHAPE),
    ("bits after the last code", edited(example_upload(labels=3, bits=3), i7=b"\xff" * 4), Reason.RANGE),
    ("NaN", edited(example_upload(bits=32), i7=floats(85, NAN_ROWS)), Reason.NOT_FINITE),
    ("NaN in float16", edited(example_upload(bits=16), i7=floats(84, NAN_ROWS)), Reason.NOT_FINITE),
    ("rows that sum to 2", edited(example_upload(bits=32), i7=floats(85, BAD_SUM)), Reason.RANGE),
    ("a negative probability", edited(example_upload(bits=16), i7=floats(84, NEGATIVE)), Reason.RANGE),
    ("a NaN learning rate", edited(example_plan(), i8=float("nan")), Reason.NOT_FINITE),
    ("a learning rate of 0", edited(example_plan(), i8=0.0), Reason.RANGE),
    ("a whole number for gamma", edited(example_plan(), i9=1), Reason.SHAPE),
    ("a plan's flag of the future", edited(example_plan(), i12=8), Reason.RANGE),
    ("a method of the future", edited(example_plan(), i5=99), Reason.RANGE),
    ("options of a method that has none", edited(example_share_plan(), i5=2, i17=HALVES), Reason.RANGE),
    ("options in wide floats", edited(example_share_plan(), i17=floats(85, OPTIONS)), Reason.NOT_CBOR),
    ("options as a byte string", edited(example_share_plan(), i17=bytes(6)), Reason.SHAPE),
    ("half an option", edited(example_share_plan(), i17=cbor2.CBORTag(84, b"\0")), Reason.SHAPE),
    ("no options where the item stands", edited(example_share_plan(), i17=cbor2.CBORTag(84, b"")), Reason.SHAPE),
    ("an option that is NaN", edited(example_share_plan(), i17=floats(84, OPTIONS * np.nan)), Reason.NOT_FINITE),
    ("a zero at the end", edited(example_share_plan(), i17=floats(84, np.array([900, 3, 2, 0]))), Reason.RANGE),
    ("half a shared input", edited(example_share_plan(), i17=floats(84, OPTIONS + 0.5)), Reason.RANGE),
    ("labels that are not there", edited(example_share_plan(), i18=b""), Reason.NOT_CBOR),
    ("labels of shared inputs in FLD", edited(example_share_plan(), i5=3, i17=FLD), Reason.RANGE),
    ("seeds of half a byte", edited(example_seed_upload(), i12=b"123"), Reason.SHAPE),
    ("seeds without labels", edited(example_seed_upload(), i10=b""), Reason.SHAPE),
    ("seeds without numbers", edited(example_seed_upload(), i12=b""), Reason.RANGE),
    ("a pair of one label", edited(example_seed_upload(), i11=b"\1\2"), Reason.RANGE),
    ("a second label for one of two", edited(example_seed_upload(), i11=b"\3"), Reason.RANGE),
    ("a scale of 0", edited(example_seed_upload(), i8=0.0), Reason.RANGE),
    ("an infinite offset", edited(example_seed_upload(), i9=float("inf")), Reason.NOT_FINITE),
    ("a round after the last", edited(example_plan(), i3=31), Reason.RANGE),
    ("a short digest", edited(example_plan(), i13=b"123"), Reason.RANGE),
    ("a cohort with empty seats at its end", edited(example_plan(), i14=b"\xff\x00"), Reason.NOT_CBOR),
    ("contributors without rows", edited(example_plan(), i16=None), Reason.RANGE),
    ("contributors in wide numbers", edited(example_plan(), i15=cbor2.CBORTag(69, b"\1\0" * 10)), Reason.NOT_CBOR),
    ("contributors in half a number", edited(example_plan(), i15=cbor2.CBORTag(69, b"\1\2\3")), Reason.SHAPE),
    ("contributors in uint64", edited(example_plan(), i15=cbor2.CBORTag(71, bytes(80))), Reason.RANGE),
    ("contributors in floats", edited(example_plan(), i15=cbor2.CBORTag(85, bytes(40))), Reason.SHAPE),
    ("70,000 contributors", edited(example_plan(), i15=cbor2.CBORTag(70, b"\x70\x11\1\0" * 10)), Reason.RANGE),
    ("logits of no label", edited(example_plan(), i15=bytes(10), i16=b""), Reason.RANGE),
    ("parameters that are not whole", b"\x85\x02\x05\x07\x03\xd8\x55\x43\0\0\0", Reason.SHAPE),
    ("parameters as a byte string", b"\x85\x02\x05\x07\x03\x44\0\0\0\0", Reason.SHAPE),
    ("an infinite parameter", b"\x85\x02\x05\x07\x03\xd8\x55\x44\x00\x00\x80\x7f", Reason.NOT_FINITE),
]


@pytest.mark.parametrize(("frame", "expected"), [(f, r) for _, f, r in REFUSED], ids=[name for name, _, _ in REFUSED])
def test_a_wrong_frame_is_refused_with_its_reason(frame: bytes, expected: Reason) -> None:
    assert reason(frame) == expected


def test_a_frame_over_the_limit_is_not_even_read() -> None:
    assert reason(DONE, limit=len(DONE) - 1) == Reason.TOO_LONG
    assert decode(DONE, limit=len(DONE)) == Done(run=7, round=3)


def answer(frame: bytes) -> None:
    """`decode` gives the one message of this frame, or a FrameError: no third way."""
    try:
        message = decode(frame, limit=LIMIT)
    except FrameError:
        return
    assert encode(message) == frame


@given(st.binary(max_size=200))
def test_any_bytes_are_answered(frame: bytes) -> None:
    answer(frame)


@given(messages, st.data())
@settings(max_examples=200)
def test_any_damaged_frame_is_answered(message: Message, data: st.DataObject) -> None:
    frame = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(frame) - 1))
        end = data.draw(st.integers(at, min(at + 4, len(frame))))
        frame[at:end] = data.draw(st.binary(max_size=4))
        if not frame:
            break
    answer(bytes(frame))


items = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=12) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=5) | st.builds(cbor2.CBORTag, st.sampled_from([69, 70, 84, 85, 99]), inner),
    max_leaves=8,
)


@given(st.integers(0, 13), st.lists(items, max_size=20), st.booleans())
@settings(max_examples=100)
def test_any_other_cbor_is_answered(kind: int, fields: list[object], canonical: bool) -> None:
    answer(cbor2.dumps([2, kind, *fields], canonical=canonical))


@given(st.binary(max_size=60))
def test_what_we_read_cbor2_reads_alike(data: bytes) -> None:
    for frame in (data, b"\x83\x02" + data):
        try:
            ours = cbor.read(frame)
        except cbor.CborError:
            continue
        theirs = cbor2.loads(frame)
        assert repr([cbor2.CBORTag(i.tag, i.data) if isinstance(i, cbor.Typed) else i for i in ours]) == repr(theirs)


# ---------------------------------------------------------------- the schema refuses what the codec refuses

BY_SCHEMA = (
    "version 1",
    "version 3",
    "a kind of the future",
    "one field too many",
    "a text for a run",
    "a run of 2^32",
    "a round of 1,000,001",
    "an order we do not know",
    "a seat of 65,536",
    "counts as a number",
    "7 bits",
    "a whole number for gamma",
    "a plan's flag of the future",
    "a method of the future",
    "a short digest",
    "parameters as a byte string",
)
"""Not "contributors in floats": pycddl 0.6 lets `bstr` match a tagged byte string, whatever its tag."""


@pytest.mark.parametrize("name", BY_SCHEMA)
def test_the_schema_refuses_it_too(name: str) -> None:
    frame = next(frame for what, frame, _ in REFUSED if what == name)
    with pytest.raises(pycddl.ValidationError):
        CDDL.validate_cbor(frame)


# ---------------------------------------------------------------- writing

UPLOAD = example_upload()


@pytest.mark.parametrize(
    "build",
    [
        lambda: replace(UPLOAD, run=-1),
        lambda: replace(UPLOAD, counts=UPLOAD.counts[:9]),
        lambda: replace(UPLOAD, counts=UPLOAD.counts.astype(np.int64)),
        lambda: replace(UPLOAD, counts=np.zeros(10, np.uint32)),
        lambda: replace(example_plan(), lr=1e-60),
        lambda: replace(example_plan(), lr=1e60),
        lambda: replace(example_plan(), bits=8),
        lambda: replace(example_plan(), contributors=np.full(11, 1, np.uint32)),
        lambda: replace(example_plan(), cohort=frozenset({65536})),
        lambda: Parameters(run=1, round=1, parameters=np.full(3, np.inf, np.float32)),
        lambda: Birth(
            profile="x" * 65, runtime="", version="", program=bytes(4), schema=bytes(4), samples=UPLOAD.counts
        ),
    ],
)
def test_a_wrong_message_cannot_be_built(build: Callable[[], Message]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        build()


def test_arrays_in_messages_are_read_only() -> None:
    parameters = Parameters(run=1, round=1, parameters=np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="read-only"):
        parameters.parameters[0] = 1


def test_the_writer_refuses_what_the_reader_would() -> None:
    with pytest.raises(ValueError, match="at most 23"):
        cbor.write([0] * 24)
    with pytest.raises(ValueError, match="float32"):
        cbor.write([0.1])
    with pytest.raises(ValueError, match="uint64"):
        cbor.write([2**64])


# ---------------------------------------------------------------- docs/wire.md


def documented_sizes() -> list[tuple[int, int, int, int]]:
    """Rows (labels, bits, upload, plan) of the table of sizes."""
    text = (Path(__file__).parents[3] / "docs" / "wire.md").read_text()
    table = text.partition("| labels | bits | upload | plan |")[2].partition("\n\n")[0].splitlines()[2:]
    rows = [[int(cell) for cell in line.strip("| ").split("|")] for line in table]
    return [(row[0], row[1], row[2], row[3]) for row in rows]


@pytest.mark.parametrize(("labels", "bits", "upload", "plan"), documented_sizes())
def test_the_documented_sizes_are_right(labels: int, bits: int, upload: int, plan: int) -> None:
    rows = coded(1, labels, labels, bits)
    sent = Upload(run=2**31, round=5, check=65535, counts=read_counts(code_counts(np.full(labels, 30))), logits=rows)
    heard = replace(
        example_plan(),
        run=2**31,
        round=5,
        bits=bits,
        lr=0.1,
        steps=32,
        contributors=np.full(labels, 10, np.uint32),
        logits=rows,
    )
    assert (len(encode(sent)), len(encode(heard))) == (upload, plan)
