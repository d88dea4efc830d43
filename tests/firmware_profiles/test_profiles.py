"""Every shipped profile, and everything that a profile file can get wrong."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from firmware_profiles.cli import profiles
from firmware_profiles.facts import NOTE_NEEDED, Fact, Quality
from firmware_profiles.load import (
    SOURCES_FILE,
    ProfileError,
    find_line,
    list_profiles,
    list_radios,
    load_profile,
    load_radio,
    load_sources,
    profile_file,
    read_profile,
    read_sources,
)
from firmware_profiles.schema import Calibration, Hardware, Profile
from firmware_profiles.write import profile_toml

ROOT = Path(__file__).resolve().parents[2]
BOARD = profile_file("pi-4b").read_text()


def test_the_first_five_are_there() -> None:
    assert list_profiles() == ("pi-3b-plus", "pi-4b", "pi-5", "pi-zero-2-w", "pi-zero-w")


@pytest.mark.parametrize("name", list_profiles())
def test_a_profile_is_valid_and_says_what_it_must(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    facts = dict(profile.facts())
    for key, fact in facts.items():
        for each in (fact, *fact.others):
            assert each.source in load_sources(), key
            assert each.note or each.quality not in NOTE_NEEDED, key
    assert profile.power.idle_w.value < profile.power.all_cores_w.value
    # What a runtime needs is there where the runtime is said to be possible, and nowhere else.
    assert profile.runtimes.onnx.value == (profile.wheels.onnxruntime.value != "none")
    assert profile.runtimes.numpy.value
    if profile.hardware.isa.value == "armv6":
        runtimes = profile.runtimes
        assert [runtimes.onnx.value, runtimes.tflite.value, runtimes.torch.value] == [False] * 3


@pytest.mark.parametrize("name", list_profiles())
def test_the_limits_fit_the_memory(name: str) -> None:
    """docs/profiles.md: weights, gradient and two Adam moments in at most 60 % of the smallest RAM."""
    profile = load_profile(name)
    assert 4 * 4 * profile.limits.max_parameters.value <= 0.6 * min(profile.hardware.ram_mib.value) * 2**20


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("pi-zero-w", "wifi_rate_mbit_per_s", 35),
        ("pi-zero-2-w", "wifi_rate_mbit_per_s", 35),
        ("pi-3b-plus", "wifi_rate_mbit_per_s", 100),
        ("pi-4b", "wifi_rate_mbit_per_s", 120),
        ("pi-5", "wifi_rate_mbit_per_s", 300),
        ("pi-zero-w", "supply_a", 1.2),
        ("pi-zero-2-w", "idle_w", 0.60),
        ("pi-3b-plus", "all_cores_w", 4.9),
        ("pi-4b", "halt_w", 0.115),
        ("pi-5", "all_cores_w", 9.8),
    ],
)
def test_numbers_are_those_of_their_sources(name: str, key: str, value: float) -> None:
    facts = {path.partition(".")[2]: fact.value for path, fact in load_profile(name).facts()}
    assert facts[key] == value


def test_every_source_is_used_and_every_file_it_names_exists() -> None:
    boards = [fact for name in list_profiles() for _, fact in load_profile(name).facts()]
    facts = [*boards, *(fact for name in list_radios() for _, fact in load_radio(name).facts())]
    used = {each.source for fact in facts for each in (fact, *fact.others)}
    assert used | {"potstill-calibrate"} == set(load_sources())  # the one that a user's own calibration names
    for source in load_sources().values():
        assert source.address.startswith("https://") or (ROOT / source.address).is_file()


def test_an_unknown_profile_is_told_which_there_are() -> None:
    with pytest.raises(ProfileError, match="pi-zero-2-w"):
        load_profile("../pi-4b")


# ---------------------------------------------------------------- what is refused, and where

IDLE = next(line for line in BOARD.splitlines() if line.startswith("idle_w"))


def wrong(old: str, new: str) -> tuple[str, str]:
    assert old in BOARD
    return old, new


REFUSED = [
    ("an unknown key", *wrong("idle_w =", "idle_mw ="), "power.idle_mw", "did you mean idle_w"),
    ("an unknown key far from any", *wrong("title =", "zzz = 1\ntitle ="), "zzz", "unknown key: one of"),
    ("an unknown section", *wrong("[limits]", "[limit]"), "limit", "did you mean limits"),
    ("a missing key", *wrong(IDLE + "\n", ""), "power.idle_w", "is missing"),
    ("a bare number", *wrong(IDLE, "idle_w = 2.7"), "power.idle_w", "is a table"),
    ("no source", *wrong('1500, source = "raspberrypi-processors"', "1500"), "hardware.clock_mhz.source", "is missing"),
    ("an empty source", *wrong('source = "pidramble"', 'source = ""'), "power.idle_w.source", "says something"),
    ("a source nobody knows", *wrong('"pidramble"', '"a friend"'), "power.idle_w.source", "not in sources.toml"),
    ("no quality", *wrong('", quality = "guess"', '"'), "power.wifi_transmit_extra_w.quality", "is missing"),
    ("a quality of one's own", *wrong('"guess"', '"sure"'), "power.wifi_transmit_extra_w.quality", "is none of"),
    (
        "a guess without a note",
        *wrong('"guess", note', '"guess", others = [] } # '),
        "power.wifi_transmit_extra_w",
        "how so",
    ),
    ("milliwatts", *wrong("value = 2.7", "value = 2700"), "power.idle_w.value", "key's unit (w)"),
    ("gigahertz", *wrong("value = 1500", "value = 1"), "hardware.clock_mhz.value", "key's unit (mhz)"),
    ("NaN", *wrong("value = 2.7", "value = nan"), "power.idle_w.value", "outside"),
    ("a text for a number", *wrong("value = 2.7", 'value = "2.7"'), "power.idle_w.value", "is not a number"),
    ("true for a number", *wrong("value = 2.7", "value = true"), "power.idle_w.value", "is not a number"),
    ("half a core", *wrong("value = 4,", "value = 4.5,"), "hardware.cores.value", "is not a whole number"),
    ("a number for a list", *wrong("[1024, 2048, 4096, 8192]", "1024"), "hardware.ram_mib.value", "is a list"),
    ("a number for yes", *wrong("value = true", "value = 1"), "runtimes.onnx.value", "true or false"),
    ("another architecture", *wrong('"aarch64", source', '"arm64", source'), "hardware.isa.value", "armv6, armv7"),
    (
        "no reason for a runtime",
        *wrong(', note = "LiteRT; needs less memory than onnx"', ""),
        "runtimes.tflite",
        "says why",
    ),
    ("a key of a fact", *wrong('note = "23 mA"', 'remark = "23 mA"'), "power.halt_w.remark", "unknown key"),
    (
        "other figures without a source",
        *wrong('source = "geerling-sbc-4", ', ""),
        "hardware.clock_mhz.others.source",
        "is missing",
    ),
    (
        "other figures that are no list",
        *wrong('note = "1,280 mA", others = [', 'note = "1,280 mA", others = 3 } #'),
        "power.all_cores_w.others",
        "list",
    ),
    ("another file's name", *wrong('name = "pi-4b"', 'name = "pi-4"'), "name", "not the file's name"),
    ("no title", *wrong('"Raspberry Pi 4 Model B"', '" "'), "title", "says something"),
    ("less at work than at rest", *wrong("value = 3.3,", "value = 1.3,"), "power.one_core_w", "less than idle_w"),
    ("one core that is not all", *wrong("cores = { value = 4", "cores = { value = 1"), "power.one_core_w", "one core"),
    ("no numpy", *wrong("numpy = { value = true", "numpy = { value = false"), "runtimes.numpy", "wherever"),
    ("no TOML", *wrong("[power]", "[power"), "", "is not TOML"),
]


@pytest.mark.parametrize(("old", "new", "key", "message"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_a_wrong_file_is_refused_with_line_and_key(old: str, new: str, key: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "pi-4b.toml"
    text = BOARD.replace(old, new, 1)
    file.write_text(text)
    findings = read_profile(file)
    assert isinstance(findings, list)
    finding = next(f for f in findings if f.key == key and message in f.message)
    line = text.splitlines()[finding.line - 1]
    parts = key.split(".")
    present = [part for part in parts if re.match(rf'\s*\[?"?{re.escape(part)}\b', line)]
    assert present or not key or message == "is missing"
    assert str(finding).startswith(f"{file}:{finding.line}: {key}")


def test_every_problem_is_found_in_one_go(tmp_path: Path) -> None:
    file = tmp_path / "pi-4b.toml"
    file.write_text(
        BOARD.replace("value = 2.7", "value = 2700").replace("[limits]", "[limit]").replace('"guess"', '"sure"')
    )
    findings = read_profile(file)
    assert isinstance(findings, list)
    assert {finding.key for finding in findings} == {
        "power.idle_w.value",
        "power.wifi_transmit_extra_w.quality",
        "limit",
        "limits",
    }
    assert [finding.line for finding in findings] == sorted(finding.line for finding in findings)


def test_what_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    for name in ("missing.toml", "binary.toml"):
        findings = read_profile(tmp_path / name)
        assert isinstance(findings, list)
        assert "cannot be read" in findings[0].message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[a]\ntitle = "A"\naddress = "http://a.example"', "begins with https://"),
        ('[a]\ntitle = "A"', "is missing"),
        ('[a]\ntitle = ""\naddress = "https://a.example"', "says something"),
        ('[a]\ntitle = "A"\naddress = "https://a.example"\nurl = "x"', "unknown key"),
        ("a = 3", "is a table"),
        ("[a", "is not TOML"),
    ],
)
def test_wrong_sources_are_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "sources.toml"
    file.write_text(text)
    findings = read_sources(file)
    assert isinstance(findings, list)
    assert any(message in finding.message for finding in findings)


def test_lines_are_found_by_section_and_key() -> None:
    text = "a = 1\n[s]\nb = 2\n# b = 3\n[t]\nb = { value = 4 }\n"
    paths = [("a",), ("s",), ("s", "b"), ("t", "b", "value"), ("t", "c"), ("z",)]
    assert [find_line(text, path) for path in paths] == [1, 2, 3, 6, 5, 1]


def test_the_schema_reads_what_the_files_say() -> None:
    raw = tomllib.loads(BOARD)
    profile = load_profile("pi-4b")
    assert isinstance(profile, Profile)
    assert {key.name for key in fields(Hardware)} >= set(raw["hardware"])
    assert profile.hardware.clock_mhz.others[0].value == 1800
    assert profile.power.idle_w.quality is Quality.MEASURED
    assert profile.hardware.ram_mib.value == (1024, 2048, 4096, 8192)
    assert isinstance(profile.network.wifi_rate_mbit_per_s.value, float)


# ---------------------------------------------------------------- the commands


def test_list_shows_every_board_and_every_radio() -> None:
    shown = CliRunner().invoke(profiles, ["list"])
    assert shown.exit_code == 0
    boards, radios = (part.splitlines()[1:] for part in shown.output.split("\n\n"))
    assert [line.split()[0] for line in boards] == list(list_profiles())
    assert [line.split()[0] for line in radios] == list(list_radios())


@pytest.mark.parametrize("name", list_profiles())
def test_show_names_the_source_of_every_line(name: str) -> None:
    shown = CliRunner().invoke(profiles, ["show", name])
    assert shown.exit_code == 0
    for key, fact in load_profile(name).facts():
        line = next(line for line in shown.output.splitlines() if line.startswith(key + " "))
        assert line.split()[-1] == fact.source
        assert str(fact.quality) in line
        assert load_sources()[fact.source].address in shown.output


def test_show_of_an_unknown_board_says_which_there_are() -> None:
    shown = CliRunner().invoke(profiles, ["show", "pi-9"])
    assert shown.exit_code == 1
    assert all(name in shown.output for name in (*list_profiles(), *list_radios()))


def test_check_passes_what_ships() -> None:
    checked = CliRunner().invoke(profiles, ["check"])
    assert checked.exit_code == 0
    assert checked.output == "No problems.\n"


def test_check_lists_the_problems_of_every_file(tmp_path: Path) -> None:
    (tmp_path / "pi-4b.toml").write_text(BOARD.replace("value = 2.7", "value = 2700"))
    (tmp_path / "sources.toml").write_text("[a]")
    checked = CliRunner().invoke(profiles, ["check", str(tmp_path / "pi-4b.toml"), str(tmp_path / "sources.toml")])
    assert checked.exit_code == 1
    line = BOARD.splitlines().index(IDLE) + 1
    assert f"pi-4b.toml:{line}: power.idle_w.value 2700 is outside" in checked.output
    assert "sources.toml:1: a.title is missing" in checked.output


@pytest.mark.parametrize("command", ["list", "show", "check"])
def test_every_command_has_help_with_an_example(command: str) -> None:
    shown = CliRunner().invoke(profiles, [command, "--help"])
    assert f"potstill profiles {command}" in shown.output


def test_the_sources_file_is_the_packages() -> None:
    assert isinstance(read_sources(SOURCES_FILE), dict)


# ---------------------------------------------------------------- written again


@pytest.mark.parametrize("name", list_profiles())
def test_a_written_profile_reads_back_the_same(name: str, tmp_path: Path) -> None:
    profile = load_profile(name)
    file = tmp_path / f"{name}.toml"
    file.write_text(profile_toml(profile), encoding="utf-8")
    assert read_profile(file) == profile


def test_a_calibration_is_written_and_read(tmp_path: Path) -> None:
    def fact(value: Any) -> Fact[Any]:
        return Fact(value=value, source="potstill-calibrate", quality=Quality.MEASURED)

    calibration = Calibration(
        date=fact("2026-11-22"),
        machine=fact('a "quoted" board'),
        program=fact("cnn-8x8"),
        sensor=fact("none"),
        numpy_step_us=fact(812.5),
    )
    profile = replace(load_profile("pi-4b"), calibration=calibration)
    (tmp_path / "pi-4b.toml").write_text(profile_toml(profile), encoding="utf-8")
    assert read_profile(tmp_path / "pi-4b.toml") == profile
    assert "calibration.numpy_step_us" in dict(profile.facts())
