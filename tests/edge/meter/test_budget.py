"""What fits a radio, against hands, tables and what was measured on a real stack."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge.budget_cli import budget
from edge.meter.budget import AIRTIME, Cost, Limits, Setting, advice, cost, limits, pace, packets
from edge.meter.exchange import BITS, Exchange, fd, fl
from edge.meter.radio import lora
from edge.meter.radio.air import send
from firmware_profiles.load import load_radio


def setting(name: str, data_rate: int | None = None, *, tls: bool = True, qos: int = 1) -> Setting:
    return Setting(radio=load_radio(name), data_rate=data_rate, tls=tls, qos=qos)


def one_way(*, up: tuple[int, ...] = (), down: tuple[int, ...] = ()) -> Exchange:
    return Exchange(method="fd", bits=8, up=up, down=down)


# ---------------------------------------------------------------- packets


def test_a_message_over_tls_is_what_was_measured() -> None:
    """119 bytes, a topic of 24, MQTT 5, QoS 1, TLS 1.3, on paho and mosquitto: 173 bytes of stream and two segments up
    make 277 of IP; a PUBACK of 5 and one segment down make 79. Ours is a byte shorter: without its reason code.
    """
    up, down = packets(
        Setting(radio=load_radio("wifi-2.4-good"), fleet="0123456", device="01234567890"), one_way(up=(119,))
    )
    assert sum(size * many for size, many in up.items()) == 277
    assert sum(size * many for size, many in down.items()) == 78


def test_at_qos_0_only_tcp_acknowledges() -> None:
    up, down = packets(setting("wifi-2.4-good", tls=False, qos=0), one_way(up=(100,)))
    assert (sum(up.values()), dict(down)) == (1, {52: 1})


def test_a_long_message_is_cut_to_the_mtu() -> None:
    """50,200 bytes, the packet's 4 + 2 + 10 (ps/f/u/d00) + 2 + 1 and four TLS records, over segments of 1,448."""
    up, down = packets(setting("wifi-2.4-good"), one_way(up=(50_200,)))
    stream = 50_200 + 4 + 2 + 10 + 2 + 1 + 4 * 22
    assert up[1500] == stream // 1448
    assert up[52 + stream % 1448] == 1
    assert sum(down.values()) == math.ceil(math.ceil(stream / 1448) / 2)


def test_radios_without_ip_carry_the_frame_alone() -> None:
    for name in ("ble", "ieee802154"):
        assert packets(setting(name), one_way(up=(78,), down=(123,))) == ({78: 1}, {123: 1})


def test_class_a_asks_for_every_frame_it_hears() -> None:
    """At DR0 123 bytes come in three frames of 49; an upload of 40 is one frame: two empty ones must go up besides."""
    up, down = packets(setting("lora-eu868", 0), one_way(up=(40,), down=(123,)))
    assert (dict(up), dict(down)) == ({40: 1, 0: 2}, {123: 1})
    enough, _ = packets(setting("lora-eu868", 0), one_way(up=(119,), down=(60,)))
    assert dict(enough) == {119: 1}


# ---------------------------------------------------------------- limits and rounds


@pytest.mark.parametrize(("rate", "messages"), [(5, 136), (0, 3)])
def test_fair_use_by_hand(rate: int, messages: int) -> None:
    """TTN's 30 s a day are 136 messages of 119 bytes at SF7, and 3 at SF12."""
    place = setting("lora-eu868", rate)
    found = cost(place, one_way(up=(119,), down=(1,)), Limits(sending_s=30.0, sending_why="fair use"))
    assert math.floor(found.rounds_a_day) == messages
    assert found.bound == "fair use"


def test_the_duty_cycle_by_hand() -> None:
    """DR0, one frame of 51 + 13 bytes up and one down: 2.7935 s of sending; 1 % of a day is 864 s: 309 rounds."""
    found = cost(setting("lora-eu868", 0), one_way(up=(51,), down=(51,)), limits(setting("lora-eu868", 0)))
    assert found.sending_s == pytest.approx(2.7935, abs=1e-4)
    assert pace(found.rounds_a_day) == "309 rounds a day"
    assert found.bound == "duty cycle 1 % of EU868"


