"""Ethernet (IEEE 802.3): 38 bytes around a packet on the wire, and at least 46 bytes in it."""

from __future__ import annotations

HEADER_BYTES = 14
FCS_BYTES = 4
PREAMBLE_BYTES = 8
GAP_BYTES = 12
MIN_PAYLOAD_BYTES = 46


def frame_bytes(packet_bytes: int) -> int:
    """What an interface without offloads sends: header, padded packet, frame check."""
    return HEADER_BYTES + max(packet_bytes, MIN_PAYLOAD_BYTES) + FCS_BYTES


def wire_s(packet_bytes: int, rate_mbit_per_s: float) -> float:
    """Preamble and gap counted."""
    return 8 * (PREAMBLE_BYTES + frame_bytes(packet_bytes) + GAP_BYTES) / (1e6 * rate_mbit_per_s)
