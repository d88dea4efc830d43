"""Bytes <-> messages. A frame is one CBOR array, [version, kind, fields...]; docs/wire.md says it field by field.

`decode` takes any bytes at all and answers with a message or a `FrameError` that has a reason; every message has one
encoding, so `encode(decode(frame)) == frame`. Logarithmic codes are not looked at: any code says a probability.

Letters: R rows, L labels, P parameters, D devices.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge.wire import cbor
from edge.wire.cbor import Item, Typed
from edge.wire.messages import (
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
from edge.wire.options import MOST_OPTIONS
from edge.wire.proxy import Pairs, ProxyMemory
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
    number = _NUMBER_OF[type(message)]
    _, field = _KINDS[number]
    return cbor.write([VERSION, number, *field.write(message)])


def decode(data: bytes, *, limit: int) -> Message:
    """The message in a frame of at most `limit` bytes. Raises `FrameError`, never anything else."""
    if len(data) > limit:
        raise FrameError(Reason.TOO_LONG, f"{len(data)} bytes, at most {limit} are read here")
    try:
        items = cbor.read(data)
    except cbor.CborError as problem:
        raise FrameError(Reason.NOT_CBOR, str(problem)) from None
    field = _field(items)
    try:
        message: Message = field.read(items[2:])
    except NotFiniteError as problem:
        raise FrameError(Reason.NOT_FINITE, str(problem)) from None
    except ValueError as problem:
        raise FrameError(Reason.RANGE, str(problem)) from None
    return message


def _brief(item: Item) -> str:
    return repr(item)[:20]


def _field(items: list[Item]) -> _Field:
    """How the message in these items is read, when version, kind and number of items are right."""
    if len(items) < 2:
        raise FrameError(Reason.SHAPE, "a frame begins with its version and its kind")
    version, number = items[0], items[1]
    if version != VERSION or type(version) is not int:
        raise _other_version(version)
    kind = _KINDS.get(number) if type(number) is int else None
    if kind is None:
        raise FrameError(Reason.KIND, _brief(number))
    message, field = kind
    if not field.items <= len(items) - 2 <= field.items + field.more:
        raise FrameError(Reason.SHAPE, f"a {message.__name__} frame has {field.items + 2} items, not {len(items)}")
    return field


def _other_version(version: Item) -> FrameError:
    if type(version) is not int:
        return FrameError(Reason.SHAPE, f"a frame begins with its version, not {_brief(version)}")
    return FrameError(Reason.OLDER if version < VERSION else Reason.NEWER, f"{version}; only {VERSION} is read here")


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


def _some_bytes(item: Item) -> bytes:
    data = _bytes(item)
    if not data:
        raise FrameError(Reason.NOT_CBOR, "labels that are not there are left out")
    return data


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
    return _whole_numbers(item).astype(np.uint32)


def _wide_uints(item: Item) -> NDArray[np.uint64]:
    """As above, and the typed array of uint64."""
    return _whole_numbers(item).astype(np.uint64)


def _whole_numbers(item: Item) -> NDArray[np.unsignedinteger]:
    """In the narrowest type that holds them all, as they must have come."""
    if type(item) is bytes:
        return np.frombuffer(item, np.uint8)
    if type(item) is Typed and item.tag in _UINTS:
        dtype, smallest = _UINTS[item.tag]
        if len(item.data) % dtype.itemsize:
            raise FrameError(Reason.SHAPE, "a typed array of whole numbers")
        values: NDArray[np.unsignedinteger] = np.frombuffer(item.data, dtype)
        if values.max(initial=0) < smallest:
            raise FrameError(Reason.NOT_CBOR, "numbers are written in the narrowest type that holds them all")
        return values
    raise _wrong("a byte string, or a typed array of whole numbers", item)


def _write_uints(values: NDArray[np.uint32] | NDArray[np.uint64]) -> Item:
    largest = max(values.tolist(), default=0)
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


_BITS = tuple(tuple(bit for bit in range(8) if byte >> bit & 1) for byte in range(256))
"""The bits that are set in each byte."""


def _cohort(item: Item) -> frozenset[int]:
    """Seat s is bit s % 8, the least significant first, of byte s // 8; the last byte is not zero."""
    bitmap = _bytes(item)
    if bitmap.endswith(b"\0"):
        raise FrameError(Reason.NOT_CBOR, "a cohort's bitmap ends with its last seat")
    return frozenset([8 * at + bit for at, byte in enumerate(bitmap) for bit in _BITS[byte]])


