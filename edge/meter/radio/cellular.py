"""NB-IoT and LTE-M: a packet takes its bits at the rate of its direction.

Repetitions for coverage, random access and scheduling are not modelled; what a burst costs beyond its bits is the
profile's `tail_s`, the time until the network releases the connection (RFC 8376 gives the overview).
"""

from __future__ import annotations


def transfer_s(packet_bytes: int, *, overhead_bytes: int, rate_kbit_per_s: float) -> float:
    """`overhead_bytes`: PDCP, RLC and MAC headers."""
    return 8 * (packet_bytes + overhead_bytes) / (1000 * rate_kbit_per_s)
