"""Bluetooth Low Energy: airtime of link-layer packets on the 1M, 2M and Coded PHY (Core Specification, Vol 6, Part B,
sections 2.1 and 2.2), and notifications as the carrier of a message. Times are in microseconds.

The times agree with the specification's maxima (328, 2120, 17040) and with Linux' `le_def_tx_time` of 0x148.
"""

from __future__ import annotations

INTER_FRAME_US = 150
"""T_IFS: from the end of a packet to the start of the answer."""
ATT_BYTES = 3 + 4
"""Of a notification around the value: ATT opcode and handle 3, L2CAP header 4."""

_HEADER, _MIC, _CRC, _ACCESS = 2, 4, 3, 4
_UNCODED = {"1M": (1, 8), "2M": (2, 4)}
"""PHY -> bytes of preamble, microseconds a byte."""
_CODED = {"S2": 2, "S8": 8}
"""PHY -> microseconds a bit after the first block."""
_FIRST_BLOCK_US = 80 + 8 * 32 + 16 + 24
"""Preamble, access address at S=8, coding indicator and its terminator: the same for both coded rates."""
_TERMINATOR_BITS = 3


def packet_us(phy: str, payload_bytes: int) -> float:
    """One data packet with a MIC, or an empty one, which has none. Raises KeyError on a PHY that is not known."""
    body = _HEADER + payload_bytes + (_MIC if payload_bytes else 0) + _CRC
    if phy in _CODED:
        return _FIRST_BLOCK_US + (8 * body + _TERMINATOR_BITS) * _CODED[phy]
    preamble, us = _UNCODED[phy]
    return (preamble + _ACCESS + body) * us


def packet_bytes(payload_bytes: int) -> int:
    """Of a data packet from its access address to its CRC."""
    return _ACCESS + _HEADER + payload_bytes + _MIC + _CRC


def notifications(message_bytes: int, max_pdu_bytes: int) -> tuple[int, ...]:
    """Link-layer payload of each packet that carries a message, a notification a packet."""
    room = max_pdu_bytes - ATT_BYTES
    full, rest = divmod(message_bytes, room)
    return tuple(size + ATT_BYTES for size in [room] * full + ([rest] if rest or not full else []))
