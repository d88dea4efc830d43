"""MQTT 5 packets by what they are for, counted from the very bytes of a connection (OASIS MQTT 5.0, section 2.1).

Pure: bytes in, counts out. Only as much of a packet is kept as says what it is; a payload is never stored.
Letters: K kinds (`edge.wire.messages.METER_KINDS`).
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edge.wire.messages import METER_KINDS

Tally: TypeAlias = NDArray[np.int64]
"""(K, 3) packets, bytes of their payloads, bytes of the packets."""

KIND = {name: row for row, name in enumerate(METER_KINDS)}

_CHANNELS = {
    b"p": KIND["plan"],
    b"w": KIND["parameters"],
    b"u": KIND["upload"],
    b"s": KIND["birth"],
    b"c": KIND["command"],
    b"m": KIND["report"],
}
"""Third part of a topic (`edge.wire.topics`) -> kind."""
_PUBLISH, _PUBACK = 3, 4
_TYPES = {_PUBACK: KIND["acknowledgement"], 12: KIND["keepalive"], 13: KIND["keepalive"]}
"""Packet type -> kind; every type that is not here has to do with the connection."""
_DUP, _QOS = 0x08, 0x06

_HEAD_BYTES = 256
"""Enough of any packet to say what it is: 5, a topic of at most 70 with its length, 2, and a length of properties."""


class _Head(NamedTuple):
    kind: int
    size: int
    """Of the whole packet."""
    payload: int


def empty_tally() -> Tally:
    """(K, 3)"""
    return np.zeros((len(METER_KINDS), 3), np.int64)


class PacketReader:
    """One direction of one connection after another: give it every byte, in whatever pieces."""

    def __init__(self) -> None:
        self._counts = [0] * (3 * len(METER_KINDS))
        """Row by row; a list, because numbers are added to it one at a time."""
        self._head = b""
        self._open: _Head | None = None
        self._left = 0

    @property
    def tally(self) -> Tally:
        """(K, 3) of everything so far, a copy."""
        return np.array(self._counts, np.int64).reshape(-1, 3)

    @property
    def packets(self) -> int:
        """Of all kinds."""
        return sum(self._counts[::3])

    def feed(self, data: bytes) -> None:
        """The next bytes of the connection."""
        while data:
            if self._open is None:
                data = self._begin(data)
            else:
                taken = min(self._left, len(data))
                self._left -= taken
                data = data[taken:]
            if self._open is not None and self._left == 0:
                self._count(self._open.kind, 1, self._open.payload, self._open.size)
                self._open = None

    def reset(self) -> None:
        """The connection is gone: the bytes of a packet that was cut off count for the connection."""
        if self._open is not None:
            self._count(KIND["connection"], 0, 0, self._open.size - self._left)
        elif self._head:
            self._count(KIND["connection"], 0, 0, len(self._head))
        self._head, self._open, self._left = b"", None, 0

    def _begin(self, data: bytes) -> bytes:
        """Take what the head still needs; -> the rest."""
        before = len(self._head)
        self._head += data[: _HEAD_BYTES - before]
        head = _parse(self._head, full=len(self._head) == _HEAD_BYTES)
        if head is None:
            return b""
        in_head = min(len(self._head), head.size)
        self._head, self._open, self._left = b"", head, head.size - in_head
        return data[in_head - before :]

    def _count(self, kind: int, packets: int, payload: int, size: int) -> None:
        at = 3 * kind
        self._counts[at] += packets
        self._counts[at + 1] += payload
        self._counts[at + 2] += size


def _parse(data: bytes, *, full: bool) -> _Head | None:
    """What the packet that begins here is; None as long as too little of it is there, which it never is if `full`."""
    remaining, at = _varint(data, 1)
    if remaining is None:
        return None
    size, first = at + remaining, data[0]
    if first >> 4 != _PUBLISH:
        return _Head(_TYPES.get(first >> 4, KIND["connection"]), size, 0)
    if len(data) < at + 2:
        return None
    end = at + 2 + int.from_bytes(data[at : at + 2], "big")
    properties, start = _varint(data, end + (2 if first & _QOS else 0))
    if properties is None:
        return _Head(KIND["command"], size, 0) if full else None  # a topic that is none of ours
    parts = data[at + 2 : end].split(b"/")
    kind = _CHANNELS.get(parts[2], KIND["command"]) if len(parts) > 2 else KIND["command"]
    return _Head(KIND["repeated"] if first & _DUP else kind, size, max(0, size - start - properties))


def _varint(data: bytes, at: int) -> tuple[int | None, int]:
    """-> a variable byte integer (section 1.5.5), offset after it; None where it is not all there."""
    value = 0
    for place in range(4):
        if at + place >= len(data):
            return None, at
        value += (data[at + place] & 0x7F) << (7 * place)
        if data[at + place] < 0x80:
            return value, at + place + 1
    return value, at + 4
