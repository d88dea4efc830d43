"""Give back memory that holds a library's code: what only loading needed is not needed while training.

onnxruntime 1.32 touches 17 MiB of its own code until a session stands, and some 8 MiB of it afterwards. The kernel
would take such clean pages back when memory is short; a device process hands them in at once, so that boards with
many processes or 512 MB do not have to ask. A page that is needed again is mapped again from the page cache.
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

MADV_DONTNEED = 4  # Linux, all architectures but alpha
SMAPS = Path("/proc/self/smaps")

_HEADER = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \S+\s*(.*)$")


def release_code(library: str) -> int:
    """Unmap the resident code pages of shared libraries whose path holds `library`; -> bytes given back.

    Only executable mappings that were never written to: dropping a relocated page would lose it. 0 where the system
    has no /proc/self/smaps, or refuses.
    """
    try:
        text = SMAPS.read_text()
    except OSError:
        return 0
    released = 0
    for start, end, resident in code_ranges(text, library):
        if ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_DONTNEED) == 0:
            released += resident
    return released


def code_ranges(smaps: str, library: str) -> list[tuple[int, int, int]]:
    """(start, end, resident bytes) of the library's executable, unwritten mappings in the text of an smaps file."""
    ranges: list[tuple[int, int, int]] = []
    header: re.Match[str] | None = None
    resident = 0
    for line in smaps.splitlines():
        found = _HEADER.match(line)
        key, _, value = line.partition(":")
        if found:
            header = found if library in found[4] and found[3].startswith("r-x") else None
        elif header and key == "Rss":
            resident = 1024 * int(value.split()[0])
        elif header and key == "Anonymous" and value.split()[0] == "0":
            ranges.append((int(header[1], 16), int(header[2], 16), resident))
    return ranges
