"""Bytes <-> messages. A frame is one CBOR array, [version, kind, fields...]; docs/wire.md says it field by field.

`decode` takes any bytes at all and answers with a message or a `FrameError` that has a reason; every message has one
encoding, so `encode(decode(frame)) == frame`. Logarithmic codes are not looked at: any code says a probability.

Letters: R rows, L labels, P parameters, D devices.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.wire import cbor
from edge.wire.cbor import Item, Typed
from edge.wire.messages import (
    DIGEST_BYTES,
    METER_KINDS,
    STREAM_COUNTS,
    Birth,
    Command,
    Done,
    FleetMemory,
    FleetPairs,
    Gone,
    LabelUpload,
    MemoryUpload,
    Message,
    Meter,
    Method,
    Order,
    PairsUpload,
    Parameters,
    ParameterUpload,
    Plan,
    Report,
    Seat,
    Seeds,
    SeedUpload,
    Upload,
)
from edge.wire.options import MOST_INPUTS
from edge.wire.proxy import MOST_ENTRIES, Pairs, ProxyMemory
from edge.wire.rows import CodedRows, NotFiniteError, code_counts, read_counts

VERSION = 2
"""First item of every frame. Any change to what a frame means takes a new number (docs/wire.md)."""


class Reason(StrEnum):
    """Why a frame is refused; what the aggregator counts by and the ledger shows."""

    TOO_LONG = "too long"
    NOT_CBOR = "not CBOR"
    OLDER = "older version (update the sender)"
    NEWER = "newer version (update this end)"
    KIND = "unknown kind"
    SHAPE = "wrong shape"
    RANGE = "out of range"
    NOT_FINITE = "not finite"
    # Decoded, but not for here: `broker.admit` on the aggregator, `edge.session` on the device.
    UNEXPECTED = "unexpected kind"
    RUN = "another run"
    SCHEMA = "another label schema"
    BITS = "other bits than the plan's"
    TOPIC = "not a device's topic"


class FrameError(Exception):
    """These bytes are no frame: count the reason, drop the frame, go on."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def encode(message: Message) -> bytes:
    """The frame of a message."""
    kind = _NUMBERS[type(message)]
    return cbor.write([VERSION, kind, *_KINDS[kind].write(message)])


def decode(data: bytes, *, limit: int) -> Message:
    """The message in a frame of at most `limit` bytes. Raises `FrameError`, never anything else."""
    if len(data) > limit:
        raise FrameError(Reason.TOO_LONG, f"{len(data)} bytes, at most {limit} are read here")
    try:
        items = cbor.read(data)
    except cbor.CborError as problem:
        raise FrameError(Reason.NOT_CBOR, str(problem)) from None
    kind = _kind(items)
    try:
        return kind.read(items)
    except NotFiniteError as problem:
        raise FrameError(Reason.NOT_FINITE, str(problem)) from None
    except ValueError as problem:
        raise FrameError(Reason.RANGE, str(problem)) from None


def _brief(item: Item) -> str:
    return repr(item)[:20]


def _kind(items: list[Item]) -> _Kind:
    if len(items) < 2:
        raise FrameError(Reason.SHAPE, "a frame begins with its version and its kind")
    version, number = items[0], items[1]
    if version != VERSION or type(version) is not int:
        raise _other_version(version)
    kind = _KINDS.get(number) if type(number) is int else None
    if kind is None:
        raise FrameError(Reason.KIND, _brief(number))
    if not kind.items <= len(items) <= kind.items + kind.more:
        raise FrameError(Reason.SHAPE, f"a {kind.message.__name__} frame has {kind.items} items, not {len(items)}")
    return kind


def _other_version(version: Item) -> FrameError:
    if type(version) is not int:
        return FrameError(Reason.SHAPE, f"a frame begins with its version, not {_brief(version)}")
    return FrameError(Reason.OLDER if version < VERSION else Reason.NEWER, f"{version}; only {VERSION} is read here")


# ---------------------------------------------------------------- limits


def upload_limit(labels: int, bits: int) -> int:
    """Bytes of the longest `Upload` frame for L labels: what an aggregator reads at most."""
    rows = (labels * labels * bits + 7) // 8
    # 3 for array, version and kind; run 5, round 5, check 3, bits 2; two byte strings, heads of up to 5, one tag of 2
    return 3 + 5 + 5 + 3 + 2 + (5 + labels) + (2 + 5 + rows)


