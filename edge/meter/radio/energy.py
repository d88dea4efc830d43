"""Joules of a radio, modelled: airtime times the power of its state, and a constant for each frame.

    transmit = P_tx t_tx + e_tx n_tx     receive = P_rx (t_rx + t_listen + t_tail) + e_rx n_rx     idle = P_idle t_rest

The constant a frame (e_tx, e_rx) is what Serrano and others measured in every 802.11 device, in driver, bus and chip
("Per-frame energy consumption in 802.11 devices", IEEE/ACM ToN 2015): for messages of a hundred bytes it weighs more
than the airtime. All of this is modelled; how good its powers are is said by the profile, fact by fact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge.meter.radio.air import receive, send
from firmware_profiles.radio_schema import Radio


@dataclass(frozen=True, slots=True, kw_only=True)
class RadioEnergy:
    """Of one radio over a window of time."""

    transmit_j: float
    receive_j: float
    idle_j: float
    above_idle_j: float
    """Beyond what the radio draws in as long a rest: what to add to a board whose idle power has its radio in it."""
    transmit_s: float
    receive_s: float
    """Listening and tails counted."""
    frames_sent: int
    frames_received: int
    sent_bytes: int
    """Of data frames, link headers counted."""
    received_bytes: int

    @property
    def total_j(self) -> float:
        return self.transmit_j + self.receive_j + self.idle_j

    @property
    def active_j(self) -> float:
        """While it is on the air."""
        return self.transmit_j + self.receive_j


def even_packets(total_bytes: int, count: int) -> dict[int, int]:
    """{size: how many} of `count` packets that hold `total_bytes` together, as alike as can be.

    For counters that say only totals (TCP_INFO, an interface): airtime is nearly linear in the size, the mean serves.
    """
    if count <= 0:
        return {}
    size, larger = divmod(total_bytes, count)
    return {key: many for key, many in ((size, count - larger), (size + 1, larger)) if many}


def radio_energy(
    radio: Radio,
    *,
    up: Mapping[int, int],
    down: Mapping[int, int],
    seconds: float,
    bursts: int = 1,
    asleep: bool = False,
    data_rate: int | None = None,
) -> RadioEnergy:
    """Joules of `seconds` in which packets went `up` and `down`, both {bytes of an IP packet: how many}.

    `bursts`: how often the radio was busy with a rest after it: each has one tail (cellular). `asleep`: the rest of the
    time is spent in sleep, not idle. Where the packets need more air than there are seconds, nothing is left to idle.
    Raises ValueError for a bare link, of which nothing is known.
    """
    if radio.phy is None or radio.power is None:
        raise ValueError(
            f"{radio.name} is a bare link without a radio: its joules are not known, take a radio's profile"
        )
    sent = [(send(radio.phy, size, data_rate=data_rate), many) for size, many in up.items()]
    heard = [(receive(radio.phy, size, data_rate=data_rate), many) for size, many in down.items()]
    both = [*sent, *heard]
    transmit_s = sum(air.transmit_s * many for air, many in both)
    receive_s = sum((air.receive_s + air.listen_s) * many for air, many in both)
    frames_sent, frames_received = (sum(air.frames * many for air, many in way) for way in (sent, heard))
    power = radio.power
    if power.tail_s is not None and both:
        receive_s += max(0.0, min(bursts * power.tail_s.value, seconds - transmit_s - receive_s))
    transmit_j = power.transmit_w.value * transmit_s + power.transmit_frame_mj.value / 1000 * frames_sent
    receive_j = power.receive_w.value * receive_s + power.receive_frame_mj.value / 1000 * frames_received
    rest_w = (power.sleep_w if asleep else power.idle_w).value
    return RadioEnergy(
        transmit_j=transmit_j,
        receive_j=receive_j,
        idle_j=rest_w * max(0.0, seconds - transmit_s - receive_s),
        above_idle_j=max(0.0, transmit_j + receive_j - rest_w * (transmit_s + receive_s)),
        transmit_s=transmit_s,
        receive_s=receive_s,
        frames_sent=frames_sent,
        frames_received=frames_received,
        sent_bytes=sum(air.frame_bytes * many for air, many in sent),
        received_bytes=sum(air.frame_bytes * many for air, many in heard),
    )
