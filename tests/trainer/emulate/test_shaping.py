"""Links as traffic control is told of them."""

from __future__ import annotations

from dataclasses import replace

from firmware_profiles.link import Shape
from trainer.emulate.fleet import UNSHAPED
from trainer.emulate.shaping import netem, tbf

SLOW = Shape(rate_bit_per_s=250_000, delay_s=0.1, jitter_s=0.01, loss=0.02, queue_bytes=16_000)
LINK = replace(UNSHAPED, name="slow", up=SLOW, down=replace(SLOW, loss=0.0))


def test_netem_has_the_whole_link_in_both_directions() -> None:
    out, _, redirect, back = netem(LINK).splitlines()
    # 16,000 bytes of queue are 11 packets; 0.11 s at 250 kbit/s are 3,438 bytes, 3 packets more.
    assert out == "qdisc replace dev eth0 root netem limit 14 rate 250000bit delay 100000us 10000us loss 2%"
    assert redirect.endswith("action mirred egress redirect dev ifb0")
    assert back == "qdisc replace dev ifb0 root netem limit 14 rate 250000bit delay 100000us 10000us"


def test_tbf_has_the_rate() -> None:
    out, *_, back = tbf(LINK).splitlines()
    assert out == "qdisc replace dev eth0 root tbf rate 250000bit burst 4096 limit 20096"
    assert back == "qdisc replace dev ifb0 root tbf rate 250000bit burst 4096 limit 20096"
    fast = replace(SLOW, rate_bit_per_s=100e6)
    assert "burst 12500 " in tbf(replace(LINK, up=fast)), "1 ms of 100 Mbit/s"


def test_no_link_is_not_laid() -> None:
    assert netem(UNSHAPED) == tbf(UNSHAPED) == ""
