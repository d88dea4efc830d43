"""What a device has spent since a run's first plan: bytes by layer, joules by where they went. Pure.

Bytes are counted, joules are modelled: processor seconds x the board's power above idle, scaled from this host to the
board; packets through the radio profile's model of airtime; idle power x seconds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from edge.meter.energy import Slowdown, compute_from_cpu, radio_from_packets
from edge.meter.radio.energy import even_packets
from firmware_profiles.load import load_radio
from trainer.emulate.direction import Counts
from trainer.emulate.fleet import Member
from trainer.emulate.network import LinkCounts
from trainer.record.run import Joules, Layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One device at one moment, as the emulator sees it from outside: totals, of which a run's start is subtracted."""

    cpu_s: float | None
    counts: LinkCounts | None
    """Of its link; None where it has none of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Since the run's first plan."""

    seconds: float
    cpu_s: float | None
    packets_up: int | None
    packets_down: int | None
    bytes_up: int | None
    """Of IP packets that the device sent, whether they arrived or not."""
    bytes_down: int | None
    """Of IP packets that reached it."""
    lost_up: int | None
    """IP packets that the link lost or had no room for."""
    lost_down: int | None


def spent(now: Reading, start: Reading, seconds: float) -> Spent:
    known = now.counts is not None and start.counts is not None
    there, then = _counts(now), _counts(start)
    return Spent(
        seconds=seconds,
        cpu_s=None if now.cpu_s is None or start.cpu_s is None else max(0.0, now.cpu_s - start.cpu_s),
        packets_up=there.up.packets - then.up.packets if known else None,
        packets_down=there.down.delivered_packets - then.down.delivered_packets if known else None,
        bytes_up=there.up.bytes - then.up.bytes if known else None,
        bytes_down=there.down.delivered_bytes - then.down.delivered_bytes if known else None,
        lost_up=there.up.missing - then.up.missing if known else None,
        lost_down=there.down.missing - then.down.missing if known else None,
    )


def _counts(reading: Reading) -> LinkCounts:
    return reading.counts or LinkCounts(up=Counts(), down=Counts())


def joules(member: Member, slowdown: Slowdown, used: Spent) -> Joules:
    """Above idle, and idle. None where nothing is known: the radio of a bare link, the work of emulated ARM code."""
    compute = None if used.cpu_s is None else compute_from_cpu(member.profile, host_cpu_s=used.cpu_s, slowdown=slowdown)
    return Joules(
        compute=None if compute is None else compute.joules,
        radio=_radio(member, used),
        idle=member.profile.power.idle_w.value * used.seconds,
    )


def _radio(member: Member, used: Spent) -> float | None:
    """Above idle: the board's idle power has its radio in it."""
    radio = None if member.air.radio is None else load_radio(member.air.radio)
    if radio is None or radio.phy is None or used.packets_up is None or used.packets_down is None:
        return None
    assert used.bytes_up is not None
    assert used.bytes_down is not None
    up, down = even_packets(used.bytes_up, used.packets_up), even_packets(used.bytes_down, used.packets_down)
    return radio_from_packets(radio, up=up, down=down, window_s=used.seconds, bursts=used.packets_up).joules


def layers(report: Mapping[str, Any], used: Spent | None) -> tuple[Layers, Layers]:
    """What a device has sent and received: its own counts of payload and TCP stream, the link's of IP packets."""
    up, down = (None, None) if used is None else (used.bytes_up, used.bytes_down)
    return _layers(report, "up", up), _layers(report, "down", down)


def _layers(report: Mapping[str, Any], way: str, packets_bytes: int | None) -> Layers:
    payload, stream = float(report[f"payload_{way}"]), float(report[f"stream_{way}"])
    tcpip = None if packets_bytes is None else max(0.0, packets_bytes - stream)
    return Layers(payload=payload, mqtt=stream - payload, tcpip=tcpip)


# ---------------------------------------------------------------- means over devices


def mean_layers(each: Collection[Layers]) -> Layers | None:
    """A layer is known when it is of every device."""
    if not each:
        return None
    names = ("payload", "mqtt", "tls", "tcpip", "link")
    means = {name: _mean([getattr(one, name) for one in each]) for name in names}
    return Layers(payload=means.pop("payload") or 0.0, **means)


def mean_joules(each: Collection[Joules]) -> Joules | None:
    if not each:
        return None
    return Joules(
        compute=_mean([one.compute for one in each]),
        radio=_mean([one.radio for one in each]),
        idle=_mean([one.idle for one in each]),
    )


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), 3) if len(known) == len(values) else None
