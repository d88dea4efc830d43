"""Bytes and joules of a device, from numbers worked out by hand."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from edge.meter.energy import Slowdown
from edge.wire.messages import METER_KINDS, STREAM_COUNTS
from firmware_profiles.facts import Quality
from trainer.emulate.direction import Counts
from trainer.emulate.fleet import Member
from trainer.emulate.fleet_file import parse_fleet
from trainer.emulate.network import LinkCounts
from trainer.emulate.spend import (
    Instructions,
    Packets,
    Reading,
    Spent,
    joules,
    layers,
    mean_joules,
    mean_layers,
    metered,
    spent,
)
from trainer.record.run import Joules, Layers

TENTH = Slowdown(factor=10.0, how="a tenth of this host", quality=Quality.ESTIMATE)


def member(link: str = "wifi-2.4-fair") -> Member:
    text = f'[[group]]\nprofile = "pi-zero-2-w"\ncount = 2\nbackend = "netns"\nlink = "{link}"\n'
    return parse_fleet(tomllib.loads(text), name="test").members[0]


def event(**stream: int) -> dict[str, Any]:
    """One upload of 100 bytes in a PUBLISH of 112, one report that does not count; two segments each way."""
    none = dict.fromkeys(METER_KINDS, 0)
    return {
        "packets_up": none | {"upload": 1, "report": 1},
        "payload_up": none | {"upload": 100, "report": 50},
        "mqtt_up": none | {"upload": 112, "report": 62},
        "packets_down": none | {"acknowledgement": 2},
        "payload_down": none,
        "mqtt_down": none | {"acknowledgement": 8},
        "stream": None if not stream else dict.fromkeys(STREAM_COUNTS, 0) | stream,
        "connects": 0,
        "cpu_s": 3.0,
        "review_cpu_s": 1.0,
        "elapsed_s": 20.0,
    }


STREAM = {
    "sent": 174,
    "received": 8,
    "segments_out": 2,
    "segments_in": 2,
    "data_segments_out": 2,
    "data_segments_in": 2,
    "headers_out": 104,
    "headers_in": 104,
}


def test_reports_are_left_out_of_every_layer() -> None:
    meter = metered(event(**STREAM))
    up, down = layers(member(), meter, 20.0)
    assert (up.payload, up.mqtt, up.tls, up.tcpip) == (100, 12, 0, 52), "one of two segments was the report's"
    assert (down.payload, down.mqtt, down.tcpip) == (0, 4, 52)
    assert up.link is not None
    assert up.link > 30, "a frame of 802.11 around one packet"
    assert meter.packets == {"up": Packets(count=1, bytes=164), "down": Packets(count=1, bytes=56)}
    assert meter.cpu_s == 2.0, "evaluation left out"


def test_what_the_kernel_does_not_say_stays_unknown() -> None:
    meter = metered(event())
    up, _ = layers(member(), meter, 20.0)
    assert (up.payload, up.mqtt, up.tls, up.tcpip, up.link) == (100, 12, None, None, None)
    assert meter.retransmitted_bytes is None
    bare, _ = layers(member("lossy-250k"), metered(event(**STREAM)), 20.0)
    assert (bare.tcpip, bare.link) == (52, None), "a bare link has no frames"


def test_joules_are_power_above_idle_times_the_board_s_seconds() -> None:
    """A Zero 2 W takes 0.6 W idle and 1.0 W with one core busy (its profile)."""
    used = Spent(seconds=20.0, cpu_s=5.0, up=None, down=None, lost_up=None, lost_down=None)
    outside = joules(member("none"), TENTH, used)
    assert outside.compute == pytest.approx(5.0 * 10 * 0.4)
    assert outside.idle == pytest.approx(20.0 * 0.6)
    assert outside.radio is None
    told = joules(member(), TENTH, used, metered(event(**STREAM)))
    assert told.compute == pytest.approx(2.0 * 10 * 0.4), "the device's own seconds, evaluation left out"
    assert told.radio is not None
    assert 0 < told.radio < 0.1
    assert joules(member(), None, used).compute is None


def test_joules_of_instructions_do_not_depend_on_the_host() -> None:
    """A Zero 2 W's profile says 0.42 nJ an instruction: five rounds of 100 million are 0.21 J."""
    used = Spent(seconds=20.0, cpu_s=5.0, up=None, down=None, lost_up=None, lost_down=None)
    found = joules(member(), Instructions(a_round=100_000_000), used, rounds=5)
    assert found.compute == pytest.approx(5 * 1e8 * 0.42e-9)


def test_a_run_s_start_is_subtracted_from_what_the_link_counted() -> None:
    start = LinkCounts(up=Counts(packets=10, bytes=1000), down=Counts(delivered_packets=5, delivered_bytes=500))
    end = LinkCounts(
        up=Counts(packets=14, bytes=1900, lost_packets=1, dropped_packets=2),
        down=Counts(delivered_packets=7, delivered_bytes=600, lost_packets=3),
    )
    found = spent(Reading(cpu_s=4.0, counts=end), Reading(cpu_s=1.5, counts=start), 9.0)
    assert found == Spent(
        seconds=9.0,
        cpu_s=2.5,
        up=Packets(count=4, bytes=900),
        down=Packets(count=2, bytes=100),
        lost_up=3,
        lost_down=3,
    )
    assert spent(Reading(cpu_s=None, counts=None), Reading(cpu_s=None, counts=None), 9.0).up is None


def test_a_mean_is_known_when_every_device_s_is() -> None:
    assert mean_layers([Layers(payload=1, mqtt=2), Layers(payload=3, mqtt=4, tcpip=6)]) == Layers(payload=2, mqtt=3)
    whole, half = Joules(compute=1, radio=2, idle=3), Joules(compute=3, radio=None, idle=5)
    assert mean_joules([whole, half]) == Joules(compute=2, radio=None, idle=4)
    assert mean_layers([]) is None
    assert mean_joules([]) is None
