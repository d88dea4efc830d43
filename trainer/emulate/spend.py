"""What a device has spent since a run's first plan: bytes by layer, joules by where they went. Pure.

Bytes are the device's own counts (its `meter` events), reports left out: no method needs them. Joules are modelled:
processor seconds x the board's power above idle, scaled from this host to the board, or ARM instructions of the
training steps x the board's joules each; packets through the radio profile's model of airtime; idle power x seconds.
The emulated link's own counts stand beside them as a witness.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from edge.meter.energy import Slowdown, compute_from_cpu, compute_from_instructions, radio_from_packets
from edge.meter.layers import Direction, from_event, without_instrumentation
from edge.meter.radio.energy import RadioEnergy, even_packets, radio_energy
from edge.meter.traffic import Account
from firmware_profiles.load import load_radio
from firmware_profiles.radio_schema import Radio
from trainer.emulate.direction import Counts
from trainer.emulate.fleet import Member
from trainer.emulate.network import LinkCounts
from trainer.record.run import Joules, Layers


@dataclass(frozen=True, slots=True, kw_only=True)
class Packets:
    """IP packets of one direction."""

    count: int
    bytes: int

    @property
    def even(self) -> dict[int, int]:
        """{size: how many}"""
        return even_packets(self.bytes, self.count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One device at one moment, as the emulator sees it from outside: totals, of which a run's start is subtracted."""

    cpu_s: float | None
    counts: LinkCounts | None
    """Of its link; None where it has none of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Since the run's first plan, seen from outside: reports and evaluations are in it."""

    seconds: float
    cpu_s: float | None
    up: Packets | None
    """What the device sent, whether it arrived or not."""
    down: Packets | None
    """What reached it."""
    lost_up: int | None
    """Packets that the link lost or had no room for."""
    lost_down: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metered:
    """Since the run's first plan, by the device itself: without reports and evaluations."""

    cpu_s: float
    payload_mqtt: Mapping[Direction, tuple[int, int]]
    tls_tcpip: Mapping[Direction, tuple[int, int]] | None
    """None where the kernel does not say (qemu-user)."""
    packets: Mapping[Direction, Packets] | None
    retransmitted_bytes: int | None
    connects: int


def spent(now: Reading, start: Reading, seconds: float) -> Spent:
    cpu_s = None if now.cpu_s is None or start.cpu_s is None else max(0.0, now.cpu_s - start.cpu_s)
    if now.counts is None or start.counts is None:
        return Spent(seconds=seconds, cpu_s=cpu_s, up=None, down=None, lost_up=None, lost_down=None)
    there, then = now.counts, start.counts
    return Spent(
        seconds=seconds,
        cpu_s=cpu_s,
        up=Packets(count=there.up.packets - then.up.packets, bytes=there.up.bytes - then.up.bytes),
        down=_delivered(there.down, then.down),
        lost_up=there.up.missing - then.up.missing,
        lost_down=there.down.missing - then.down.missing,
    )


def _delivered(there: Counts, then: Counts) -> Packets:
    return Packets(
        count=there.delivered_packets - then.delivered_packets, bytes=there.delivered_bytes - then.delivered_bytes
    )


def metered(event: Mapping[str, Any]) -> Metered:
    """From a `meter` event. Raises KeyError, TypeError or ValueError."""
    account = from_event(dict(event))
    ways: tuple[Direction, Direction] = ("up", "down")
    stream = account.stream
    return Metered(
        cpu_s=max(0.0, account.cpu_s - account.review_cpu_s),
        payload_mqtt={way: _payload_mqtt(account, way) for way in ways},
        tls_tcpip=None if stream is None else {way: _tls_tcpip(account, way) for way in ways},
        packets=None if stream is None else {way: _packets(account, way) for way in ways},
        retransmitted_bytes=None if stream is None else stream.retransmitted,
        connects=account.connects,
    )


def _payload_mqtt(account: Account, way: Direction) -> tuple[int, int]:
    kept = without_instrumentation(account, way)
    return kept.payload, kept.mqtt


