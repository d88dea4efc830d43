"""netem's counts as `tc -s -j qdisc show` prints them (iproute2 6.1, Linux 6.1)."""

from __future__ import annotations

from trainer.emulate.direction import Counts
from trainer.emulate.netem import parse_counts

SHOWN = """[{"kind":"netem","handle":"1:","dev":"air","root":true,"refcnt":2,"options":{"limit":24},
"bytes":83944,"packets":60,"drops":2,"overlimits":0,"requeues":0,"backlog":1028,"qlen":2}]"""


def test_counts_are_of_ip_packets_and_what_was_lost_is_estimated() -> None:
    counts = parse_counts(SHOWN)
    assert counts == Counts(
        packets=64,
        bytes=83_104 + 2_770 + 1_000,
        lost_packets=2,
        lost_bytes=2_770,
        delivered_packets=60,
        delivered_bytes=83_104,
    )
