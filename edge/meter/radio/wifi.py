"""IEEE 802.11b, g, n and ac: airtime of one unicast data frame and its acknowledgement, one stream, no aggregation.

Frame times are those of Linux' `ieee80211_frame_duration` (net/mac80211/util.c), which leaves 802.11n and ac to their
rates; slots, interframe spaces and preambles are the standard's as commonly quoted (the standard itself was not read).
Times are in microseconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FCS_BYTES = 4
LLC_BYTES = 8
"""LLC and SNAP headers in front of the IP packet (RFC 1042)."""
CCMP_BYTES = 16
"""Header 8 and MIC 8 of WPA2 and WPA3 with CCMP-128."""
ACK_BYTES = 14
"""Of an acknowledgement, its frame check in it."""

_SERVICE_AND_TAIL_BITS = 16 + 6
_SYMBOL_US = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Standard:
    slot_us: float
    sifs_us: float
    cw_min: int
    """Smallest contention window: the mean back-off is half of it, in slots."""
    preamble_us: float
    """Of a data frame: PLCP preamble and header, legacy and HT or VHT training fields."""
    extension_us: float
    """Silence that ends an OFDM frame at 2.4 GHz, for the decoders of 802.11b's time."""
    mac_header_bytes: int
    """24, and 2 of QoS, which only 802.11b goes without here."""
    ofdm: bool = True

    @property
    def contention_us(self) -> float:
        """DIFS and the mean back-off of an idle channel."""
        return self.sifs_us + 2 * self.slot_us + self.cw_min / 2 * self.slot_us


STANDARDS = {
    "b": Standard(slot_us=20, sifs_us=10, cw_min=31, preamble_us=192, extension_us=0, mac_header_bytes=24, ofdm=False),
    "g": Standard(slot_us=9, sifs_us=10, cw_min=15, preamble_us=20, extension_us=6, mac_header_bytes=26),
    "n": Standard(slot_us=9, sifs_us=10, cw_min=15, preamble_us=36, extension_us=6, mac_header_bytes=26),
    "ac": Standard(slot_us=9, sifs_us=16, cw_min=15, preamble_us=40, extension_us=0, mac_header_bytes=26),
}
"""b with the long preamble; g, n and ac with the short slot; n as HT-mixed at 2.4 GHz, ac as VHT at 5 GHz."""

_LEGACY_PREAMBLE_US = 20
"""Of an OFDM acknowledgement: 16 of training, 4 of SIGNAL (Linux: 16 + 4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One data frame, from the wait for a free channel to the end of its acknowledgement."""

    frame_bytes: int
    """Of the data frame, MAC header to frame check."""
    wait_us: float
    """DIFS, mean back-off and SIFS: the radio listens."""
    data_us: float
    ack_us: float

    @property
    def total_us(self) -> float:
        return self.wait_us + self.data_us + self.ack_us


def exchange(standard: str, packet_bytes: int, *, rate_mbit_per_s: float, ack_rate_mbit_per_s: float) -> Exchange:
    """An IP packet sent or received with CCMP. Raises KeyError on a standard that is none of b, g, n, ac."""
    s = STANDARDS[standard]
    frame_bytes = s.mac_header_bytes + LLC_BYTES + CCMP_BYTES + FCS_BYTES + packet_bytes
    return Exchange(
        frame_bytes=frame_bytes,
        wait_us=s.contention_us + s.sifs_us,
        data_us=frame_us(standard, frame_bytes, rate_mbit_per_s),
        ack_us=frame_us(standard, ACK_BYTES, ack_rate_mbit_per_s, legacy=True),
    )


def frame_us(standard: str, frame_bytes: int, rate_mbit_per_s: float, *, legacy: bool = False) -> float:
    """One frame of `frame_bytes`, frame check counted. `legacy`: without HT or VHT fields, as control frames go out."""
    s = STANDARDS[standard]
    if not s.ofdm:
        return s.preamble_us + math.ceil(8 * frame_bytes / rate_mbit_per_s)
    symbols = math.ceil((_SERVICE_AND_TAIL_BITS + 8 * frame_bytes) / (_SYMBOL_US * rate_mbit_per_s))
    return (_LEGACY_PREAMBLE_US if legacy else s.preamble_us) + _SYMBOL_US * symbols + s.extension_us
