"""A link as an emulator shapes it: plain figures in SI units, one shape a direction, no facts and no sources."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One direction of a link. Raises ValueError on figures that no link can have."""

    rate_bit_per_s: float
    """Of whole IP packets."""
    delay_s: float
    """One way, on top of the time that the rate takes."""
    jitter_s: float
    """Each packet's delay is drawn from delay_s - jitter_s to delay_s + jitter_s."""
    loss: float
    """Probability that a packet is lost, each for itself; 0 up to, but not including, 1."""
    queue_bytes: int
    """What is waiting for the rate; a packet that does not fit any more is dropped."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate_bit_per_s) and self.rate_bit_per_s > 0):
            raise ValueError(f"rate_bit_per_s is a positive number, not {self.rate_bit_per_s}")
        if not 0 <= self.jitter_s <= self.delay_s < math.inf:
            raise ValueError(f"0 <= jitter_s <= delay_s, not {self.jitter_s} and {self.delay_s}")
        if not 0 <= self.loss < 1:
            raise ValueError(f"loss is a probability below 1, not {self.loss}")
        if self.queue_bytes < 1:
            raise ValueError(f"queue_bytes holds at least a packet, not {self.queue_bytes} bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    name: str
    up: Shape
    """From the device."""
    down: Shape
    mtu_bytes: int
    """Largest IP packet."""

    def __post_init__(self) -> None:
        if self.mtu_bytes < 68:
            raise ValueError(f"mtu_bytes is at least 68 (RFC 791), not {self.mtu_bytes}")
        if min(self.up.queue_bytes, self.down.queue_bytes) < self.mtu_bytes:
            raise ValueError(f"queue_bytes holds at least one packet of {self.mtu_bytes} bytes")
