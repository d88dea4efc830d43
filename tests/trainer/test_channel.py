"""The wireless channel against what can be computed by hand and against the project's reference figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.special import exp1

from trainer.channel import POWERS_DBM, Hop, load_channel
from trainer.channel_cli import channel


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def hop(**settings: float) -> Hop:
    defaults = dict(
        power_dbm=23.0,
        bandwidth_hz=1e6,
        distance_m=1000.0,
        noise_dbm_per_hz=-174.0,
        threshold_db=3.0,
        slot_s=1e-3,
        max_slots=100,
    )
    return Hop(**{**defaults, **settings})  # type: ignore[arg-type]


def test_mean_snr_by_hand() -> None:
    """23 dBm - 120 dB of path - (-174 + 60) dBm of noise = 17 dB; the broadcast 40 - 120 + 104 = 24 dB."""
    channel = load_channel("mix2fld-asym")
    assert channel.up.mean_snr == pytest.approx(10**1.7)
    assert channel.down.mean_snr == pytest.approx(10**2.4)
    assert load_channel("mix2fld-sym").up.mean_snr == pytest.approx(10**3.4)


@pytest.mark.parametrize("threshold_db", [-3.0, 3.0, 15.0])
def test_a_slot_below_the_threshold_is_as_rare_as_rayleigh_fading_says(threshold_db: float) -> None:
    """P(SNR < threshold) = 1 - exp(-threshold / mean SNR): a message of one bit in one slot is lost that often."""
    one = hop(threshold_db=threshold_db, max_slots=1)
    expected = 1 - math.exp(-(10 ** (threshold_db / 10)) / 10**1.7)
    assert one.slot_outage == pytest.approx(expected)
    lost = 1 - one.deliver(1, 100_000, generator()).delivered.mean()
    assert lost == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 100_000))


@pytest.mark.parametrize("power_dbm", [13.0, 23.0, 40.0])
def test_the_mean_rate_is_the_exponential_integral(power_dbm: float) -> None:
    """Integral of log2(1 + g h) e^-h from a = threshold / g: log2(1 + threshold) e^-a + e^(1/g) E1(a + 1/g) / ln 2."""
    one = hop(power_dbm=power_dbm)
    g, threshold = one.mean_snr, 10**0.3
    a = threshold / g
    per_hz = math.log2(1 + threshold) * math.exp(-a) + math.exp(1 / g) * exp1(a + 1 / g) / math.log(2)
    assert one.mean_bits == pytest.approx(per_hz * 1e6 * 1e-3, rel=1e-4)


REFERENCE = [
    (3_200, 1.2, 0.05),  # FD: 10 x 10 outputs of 32 bits
    (401_408, 82, 1.0),  # FL: 12,544 parameters of 32 bits
    (10 * 6_272 + 3_200, 14, 0.1),  # FLD, first round: 10 seeds and the outputs
    (50 * 6_272 + 3_200, 65, 0.5),  # FLD, first round: 50 seeds and the outputs
]


@pytest.mark.parametrize(("bits", "slots", "tolerance"), REFERENCE)
def test_messages_take_the_slots_of_the_reference(bits: int, slots: float, tolerance: float) -> None:
    """About 1.2, 82, 14 and 65 slots of the asymmetric uplink, derived apart from this code; none is lost."""
    found = load_channel("mix2fld-asym").up.deliver(bits, 10_000, generator())
    assert found.slots.mean() == pytest.approx(slots, abs=tolerance)
    assert found.delivered.all()


def test_the_uplink_is_dear_and_the_downlink_cheap_only_where_it_is_asymmetric() -> None:
    ratio = {}
    for name in POWERS_DBM:
        channel = load_channel(name)
        up, down = (h.deliver(401_408, 1000, generator()).slots.mean() for h in (channel.up, channel.down))
        ratio[name] = up / down
    assert ratio["mix2fld-asym"] > 2 * ratio["mix2fld-sym"]


def test_a_message_that_does_not_fit_its_slots_is_lost() -> None:
    """100 slots of the asymmetric uplink carry 490,000 bits in the mean: 600,000 do not get through."""
    found = load_channel("mix2fld-asym").up.deliver(600_000, 200, generator())
    assert not found.delivered.any()
    assert (found.slots == 100).all()
    one = load_channel("mix2fld-asym").upload(600_000, generator())
    assert (one.slots, one.delivered) == (100, False)
    assert one.seconds == pytest.approx(0.1)


def test_one_at_a_time_or_all_at_once_is_the_same() -> None:
    channel = load_channel("mix2fld-asym")
    rng = generator(7)
    one_by_one = [channel.upload(40_000, rng) for _ in range(20)]
    together = channel.up.deliver(40_000, 20, generator(7))
    assert [together[i] for i in range(20)] == one_by_one


def test_the_same_seed_fades_the_same_and_another_does_not() -> None:
    up = load_channel("mix2fld-asym").up
    first, again, other = (up.deliver(100_000, 50, generator(seed)).slots for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_more_devices_share_the_band() -> None:
    """Half the band is 3 dB less noise but half the rate: a message takes longer."""
    few, many = (load_channel("mix2fld-asym", devices=d).up for d in (10, 20))
    assert many.bandwidth_hz == few.bandwidth_hz / 2
    assert many.deliver(200_000, 500, generator()).slots.mean() > few.deliver(200_000, 500, generator()).slots.mean()


def test_the_emulated_link_carries_what_the_channel_carries() -> None:
    """Mean rate of the slots that carry, packets lost in the others: their product is the channel's mean rate."""
    channel = load_channel("mix2fld-asym")
    link = channel.link()
    for shape, h in ((link.up, channel.up), (link.down, channel.down)):
        assert shape.rate_bit_per_s * (1 - shape.loss) == pytest.approx(1000 * h.mean_bits)
        assert shape.loss == h.slot_outage
    assert link.name == "mix2fld-asym"
    assert link.down.rate_bit_per_s > 10 * link.up.rate_bit_per_s


def test_what_no_channel_can_do_is_refused() -> None:
    with pytest.raises(ValueError, match="one of mix2fld-asym, mix2fld-sym"):
        load_channel("mix2fld")
    with pytest.raises(ValueError, match="at least one device"):
        load_channel("mix2fld-sym", devices=0)
    with pytest.raises(ValueError, match="bits >= 1"):
        load_channel("mix2fld-sym").upload(0, generator())


def test_the_command_shows_slots_and_the_link() -> None:
    shown = CliRunner().invoke(channel, ["mix2fld-asym", "--bits", "3200", "--bits", "401408"])
    assert shown.exit_code == 0
    assert "17.0 dB" in shown.output
    rows = {line.split()[0]: line.split() for line in shown.output.splitlines() if line.strip()}
    assert float(rows["3,200"][1]) == pytest.approx(1.2, abs=0.1)
    assert float(rows["401,408"][1]) == pytest.approx(82, abs=1)
    refused = CliRunner().invoke(channel, ["fog"])
    assert refused.exit_code == 1
    assert "one of mix2fld-asym" in refused.output
