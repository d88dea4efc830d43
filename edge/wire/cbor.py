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
_SMALL = 24
"""An argument below this stands in the head itself."""
_FORMS = {
    24: (_SMALL, 2**8, struct.Struct(">BB")),
    25: (2**8, 2**16, struct.Struct(">BH")),
    26: (2**16, 2**32, struct.Struct(">BI")),
    27: (2**32, 2**64, struct.Struct(">BQ")),
}
"""Low five bits of a head -> the least argument that needs this form, the least that is too much for it, the bytes of
the head with its argument."""
_FLOATS = {0xF9: struct.Struct(">Be"), 0xFA: struct.Struct(">Bf")}
"""Head -> the head with its float, the shorter first."""


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
        if head < _SMALL:  # the commonest item, a small number, without a call
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
    argument, at = _argument(data, at)
    if major == _BYTES:
        return _string(data, at, argument)
    if major == _UNSIGNED:
        return argument, at
    if major == _TEXT:
        text, at = _string(data, at, argument)
        return _decode_text(text), at
    if major == _TAG:
        return _typed(data, at, argument)
    raise CborError("an item is a number, null, a string or a typed array: nothing nests, nothing is negative")


def _argument(data: bytes, at: int) -> tuple[int, int]:
    """-> the argument of the head at `at`, offset after it."""
    info = data[at] & 31
    if info < _SMALL:
        return info, at + 1
    if info not in _FORMS:
        raise CborError("reserved or indefinite length")
    least, _, form = _FORMS[info]
    _, argument = form.unpack_from(data, at)
    if argument < least:
        raise CborError("a number or length is written in its shortest form")
    return argument, at + form.size


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
    length, at = _argument(data, at)
    content, at = _string(data, at, length)
    return Typed(tag, content), at


def _simple(data: bytes, at: int) -> tuple[float | None, int]:
    head = data[at]
    if head == _NULL:
        return None, at + 1
    form = _FLOATS.get(head)
    if form is None:
        raise CborError("of the simple values a frame uses null, float16 and float32 only")
    value: float = form.unpack_from(data, at)[1]
    end = at + form.size
    if data[at:end] != _write_float(value):
        raise CborError("a float is written in its shortest form")
    return value, end


# ---------------------------------------------------------------- writing


def write(items: list[Item]) -> bytes:
    """One flat array. The inverse of `read`. ValueError on a number that no frame can hold."""
    if len(items) > MAX_ITEMS:
        raise ValueError(f"a frame has at most {MAX_ITEMS} items")
    frame = bytearray([(_ARRAY << 5) + len(items)])
    for item in items:
        if type(item) is int and 0 <= item < _SMALL:  # as in `_read`
            frame.append(item)
        else:
            frame += _write_item(item)
    return bytes(frame)


def _write_item(item: Item) -> bytes:
    if isinstance(item, int):
        return _write_head(_UNSIGNED, item)
    if isinstance(item, bytes):
        return _write_head(_BYTES, len(item)) + item
    if isinstance(item, float):
        return _write_float(item)
    if isinstance(item, Typed):
        return _write_head(_TAG, item.tag) + _write_head(_BYTES, len(item.data)) + item.data
    if isinstance(item, str):
        text = item.encode()
        return _write_head(_TEXT, len(text)) + text
    assert item is None
    return bytes([_NULL])


def _write_head(major: int, argument: int) -> bytes:
    first = major << 5
    if argument < _SMALL:
        return bytes([first + argument])
    for info, (_, beyond, form) in _FORMS.items():
        if argument < beyond:
            return form.pack(first + info, argument)
    raise ValueError("numbers are uint64")


def _write_float(value: float) -> bytes:
    """The shorter of float16 and float32 that says exactly this (NaN in two bytes). ValueError where neither does."""
    if math.isnan(value):
        return b"\xf9\x7e\x00"
    for head, form in _FLOATS.items():
        try:
            written = form.pack(head, value)
        except OverflowError:
            continue
        if form.unpack(written)[1] == value:
            return written
    raise ValueError(f"{value} is not a float32: round it before it is written")
