from __future__ import annotations

import subprocess
import sys

import pytest

from edge.memory import Mapping, clean_code

ONE = """\
{head}
Size:               1024 kB
Rss:                {rss} kB
Pss:                 300 kB
Shared_Clean:        500 kB
Shared_Dirty:          0 kB
Private_Clean:       100 kB
Private_Dirty:       {dirty} kB
Anonymous:           {anonymous} kB
Swap:                {swap} kB
Locked:                0 kB
THPeligible:    0
VmFlags: rd ex mr mw me
"""
TEXT = "7f00aa000000-7f00aa100000 r-xp 00001000 fe:01 123 /usr/lib/a b.so"


def _smaps(head: str = TEXT, *, rss: int = 600, dirty: int = 0, anonymous: int = 0, swap: int = 0) -> str:
    return ONE.format(head=head, rss=rss, dirty=dirty, anonymous=anonymous, swap=swap)


def test_finds_clean_read_only_pages_of_files() -> None:
    rodata = "7f00ab000000-7f00ab002000 r--p 00001000 fe:01 123 /usr/lib/b.so (deleted)"
    found = list(clean_code(_smaps() + _smaps(rodata)))
    assert found == [Mapping(0x7F00AA000000, 0x100000), Mapping(0x7F00AB000000, 0x2000)]


@pytest.mark.parametrize(
    "smaps",
    [
        _smaps(anonymous=4),  # relocated, then made read-only
        _smaps(dirty=4),
        _smaps(swap=4),
        _smaps(rss=0),  # nothing to win; and what qemu-user says of everything
        _smaps("7f00aa000000-7f00aa100000 rw-p 00001000 fe:01 123 /usr/lib/a.so"),
        _smaps("7f00aa000000-7f00aa100000 r-xs 00001000 fe:01 123 /usr/lib/a.so"),
        _smaps("7f00aa000000-7f00aa100000 r-xp 00000000 00:00 0 [vdso]"),
        TEXT + "\nRss: 600 kB\n",  # a kernel that does not say whether pages were written to
        "",
    ],
)
def test_leaves_everything_else_alone(smaps: str) -> None:
    assert list(clean_code(smaps)) == []


SHRINK = """
import numpy as np
from edge.memory import release_code
def resident_kib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4
rng = np.random.Generator(np.random.PCG64(1))
a = rng.standard_normal((64, 64))
product, before = a @ a, resident_kib()
released = release_code()
after = resident_kib()
assert released > 2**20, released
assert after < before - 4096, (before, after)
for _ in range(3):
    release_code()
    assert (a @ a == product).all()
    assert str(np.linalg.svd(a)[1].shape) == "(64,)"
print("fine")
"""


def test_a_process_shrinks_and_goes_on_calculating() -> None:
    result = subprocess.run([sys.executable, "-c", SHRINK], capture_output=True, text=True, timeout=60, check=False)
    assert (result.stdout, result.stderr) == ("fine\n", "")
