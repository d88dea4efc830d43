"""One direction of a link, without a link: rate, delay, jitter, loss and queue."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_profiles.link import Shape
from trainer.emulate.direction import Direction


def shape(
    *, kbit_per_s: float = 1e9, delay_s: float = 0.0, jitter_s: float = 0.0, loss: float = 0.0, queue: int = 10**8
) -> Shape:
    return Shape(rate_bit_per_s=1000 * kbit_per_s, delay_s=delay_s, jitter_s=jitter_s, loss=loss, queue_bytes=queue)


PACKET = b"\x45" + bytes(999)


def drained(direction: Direction) -> list[float]:
    """When each packet that is underway leaves."""
    times = []
    while (due := direction.next_due_s) is not None:
        packet = direction.take(due)
        assert packet is not None
        direction.delivered(len(packet))
        times.append(due)
    return times


def test_no_shape_hands_over_at_once() -> None:
    direction = Direction(shape(), "0")
    direction.offer(PACKET, 5.0)
    assert direction.next_due_s == pytest.approx(5.0)
    assert direction.take(4.99) is None
    assert direction.take(5.0001) == PACKET


def test_packets_queue_for_the_rate_and_then_travel() -> None:
    direction = Direction(shape(kbit_per_s=8, delay_s=0.25), "0")  # 1000 bytes a second
    for _ in range(3):
        direction.offer(PACKET, 10.0)
    assert drained(direction) == pytest.approx([11.25, 12.25, 13.25])


def test_a_full_queue_drops_and_counts() -> None:
    direction = Direction(shape(kbit_per_s=8, queue=2000), "0")
    for _ in range(5):
        direction.offer(PACKET, 0.0)
    assert len(drained(direction)) == 2
    counts = direction.counts
    assert (counts.packets, counts.dropped_packets, counts.dropped_bytes, counts.lost_packets) == (5, 3, 3000, 0)


def test_a_lost_packet_took_its_time_on_the_air() -> None:
    direction = Direction(shape(kbit_per_s=8, loss=0.999999), "0")
    direction.offer(PACKET, 0.0)
    direction.shape = shape(kbit_per_s=8)
    direction.offer(PACKET, 0.0)
    assert drained(direction) == pytest.approx([2.0])
    assert direction.counts.lost_bytes == 1000


def test_loss_is_as_asked_and_one_seed_loses_the_same() -> None:
    def lost(seed: str) -> list[bool]:
        direction = Direction(shape(loss=0.05), seed)
        found = []
        for _ in range(4000):
            before = direction.counts.lost_packets
            direction.offer(PACKET, 0.0)
            found.append(direction.counts.lost_packets > before)
        return found

    assert lost("7/d0/up") == lost("7/d0/up") != lost("7/d0/down")
    assert 140 <= sum(lost("7/d0/up")) <= 260, "200 expected, more than four standard deviations either way"


@given(
    times=st.lists(st.floats(0, 0.01), min_size=1, max_size=40),
    rate=st.sampled_from([100.0, 10_000.0, 1e9]),
    delay=st.floats(0, 0.05),
    share=st.floats(0, 1),
    loss=st.sampled_from([0.0, 0.3]),
)
def test_packets_keep_their_order_and_none_is_counted_twice(
    times: list[float], rate: float, delay: float, share: float, loss: float
) -> None:
    asked = shape(kbit_per_s=rate, delay_s=delay, jitter_s=delay * share, loss=loss, queue=20_000)
    direction, now = Direction(asked, "0"), 0.0
    for gap in times:
        now += gap
        direction.offer(PACKET, now)
    left = drained(direction)
    assert left == sorted(left)
    counts = direction.counts
    assert counts.packets == len(times) == counts.lost_packets + counts.dropped_packets + counts.delivered_packets
    assert counts.bytes == 1000 * len(times)
