"""What fits a radio: rounds a day, airtime and energy of a round, or what stands in the way and what would fit.

Pure. Frames are the true ones (`edge.meter.exchange`), airtime and joules are modelled (`edge.meter.radio`). On Wi-Fi,
Ethernet, NB-IoT and LTE-M a message goes as the device sends it today: MQTT 5, TLS where asked, TCP, IPv4. LoRaWAN, BLE
and 802.15.4 carry no TCP worth the name: there the frame alone goes over the air, and a gateway speaks MQTT for it.

Letters: L labels, N rounds.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from edge.meter.exchange import BITS, Exchange, fd
from edge.meter.radio import lora
from edge.meter.radio.air import receive, send
from edge.meter.radio.energy import radio_energy
from edge.meter.traffic import PUBACK_BYTES, TLS13_RECORD_BYTES, publish_bytes
from edge.wire import topics
from firmware_profiles.radio_schema import Cellular, Ethernet, Lora, Phy, Radio, Wifi

DAY_S = 86_400.0
AIRTIME = "airtime"
"""What bounds a round where nothing else does."""
ADVISED = 4
"""Bits of a logit that advice is given in: as good as float32 (docs/adr/0003)."""
WINDOW_S = 3600.0
"""That the joules of one round are reckoned in: longer than any tail, so that a round pays for all of its own."""

TCP_IP_BYTES = 52
"""IPv4 20, TCP 20, timestamps 12."""
TLS_RECORD_LIMIT = 16_384
"""Bytes of plain text in one TLS record (RFC 8446, section 5.1)."""

TTN_SENDING_S = 30.0
TTN_DOWNLINKS = 10
"""The Things Network's fair use: 30 s of uplink airtime and 10 downlinks a device and day
(https://www.thethingsnetwork.org/docs/lorawan/duty-cycle/)."""
AWS_IOT_MESSAGE_BYTES = 128 * 1024
"""AWS IoT Core: the payload of a PUBLISH is at most 128 kB
(https://docs.aws.amazon.com/general/latest/gr/iot-core.html#message-broker-limits)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a day and a message may take; None: as much as the air gives."""

    sending_s: float | None = None
    """Of airtime that a device may send a day."""
    sending_why: str = ""
    downlinks: int | None = None
    """Frames to a device a day."""
    downlinks_why: str = ""
    joules: float | None = None
    """That a day's rounds may take out of a battery, the radio's rest left out."""
    message_bytes: int | None = None
    message_why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The air that is asked about."""

    radio: Radio
    data_rate: int | None = None
    """Of LoRa."""
    tls: bool = True
    qos: int = 1
    fleet: str = "f"
    device: str = "d00"

    @property
    def phy(self) -> Phy:
        """Raises ValueError on a bare link."""
        if self.radio.phy is None:
            raise ValueError(f"{self.radio.name} is a bare link without a radio: take a radio's profile")
        return self.radio.phy

    @property
    def carries_ip(self) -> bool:
        return isinstance(self.phy, (Wifi, Ethernet, Cellular))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one round of one exchange on one radio, and how many of them a day takes."""

    exchange: Exchange
    packets_up: int
    packets_down: int
    frames_up: int
    frames_down: int
    link_up_bytes: int
    link_down_bytes: int
    sending_s: float
    air_s: float
    """Sending, receiving and listening."""
    active_j: float
    """Modelled, without what the radio draws at rest."""
    rounds_a_day: float
    """0 where not one fits, whatever the time."""
    bound: str
    """What bounds it."""


# ---------------------------------------------------------------- limits


def limits(
    setting: Setting,
    *,
    duty_cycle: float | None = None,
    joules_a_day: float | None = None,
    services: Iterable[str] = (),
) -> Limits:
    """The radio's own duty cycle, a tighter one, a battery's joules, and the limits of "ttn" and "aws-iot".

    A dwell time needs no limit of its own: the largest payload of each data rate keeps it.
    Raises ValueError on another service, and on a duty cycle outside 0 to 1.
    """
    phy, named = setting.phy, set(services)
    if unknown := named - {"ttn", "aws-iot"}:
        raise ValueError(f"no service {', '.join(sorted(unknown))}: ttn or aws-iot")
    if duty_cycle is not None and not 0 < duty_cycle <= 1:
        raise ValueError(f"a duty cycle is a share of the time, above 0 and at most 1, not {duty_cycle}")
    shares = [(duty_cycle * DAY_S, f"duty cycle {100 * duty_cycle:g} %")] if duty_cycle is not None else []
    if isinstance(phy, Lora) and phy.duty_cycle_fraction is not None:
        own = phy.duty_cycle_fraction.value
        shares.append((own * DAY_S, f"duty cycle {100 * own:g} % of {phy.region.value}"))
    if "ttn" in named:
        shares.append((TTN_SENDING_S, f"fair use of TTN, {TTN_SENDING_S:g} s a day"))
    sending_s, sending_why = min(shares, default=(None, ""))
    return Limits(
        sending_s=sending_s,
        sending_why=sending_why,
        downlinks=TTN_DOWNLINKS if "ttn" in named else None,
        downlinks_why=f"fair use of TTN, {TTN_DOWNLINKS} downlinks a day",
        joules=joules_a_day,
        message_bytes=AWS_IOT_MESSAGE_BYTES if "aws-iot" in named else None,
        message_why=f"AWS IoT, {AWS_IOT_MESSAGE_BYTES} bytes a message",
    )


# ---------------------------------------------------------------- packets


def packets(setting: Setting, exchange: Exchange) -> tuple[Counter[int], Counter[int]]:
    """-> {bytes: how many} up and down of one round, acknowledgements of TCP and MQTT counted."""
    if not setting.carries_ip:
        return _alone(setting, exchange)
    up, down = Counter[int](), Counter[int]()
    for payload in exchange.up:
        topic = topics.upload(setting.fleet, setting.device)
        _published(setting, topic, payload, qos=setting.qos, there=up, back=down)
    for payload in exchange.down:  # the plan's topic is the longer of the two that go down
        _published(setting, topics.plan(setting.fleet), payload, qos=1, there=down, back=up)
    return up, down


def _alone(setting: Setting, exchange: Exchange) -> tuple[Counter[int], Counter[int]]:
    """The frames as they are. LoRaWAN class A: each frame down needs one up before it, empty where none is due."""
    up, down = Counter(exchange.up), Counter(exchange.down)
    if isinstance(setting.phy, Lora):
        frames_up = sum(send(setting.phy, size, data_rate=setting.data_rate).frames for size in exchange.up)
        frames_down = sum(receive(setting.phy, size, data_rate=setting.data_rate).frames for size in exchange.down)
        up[0] += max(0, frames_down - frames_up)
    return +up, down


def _published(
    setting: Setting, topic: str, payload: int, *, qos: int, there: Counter[int], back: Counter[int]
) -> None:
    """A PUBLISH one way; at QoS 1 the PUBACK, which acknowledges its last segments too, and TCP's own for that."""
    stream = _on_stream(setting, publish_bytes(topic=topic, payload_bytes=payload, qos=qos))
    segments = _segments(setting, stream)
    there.update(segments)
    back[TCP_IP_BYTES] += math.ceil(len(segments) / 2) - 1  # every second segment (RFC 9293, section 3.8.6.3)
    if qos:
        back[_on_stream(setting, PUBACK_BYTES) + TCP_IP_BYTES] += 1
        there[TCP_IP_BYTES] += 1
    else:
        back[TCP_IP_BYTES] += 1


def _on_stream(setting: Setting, packet: int) -> int:
    return packet + (TLS13_RECORD_BYTES * math.ceil(packet / TLS_RECORD_LIMIT) if setting.tls else 0)


def _segments(setting: Setting, stream: int) -> list[int]:
    """IP packets of a run of bytes on the stream."""
    mtu = setting.radio.packet.mtu_bytes.value
    full, rest = divmod(stream, mtu - TCP_IP_BYTES)
    return [mtu] * full + ([rest + TCP_IP_BYTES] if rest else [])


# ---------------------------------------------------------------- costs


def cost(setting: Setting, exchange: Exchange, within: Limits) -> Cost:
    """One round of an exchange, and how many of them fit a day within the limits."""
    phy, rate = setting.phy, setting.data_rate
    up, down = packets(setting, exchange)
    sent = [(send(phy, size, data_rate=rate), many) for size, many in up.items()]
    heard = [(receive(phy, size, data_rate=rate), many) for size, many in down.items()]
    energy = radio_energy(setting.radio, up=up, down=down, seconds=WINDOW_S, data_rate=rate)
    sending_s = sum(air.transmit_s * many for air, many in sent)
    air_s = sum(air.total_s * many for air, many in (*sent, *heard))
    frames_up, frames_down = (sum(air.frames * many for air, many in way) for way in (sent, heard))
    waits_s = lora.RX2_DELAY_S * frames_up if isinstance(phy, Lora) else 0.0
    bounds = _bounds(within, sending_s=sending_s, frames_down=frames_down, joules=energy.active_j)
    refused = within.message_bytes is not None and exchange.largest > within.message_bytes
    rounds, bound = (0.0, within.message_why) if refused else min((*bounds, (DAY_S / (air_s + waits_s), AIRTIME)))
    return Cost(
        exchange=exchange,
        packets_up=sum(up.values()),
        packets_down=sum(down.values()),
        frames_up=frames_up,
        frames_down=frames_down,
        link_up_bytes=energy.sent_bytes,
        link_down_bytes=energy.received_bytes,
        sending_s=sending_s,
        air_s=air_s,
        active_j=energy.active_j,
        rounds_a_day=rounds,
        bound=bound,
    )


def _bounds(within: Limits, *, sending_s: float, frames_down: int, joules: float) -> list[tuple[float, str]]:
    """(rounds a day, what bounds them) of each limit that there is."""
    found = []
    if within.sending_s is not None:
        found.append((within.sending_s / sending_s, within.sending_why))
    if within.downlinks is not None:
        found.append((within.downlinks / frames_down, within.downlinks_why))
    if within.joules is not None:
        found.append((within.joules / joules, f"{within.joules:g} J a day"))
    return found


# ---------------------------------------------------------------- what would fit instead


def advice(setting: Setting, within: Limits, *, labels: int, devices: int, rounds: float) -> list[str]:
    """What would make `rounds` FD rounds a day fit: narrower logits, a faster data rate, fewer labels, fewer rounds.

    Each line was reckoned, none is a guess; empty where nothing of this kind helps.
    """

    def rounds_of(setting: Setting, labels: int, bits: int) -> float:
        return cost(setting, fd(labels=labels, devices=devices, bits=bits), within).rounds_a_day

    found = [f"{bits} bits a logit" for bits in BITS if rounds_of(setting, labels, bits) >= rounds][:1]
    rates = (
        rate for rate in _faster(setting) if rounds_of(replace(setting, data_rate=rate), labels, ADVISED) >= rounds
    )
    found += [f"{ADVISED} bits at DR{rate}" for rate in rates][:1]
    fewer = bisect_left(range(2, labels), True, key=lambda n: rounds_of(setting, n, ADVISED) < rounds)  # labels - 2
    if fewer and not found:
        found.append(f"{ADVISED} bits and at most {fewer + 1} labels")
    possible = rounds_of(setting, labels, ADVISED)
    if 0 < possible < rounds:
        found.append(f"{ADVISED} bits and {pace(possible)}")
    return found


def _faster(setting: Setting) -> Sequence[int]:
    """The data rates of a LoRa radio above the one asked about."""
    if not isinstance(setting.phy, Lora):
        return ()
    here = setting.phy.default_data_rate.value if setting.data_rate is None else setting.data_rate
    return range(here + 1, len(setting.phy.spreading_factor.value))


def pace(rounds_a_day: float) -> str:
    """12 rounds a day; a round in 31 hours; a round in 3.2 days; no round."""
    if rounds_a_day <= 0:
        return "no round"
    if rounds_a_day >= 1:
        whole = math.floor(rounds_a_day)
        return f"{whole:,} round{'s' if whole > 1 else ''} a day"
    days = 1 / rounds_a_day
    return f"a round in {24 * days:.0f} hours" if days < 2 else f"a round in {days:.1f} days".replace(".0 ", " ")
