"""The wireless channel of federated distillation over asymmetric links (arXiv 2006.09801): block Rayleigh fading.

A message goes out in slots. In slot t the power gain h_t is drawn anew, exponential with mean 1 (Rayleigh fading):

    SNR_t = P h_t d^-4 / (W N0)        bits_t = slot W log2(1 + SNR_t) where SNR_t >= threshold, else 0

The message is delivered in the slot in which the bits reach its length, or lost (outage) when they have not after
`max_slots`. The uplink's band is split evenly over the devices that send together; the downlink is a broadcast in the
whole band, and every device receives through a fading of its own.

The presets are settings of ours, from memory of the literature, and never quoted as the paper's: 10 devices, 1 km,
10 MHz each way, -174 dBm/Hz, a threshold of 3 dB, slots of 1 ms, outage after 100. All is modelled; nothing waits.

Letters: n messages, T slots (`max_slots`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from firmware_profiles.link import Link, Shape

PATH_LOSS_EXPONENT = 4.0
QUANTILES = -np.log1p(-(np.arange(4096) + 0.5) / 4096)
"""Of the exponential distribution: a mean over them is the mean rate to 1e-4 (tests: the exponential integral)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Of one message. The scalar of `Deliveries`."""

    slots: int
    """That it took; `max_slots` where it was not delivered."""
    delivered: bool
    seconds: float
    """`slots` times the slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliveries:
    """Of n messages, each through a fading of its own."""

    slots: NDArray[np.int64]
    """(n,)"""
    delivered: NDArray[np.bool_]
    """(n,)"""
    slot_s: float

    def __getitem__(self, message: int) -> Delivery:
        slots = int(self.slots[message])
        return Delivery(slots=slots, delivered=bool(self.delivered[message]), seconds=slots * self.slot_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One direction, for one device."""

    power_dbm: float
    bandwidth_hz: float
    """Of this device alone, where the band is split."""
    distance_m: float
    noise_dbm_per_hz: float
    threshold_db: float
    slot_s: float
    max_slots: int

    @property
    def mean_snr(self) -> float:
        """As a ratio, at h = 1."""
        received_dbm = self.power_dbm - 10 * PATH_LOSS_EXPONENT * math.log10(self.distance_m)
        noise_dbm = self.noise_dbm_per_hz + 10 * math.log10(self.bandwidth_hz)
        return _ratio(received_dbm - noise_dbm)

    @property
    def slot_outage(self) -> float:
        """Probability that a slot carries nothing: 1 - exp(-threshold / mean SNR)."""
        return -math.expm1(-_ratio(self.threshold_db) / self.mean_snr)

    @property
    def mean_bits(self) -> float:
        """That a slot carries, slots below the threshold counted as 0.

        The integral of log2(1 + SNR h) exp(-h) from threshold / SNR on: above it, h is exponential again.
        """
        gains = _ratio(self.threshold_db) / self.mean_snr + QUANTILES
        return float((1 - self.slot_outage) * self._bits(gains).mean())

    def _bits(self, gains: NDArray[np.float64]) -> NDArray[np.float64]:
        bits: NDArray[np.float64] = self.slot_s * self.bandwidth_hz * np.log2(1 + self.mean_snr * gains)
        return bits

    def deliver(self, bits: int, messages: int, rng: np.random.Generator) -> Deliveries:
        """`messages` messages of `bits` each. Draws `messages` times `max_slots` numbers, whatever happens to them."""
        if bits < 1 or messages < 0:
            raise ValueError(f"bits >= 1, messages >= 0, not {bits} and {messages}")
        gains = rng.standard_exponential((messages, self.max_slots))  # (n, T)
        carried = np.where(self.mean_snr * gains >= _ratio(self.threshold_db), self._bits(gains), 0.0)
        there = carried.cumsum(axis=1) >= bits  # (n, T), False up to the slot of delivery
        delivered = there[:, -1]
        return Deliveries(
            slots=np.where(delivered, there.argmax(axis=1) + 1, self.max_slots),
            delivered=delivered,
            slot_s=self.slot_s,
        )

    def shape(self, *, mtu_bytes: int) -> Shape:
        """As an emulator shapes it: the mean rate of the slots above the threshold; the others lose their packets.

        TCP then repeats what this model would send in the next slot. Fading within a slot's packets is not kept, and no
        packet counts slots: the outage of a message is the deadline of a round.
        """
        rate = self.mean_bits / (1 - self.slot_outage) / self.slot_s
        return Shape(
            rate_bit_per_s=rate,
            delay_s=self.slot_s,
            jitter_s=0.0,
            loss=self.slot_outage,
            queue_bytes=max(4 * mtu_bytes, int(rate * self.max_slots * self.slot_s / 8)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """Both directions of every device of a fleet: they are alike in the mean and fade each for itself."""

    name: str
    devices: int
    """That send together and share the uplink's band."""
    up: Hop
    down: Hop

    def upload(self, bits: int, rng: np.random.Generator) -> Delivery:
        """One device's message to the aggregator."""
        return self.up.deliver(bits, 1, rng)[0]

    def download(self, bits: int, rng: np.random.Generator) -> Delivery:
        """The aggregator's message, as one device receives it."""
        return self.down.deliver(bits, 1, rng)[0]

    def link(self, *, mtu_bytes: int = 1500) -> Link:
        """As an emulator shapes it for each device: `link = "mix2fld-asym"` in FLEET.toml."""
        up, down = (hop.shape(mtu_bytes=mtu_bytes) for hop in (self.up, self.down))
        return Link(name=self.name, up=up, down=down, mtu_bytes=mtu_bytes)


POWERS_DBM = {"mix2fld-asym": (23.0, 40.0), "mix2fld-sym": (40.0, 40.0)}
"""Name of a channel -> transmit power of a device and of the aggregator's base station."""
BAND_HZ = 10e6


def load_channel(name: str, *, devices: int = 10) -> Channel:
    """A channel by its name, for a fleet of `devices`. Raises ValueError on a name that is none."""
    if name not in POWERS_DBM:
        raise ValueError(f"no channel {name!r}: one of {', '.join(POWERS_DBM)}")
    if devices < 1:
        raise ValueError(f"a channel serves at least one device, not {devices}")
    up_dbm, down_dbm = POWERS_DBM[name]
    return Channel(name=name, devices=devices, up=_hop(up_dbm, BAND_HZ / devices), down=_hop(down_dbm, BAND_HZ))


def _hop(power_dbm: float, bandwidth_hz: float) -> Hop:
    return Hop(
        power_dbm=power_dbm,
        bandwidth_hz=bandwidth_hz,
        distance_m=1000.0,
        noise_dbm_per_hz=-174.0,
        threshold_db=3.0,
        slot_s=1e-3,
        max_slots=100,
    )


def _ratio(decibel: float) -> float:
    return float(10 ** (decibel / 10))
