"""The part of CBOR (RFC 8949) that a frame may use, read strictly: one flat array, nothing inside it to descend into.

An item is an unsigned integer, a float, null, a byte or text string, or a typed array (RFC 8746) of one of the tags
in `TAGS`. Everything has exactly one encoding (shortest head, shortest float, definite length), so that bytes can be
compared instead of messages. There is no recursion and nothing is allocated that the input does not pay for: no bomb.

The tests hold this reader and writer against cbor2, byte for byte.
"""

from __future__ import annotations

import math
import struct
from typing import NamedTuple, TypeAlias

UINT16, UINT32, UINT64, FLOAT16, FLOAT32 = 69, 70, 71, 84, 85
TAGS = (UINT16, UINT32, UINT64, FLOAT16, FLOAT32)
"""RFC 8746, section 2.1: little-endian typed arrays."""

MAX_ITEMS = 23
"""The head of a frame's array is one byte."""

_UNSIGNED, _BYTES, _TEXT, _ARRAY, _TAG, _SIMPLE = 0, 2, 3, 4, 6, 7
_NULL = 0xF6
_ARGUMENTS = {24: (">B", 24), 25: (">H", 2**8), 26: (">I", 2**16), 27: (">Q", 2**32)}
"""Low five bits of a head -> form of the argument that follows, and the smallest argument that needs this form."""
_READERS = {
    info: (struct.Struct(form).unpack_from, 1 + struct.calcsize(form), least)
    for info, (form, least) in _ARGUMENTS.items()
}
_F16, _F32 = struct.Struct(">e"), struct.Struct(">f")


class Typed(NamedTuple):
    """A typed array: its RFC 8746 tag and its bytes."""

    tag: int
    data: bytes


Item: TypeAlias = int | float | bytes | str | Typed | None


class CborError(ValueError):
    """These bytes are not one flat array in the one encoding that we accept."""


# ---------------------------------------------------------------- reading


def read(data: bytes) -> list[Item]:
    """The items of the one array that `data` is. Raises `CborError`, never anything else."""
    try:
        return _read(data)
    except (IndexError, struct.error):
        raise CborError("the frame ends before its last item") from None


def _read(data: bytes) -> list[Item]:
    first = data[0]
    if not _ARRAY << 5 <= first <= (_ARRAY << 5) + MAX_ITEMS:
        raise CborError(f"a frame is one array of at most {MAX_ITEMS} items with a definite length")
    at = 1
    items: list[Item] = []
    for _ in range(first & 31):
        head = data[at]
        if head < 24:  # the commonest item, a small number, without a call
            items.append(head)
            at += 1
        else:
            item, at = _item(data, at)
            items.append(item)
    if at != len(data):
        raise CborError(f"{len(data) - at} bytes after the frame's end")
    return items


def _item(data: bytes, at: int) -> tuple[Item, int]:
    major = data[at] >> 5
    if major == _SIMPLE:
        return _simple(data, at)
    argument, at = _head(data, at)
    if major == _UNSIGNED:
        return argument, at
    if major == _BYTES:
        return _string(data, at, argument)
    if major == _TEXT:
        text, at = _string(data, at, argument)
        return _decode_text(text), at
    if major == _TAG:
        return _typed(data, at, argument)
    raise CborError("an item is a number, null, a string or a typed array: nothing nests, nothing is negative")


def _head(data: bytes, at: int) -> tuple[int, int]:
    """-> argument, offset after the head."""
    info = data[at] & 31
    if info < 24:
        return info, at + 1
    if info not in _READERS:
        raise CborError("reserved or indefinite length")
    unpack, size, least = _READERS[info]
    argument: int = unpack(data, at + 1)[0]
    if argument < least:
        raise CborError("a number or length is written in its shortest form")
    return argument, at + size


def _string(data: bytes, at: int, length: int) -> tuple[bytes, int]:
    end = at + length
    if end > len(data):
        raise CborError("a string is longer than what is left of the frame")
    return data[at:end], end


def _decode_text(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise CborError("a text is UTF-8") from None


def _typed(data: bytes, at: int, tag: int) -> tuple[Typed, int]:
    if tag not in TAGS:
        raise CborError(f"tag {tag}: a frame uses {', '.join(map(str, TAGS))} only")
    if data[at] >> 5 != _BYTES:
        raise CborError("a typed array is a byte string")
    length, at = _head(data, at)
    content, at = _string(data, at, length)
    return Typed(tag, content), at


def _simple(data: bytes, at: int) -> tuple[float | None, int]:
    head = data[at]
    if head == _NULL:
        return None, at + 1
    form = {0xF9: _F16, 0xFA: _F32}.get(head)
    if form is None:
        raise CborError("of the simple values a frame uses null, float16 and float32 only")
    (value,) = form.unpack_from(data, at + 1)
    end = at + 1 + form.size
    if data[at:end] != write_float(value):
        raise CborError("a float is written in its shortest form")
    return float(value), end


# ---------------------------------------------------------------- writing


def write(items: list[Item]) -> bytes:
    """One flat array. The inverse of `read`."""
    if len(items) > MAX_ITEMS:
        raise ValueError(f"a frame has at most {MAX_ITEMS} items")
    return bytes([(_ARRAY << 5) + len(items)]) + b"".join(_write_item(item) for item in items)


def _write_item(item: Item) -> bytes:
    if item is None:
        return bytes([_NULL])
    if isinstance(item, Typed):
        return _write_head(_TAG, item.tag) + _write_head(_BYTES, len(item.data)) + item.data
    if isinstance(item, bytes):
        return _write_head(_BYTES, len(item)) + item
    if isinstance(item, str):
        text = item.encode()
        return _write_head(_TEXT, len(text)) + text
    if isinstance(item, float):
        return write_float(item)
    return _write_head(_UNSIGNED, item)


def _write_head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes([(major << 5) + argument])
    info, form = next((info, form) for info, (form, least) in reversed(_ARGUMENTS.items()) if argument >= least)
    return bytes([(major << 5) + info]) + struct.pack(form, argument)


def write_float(value: float) -> bytes:
    """The shorter of float16 and float32 that says exactly this (NaN in two bytes). ValueError where neither does."""
    if math.isnan(value):
        return b"\xf9\x7e\x00"
    for head, form in ((b"\xf9", _F16), (b"\xfa", _F32)):
        try:
            short = form.pack(value)
        except OverflowError:
            continue
        if form.unpack(short)[0] == value:
            return head + short
    raise ValueError(f"{value} is not a float32: round it before it is written")
