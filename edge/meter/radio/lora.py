"""LoRa time on air (Semtech AN1200.13; SX1276 data sheet, section 4.1.1.7), and LoRaWAN's way with longer messages.

Letters of the application note: SF spreading factor, BW bandwidth, PL bytes of the PHY payload, CR coding rate 1 to 4
(4/5 to 4/8), IH implicit header, DE low data rate optimisation.
"""

from __future__ import annotations

import math

LORAWAN_BYTES = 13
"""Of a LoRaWAN data frame around the application's payload: MHDR 1, address 4, control 1, counter 2, port 1, MIC 4."""
FRAGMENT_BYTES = 2
"""Header of each fragment, where a message takes more than one frame; an estimate (RFC 9011 takes 1 or 2)."""
PREAMBLE_SYMBOLS = 8
"""LoRaWAN regional parameters; the radio adds 4.25 of its own."""
WINDOW_SYMBOLS = 8
"""How long a class A device listens in each of its two windows; an estimate: stacks take 5 to 12, more for a bad
clock. Both are counted, also where the first brings an answer and the second is not opened."""
RX2_DELAY_S = 2.0
"""From the end of an uplink to the second window (LoRaWAN regional parameters)."""
OPTIMISE_FROM_S = 0.016
"""DE is set when a symbol takes longer than 16 ms: SF11 and SF12 at 125 kHz."""


def symbol_s(spreading_factor: int, bandwidth_hz: float) -> float:
    return float(2**spreading_factor) / bandwidth_hz


def time_on_air_s(
    payload_bytes: int,
    *,
    spreading_factor: int,
    bandwidth_hz: float,
    coding_rate: int = 1,
    preamble_symbols: int = PREAMBLE_SYMBOLS,
    explicit_header: bool = True,
    crc: bool = True,
) -> float:
    """Of one frame with PL = `payload_bytes`. Uplinks have a CRC, LoRaWAN downlinks have none."""
    symbol = symbol_s(spreading_factor, bandwidth_hz)
    low_rate = 2 if symbol > OPTIMISE_FROM_S else 0
    header = 0 if explicit_header else 20
    bits = 8 * payload_bytes - 4 * spreading_factor + 28 + (16 if crc else 0) - header
    coded = math.ceil(bits / (4 * (spreading_factor - low_rate))) * (coding_rate + 4)
    return (preamble_symbols + 4.25 + 8 + max(coded, 0)) * symbol


def fragments(message_bytes: int, max_payload_bytes: int) -> tuple[int, ...]:
    """PHY payload bytes of each frame that carries a message: whole where it fits, else fragments with a header each.

    Raises ValueError where not even one byte fits beside the header.
    """
    if message_bytes <= max_payload_bytes:
        return (message_bytes + LORAWAN_BYTES,)
    room = max_payload_bytes - FRAGMENT_BYTES
    if room < 1:
        raise ValueError(
            f"{max_payload_bytes} bytes a frame leave no room beside a fragment's header: take a faster rate"
        )
    full, rest = divmod(message_bytes, room)
    sizes = [room] * full + ([rest] if rest else [])
    return tuple(size + FRAGMENT_BYTES + LORAWAN_BYTES for size in sizes)
