"""What a radio profile may say: how its link is emulated, what it draws, what its family's airtime formula needs.

One file a radio, flat, a source with every number (`firmware_profiles.facts`). The formulas are `edge.meter.radio`'s.
"""

# ruff: noqa: RUF009 - the defaults below are dataclasses.field(): see firmware_profiles.facts

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from firmware_profiles.facts import Fact, Problem, Reader, Source, needed, optional
from firmware_profiles.link import Link, Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    """How an emulator shapes one direction: what an application sees, not what the air could carry."""

    rate_kbit_per_s: Fact[float] = needed(float, 0.1, 10_000_000)
    delay_ms: Fact[float] = needed(float, 0, 60_000)
    """One way, without the time that the rate takes."""
    jitter_ms: Fact[float] = needed(float, 0, 60_000)
    """Each packet's delay is within this of delay_ms."""
    loss_fraction: Fact[float] = needed(float, 0, 0.99)
    """Of IP packets, after the radio's own repetitions."""
    queue_bytes: Fact[int] = needed(int, 68, 100_000_000)

    def shape(self) -> Shape:
        return Shape(
            rate_bit_per_s=1000 * self.rate_kbit_per_s.value,
            delay_s=self.delay_ms.value / 1000,
            jitter_s=self.jitter_ms.value / 1000,
            loss=self.loss_fraction.value,
            queue_bytes=self.queue_bytes.value,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    mtu_bytes: Fact[int] = needed(int, 68, 65_535)
    """Largest IP packet on the emulated link."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    """Watts of the radio alone in each state, and what a frame costs whatever its length."""

    transmit_w: Fact[float] = needed(float, 0.001, 10)
    receive_w: Fact[float] = needed(float, 0.001, 10)
    idle_w: Fact[float] = needed(float, 0, 5)
    """Connected, between frames."""
    sleep_w: Fact[float] = needed(float, 0, 1)
    """Off the air, state kept."""
    transmit_frame_mj: Fact[float] = needed(float, 0, 100)
    """In driver, bus and chip for each frame sent, on top of its airtime."""
    receive_frame_mj: Fact[float] = needed(float, 0, 100)
    tail_s: Fact[float] | None = optional(float, 0, 120)
    """How long the radio stays in receive after a burst before it rests (cellular: until it is released)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wifi:
    """IEEE 802.11, one spatial stream, no aggregation."""

    standard: Fact[str] = needed(str, one_of=("b", "g", "n", "ac"))
    rate_mbit_per_s: Fact[float] = needed(float, 1, 1000)
    """Of the data frames on the air (n and ac: bits a 4 us symbol / 4)."""
    ack_rate_mbit_per_s: Fact[float] = needed(float, 1, 24)
    """Of the acknowledgement: the highest basic rate that is not above the data's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """LoRaWAN class A. The lists are indexed by the region's data rate, from DR0."""

    region: Fact[str] = needed(str)
    spreading_factor: Fact[tuple[int, ...]] = needed(int, 5, 12, many=True)
    bandwidth_khz: Fact[tuple[int, ...]] = needed(int, 125, 500, many=True)
    max_payload_bytes: Fact[tuple[int, ...]] = needed(int, 1, 242, many=True)
    """Of the application, LoRaWAN's own header taken off."""
    default_data_rate: Fact[int] = needed(int, 0, 15)
    downlink_spreading_factor: Fact[tuple[int, ...]] = needed(int, 5, 12, many=True)
    """Of the answer in the first window, by the data rate of the uplink, as are the next two."""
    downlink_bandwidth_khz: Fact[tuple[int, ...]] = needed(int, 125, 500, many=True)
    downlink_max_payload_bytes: Fact[tuple[int, ...]] = needed(int, 1, 242, many=True)
    second_window_spreading_factor: Fact[int] = needed(int, 5, 12)
    """A network may answer here as well; the device listens in any case."""
    second_window_bandwidth_khz: Fact[int] = needed(int, 125, 500)
    duty_cycle_fraction: Fact[float] | None = optional(float, 0.0001, 1)
    """Share of the time that one device may send in its sub-band."""
    dwell_ms: Fact[float] | None = optional(float, 1, 10_000)
    """Longest time on air of one frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ble:
    """One GATT connection; a message is a run of notifications."""

    phy: Fact[str] = needed(str, one_of=("1M", "2M", "S2", "S8"))
    max_pdu_bytes: Fact[int] = needed(int, 27, 251)
    """Of a link-layer data packet: 27 without the data length extension, 251 with it."""
    connection_interval_ms: Fact[float] = needed(float, 7.5, 4000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ieee802154:
    """2.4 GHz O-QPSK, unslotted CSMA/CA."""

    mac_overhead_bytes: Fact[int] = needed(int, 5, 60)
    """Of the 127 bytes of a frame: MAC header, security, frame check."""
    network_overhead_bytes: Fact[int] = needed(int, 0, 60)
    """Of each frame: 6LoWPAN's fragment header and compressed IPv6 and UDP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cellular:
    """NB-IoT and LTE-M: airtime is bits over the rate of the direction; the network says when."""

    uplink_kbit_per_s: Fact[float] = needed(float, 0.1, 10_000)
    downlink_kbit_per_s: Fact[float] = needed(float, 0.1, 10_000)
    packet_overhead_bytes: Fact[int] = needed(int, 0, 60)
    """PDCP, RLC and MAC headers of an IP packet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ethernet:
    rate_mbit_per_s: Fact[float] = needed(float, 10, 10_000)


Phy: TypeAlias = Wifi | Lora | Ble | Ieee802154 | Cellular | Ethernet


@dataclass(frozen=True, slots=True, kw_only=True)
class Radio:
    name: str
    """Of the file, without .toml."""
    title: str
    packet: Packet
    up: Direction
    down: Direction
    phy: Phy | None = None
    """None: a bare link; it is emulated, but nothing is known of airtime and energy."""
    power: Power | None = None
    """There if and only if there is a phy."""

    def link(self) -> Link:
        """As an emulator shapes it."""
        return Link(name=self.name, up=self.up.shape(), down=self.down.shape(), mtu_bytes=self.packet.mtu_bytes.value)

    def facts(self) -> Iterator[tuple[str, Fact[Any]]]:
        """Every fact that the profile has, as ("power.idle_w", fact), in the schema's order."""
        phy = {_FAMILY_OF[type(self.phy)]: self.phy} if self.phy is not None else {}
        for section, values in {**{name: getattr(self, name) for name in _SHARED}, **phy}.items():
            for key in fields(values) if values is not None else ():
                if (fact := getattr(values, key.name)) is not None:
                    yield f"{section}.{key.name}", fact


_SHARED: dict[str, type[Any]] = {"packet": Packet, "up": Direction, "down": Direction, "power": Power}
FAMILIES: dict[str, type[Any]] = {
    "wifi": Wifi,
    "lora": Lora,
    "ble": Ble,
    "ieee802154": Ieee802154,
    "cellular": Cellular,
    "ethernet": Ethernet,
}
"""The section that names a radio's family, and its schema."""
_FAMILY_OF = {kind: name for name, kind in FAMILIES.items()}


def parse_radio(raw: Mapping[str, Any], name: str, sources: Mapping[str, Source]) -> Radio | list[Problem]:
    """A radio profile's parsed TOML -> the radio, or everything that is wrong with it."""
    reader = Reader(sources)
    reader.keys((), raw, ["name", "title", *_SHARED, *FAMILIES], ["name", "title", "packet", "up", "down"])
    reader.heading(raw, name)
    families = [family for family in FAMILIES if family in raw]
    if len(families) > 1:
        reader.wrong((families[1],), f"a radio is of one family, and this one is {families[0]}")
    if bool(families) != ("power" in raw):
        reader.wrong(("power",), f"comes with one of {', '.join(FAMILIES)}, and the other way round")
    kinds = {section: kind for section, kind in {**_SHARED, **FAMILIES}.items() if section in raw}
    sections: dict[str, Any] = {section: reader.section(section, kind, raw[section]) for section, kind in kinds.items()}
    if reader.problems:
        return reader.problems
    phy = sections.pop(families[0]) if families else None
    radio = Radio(name=name, title=raw["title"], phy=phy, **sections)
    return _inconsistencies(radio) or radio


def _inconsistencies(radio: Radio) -> list[Problem]:
    found = []
    try:
        radio.link()
    except ValueError as problem:
        found.append(Problem(path=("up",), message=str(problem)))
    if isinstance(radio.phy, Lora):
        phy, rates = radio.phy, len(radio.phy.spreading_factor.value)
        answers = ("downlink_spreading_factor", "downlink_bandwidth_khz", "downlink_max_payload_bytes")
        found += [
            Problem(path=("lora", key), message="has an entry for each data rate")
            for key in ("bandwidth_khz", "max_payload_bytes", *answers)
            if len(getattr(phy, key).value) != rates
        ]
        if phy.default_data_rate.value not in range(rates):
            found.append(Problem(path=("lora", "default_data_rate"), message="is one of the data rates listed"))
    return found
