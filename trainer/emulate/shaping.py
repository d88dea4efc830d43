"""A link as the kernel's own traffic control lays it, inside a machine or beside a composed container. Pure.

Out of `eth0` directly; into it by way of `ifb0` (tc-mirred(8)). Documented in tc-netem(8) and tc-tbf(8).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from firmware_profiles.link import Link, Shape
from trainer.emulate.fleet import UNSHAPED

_BURST_BYTES = 4096
"""Of tbf: more than the largest packet, little enough that no train of packets leaves faster than the rate."""


def netem(link: Link) -> str:
    """For `tc -batch`: rate, delay, jitter and loss; "" where the link is none.

    Packets that netem delays by jitter may overtake each other, unlike those of the emulator's own links.
    """
    return _both_ways(link, netem_words)


def tbf(link: Link) -> str:
    """For `tc -batch` where the kernel has no netem: the rate alone; "" where the link is none."""
    return _both_ways(link, _tbf)


def _both_ways(link: Link, words: Callable[[Shape, int], str]) -> str:
    if link == UNSHAPED:
        return ""
    return (
        f"qdisc replace dev eth0 root {words(link.up, link.mtu_bytes)}\n"
        "qdisc add dev eth0 ingress\n"
        "filter add dev eth0 parent ffff: protocol all u32 match u32 0 0 action mirred egress redirect dev ifb0\n"
        f"qdisc replace dev ifb0 root {words(link.down, link.mtu_bytes)}\n"
    )


def netem_words(shape: Shape, mtu_bytes: int) -> str:
    """Of one direction, after `tc qdisc add dev X root`. netem's queue counts packets, those that travel too."""
    underway = shape.rate_bit_per_s * (shape.delay_s + shape.jitter_s) / 8
    packets = math.ceil(shape.queue_bytes / mtu_bytes) + math.ceil(underway / mtu_bytes)
    words = ["netem", f"limit {min(packets, 100_000)}", f"rate {round(shape.rate_bit_per_s)}bit"]
    if shape.delay_s:
        words.append(f"delay {round(shape.delay_s * 1e6)}us {round(shape.jitter_s * 1e6)}us")
    if shape.loss:
        words.append(f"loss {100 * shape.loss:.6g}%")
    return " ".join(words)


def _tbf(shape: Shape, mtu_bytes: int) -> str:
    # A burst refills at the timer's pace: 1 ms of the rate at the least.
    burst = max(_BURST_BYTES, 2 * mtu_bytes, math.ceil(shape.rate_bit_per_s / 8 / 1000))
    return f"tbf rate {round(shape.rate_bit_per_s)}bit burst {burst} limit {shape.queue_bytes + burst}"