def _write_cohort(cohort: frozenset[int]) -> Item:
    bitmap = bytearray(max(cohort, default=-1) // 8 + 1)
    for seat in cohort:
        bitmap[seat // 8] |= 1 << seat % 8
    return bytes(bitmap)


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


# ---------------------------------------------------------------- one field, or several as one


class _Field(NamedTuple):
    """How a field of a message travels: in how many items that follow each other, and which. A whole message is one."""

    items: int
    write: Callable[[Any], list[Item]]
    read: Callable[[list[Item]], Any]
    more: int = 0
    """Items that may follow."""


_Kind: TypeAlias = tuple[type[Message], _Field]


def _one(write: Callable[[Any], Item], read: Callable[[Item], Any]) -> _Field:
    """A field of one item."""
    return _Field(1, lambda value: [write(value)], lambda items: read(items[0]))


def _frame(message: type[Message], **fields: _Field) -> _Kind:
    """A kind whose message's fields travel one after the other, in this order."""

    def write(value: Any) -> list[Item]:
        return [item for name, field in fields.items() for item in field.write(getattr(value, name))]

    places, end = [], 0
    for name, field in fields.items():
        places.append((name, field.read, slice(end, end + field.items)))
        end += field.items

    def read(items: list[Item]) -> Any:
        return message(**{name: read(items[place]) for name, read, place in places})

    return message, _Field(end, write, read)


_NUMBER = _one(int, _int)
_REAL = _one(float, _float)
_BYTES = _one(bytes, _bytes)
_SOME_BYTES = _one(bytes, _some_bytes)
_TEXT = _one(str, _text)
_NUMBERS = _one(_write_uints, _uints)
_TOTALS = _one(_write_uints, _wide_uints)
_TOTALS_OR_NULL = _one(
    lambda values: None if values is None else _write_uints(values),
    lambda item: None if item is None else _wide_uints(item),
)
_PARAMETERS = _one(_write_parameters, _parameters)
_PLACE = {"run": _NUMBER, "round": _NUMBER}
_CHECKED_PLACE = {**_PLACE, "check": _NUMBER}


# ---------------------------------------------------------------- plans and uploads, the messages of every round


def _write_plan(m: Plan) -> list[Item]:
    settings: list[Item] = [m.run, m.round, m.rounds, int(m.method), m.steps, m.seed, m.lr, m.gamma, m.bits]
    settings += [m.deadline_s, _write_flags(m), m.program]
    logits = None if m.logits is None else _write_rows(m.logits)
    more: list[Item] = [_write_options(m.options)] if m.options else []
    if m.labels:
        more.append(m.labels)
    return [*settings, _write_cohort(m.cohort), _write_uints(m.contributors), logits, *more]


def _read_plan(items: list[Item]) -> Plan:
    run, round_, rounds, method, steps, seed, lr, gamma, bits, deadline_s = items[:10]
    flags, program, cohort, holders, logits, *more = items[10:]
    qos, report, normalise = _flags(flags)
    width, contributors = _int(bits), _uints(holders)
    rows = int(np.count_nonzero(contributors))
    return Plan(
        run=_int(run),
        round=_int(round_),
        rounds=_int(rounds),
        method=Method(_int(method)),
        steps=_int(steps),
        seed=_int(seed),
        lr=_float(lr),
        gamma=_float(gamma),
        bits=width,
        deadline_s=_float(deadline_s),
        qos=qos,
        report=report,
        normalise=normalise,
        program=_bytes(program),
        cohort=_cohort(cohort),
        contributors=contributors,
        logits=None if logits is None else _rows(logits, rows, len(contributors), width),
        options=_options(more[0]) if more else (),
        labels=_some_bytes(more[1]) if len(more) > 1 else b"",
    )


def _write_upload(m: Upload) -> list[Item]:
    return [m.run, m.round, m.check, m.logits.bits, code_counts(m.counts), _write_rows(m.logits)]


def _read_upload(items: list[Item]) -> Upload:
    run, round_, check, bits, counts, logits = items
    codes = _bytes(counts)
    return Upload(
        run=_int(run),
        round=_int(round_),
        check=_int(check),
        counts=read_counts(codes),
        logits=_rows(logits, len(codes) - codes.count(0), len(codes), _int(bits)),
    )


# ---------------------------------------------------------------- what other methods add


def _write_seeds(seeds: Seeds) -> list[Item]:
    return [seeds.scale, seeds.offset, _write_uints(seeds.first), _write_uints(seeds.second), seeds.x.tobytes()]


def _read_seeds(items: list[Item]) -> Seeds:
    scale, offset, first, second, x = items
    labels, data = _uints(first), _bytes(x)
    if not len(labels) or len(data) % len(labels):
        raise FrameError(Reason.SHAPE, f"{len(data)} bytes for {len(labels)} seeds")
    return Seeds(
        x=np.frombuffer(data, np.uint8).reshape(len(labels), -1),  # (N, size)
        first=labels,
        second=_uints(second),
        scale=_float(scale),
        offset=_float(offset),
    )


def _write_memory(memory: ProxyMemory) -> list[Item]:
    span = None if memory.span is None else Typed(cbor.FLOAT32, np.array(memory.span, "<f4").tobytes())
    return [memory.bins, memory.components, memory.actions, memory.bits, memory.entries, memory.data, span]


def _read_memory(items: list[Item]) -> ProxyMemory:
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


def _read_pairs(items: list[Item]) -> Pairs:
    components, width, numbers = _int(items[0]), _int(items[1]), _parameters(items[2])
    if not 1 <= components < width <= 128 or len(numbers) % width:
        raise FrameError(Reason.SHAPE, f"{len(numbers)} numbers in rows of {width}, {components} of them a state")
    return Pairs(components=components, numbers=numbers.reshape(-1, width))


# ---------------------------------------------------------------- the kinds

_UPLOAD = _Field(6, _write_upload, _read_upload)
_SEEDS = _Field(5, _write_seeds, _read_seeds)
_MEMORY = _Field(7, _write_memory, _read_memory)
_PAIRS = _Field(3, _write_pairs, _read_pairs)

SEED_UPLOAD = 12
"""The kind, a frame's third byte, by which the ledger finds what devices have given away."""

_KINDS: dict[int, _Kind] = {
    1: (Plan, _Field(15, _write_plan, _read_plan, more=2)),
    2: (Upload, _UPLOAD),
    3: _frame(ParameterUpload, **_CHECKED_PLACE, samples=_NUMBER, parameters=_PARAMETERS),
    4: _frame(Done, **_PLACE),
    5: _frame(Parameters, **_PLACE, parameters=_PARAMETERS),
    6: _frame(Birth, profile=_TEXT, runtime=_TEXT, version=_TEXT, program=_BYTES, schema=_BYTES, samples=_NUMBERS),
    7: _frame(Gone),
    8: _frame(Seat, run=_NUMBER, seat=_NUMBER),
    9: _frame(Command, order=_one(int, lambda item: Order(_int(item)))),
    10: _frame(
        Report,
        **_PLACE,
        accuracy=_REAL,
        loss=_REAL,
        payload_up=_NUMBER,
        payload_down=_NUMBER,
        stream_up=_NUMBER,
        stream_down=_NUMBER,
        train_s=_REAL,
    ),
    11: _frame(LabelUpload, means=_UPLOAD, labels=_SOME_BYTES),
    SEED_UPLOAD: _frame(SeedUpload, means=_UPLOAD, seeds=_SEEDS),
    13: _frame(MemoryUpload, **_CHECKED_PLACE, memory=_MEMORY),
    14: _frame(PairsUpload, **_CHECKED_PLACE, pairs=_PAIRS),
    15: _frame(FleetMemory, **_PLACE, memory=_MEMORY),
    16: _frame(FleetPairs, **_PLACE, pairs=_PAIRS),
    20: _frame(
        Meter,
        **_PLACE,
        packets_up=_TOTALS,
        packets_down=_TOTALS,
        payload_up=_TOTALS,
        payload_down=_TOTALS,
        mqtt_up=_TOTALS,
        mqtt_down=_TOTALS,
        stream=_TOTALS_OR_NULL,
        connects=_NUMBER,
        cpu_s=_REAL,
        review_cpu_s=_REAL,
        elapsed_s=_REAL,
    ),
}
_NUMBER_OF = {message: number for number, (message, _) in _KINDS.items()}
