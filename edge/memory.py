"""Gives back the code that only start-up needed: importing and loading run through far more of a library than training.

Read-only pages of shared libraries (Linux) stay mapped once they were touched, sixteen at a fault, and pages of code
are the last that the kernel takes back when memory is short. MADV_DONTNEED on a mapping that holds nothing but clean
file pages loses nothing: what is needed again comes back from the page cache. Measured on x86-64 (docs/adr/0011):
a device that trains 784-128-10 with onnxruntime holds 49 MiB instead of 70 and trains as fast; it takes 10 ms.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_MADV_DONTNEED = 4
_HEAD = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+)")
_WRITTEN = ("Shared_Dirty", "Private_Dirty", "Anonymous", "Swap", "Locked")


class Mapping(NamedTuple):
    start: int
    length: int


def clean_code(smaps: str) -> Iterator[Mapping]:
    """From the text of /proc/PID/smaps the private, read-only mappings of files that were never written to.

    The last is what matters: relocated pages (RELRO) are read-only too, and would come back unrelocated. Where the
    kernel says nothing (qemu-user fills in zeros) no page is resident, and the mapping is left alone.
    """
    for head, fields in _mappings(smaps):
        readonly = head[3] in {"r-xp", "r--p"} and head[4] != "0"
        if readonly and fields.get("Rss", 0) > 0 and not any(fields.get(name, 1) for name in _WRITTEN):
            start = int(head[1], 16)
            yield Mapping(start, int(head[2], 16) - start)


def _mappings(smaps: str) -> Iterator[tuple[re.Match[str], dict[str, int]]]:
    head: re.Match[str] | None = None
    fields: dict[str, int] = {}
    for line in smaps.splitlines():
        match = _HEAD.match(line)
        if match is None:
            name, _, value = line.partition(":")
            fields[name] = int(value.split()[0]) if value.strip()[:1].isdigit() else 0
            continue
        if head is not None:
            yield head, fields
        head, fields = match, {}
    if head is not None:
        yield head, fields


def release_code() -> int:
    """-> bytes of address space let go; 0 where the system does not say what it has mapped."""
    try:
        mappings = list(clean_code(Path("/proc/self/smaps").read_text()))
        madvise = ctypes.CDLL(None, use_errno=True).madvise
    except (OSError, AttributeError):
        return 0
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return sum(mapping.length for mapping in mappings if madvise(*mapping, _MADV_DONTNEED) == 0)