def test_the_tightest_limit_binds() -> None:
    place = setting("lora-eu868", 5)
    exchange = one_way(up=(100,), down=(230,))
    ttn = cost(place, exchange, limits(place, services=["ttn"]))
    assert ttn.rounds_a_day == pytest.approx(10 / 2)
    assert "downlinks" in ttn.bound
    tighter = limits(place, duty_cycle=0.001)
    assert tighter.sending_s == pytest.approx(86.4)
    assert tighter.sending_why == "duty cycle 0.1 %"
    looser = limits(place, duty_cycle=0.5)
    assert looser.sending_s == pytest.approx(864)


def test_class_a_waits_for_its_second_window() -> None:
    """US915 has no duty cycle: a round lasts its air and 2 s after each uplink."""
    place = setting("lora-us915", 3)
    found = cost(place, one_way(up=(100,), down=(50,)), limits(place))
    assert found.bound == AIRTIME
    assert found.rounds_a_day == pytest.approx(86_400 / (found.air_s + lora.RX2_DELAY_S))


def test_a_message_that_a_service_refuses_fits_no_round() -> None:
    place = setting("wifi-2.4-good")
    within = limits(place, services=["aws-iot"])
    refused = cost(place, fl(parameters=101_770, labels=10, devices=10), within)
    assert (refused.rounds_a_day, refused.bound) == (0, "AWS IoT, 131072 bytes a message")
    assert cost(place, fl(parameters=12_544, labels=10, devices=10), within).rounds_a_day > 0


def test_a_battery_bounds_the_rounds() -> None:
    place = setting("nb-iot")
    found = cost(place, fd(labels=10, devices=10, bits=4), limits(place, joules_a_day=20))
    assert found.rounds_a_day == pytest.approx(20 / found.active_j)


@pytest.mark.parametrize("name", ["lora-eu868", "ble", "nb-iot", "wifi-2.4-fair"])
def test_fewer_bits_never_cost_more(name: str) -> None:
    place = setting(name)
    found = [cost(place, fd(labels=10, devices=10, bits=bits), limits(place)) for bits in BITS]

    def spent(each: Cost) -> tuple[float, float, int]:
        return each.sending_s, each.active_j, each.link_up_bytes

    for wide, narrow in pairwise(found):
        assert all(a >= b for a, b in zip(spent(wide), spent(narrow), strict=True))


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(ValueError, match="bare link"):
        limits(setting("lossy-250k"))
    with pytest.raises(ValueError, match="ttn or aws-iot"):
        limits(setting("ble"), services=["azure"])
    with pytest.raises(ValueError, match="share of the time"):
        limits(setting("ble"), duty_cycle=1.5)


# ---------------------------------------------------------------- advice


def fits(place: Setting, within: Limits, *, labels: int, bits: int, rounds: float) -> bool:
    return cost(place, fd(labels=labels, devices=10, bits=bits), within).rounds_a_day >= rounds


def test_advice_holds_what_it_promises() -> None:
    place = setting("lora-eu868", 0)
    within = limits(place, services=["ttn"])
    told = advice(place, within, labels=10, devices=10, rounds=24)
    assert told == ["4 bits and 3 rounds a day"]
    assert fits(place, within, labels=10, bits=4, rounds=3)


def test_advice_names_a_faster_rate() -> None:
    place = setting("lora-eu868", 0)
    told = advice(place, limits(place), labels=10, devices=10, rounds=400)
    assert told[0] == "4 bits at DR2"
    assert fits(setting("lora-eu868", 2), limits(place), labels=10, bits=4, rounds=400)
    assert not fits(setting("lora-eu868", 1), limits(place), labels=10, bits=4, rounds=400)


