"""IEEE 802.15.4 at 2.4 GHz (O-QPSK, 250 kbit/s): airtime of a frame and its acknowledgement, unslotted CSMA/CA.

16 us a symbol, 2 symbols a byte; aMaxPHYPacketSize 127, aTurnaroundTime 12 symbols, aUnitBackoffPeriod 20 symbols,
macMinBE 3 (names and values of the standard, as its implementations define them). Times are in microseconds.
"""

from __future__ import annotations

MAX_FRAME_BYTES = 127
PREFIX_BYTES = 6
"""Preamble 4, start delimiter 1, length 1."""
BYTE_US = 32
TURNAROUND_US = 192
CCA_US = 128
MEAN_BACKOFF_US = 3.5 * 320
"""Mean of 0 to 2^macMinBE - 1 back-off periods of 320 us."""
ACK_BYTES = 5


def frame_us(frame_bytes: int) -> float:
    """A frame of `frame_bytes`, MAC header to frame check. Raises ValueError above 127."""
    if frame_bytes > MAX_FRAME_BYTES:
        raise ValueError(f"a frame has at most {MAX_FRAME_BYTES} bytes, not {frame_bytes}: split the packet")
    return (PREFIX_BYTES + frame_bytes) * BYTE_US


def wait_us() -> float:
    """The radio listens: back-off, clear channel assessment, and the turnarounds before the frame and the answer."""
    return MEAN_BACKOFF_US + CCA_US + 2 * TURNAROUND_US


def frames(packet_bytes: int, overhead_bytes: int) -> tuple[int, ...]:
    """Bytes of each frame that carries a packet, `overhead_bytes` of MAC and network headers in each."""
    room = MAX_FRAME_BYTES - overhead_bytes
    full, rest = divmod(packet_bytes, room)
    return tuple(size + overhead_bytes for size in [room] * full + ([rest] if rest or not full else []))
