"""FLEET.toml is read whole, and refused with everything that is wrong with it."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from firmware_profiles.load import load_link, load_profile
from firmware_profiles.write import profile_toml
from trainer.channel import load_channel
from trainer.emulate.fleet import UNSHAPED, Figures, Fleet, FleetError, Trigger
from trainer.emulate.fleet_file import named_links, parse_fleet, read_fleet

WHOLE = """
[fleet]
methods = ["alone", "fd"]
rounds = 8

[[group]]
profile = "pi-zero-2-w"
count = 3
link = "wifi-2.4-fair"
backend = "netns"

[[group]]
name = "hub"
profile = "pi-4b"
link = "mine"
battery_j = 500

[link.mine]
from = "wifi-2.4-good"
up = { rate_kbit_per_s = 100, delay_ms = 5 }

[[event]]
kind = "drop"
devices = ["d1"]
at_round = 3
until_round = 6

[[event]]
kind = "fade"
group = "pi-zero-2-w"
at_s = 20
up = { loss_fraction = 0.5 }

[[event]]
kind = "broker-restart"
at_round = 2
"""


def fleet(text: str) -> Fleet:
    return parse_fleet(tomllib.loads(text), name="test")


def changed(old: str, new: str) -> str:
    assert old in WHOLE
    return WHOLE.replace(old, new, 1)


def test_devices_are_numbered_through_the_groups() -> None:
    found = fleet(WHOLE)
    assert [(member.name, member.profile.name) for member in found.members] == [
        ("d0", "pi-zero-2-w"),
        ("d1", "pi-zero-2-w"),
        ("d2", "pi-zero-2-w"),
        ("d3", "pi-4b"),
    ]
    assert found.backends == ("process", "netns")
    mine = found.member("d3").air
    assert (mine.link.name, mine.radio) == ("mine", "wifi-2.4-good")
    assert (mine.link.up.rate_bit_per_s, mine.link.up.delay_s) == (100_000, 0.005)
    assert mine.link.down == load_link("wifi-2.4-good").down


def test_events_name_devices_or_a_group() -> None:
    drop, fade, restart = fleet(WHOLE).happenings
    assert (drop.devices, drop.at, drop.until) == (("d1",), Trigger(round=3), Trigger(round=6))
    assert fade.devices == ("d0", "d1", "d2")
    assert (fade.up, fade.down, fade.at) == (Figures(loss_fraction=0.5), Figures(), Trigger(seconds=20))
    assert (restart.devices, restart.until) == ((), None)


def test_the_quorum_leaves_out_who_may_go() -> None:
    assert fleet(WHOLE).quorum == 2, "d1 drops out, d3 has a battery"
    assert fleet(changed("rounds = 8", "quorum = 4")).quorum == 4


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rounds = 8", "round = 8", "unknown key 'round': did you mean rounds?"),
        ("rounds = 8", 'rounds = "8"', "'8' is not a whole number"),
        ("rounds = 8", "rounds = 0", "rounds = 0: more than 0"),
        ("rounds = 8", "quorum = 5", "quorum = 5, but there are 4 devices"),
        ("rounds = 8", "target = 90.0", "an accuracy, 0 to 1"),
        ("rounds = 8", "bits = 5", "bits = 5: one of 32, 16, 8, 4, 3"),
        ("rounds = 8", "seed = -1", "seed = -1: a whole number below 2^32"),
        ("rounds = 8", "lr = 0.0", "lr = 0: more than 0"),
        ("rounds = 8", "gamma = -1.0", "gamma = -1: 0 or more"),
        ("rounds = 8", 'broker = "mqtt://10.0.0.1"', "cannot be reached from netns devices"),
        ('"alone", "fd"', '"alone", "fedavg"', "unknown method 'fedavg': one of alone"),
        ('"alone", "fd"', '"fd", "fd"', "a method is named twice"),
        ('"pi-4b"', '"pi-9"', "no profile 'pi-9': one of pi-3b-plus"),
        ('link = "mine"', 'link = "yours"', "unknown link 'yours': one of none"),
        ('backend = "netns"', 'backend = "vm"', "unknown backend 'vm': one of process"),
        ('backend = "netns"', 'arch = "arm64"', "needs backend = 'container'"),
        ("count = 3", "count = 0", "at least 1"),
        ("count = 3", "count = 2000", "2 to 1000"),
        ("battery_j = 500", "battery_j = true", "True is not a number"),
        ("delay_ms = 5", "delay_ms = 5, jitter_ms = 6", "0 <= jitter_s <= delay_s"),
        ("delay_ms = 5", "loss_fraction = 5", "loss is a probability below 1"),
        ("delay_ms = 5", "delay = 5", "unknown key 'delay': did you mean delay_ms?"),
        ('devices = ["d1"]', 'devices = ["d4"]', "no device 'd4'"),
        ('devices = ["d1"]', "", "needs devices = [...] or group = ..."),
        ('"d1"]\nat_round = 3', '"d1"]', "needs at_round or at_s"),
        ("until_round = 6", "until_round = 6\nuntil_s = 3", "until_round or until_s, not both"),
        ('"drop"', '"drip"', "kind = 'drip': one of drop"),
        ('"broker-restart"', '"broker-restart"\ndevices = ["d1"]', "unknown key 'devices'"),
        ("up = { loss_fraction = 0.5 }", "", "a fade needs up = {...} or down = {...}"),
        ('group = "pi-zero-2-w"', 'group = "hub"', "d3 is a process, its link is not shaped"),
        ('name = "hub"', 'name = "pi-zero-2-w"', "two groups are named 'pi-zero-2-w'"),
    ],
)
def test_what_is_wrong_is_said(old: str, new: str, message: str) -> None:
    with pytest.raises(FleetError) as caught:
        fleet(changed(old, new))
    assert message in str(caught.value)


def test_everything_wrong_is_said_at_once() -> None:
    raw: dict[str, Any] = {"fleet": {"sed": 1}, "group": [{"count": True}, {"profile": "pi-9"}]}
    with pytest.raises(FleetError) as caught:
        parse_fleet(raw, name="test")
    assert len(str(caught.value).splitlines()) == 4


def test_a_file_that_is_not_there_or_no_toml(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="cannot be read"):
        read_fleet(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("[fleet\n")
    with pytest.raises(FleetError, match="is not TOML"):
        read_fleet(tmp_path / "bad.toml")


def test_every_radio_profile_is_a_link() -> None:
    assert {"none", "wifi-2.4-fair", "lossy-250k", "lora-eu868"} <= set(named_links())
    assert named_links()["none"].link == UNSHAPED


def test_a_channel_is_a_link_that_the_whole_fleet_shares() -> None:
    """The uplink's band is split over the devices: with twenty a device has half the noise, and less than the rate."""
    text = '[[group]]\nprofile = "pi-zero-2-w"\ncount = {}\nlink = "mix2fld-asym"\nbackend = "netns"\n'
    few, many = (parse_fleet(tomllib.loads(text.format(count)), name="f").members[0].air.link for count in (10, 20))
    assert few == load_channel("mix2fld-asym", devices=10).link()
    assert many.up.rate_bit_per_s < few.up.rate_bit_per_s < few.down.rate_bit_per_s == many.down.rate_bit_per_s


def test_a_profile_of_ones_own_is_a_file_beside_the_fleets(tmp_path: Path) -> None:
    board = load_profile("pi-4b")
    (tmp_path / "mine.toml").write_text(profile_toml(replace(board, name="mine")), encoding="utf-8")
    (tmp_path / "fleet.toml").write_text(changed('profile = "pi-4b"', 'profile = "mine.toml"'), encoding="utf-8")
    (tmp_path / "wrong.toml").write_text(changed('profile = "pi-4b"', 'profile = "none.toml"'), encoding="utf-8")
    found = read_fleet(tmp_path / "fleet.toml")
    assert {member.profile.name for member in found.members} == {"pi-zero-2-w", "mine"}
    with pytest.raises(FleetError, match=r"none\.toml.*cannot be read"):
        read_fleet(tmp_path / "wrong.toml")
