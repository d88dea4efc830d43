"""A link between a device and its broker: what each direction does to IP packets. Pure: no clock, no packet's content.

Each direction is a queue that drains at its rate, then a delay, then a loss: a packet that gets lost took its time on
the air all the same. The draws come from a generator of the direction's own, so that one seed loses the same packets
of the same sequence.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What one direction of a link does to IP packets."""

    rate_kbit_per_s: float = 0.0
    """Of IP bytes; 0: as fast as the host."""
    delay_ms: float = 0.0
    """One way, without the time that the rate takes."""
    jitter_ms: float = 0.0
    """Uniform, plus and minus; packets keep their order, as the radio's own repeats keep it."""
    loss: float = 0.0
    """Probability that a packet is lost, each for itself."""
    queue_bytes: int = 65536
    """Waiting for the rate; what comes on top is dropped."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("rate_kbit_per_s", 0, 1e7),
            ("delay_ms", 0, 60_000),
            ("jitter_ms", 0, 60_000),
            ("loss", 0, 1),
            ("queue_bytes", 1500, 1e9),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} = {value}: {low:g} to {high:g}")
        if self.jitter_ms > self.delay_ms:
            raise ValueError(f"jitter_ms = {self.jitter_ms:g} is more than delay_ms = {self.delay_ms:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    name: str
    up: Shape = Shape()
    """From the device."""
    down: Shape = Shape()
    radio: str | None = None
    """What carries it, for frames and joules."""
    note: str = ""
    """Where its figures come from."""

    @property
    def shaped(self) -> bool:
        return self.up != Shape() or self.down != Shape()


@dataclass(slots=True, kw_only=True)
class Counts:
    """Of one direction since its start, IP packets and IP bytes. What entered and is none of the rest is underway."""

    packets: int = 0
    """Entered."""
    bytes: int = 0
    lost_packets: int = 0
    lost_bytes: int = 0
    dropped_packets: int = 0
    """The queue was full, or the other end's interface did not take it."""
    dropped_bytes: int = 0
    delivered_packets: int = 0
    delivered_bytes: int = 0
    worst_late_s: float = 0.0
    """How much later than due a packet was handed over: of a host that is too busy to keep the link's time."""


class Direction:
    """One direction: packets are offered at their time and taken out when due."""

    def __init__(self, shape: Shape, seed: str) -> None:
        self.shape = shape
        """May be replaced while packets are underway; those keep their time."""
        self.counts = Counts()
        self._random = random.Random(seed)
        self._underway: deque[tuple[float, bytes]] = deque()
        self._free_at_s = 0.0
        self._last_due_s = 0.0

    def offer(self, packet: bytes, now_s: float) -> None:
        shape, counts, size = self.shape, self.counts, len(packet)
        counts.packets += 1
        counts.bytes += size
        sent_at_s = now_s
        if shape.rate_kbit_per_s:
            bytes_per_s = shape.rate_kbit_per_s * 125
            begins_at_s = max(now_s, self._free_at_s)
            if (begins_at_s - now_s) * bytes_per_s + size > shape.queue_bytes:
                self.drop(size)
                return
            self._free_at_s = sent_at_s = begins_at_s + size / bytes_per_s
        if self._random.random() < shape.loss:
            counts.lost_packets += 1
            counts.lost_bytes += size
            return
        delay_s = (shape.delay_ms + self._random.uniform(-shape.jitter_ms, shape.jitter_ms)) / 1000
        self._last_due_s = max(self._last_due_s, sent_at_s + delay_s)
        self._underway.append((self._last_due_s, packet))

    def drop(self, size: int) -> None:
        self.counts.dropped_packets += 1
        self.counts.dropped_bytes += size

    @property
    def next_due_s(self) -> float | None:
        return self._underway[0][0] if self._underway else None

    def take(self, now_s: float) -> bytes | None:
        """The next packet that is due. Whoever hands it over says so with `delivered`, or `drop`."""
        if not self._underway or self._underway[0][0] > now_s:
            return None
        due_s, packet = self._underway.popleft()
        self.counts.worst_late_s = max(self.counts.worst_late_s, now_s - due_s)
        return packet

    def delivered(self, size: int) -> None:
        self.counts.delivered_packets += 1
        self.counts.delivered_bytes += size

    def plain(self) -> dict[str, float]:
        return asdict(self.counts)
