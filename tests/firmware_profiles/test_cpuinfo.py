"""What ARM code is told of the processor it runs on."""

from __future__ import annotations

import pytest

from firmware_profiles.cpuinfo import CORES, core, cpuinfo
from firmware_profiles.load import list_profiles, load_profile


@pytest.mark.parametrize("name", list_profiles())
def test_a_64_bit_board_has_a_cpuinfo_and_no_other_has(name: str) -> None:
    profile = load_profile(name)
    if profile.hardware.isa.value != "aarch64":
        with pytest.raises(ValueError, match="no 64-bit ARM code"):
            cpuinfo(profile)
        return
    text = cpuinfo(profile)
    assert text.count("processor\t: ") == profile.hardware.cores.value
    assert text.count(f"CPU part\t: {core(profile).part:#05x}\n") == profile.hardware.cores.value
    assert text.endswith(f"Model\t\t: {profile.title}\n")


def test_each_line_is_a_key_and_a_value_as_the_kernel_writes_them() -> None:
    lines = cpuinfo(load_profile("pi-4b")).splitlines()
    first = dict(line.split(":", 1) for line in lines[: lines.index("")])
    assert first["CPU implementer\t"] == " 0x41"
    assert first["CPU part\t"] == " 0xd08"
    assert first["CPU architecture"] == " 8"


def test_cores_differ() -> None:
    assert len({entry.part for entry in CORES.values()}) == len(CORES)