def test_advice_names_the_most_labels() -> None:
    place = setting("lora-eu868", 6)
    told = advice(place, limits(place), labels=200, devices=10, rounds=100)
    most = int(next(each for each in told if "labels" in each).split()[-2])
    assert fits(place, limits(place), labels=most, bits=4, rounds=100)
    assert not fits(place, limits(place), labels=most + 1, bits=4, rounds=100)


def test_advice_is_empty_where_nothing_helps() -> None:
    place = setting("ble")
    assert advice(place, Limits(message_bytes=10, message_why="ten bytes"), labels=2, devices=2, rounds=1) == []


@pytest.mark.parametrize(
    ("rounds", "said"),
    [
        (0, "no round"),
        (1.99, "1 round a day"),
        (1234.5, "1,234 rounds a day"),
        (0.6, "a round in 40 hours"),
        (0.3, "a round in 3.3 days"),
    ],
)
def test_pace(rounds: float, said: str) -> None:
    assert pace(rounds) == said
    assert pace(0.1) == "a round in 10 days"


# ---------------------------------------------------------------- the command


def test_the_command_says_what_fits() -> None:
    shown = CliRunner().invoke(budget, ["--radio", "lora-eu868", "--data-rate", "DR3", "--rounds", "24"])
    assert shown.exit_code == 0
    assert "DR3 (SF9, 125 kHz)" in shown.output
    assert "24 rounds a day fit with: fd, 32 bits" in shown.output
    assert "modelled" in shown.output


def test_the_command_refuses_and_says_what_would_fit() -> None:
    settings = ["--radio", "lora-eu868", "--data-rate", "0", "--rounds", "24", "--service", "ttn"]
    shown = CliRunner().invoke(budget, settings)
    assert shown.exit_code == 1
    assert "Refused: 24 rounds a day cannot be had here." in shown.output
    assert "What would fit: 4 bits and 3 rounds a day." in shown.output


def test_the_command_speaks_json() -> None:
    settings = ["--radio", "nb-iot", "--parameters", "12544", "--shared", "900", "--json"]
    shown = CliRunner().invoke(budget, settings)
    plain = json.loads(shown.output)
    assert [each["name"] for each in plain["rounds"]][-2:] == ["share, 4 bits", "fl, 32 bits"]
    assert plain["airtime_and_energy"] == "modelled"
    assert plain["rounds"][0]["sending_s"] > send(setting("nb-iot").phy, 432).transmit_s


def test_a_data_rate_is_a_number() -> None:
    shown = CliRunner().invoke(budget, ["--radio", "lora-eu868", "--data-rate", "SF7"])
    assert shown.exit_code == 2
    assert "DR0, DR1" in shown.output


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["--radio", "wifi-3"], "no radio 'wifi-3'"),
        (["--radio", "lossy-250k"], "bare link"),
        (["--radio", "lora-eu868", "--data-rate", "9"], "DR0 to DR6, not DR9"),
        (["--radio", "ble", "--data-rate", "1"], "only LoRa has a data rate"),
    ],
)
def test_the_command_says_what_is_wrong(settings: list[str], said: str) -> None:
    shown = CliRunner().invoke(budget, settings)
    assert shown.exit_code == 1
    assert said in shown.output


SHOWN = {
    "DR3 (SF9": "--radio lora-eu868 --data-rate DR3 --rounds 24",
    "DR5 (SF7": "--radio lora-eu868 --data-rate DR5 --service ttn --parameters 12544 --rounds 10",
    "DR0 (SF12": "--radio lora-eu868 --data-rate DR0 --rounds 24 --service ttn",
    "NB-IoT": "--radio nb-iot --parameters 12544 --shared 900 --energy 20 --rounds 20",
}


@pytest.mark.parametrize("block", SHOWN)
def test_the_page_shows_what_the_command_prints(block: str) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "budget.md").read_text(encoding="utf-8")
    (shown,) = (part.strip() for part in page.split("```")[1::2] if block in part)
    settings = SHOWN[block]
    assert settings.removeprefix("--radio lora-eu868 ") in page
    assert CliRunner().invoke(budget, settings.split()).output.strip() == shown
