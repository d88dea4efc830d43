"""The device's own record of its bytes: WORK/meter.jsonl, one JSON object a line, one line a round.

A line holds what was added since the line before it, so lines add up; `round` is null for what belongs to no round
(before a run, after it, the farewell). Lines are appended without being synced: the power may take the last ones, and a
half line is passed over in reading. Past ROTATE_BYTES the file becomes meter.old.jsonl, in the place of the one before.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.meter.traffic import Account, from_plain, to_plain

FILE, OLD_FILE = "meter.jsonl", "meter.old.jsonl"
ROTATE_BYTES = 4 * 2**20
"""About 6,000 rounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What was added between two lines."""

    at: float
    """Seconds since 1970, by the device's clock."""
    run: int | None
    round: int | None
    tls: bool
    account: Account
    energy: dict[str, Any] | None = None
    """`edge.meter.energy.Energy.to_plain`, where the device has a power sensor (docs/energy.md)."""


class Journal:
    """A folder's record, to add lines to. The file is open from the first of them to `close`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: int | None = None

    @property
    def path(self) -> Path:
        return self._folder / FILE

    def append(self, line: Line) -> None:
        """One write. Raises OSError if the disk refuses."""
        plain: dict[str, Any] = {"at": round(line.at, 3), "run": line.run, "round": line.round, "tls": line.tls}
        plain |= to_plain(line.account)
        if line.energy is not None:
            plain["energy"] = line.energy
        os.write(self._with_room(), json.dumps(plain).encode() + b"\n")

    def _with_room(self) -> int:
        """The open file, begun anew where it is full, or where somebody has taken it away meanwhile."""
        if self._file is None:
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        found = os.fstat(self._file)
        if found.st_nlink and found.st_size <= ROTATE_BYTES:
            return self._file
        self.close()
        if found.st_nlink:
            self.path.rename(self._folder / OLD_FILE)
        return self._with_room()

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def read(folder: Path) -> tuple[list[Line], int]:
    """All lines, oldest first, and how many could not be read. Raises OSError if there is no record."""
    text = (folder / OLD_FILE).read_text(encoding="utf-8") if (folder / OLD_FILE).exists() else ""
    text += (folder / FILE).read_text(encoding="utf-8")
    lines: list[Line] = []
    damaged = 0
    for row in text.splitlines():
        try:
            lines.append(_line(row))
        except (KeyError, TypeError, ValueError, AttributeError):
            damaged += 1
    return lines, damaged


def _line(row: str) -> Line:
    plain = json.loads(row)
    run, number = plain["run"], plain["round"]
    return Line(
        at=float(plain["at"]),
        run=None if run is None else int(run),
        round=None if number is None else int(number),
        tls=bool(plain["tls"]),
        account=from_plain(plain),
        energy=plain.get("energy"),
    )
