"""Code pages are given back, come back when needed, and nothing that was written to is touched."""

from __future__ import annotations

import os
import sys
import zlib

import numpy as np
import pytest

from edge.runtime.code_pages import SMAPS, code_ranges, release_code

LINES = """\
7f0000000000-7f0000002000 r--p 00000000 fe:00 1  /lib/some_library.so
Rss:                   8 kB
Anonymous:             0 kB
7f0000002000-7f0000006000 r-xp 00002000 fe:00 1  /lib/some_library.so
Rss:                  12 kB
Anonymous:             0 kB
7f0000006000-7f0000008000 r-xp 00006000 fe:00 1  /lib/some_library.so
Rss:                   8 kB
Anonymous:             4 kB
7f0000008000-7f0000009000 rw-p 00008000 fe:00 1  /lib/some_library.so
Rss:                   4 kB
Anonymous:             0 kB
7f0000010000-7f0000020000 r-xp 00000000 fe:00 2  /lib/another.so
Rss:                  64 kB
Anonymous:             0 kB
7f0000030000-7f0000040000 rw-p 00000000 00:00 0
Rss:                  64 kB
Anonymous:            64 kB
"""


def test_only_code_that_was_never_written_to() -> None:
    assert code_ranges(LINES, "some_library") == [(0x7F0000002000, 0x7F0000006000, 12 * 1024)]
    assert code_ranges(LINES, "no_such_library") == []


@pytest.mark.skipif(not SMAPS.exists() or not sys.platform.startswith("linux"), reason="no /proc/self/smaps")
def test_numpy_works_after_its_code_was_given_back() -> None:
    a = np.random.default_rng(0).standard_normal((64, 64))
    before = zlib.crc32(np.exp(a @ a / 64).tobytes())
    released = release_code("_multiarray_umath")
    left = sum(resident for *_, resident in code_ranges(SMAPS.read_text(), "_multiarray_umath"))
    assert released >= os.sysconf("SC_PAGE_SIZE")
    assert left < released
    assert zlib.crc32(np.exp(a @ a / 64).tobytes()) == before


def test_a_library_that_is_not_loaded_gives_nothing_back() -> None:
    assert release_code("/no/such/library") == 0
