"""Every shipped radio, the link an emulator makes of it, and what a radio file can get wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from firmware_profiles.cli import profiles
from firmware_profiles.facts import NOTE_NEEDED
from firmware_profiles.link import Link, Shape
from firmware_profiles.load import (
    ProfileError,
    list_radios,
    load_link,
    load_radio,
    load_sources,
    radio_file,
    read_either,
    read_radio,
)
from firmware_profiles.radio_schema import FAMILIES, Lora, Radio

WIFI = radio_file("wifi-2.4-fair").read_text()
LORA = radio_file("lora-eu868").read_text()


def test_the_radios_of_every_family_are_there() -> None:
    radios = {name: load_radio(name) for name in list_radios()}
    assert {type(radio.phy) for radio in radios.values() if radio.phy} == set(FAMILIES.values())
    assert {"wifi-2.4-good", "wifi-2.4-fair", "wifi-2.4-poor", "wifi-5", "ethernet", "lossy-250k"} <= radios.keys()


@pytest.mark.parametrize("name", list_radios())
def test_a_radio_is_valid_and_every_number_has_a_source(name: str) -> None:
    radio = load_radio(name)
    assert radio.name == name
    assert (radio.phy is None) == (radio.power is None)
    for key, fact in radio.facts():
        for each in (fact, *fact.others):
            assert each.source in load_sources(), key
            assert each.note or each.quality not in NOTE_NEEDED, key


def test_figures_from_memory_are_not_called_documented() -> None:
    """What was not read at its source carries a note saying so and a quality that asks for a calibration."""
    for name in list_radios():
        for key, fact in load_radio(name).facts():
            for each in (fact, *fact.others):
                assert "from memory" not in each.note or each.quality in NOTE_NEEDED, f"{name}: {key}"


def test_the_lossy_link_is_the_one_of_the_acceptance_test() -> None:
    direction = Shape(rate_bit_per_s=250_000, delay_s=0.05, jitter_s=0, loss=0.05, queue_bytes=32_768)
    assert load_link("lossy-250k") == Link(name="lossy-250k", up=direction, down=direction, mtu_bytes=1500)


def test_links_can_be_asymmetric() -> None:
    link = load_link("asym-100k-10m")
    assert link.down.rate_bit_per_s == 100 * link.up.rate_bit_per_s


def test_data_rates_are_those_of_the_region() -> None:
    """DEVICES: EU868 DR0 is SF12 at 125 kHz with 51 bytes, DR6 SF7 at 250 kHz; US915 DR0 carries 11 bytes."""
    eu, us = load_radio("lora-eu868").phy, load_radio("lora-us915").phy
    assert isinstance(eu, Lora)
    assert isinstance(us, Lora)
    triples = [
        list(zip(phy.spreading_factor.value, phy.bandwidth_khz.value, phy.max_payload_bytes.value, strict=True))
        for phy in (eu, us)
    ]
    assert triples[0][0] == (12, 125, 51)
    assert triples[0][6] == (7, 250, 222)
    assert triples[1] == [(10, 125, 11), (9, 125, 53), (8, 125, 125), (7, 125, 242), (8, 500, 242)]
    assert eu.duty_cycle_fraction is not None
    assert eu.duty_cycle_fraction.value == 0.01
    assert us.duty_cycle_fraction is None


def test_an_unknown_radio_is_told_which_there_are() -> None:
    with pytest.raises(ProfileError, match="wifi-b, wifi-g"):
        load_radio("wifi-3")


REFUSED = [
    ("an unknown section", WIFI, "[wifi] -> [wlan]", "wlan: unknown key"),
    ("a missing direction", WIFI, "[down] -> [dawn]", "down: is missing"),
    ("a percentage", WIFI, "n = { value = 0.005 -> n = { value = 5.0", "up.loss_fraction.value: 5.0 is outside"),
    ("jitter over delay", WIFI, "r_ms = { value = 4.0 -> r_ms = { value = 40.0", "up: 0 <= jitter_s <= delay_s"),
    ("a queue below a packet", WIFI, "value = 131072 -> value = 1000", "up: queue_bytes holds"),
    ("another standard", WIFI, 'value = "n" -> value = "h"', "wifi.standard.value: 'h' is none of b, g, n, ac"),
    ("two families", WIFI, "[wifi] -> [ethernet]\n[wifi]", "ethernet: a radio is of one family"),
    ("power without a family", WIFI, WIFI[WIFI.index("[wifi]") :] + " -> ", "power: comes with one of"),
    ("a data rate short", LORA, "[51, 51, 51, 115, 222, 222, 222] -> [51]", "lora.max_payload_bytes: has an entry"),
    ("no such data rate", LORA, "rate = { value = 5 -> rate = { value = 9", "lora.default_data_rate: is one of"),
    ("another file's name", WIFI, 'name = "wifi-2.4-fair" -> name = "wifi"', "name: 'wifi' is not the file's name"),
]


@pytest.mark.parametrize(("text", "change", "says"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_a_wrong_radio_is_refused(text: str, change: str, says: str, tmp_path: Path) -> None:
    old, _, new = change.partition(" -> ")
    assert old in text
    file = tmp_path / f"{'lora-eu868' if text is LORA else 'wifi-2.4-fair'}.toml"
    file.write_text(text.replace(old, new, 1))
    findings = read_radio(file)
    assert isinstance(findings, list)
    told = [f"{finding.key}: {finding.message}" for finding in findings]
    assert any(each.startswith(says) for each in told), told


SHAPE = dict(rate_bit_per_s=1e6, delay_s=0.05, jitter_s=0.0, loss=0.0, queue_bytes=1500)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rate_bit_per_s", 0),
        ("rate_bit_per_s", float("inf")),
        ("jitter_s", 0.06),
        ("jitter_s", -0.01),
        ("loss", 1.0),
        ("queue_bytes", 0),
    ],
)
def test_a_shape_that_no_link_can_have_is_refused(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=key):
        Shape(**{**SHAPE, key: value})  # type: ignore[arg-type]


def test_a_link_needs_room_for_one_packet() -> None:
    shape = Shape(**SHAPE)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one packet of 1501"):
        Link(name="x", up=shape, down=shape, mtu_bytes=1501)
    with pytest.raises(ValueError, match="at least 68"):
        Link(name="x", up=shape, down=shape, mtu_bytes=60)


def test_a_file_is_read_as_what_it_is(tmp_path: Path) -> None:
    assert isinstance(read_either(radio_file("ble")), Radio)
    (tmp_path / "neither.toml").write_text('name = "neither"')
    assert isinstance(read_either(tmp_path / "neither.toml"), list)


@pytest.mark.parametrize("name", list_radios())
def test_show_names_the_source_of_every_line(name: str) -> None:
    shown = CliRunner().invoke(profiles, ["show", name])
    assert shown.exit_code == 0
    for key, fact in load_radio(name).facts():
        line = next(line for line in shown.output.splitlines() if line.startswith(key + " "))
        assert line.split()[-1] == fact.source


def test_check_reads_radio_files(tmp_path: Path) -> None:
    file = tmp_path / "wifi-2.4-fair.toml"
    file.write_text(WIFI.replace("delay_ms = { value = 5.0", "delay_ms = { value = -5.0"))
    checked = CliRunner().invoke(profiles, ["check", str(file)])
    assert checked.exit_code == 1
    assert "up.delay_ms.value -5.0 is outside" in checked.output
