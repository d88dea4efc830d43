"""A board's /proc/cpuinfo, rendered from its profile, for ARM code that runs on another machine.

Under qemu-user a program reads this host's /proc/cpuinfo; onnxruntime and LiteRT (both through pytorch/cpuinfo) crash
on an x86 one, and choose their kernels by this one.
"""

from __future__ import annotations

from dataclasses import dataclass

from firmware_profiles.schema import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """One of Arm's designs, as Linux and qemu name it."""

    part: int
    """Primary part number of MIDR_EL1 (Arm's technical reference manual of the core, "Main ID Register")."""
    qemu: str
    """For qemu's -cpu."""
    features: str
    """Linux's hwcaps on the Raspberry Pi that has it; the boards before the Pi 5 lack the crypto extension."""


CORES = {
    "Cortex-A53": Core(part=0xD03, qemu="cortex-a53", features="fp asimd evtstrm crc32 cpuid"),
    "Cortex-A72": Core(part=0xD08, qemu="cortex-a72", features="fp asimd evtstrm crc32 cpuid"),
    "Cortex-A76": Core(
        part=0xD0B,
        qemu="cortex-a76",
        features="fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
    ),
}
_ARM = 0x41
"""Implementer: Arm Limited (Arm ARM, MIDR_EL1)."""


def core(profile: Profile) -> Core:
    """The board's core. Raises ValueError for one that has no 64-bit instructions."""
    name = profile.hardware.core.value
    if name not in CORES:
        raise ValueError(f"{profile.name} has a core of {name}: no 64-bit ARM code runs on it, only {', '.join(CORES)}")
    return CORES[name]


def cpuinfo(profile: Profile) -> str:
    """/proc/cpuinfo as a 64-bit kernel writes it on this board."""
    what = core(profile)
    blocks = [
        f"processor\t: {number}\nBogoMIPS\t: 108.00\nFeatures\t: {what.features}\n"
        f"CPU implementer\t: {_ARM:#04x}\nCPU architecture: 8\nCPU variant\t: 0x0\n"
        f"CPU part\t: {what.part:#05x}\nCPU revision\t: 0\n\n"
        for number in range(profile.hardware.cores.value)
    ]
    return "".join(blocks) + f"Model\t\t: {profile.title}\n"
