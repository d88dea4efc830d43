"""One direction of an emulated link: what it does to IP packets. Pure: no clock, no packet's content.

It is a queue that drains at its rate, then a delay, then a loss: a packet that gets lost took its time on the air all
the same. Packets keep their order, as a radio's own repeats keep it. The draws come from a generator of the direction's
own, so that one seed loses the same packets of the same sequence.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import asdict, dataclass

from firmware_profiles.link import Shape


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

    @property
    def missing(self) -> int:
        """Packets that entered and never arrive."""
        return self.lost_packets + self.dropped_packets


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
        bytes_per_s = shape.rate_bit_per_s / 8
        begins_at_s = max(now_s, self._free_at_s)
        if (begins_at_s - now_s) * bytes_per_s + size > shape.queue_bytes:
            self.drop(size)
            return
        self._free_at_s = sent_at_s = begins_at_s + size / bytes_per_s
        if self._random.random() < shape.loss:
            counts.lost_packets += 1
            counts.lost_bytes += size
            return
        delay_s = shape.delay_s + self._random.uniform(-shape.jitter_s, shape.jitter_s)
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