def label_upload_limit(labels: int, bits: int, label_bytes: int) -> int:
    """Bytes of the longest `LabelUpload` frame for L labels and so many bytes of labels."""
    return upload_limit(labels, bits) + 5 + label_bytes


def seed_upload_limit(labels: int, bits: int, seeds: int, size: int) -> int:
    """Bytes of the longest `SeedUpload` frame for L labels and N seeds of so many numbers each."""
    return upload_limit(labels, bits) + 2 * 5 + 2 * (2 + 5 + 4 * seeds) + 5 + seeds * size


def memory_limit(cells: int, actions: int, bits: int) -> int:
    """Bytes of the longest `MemoryUpload` or `FleetMemory` frame for a grid of so many cells and A actions.

    An entry is a gap (a tree of 6 bits, 2 bits with a model, at most 30 without), A - 1 codes and a value; a bit with a
    model costs at most 7.1 bits, for its probability is never below 15/2048.
    """
    modelled = 6 + 2 + (actions - 1) * bits + 8
    entries = min(cells, MOST_ENTRIES)
    return 64 + min(MOST_MEMORY, (entries * (8 * modelled + 30) + 7) // 8)


def pairs_limit(width: int) -> int:
    """Bytes of the longest `PairsUpload` or `FleetPairs` frame for rows of so many numbers."""
    return 64 + min(MOST_MEMORY, 4 * width * MOST_ENTRIES)


MOST_MEMORY = 2**20
"""Bytes of a memory's numbers or codes: a megabyte is 50,000 raw pairs of CartPole, or half a million cells."""


def parameters_limit(parameters: int) -> int:
    """Bytes of the longest `Parameters` or `ParameterUpload` frame for P parameters."""
    return 3 + 5 + 5 + 3 + 5 + 2 + 5 + 4 * parameters


def plan_limit(labels: int, devices: int) -> int:
    """Bytes of the longest `Plan` frame for L labels and D seats."""
    rows = 4 * labels * labels
    cohort = (devices + 7) // 8
    known = 3 + 10 * 5 + (1 + DIGEST_BYTES) + (5 + cohort) + (2 + 5 + 2 * labels) + (2 + 5 + rows)
    return known + (2 + 1 + 4 * MOST_OPTIONS) + (5 + MOST_INPUTS * max(2, labels))


MOST_OPTIONS = 16
"""Numbers in `Plan.options`."""

METER_LIMIT = 3 + 5 + 5 + 6 * (2 + 2 + 8 * len(METER_KINDS)) + (2 + 2 + 8 * len(STREAM_COUNTS)) + 5 + 3 * 5
"""Bytes of the longest `Meter` frame."""

SMALL_LIMIT = 300
"""Bytes of the longest `Done`, `Gone`, `Seat`, `Command` or `Report` frame, and more: the longest takes 64."""


def birth_limit(labels: int) -> int:
    """Bytes of the longest `Birth` frame for L labels: three texts of 64 characters of at most 4 bytes."""
    return 3 + 3 * (3 + 4 * 64) + 2 * (1 + DIGEST_BYTES) + (2 + 5 + 4 * labels)


# ---------------------------------------------------------------- items -> fields


def _wrong(what: str, item: Item) -> FrameError:
    return FrameError(Reason.SHAPE, f"expected {what}, found {type(item).__name__}")


def _int(item: Item) -> int:
    if type(item) is not int:
        raise _wrong("a number", item)
    return item


def _float(item: Item) -> float:
    if type(item) is not float:
        raise _wrong("a float", item)
    return item


def _bytes(item: Item) -> bytes:
    if type(item) is not bytes:
        raise _wrong("a byte string", item)
    return item


def _text(item: Item) -> str:
    if type(item) is not str:
        raise _wrong("a text", item)
    return item


_UINTS: dict[int, tuple[np.dtype[np.unsignedinteger], int]] = {
    cbor.UINT16: (np.dtype("<u2"), 2**8),
    cbor.UINT32: (np.dtype("<u4"), 2**16),
    cbor.UINT64: (np.dtype("<u8"), 2**32),
}


def _uints(item: Item) -> NDArray[np.uint32]:
    """A byte string, or the typed array of uint16 or uint32 that its largest number needs."""
    if type(item) is Typed and item.tag == cbor.UINT64:
        raise FrameError(Reason.RANGE, "numbers here are uint32")
    return _wide_uints(item).astype(np.uint32)


def _wide_uints(item: Item) -> NDArray[np.uint64]:
    """A byte string, or the typed array of uint16, uint32 or uint64 that its largest number needs."""
    if type(item) is bytes:
        values: NDArray[np.unsignedinteger] = np.frombuffer(item, np.uint8)
    elif type(item) is Typed and item.tag in _UINTS:
        dtype, smallest = _UINTS[item.tag]
        if len(item.data) % dtype.itemsize:
            raise FrameError(Reason.SHAPE, "a typed array of whole numbers")
        values = np.frombuffer(item.data, dtype)
        if values.max(initial=0) < smallest:
            raise FrameError(Reason.NOT_CBOR, "numbers are written in the narrowest type that holds them all")
    else:
        raise _wrong("a byte string, or a typed array of whole numbers", item)
    return values.astype(np.uint64)


def _write_uints(values: NDArray[np.uint32] | NDArray[np.uint64]) -> Item:
    largest = int(values.max(initial=0))
    if largest < 2**8:
        return values.astype(np.uint8).tobytes()
    tag = cbor.UINT16 if largest < 2**16 else cbor.UINT32 if largest < 2**32 else cbor.UINT64
    return Typed(tag, values.astype(_UINTS[tag][0]).tobytes())


_FLOAT_TAGS = {32: cbor.FLOAT32, 16: cbor.FLOAT16}


def _rows(item: Item, rows: int, labels: int, bits: int) -> CodedRows:
    """(R, L) logits: codes as a byte string, floats as their typed array."""
    tag = _FLOAT_TAGS.get(bits)
    if tag is None:
        data = _bytes(item)
    elif type(item) is Typed and item.tag == tag:
        data = item.data
    else:
        raise _wrong(f"a typed array of tag {tag} for {bits}-bit logits", item)
    if labels == 0 or len(data) != (rows * labels * bits + 7) // 8:
        raise FrameError(Reason.SHAPE, f"{len(data)} bytes for {rows} rows of {labels} labels at {bits} bits")
    return CodedRows(rows=rows, labels=labels, bits=bits, data=data)


def _write_rows(rows: CodedRows) -> Item:
    tag = _FLOAT_TAGS.get(rows.bits)
    return rows.data if tag is None else Typed(tag, rows.data)


def _parameters(item: Item) -> NDArray[np.float32]:
    """(P,)."""
    if type(item) is not Typed or item.tag != cbor.FLOAT32 or len(item.data) % 4:
        raise _wrong("a typed array of float32", item)
    return np.frombuffer(item.data, "<f4").astype(np.float32, copy=False)


def _write_parameters(parameters: NDArray[np.float32]) -> Item:
    return Typed(cbor.FLOAT32, parameters.astype("<f4", copy=False).tobytes())


def _cohort(item: Item) -> frozenset[int]:
    """Seat s is bit s % 8, the least significant first, of byte s // 8; the last byte is not zero."""
    bitmap = _bytes(item)
    if bitmap.endswith(b"\0"):
        raise FrameError(Reason.NOT_CBOR, "a cohort's bitmap ends with its last seat")
    bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little")
    return frozenset(np.flatnonzero(bits).tolist())


def _write_cohort(cohort: frozenset[int]) -> Item:
    bits = np.zeros(max(cohort, default=-1) + 1, np.uint8)
    bits[list(cohort)] = 1
    return np.packbits(bits, bitorder="little").tobytes()


def _options(item: Item) -> tuple[float, ...]:
    """A typed array of float16 where that says all numbers exactly, of float32 otherwise."""
    if type(item) is not Typed or item.tag not in _FLOAT_TAGS.values():
        raise _wrong("a typed array of float16 or float32", item)
    dtype = np.dtype("<f2" if item.tag == cbor.FLOAT16 else "<f4")
    if len(item.data) % dtype.itemsize or not 0 < len(item.data) <= MOST_OPTIONS * dtype.itemsize:
        raise FrameError(Reason.SHAPE, f"1 to {MOST_OPTIONS} options")
    values = np.frombuffer(item.data, dtype)
    options = tuple(values.astype(np.float64).tolist())
    if _write_options(options) != item:
        raise FrameError(Reason.NOT_CBOR, "options are written in float16 where that is exact")
    return options


def _write_options(options: tuple[float, ...]) -> Item:
    values = np.array(options, "<f4")
    with np.errstate(over="ignore"):
        short = values.astype("<f2")
    if np.array_equal(short.astype("<f4"), values, equal_nan=True):
        return Typed(cbor.FLOAT16, short.tobytes())
    return Typed(cbor.FLOAT32, values.tobytes())


_REPORT, _NORMALISE = 2, 4


def _write_flags(plan: Plan) -> int:
    return plan.qos + _REPORT * plan.report + _NORMALISE * plan.normalise


def _flags(item: Item) -> tuple[int, bool, bool]:
    """-> qos, report, normalise."""
    flags = _int(item)
    if flags > 7:
        raise FrameError(Reason.RANGE, "flags are 1 (QoS 1), 2 (report) and 4 (normalise)")
    return flags & 1, bool(flags & _REPORT), bool(flags & _NORMALISE)


# ---------------------------------------------------------------- the kinds


def _write_plan(m: Plan) -> list[Item]:
    settings: list[Item] = [
        m.run,
        m.round,
        m.rounds,
        int(m.method),
        m.steps,
        m.seed,
        m.lr,
        m.gamma,
        m.bits,
        m.deadline_s,
    ]
    logits = None if m.logits is None else _write_rows(m.logits)
    names: list[Item] = [_write_flags(m), m.program]
    written = settings + names + [_write_cohort(m.cohort), _write_uints(m.contributors), logits]
    if m.options:
        written.append(_write_options(m.options))
    if m.labels:
        written.append(m.labels)
    return written


def _read_plan(items: list[Item]) -> Plan:
    qos, report, normalise = _flags(items[12])
    bits = _int(items[10])
    contributors = _uints(items[15])
    rows = int(np.count_nonzero(contributors))
    return Plan(
        run=_int(items[2]),
        round=_int(items[3]),
        rounds=_int(items[4]),
        method=Method(_int(items[5])),
        steps=_int(items[6]),
        seed=_int(items[7]),
        lr=_float(items[8]),
        gamma=_float(items[9]),
        bits=bits,
        deadline_s=_float(items[11]),
        qos=qos,
        report=report,
        normalise=normalise,
        program=_bytes(items[13]),
        cohort=_cohort(items[14]),
        contributors=contributors,
        logits=None if items[16] is None else _rows(items[16], rows, len(contributors), bits),
        options=_options(items[17]) if len(items) > 17 else (),
        labels=_some_bytes(items[18]) if len(items) > 18 else b"",
    )


def _some_bytes(item: Item) -> bytes:
    data = _bytes(item)
    if not data:
        raise FrameError(Reason.NOT_CBOR, "labels that are not there are left out")
    return data


def _write_upload(m: Upload) -> list[Item]:
    return [m.run, m.round, m.check, m.logits.bits, code_counts(m.counts), _write_rows(m.logits)]


def _read_upload(items: list[Item]) -> Upload:
    codes = _bytes(items[6])
    labels = len(codes)
    return Upload(
        run=_int(items[2]),
        round=_int(items[3]),
        check=_int(items[4]),
        counts=read_counts(codes),
        logits=_rows(items[7], labels - codes.count(0), labels, _int(items[5])),
    )


def _write_label_upload(m: LabelUpload) -> list[Item]:
    return [*_write_upload(m.means), m.labels]


def _read_label_upload(items: list[Item]) -> LabelUpload:
    return LabelUpload(means=_read_upload(items), labels=_some_bytes(items[8]))


def _write_seed_upload(m: SeedUpload) -> list[Item]:
    seeds = m.seeds
    labels: list[Item] = [_write_uints(seeds.first), _write_uints(seeds.second)]
    return [*_write_upload(m.means), seeds.scale, seeds.offset, *labels, seeds.x.tobytes()]


def _read_seed_upload(items: list[Item]) -> SeedUpload:
    first, data = _uints(items[10]), _bytes(items[12])
    if not len(first) or len(data) % len(first):
        raise FrameError(Reason.SHAPE, f"{len(data)} bytes for {len(first)} seeds")
    seeds = Seeds(
        x=np.frombuffer(data, np.uint8).reshape(len(first), -1),  # (N, size)
        first=first,
        second=_uints(items[11]),
        scale=_float(items[8]),
        offset=_float(items[9]),
    )
    return SeedUpload(means=_read_upload(items), seeds=seeds)


def _write_parameter_upload(m: ParameterUpload) -> list[Item]:
    return [m.run, m.round, m.check, m.samples, _write_parameters(m.parameters)]


def _read_parameter_upload(items: list[Item]) -> ParameterUpload:
    return ParameterUpload(
        run=_int(items[2]),
        round=_int(items[3]),
        check=_int(items[4]),
        samples=_int(items[5]),
        parameters=_parameters(items[6]),
    )


def _write_memory(memory: ProxyMemory) -> list[Item]:
    span = None if memory.span is None else Typed(cbor.FLOAT32, np.array(memory.span, "<f4").tobytes())
    return [memory.bins, memory.components, memory.actions, memory.bits, memory.entries, memory.data, span]


def _memory(items: list[Item]) -> ProxyMemory:
    span = None
    if items[6] is not None:
        numbers = _parameters(items[6]).tolist()
        if len(numbers) != 2:
            raise FrameError(Reason.SHAPE, "a memory's values lie between two numbers")
        span = (numbers[0], numbers[1])
    bins, components, actions, bits, entries = (_int(item) for item in items[:5])
    if components > 32:
        raise FrameError(Reason.RANGE, "a state has at most 32 components")
    return ProxyMemory(
        bins=bins,
        components=components,
        actions=actions,
        bits=bits,
        entries=entries,
        data=_bytes(items[5]),
        span=span,
    )


def _write_pairs(pairs: Pairs) -> list[Item]:
    return [pairs.components, pairs.numbers.shape[1], _write_parameters(pairs.numbers.ravel())]


def _pairs(items: list[Item]) -> Pairs:
    components, width, numbers = _int(items[0]), _int(items[1]), _parameters(items[2])
    if not 1 <= components < width <= 128 or len(numbers) % width:
        raise FrameError(Reason.SHAPE, f"{len(numbers)} numbers in rows of {width}, {components} of them a state")
    return Pairs(components=components, numbers=numbers.reshape(-1, width))


def _write_memory_upload(m: MemoryUpload) -> list[Item]:
    return [m.run, m.round, m.check, *_write_memory(m.memory)]


def _read_memory_upload(items: list[Item]) -> MemoryUpload:
    run, round_, check = (_int(item) for item in items[2:5])
    return MemoryUpload(run=run, round=round_, check=check, memory=_memory(items[5:]))


def _write_pairs_upload(m: PairsUpload) -> list[Item]:
    return [m.run, m.round, m.check, *_write_pairs(m.pairs)]


def _read_pairs_upload(items: list[Item]) -> PairsUpload:
    run, round_, check = (_int(item) for item in items[2:5])
    return PairsUpload(run=run, round=round_, check=check, pairs=_pairs(items[5:]))


def _write_fleet_memory(m: FleetMemory) -> list[Item]:
    return [m.run, m.round, *_write_memory(m.memory)]


def _read_fleet_memory(items: list[Item]) -> FleetMemory:
    return FleetMemory(run=_int(items[2]), round=_int(items[3]), memory=_memory(items[4:]))


def _write_fleet_pairs(m: FleetPairs) -> list[Item]:
    return [m.run, m.round, *_write_pairs(m.pairs)]


def _read_fleet_pairs(items: list[Item]) -> FleetPairs:
    return FleetPairs(run=_int(items[2]), round=_int(items[3]), pairs=_pairs(items[4:]))


def _write_done(m: Done) -> list[Item]:
    return [m.run, m.round]


def _read_done(items: list[Item]) -> Done:
    return Done(run=_int(items[2]), round=_int(items[3]))


def _write_averaged(m: Parameters) -> list[Item]:
    return [m.run, m.round, _write_parameters(m.parameters)]


def _read_averaged(items: list[Item]) -> Parameters:
    return Parameters(run=_int(items[2]), round=_int(items[3]), parameters=_parameters(items[4]))


def _write_birth(m: Birth) -> list[Item]:
    return [m.profile, m.runtime, m.version, m.program, m.schema, _write_uints(m.samples)]


def _read_birth(items: list[Item]) -> Birth:
    return Birth(
        profile=_text(items[2]),
        runtime=_text(items[3]),
        version=_text(items[4]),
        program=_bytes(items[5]),
        schema=_bytes(items[6]),
        samples=_uints(items[7]),
    )


def _write_gone(m: Gone) -> list[Item]:
    del m
    return []


def _read_gone(items: list[Item]) -> Gone:
    del items
    return Gone()


def _write_seat(m: Seat) -> list[Item]:
    return [m.run, m.seat]


def _read_seat(items: list[Item]) -> Seat:
    return Seat(run=_int(items[2]), seat=_int(items[3]))


def _write_command(m: Command) -> list[Item]:
    return [int(m.order)]


def _read_command(items: list[Item]) -> Command:
    return Command(order=Order(_int(items[2])))


def _write_report(m: Report) -> list[Item]:
    totals: list[Item] = [m.payload_up, m.payload_down, m.stream_up, m.stream_down]
    return [m.run, m.round, m.accuracy, m.loss, *totals, m.train_s]


def _read_report(items: list[Item]) -> Report:
    return Report(
        run=_int(items[2]),
        round=_int(items[3]),
        accuracy=_float(items[4]),
        loss=_float(items[5]),
        payload_up=_int(items[6]),
        payload_down=_int(items[7]),
        stream_up=_int(items[8]),
        stream_down=_int(items[9]),
        train_s=_float(items[10]),
    )


def _write_meter(m: Meter) -> list[Item]:
    packets: list[Item] = [_write_uints(m.packets_up), _write_uints(m.packets_down)]
    sizes = [_write_uints(counts) for counts in (m.payload_up, m.payload_down, m.mqtt_up, m.mqtt_down)]
    stream = None if m.stream is None else _write_uints(m.stream)
    return [m.run, m.round, *packets, *sizes, stream, m.connects, m.cpu_s, m.review_cpu_s, m.elapsed_s]


def _read_meter(items: list[Item]) -> Meter:
    return Meter(
        run=_int(items[2]),
        round=_int(items[3]),
        packets_up=_wide_uints(items[4]),
        packets_down=_wide_uints(items[5]),
        payload_up=_wide_uints(items[6]),
        payload_down=_wide_uints(items[7]),
        mqtt_up=_wide_uints(items[8]),
        mqtt_down=_wide_uints(items[9]),
        stream=None if items[10] is None else _wide_uints(items[10]),
        connects=_int(items[11]),
        cpu_s=_float(items[12]),
        review_cpu_s=_float(items[13]),
        elapsed_s=_float(items[14]),
    )


class _Kind(NamedTuple):
    items: int
    """Of the whole array, version and kind included."""
    message: type[Message]
    write: Callable[..., list[Item]]
    read: Callable[[list[Item]], Message]
    more: int = 0
    """Items that may follow."""


SEED_UPLOAD = 12
"""The kind, a frame's third byte, by which the ledger finds what devices have given away."""

_KINDS: dict[int, _Kind] = {
    1: _Kind(17, Plan, _write_plan, _read_plan, more=2),
    2: _Kind(8, Upload, _write_upload, _read_upload),
    3: _Kind(7, ParameterUpload, _write_parameter_upload, _read_parameter_upload),
    4: _Kind(4, Done, _write_done, _read_done),
    5: _Kind(5, Parameters, _write_averaged, _read_averaged),
    6: _Kind(8, Birth, _write_birth, _read_birth),
    7: _Kind(2, Gone, _write_gone, _read_gone),
    8: _Kind(4, Seat, _write_seat, _read_seat),
    9: _Kind(3, Command, _write_command, _read_command),
    10: _Kind(11, Report, _write_report, _read_report),
    11: _Kind(9, LabelUpload, _write_label_upload, _read_label_upload),
    SEED_UPLOAD: _Kind(13, SeedUpload, _write_seed_upload, _read_seed_upload),
    13: _Kind(12, MemoryUpload, _write_memory_upload, _read_memory_upload),
    14: _Kind(8, PairsUpload, _write_pairs_upload, _read_pairs_upload),
    15: _Kind(11, FleetMemory, _write_fleet_memory, _read_fleet_memory),
    16: _Kind(7, FleetPairs, _write_fleet_pairs, _read_fleet_pairs),
    20: _Kind(15, Meter, _write_meter, _read_meter),
}
_NUMBERS = {kind.message: number for number, kind in _KINDS.items()}