def _tls_tcpip(account: Account, way: Direction) -> tuple[int, int]:
    kept = without_instrumentation(account, way)
    assert kept.tls is not None
    assert kept.tcpip is not None
    return kept.tls, kept.tcpip


def _packets(account: Account, way: Direction) -> Packets:
    """With a frame header of one byte the link's layer is the number of packets."""
    kept = without_instrumentation(account, way, link_header_bytes=1)
    assert kept.total is not None
    assert kept.link is not None
    return Packets(count=kept.link, bytes=kept.total - kept.link)


# ---------------------------------------------------------------- bytes


def layers(member: Member, meter: Metered, seconds: float) -> tuple[Layers, Layers]:
    """What a device has sent, and received. The link's layer is the radio model's: frames of so many packets."""
    air = _air(member, meter.packets, seconds)
    sent, received = (None, None) if air is None else (air.sent_bytes, air.received_bytes)
    return _layers(meter, "up", sent), _layers(meter, "down", received)


def _layers(meter: Metered, way: Direction, frame_bytes: int | None) -> Layers:
    payload, mqtt = meter.payload_mqtt[way]
    if meter.tls_tcpip is None or meter.packets is None:
        return Layers(payload=payload, mqtt=mqtt)
    tls, tcpip = meter.tls_tcpip[way]
    link = None if frame_bytes is None else frame_bytes - meter.packets[way].bytes
    return Layers(payload=payload, mqtt=mqtt, tls=tls, tcpip=tcpip, link=link)


# ---------------------------------------------------------------- joules


@dataclass(frozen=True, slots=True, kw_only=True)
class Instructions:
    """Work that does not depend on this host or its load."""

    a_round: int
    """ARM instructions of the training steps of a round; what the client does beside them is left out."""


Work: TypeAlias = Slowdown | Instructions
"""How a device's work becomes joules: its processor seconds here and how much slower the board is, or what it runs."""


def joules(member: Member, work: Work | None, used: Spent, meter: Metered | None = None, *, rounds: int = 0) -> Joules:
    """Above idle, and idle, after `rounds` rounds. From the outside where the device has not said anything yet.

    None where nothing is known: the radio of a bare link, the compute of a device without `work`.
    """
    cpu_s = used.cpu_s if meter is None else meter.cpu_s
    packets: Mapping[Direction, Packets] | None = None
    if used.up is not None and used.down is not None:
        packets = {"up": used.up, "down": used.down}
    if meter is not None:
        packets = packets if meter.packets is None else meter.packets
    compute_j = None
    if isinstance(work, Instructions):
        compute_j = compute_from_instructions(member.profile, instructions=rounds * work.a_round).joules
    elif cpu_s is not None and work is not None:
        compute_j = compute_from_cpu(member.profile, host_cpu_s=cpu_s, slowdown=work).joules
    return Joules(
        compute=compute_j,
        radio=_radio_joules(member, packets, used.seconds),
        idle=member.profile.power.idle_w.value * used.seconds,
    )


def _radio(member: Member) -> Radio | None:
    """None where only the link's figures are known."""
    radio = None if member.air.radio is None else load_radio(member.air.radio)
    return None if radio is None or radio.phy is None else radio


def _radio_joules(member: Member, packets: Mapping[Direction, Packets] | None, seconds: float) -> float | None:
    """Above idle: the board's idle power has its radio in it."""
    radio = _radio(member)
    if radio is None or packets is None:
        return None
    up, down = packets["up"], packets["down"]
    return radio_from_packets(radio, up=up.even, down=down.even, window_s=seconds, bursts=up.count).joules


def _air(member: Member, packets: Mapping[Direction, Packets] | None, seconds: float) -> RadioEnergy | None:
    radio = _radio(member)
    if radio is None or packets is None:
        return None
    return radio_energy(radio, up=packets["up"].even, down=packets["down"].even, seconds=seconds)


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
