"""The record of every run, in one SQLite file: written before an upload is acknowledged, read by `runs` and `show`.

Durability (docs/adr/0007): WAL with synchronous=NORMAL for uploads, which survives the death of the process at any
instant, and FULL (an fsync) for whatever a device may hear of: a run's start, its seats' plan, a round's result, the
end. After a power cut the newest uploads of the open round may be missing; their devices send them again when they
hear the plan again, because only the next plan's cohort settles an upload.

Times are seconds since 1970 (UTC). Frames are kept as they travelled (`edge.wire.codec`).
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

from broker.round import Resumption
from broker.settings import RunSettings, settings_from_plain
from edge.wire.codec import SEED_UPLOAD, FrameError, decode
from edge.wire.messages import AnyUpload, Message, Opening, Plan, SeedUpload

APPLICATION_ID = 0x506F7453
"""`PRAGMA application_id`: the file says that it is ours ("PotS")."""

VERSION = 2
"""`PRAGMA user_version` of the schema below."""

_METERS = """
CREATE TABLE meters(
    run INTEGER NOT NULL REFERENCES runs,
    round INTEGER NOT NULL,
    device TEXT NOT NULL,
    meter TEXT NOT NULL,
    PRIMARY KEY(run, round, device)
) STRICT;
"""
"""What version 2 has beyond version 1."""

_SCHEMA = """
CREATE TABLE runs(
    run INTEGER PRIMARY KEY,
    fleet TEXT NOT NULL,
    method TEXT NOT NULL,
    program TEXT NOT NULL,
    settings TEXT NOT NULL,
    started REAL NOT NULL,
    ended REAL,
    complete INTEGER,
    reason TEXT
) STRICT;
CREATE TABLE seats(
    run INTEGER NOT NULL REFERENCES runs,
    device TEXT NOT NULL,
    seat INTEGER NOT NULL,
    PRIMARY KEY(run, device), UNIQUE(run, seat)
) STRICT, WITHOUT ROWID;
CREATE TABLE rounds(
    run INTEGER NOT NULL REFERENCES runs,
    round INTEGER NOT NULL,
    plan BLOB NOT NULL,
    opened REAL NOT NULL,
    closed REAL,
    cohort TEXT,
    missing TEXT,
    PRIMARY KEY(run, round)
) STRICT;
CREATE TABLE parameters(
    run INTEGER PRIMARY KEY REFERENCES runs,
    frame BLOB NOT NULL
) STRICT;
CREATE TABLE uploads(
    run INTEGER NOT NULL REFERENCES runs,
    round INTEGER NOT NULL,
    device TEXT NOT NULL,
    fate TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    arrived REAL NOT NULL,
    times INTEGER NOT NULL DEFAULT 1,
    frame BLOB,
    PRIMARY KEY(run, round, device, fate)
) STRICT;
CREATE TABLE refusals(
    run INTEGER NOT NULL REFERENCES runs,
    device TEXT NOT NULL,
    reason TEXT NOT NULL,
    times INTEGER NOT NULL,
    PRIMARY KEY(run, device, reason)
) STRICT, WITHOUT ROWID;
CREATE TABLE reports(
    run INTEGER NOT NULL REFERENCES runs,
    round INTEGER NOT NULL,
    device TEXT NOT NULL,
    report TEXT NOT NULL,
    PRIMARY KEY(run, round, device)
) STRICT;
"""

_ADD_UPLOAD = "INSERT INTO uploads(run, round, device, fate, bytes, arrived, frame) VALUES (?, ?, ?, ?, ?, ?, ?)"
_ADD_TO_UPLOAD = f"{_ADD_UPLOAD} ON CONFLICT DO UPDATE SET times = times + 1"


class LedgerError(Exception):
    """The file cannot be used; the message says why and what to do."""


class Run(NamedTuple):
    """One row of `runs`."""

    run: int
    fleet: str
    method: str
    program: str
    """Digest, hexadecimal."""
    settings: str
    """JSON of `broker.settings.RunSettings`."""
    started: float
    ended: float | None
    complete: bool | None
    """None while the run is unfinished."""
    reason: str | None


class UploadRow(NamedTuple):
    """What became of one upload."""

    run: int
    round: int
    device: str
    fate: str
    size: int
    """Bytes of the frame."""
    arrived: float
    frame: bytes | None
    """Kept for what counted; dropped for parameters once the round has closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round as `show` tells it."""

    round: int
    opened: float
    closed: float | None
    cohort: tuple[str, ...]
    missing: tuple[str, ...]
    fates: Mapping[str, int]
    """Uploads by fate, repeats counted."""
    payload_bytes: int
    """Of the uploads that counted."""


class Ledger:
    """One open file; one thread. `with ledger.commit():` makes its writes one transaction."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._db = connection
        self._path = path
        self._durable: bool | None = None

    @classmethod
    def open(cls, path: Path) -> Self:
        """For writing; made where it is missing. Raises `LedgerError`."""
        if not path.parent.is_dir():
            raise LedgerError(f"{path}: there is no folder {path.parent}; make it first")
        with _Explained(path):
            db = sqlite3.connect(path, isolation_level=None, timeout=10.0)
            try:
                _prepare(db, path)
            except BaseException:
                db.close()
                raise
        return cls(db, path)

    @classmethod
    def read(cls, path: Path) -> Self:
        """For reading alone, also while an aggregator writes. Raises `LedgerError`."""
        if not path.is_file():
            raise LedgerError(f"{path}: no such file; `potstill broker run --ledger {path} ...` makes one")
        with _Explained(path):
            db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=10.0)
            try:
                _check(db, path)
            except BaseException:
                db.close()
                raise
        return cls(db, path)

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def commit(self, *, durable: bool = False) -> Iterator[None]:
        """One transaction; on the disk itself when it returns if `durable`. Raises `LedgerError`."""
        with _Explained(self._path):
            if durable != self._durable:
                self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
                self._durable = durable
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    # ------------------------------------------------------------ writing, inside `commit`

    def begin_run(self, run: Run) -> None:
        """Raises `LedgerError` when the number was used before."""
        try:
            self._db.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", run)
        except sqlite3.IntegrityError as problem:
            raise LedgerError(f"{self._path} has a run {run.run} already: leave --run out, or --resume it") from problem

    def end_run(self, run: int, *, ended: float, complete: bool, reason: str) -> None:
        self._db.execute(
            "UPDATE runs SET ended = ?, complete = ?, reason = ? WHERE run = ?", (ended, int(complete), reason, run)
        )

    def seat(self, run: int, device: str, seat: int) -> None:
        self._db.execute("INSERT OR IGNORE INTO seats VALUES (?, ?, ?)", (run, device, seat))

    def open_round(self, run: int, number: int, plan: bytes, opened: float) -> None:
        """A plan that is about to be published; again after an extension or a reconnect, which changes nothing."""
        self._db.execute(
            "INSERT OR IGNORE INTO rounds(run, round, plan, opened) VALUES (?, ?, ?, ?)", (run, number, plan, opened)
        )

    def keep_parameters(self, run: int, frame: bytes) -> None:
        """The last broadcast alone: a run of 100 rounds of a 1.2 M parameter model would leave 480 MB."""
        self._db.execute(
            "INSERT INTO parameters VALUES (?, ?) ON CONFLICT DO UPDATE SET frame = excluded.frame", (run, frame)
        )

    def close_round(
        self, run: int, number: int, *, closed: float, cohort: Sequence[str], missing: Sequence[str], keep: bool
    ) -> None:
        """`keep`: whether the uploads' frames stay (rows of logits do, parameters do not)."""
        self._db.execute(
            "UPDATE rounds SET closed = ?, cohort = ?, missing = ? WHERE run = ? AND round = ?",
            (closed, json.dumps(cohort), json.dumps(missing), run, number),
        )
        if not keep:
            self._db.execute("UPDATE uploads SET frame = NULL WHERE run = ? AND round = ?", (run, number))

    def add_uploads(self, counted: Sequence[UploadRow], others: Sequence[UploadRow]) -> None:
        """A device that would count twice in a round violates the primary key: that is a defect, and it raises."""
        self._db.executemany(_ADD_UPLOAD, counted)
        if others:
            self._db.executemany(_ADD_TO_UPLOAD, others)

    def add_refusals(self, run: int, times: Mapping[tuple[str, str], int]) -> None:
        """(device, reason) -> how often, added to what is there."""
        self._db.executemany(
            "INSERT INTO refusals VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET times = times + excluded.times",
            [(run, device, reason, count) for (device, reason), count in times.items()],
        )

    def add_meter(self, run: int, number: int, device: str, meter: Mapping[str, Any]) -> None:
        """The last one a (run, round, device) stays."""
        self._db.execute("INSERT OR REPLACE INTO meters VALUES (?, ?, ?, ?)", (run, number, device, json.dumps(meter)))

    def add_report(self, run: int, number: int, device: str, report: Mapping[str, Any]) -> None:
        """The last one a (run, round, device) stays."""
        self._db.execute(
            "INSERT OR REPLACE INTO reports VALUES (?, ?, ?, ?)", (run, number, device, json.dumps(report))
        )

    # ------------------------------------------------------------ reading

    def runs(self) -> list[Run]:
        """Oldest first."""
        return [_run(row) for row in self._all("SELECT * FROM runs ORDER BY started")]

    def run(self, number: int) -> Run:
        """Raises `LedgerError` where there is none."""
        rows = self._all("SELECT * FROM runs WHERE run = ?", number)
        if not rows:
            raise LedgerError(f"{self._path} has no run {number}: `potstill broker runs` lists what it has")
        return _run(rows[0])

    def rounds(self, run: int) -> list[Round]:
        """In order; the last plan, which asks for no work, is not among them."""
        fates: dict[int, dict[str, int]] = {}
        size: dict[int, int] = {}
        for number, fate, times, total in self._all(
            "SELECT round, fate, sum(times), sum(bytes) FROM uploads WHERE run = ? GROUP BY round, fate", run
        ):
            fates.setdefault(number, {})[fate] = times
            if fate == "counted":
                size[number] = total
        last = json.loads(self.run(run).settings)["rounds"]
        rows = self._all(
            "SELECT round, opened, closed, cohort, missing FROM rounds WHERE run = ? AND round < ? ORDER BY round",
            run,
            last,
        )
        return [
            Round(
                round=number,
                opened=opened,
                closed=closed,
                cohort=tuple(json.loads(cohort or "[]")),
                missing=tuple(json.loads(missing or "[]")),
                fates=fates.get(number, {}),
                payload_bytes=size.get(number, 0),
            )
            for number, opened, closed, cohort, missing in rows
        ]

    def refusals(self, run: int) -> list[tuple[str, str, int]]:
        """(device, reason, how often)."""
        return self._all("SELECT device, reason, times FROM refusals WHERE run = ? ORDER BY times DESC", run)

    def reports(self, run: int) -> list[tuple[int, str, dict[str, Any]]]:
        """(round, device, the report's fields), in order."""
        rows = self._all("SELECT round, device, report FROM reports WHERE run = ? ORDER BY round, device", run)
        return [(number, device, json.loads(report)) for number, device, report in rows]

    def meters(self, run: int) -> list[tuple[int, str, dict[str, Any]]]:
        """(round, device, the meter's fields), in order; none where the ledger is of version 1."""
        if _pragma(self._db, "user_version") < VERSION:
            return []
        rows = self._all("SELECT round, device, meter FROM meters WHERE run = ? ORDER BY round, device", run)
        return [(number, device, json.loads(meter)) for number, device, meter in rows]

    def uploads(self, run: int) -> list[tuple[int, str, str, int, int]]:
        """(round, device, fate, bytes, times), in order."""
        return self._all(
            "SELECT round, device, fate, bytes, times FROM uploads WHERE run = ? ORDER BY round, device, fate", run
        )

    def settings(self, run: int) -> RunSettings:
        """What `settings_to_plain` wrote. Raises `LedgerError`."""
        try:
            return settings_from_plain(json.loads(self.run(run).settings))
        except (ValueError, TypeError, KeyError) as problem:
            raise LedgerError(f"{self._path}: the settings of run {run} cannot be used: {problem}") from problem

    def unfinished(self, run: int) -> Resumption:
        """What a run that was cut short needs to go on. Raises `LedgerError`."""
        plans = self._all("SELECT round, plan FROM rounds WHERE run = ? ORDER BY round DESC LIMIT 1", run)
        number, plan = plans[0] if plans else (-1, None)
        parameters = self._all("SELECT frame FROM parameters WHERE run = ?", run)
        uploads = self._all(
            "SELECT device, frame FROM uploads WHERE run = ? AND round = ? AND fate = 'counted'", run, number
        )
        given = self._all(
            "SELECT device, frame FROM uploads WHERE run = ? AND round < ? AND fate = 'counted' "
            "AND substr(frame, 3, 1) = ? ORDER BY round DESC",
            run,
            number,
            bytes([SEED_UPLOAD]),
        )
        try:
            return Resumption(
                seats=dict(self._all("SELECT device, seat FROM seats WHERE run = ?", run)),
                plan=None if plan is None else cast("Plan", _message(plan)),
                opening=cast("Opening", _message(parameters[0][0])) if parameters else None,
                uploads={device: cast("AnyUpload", _message(frame)) for device, frame in uploads},
                seeds={device: cast("SeedUpload", _message(frame)).seeds for device, frame in given},
            )
        except FrameError as problem:
            raise LedgerError(f"{self._path}: run {run} holds a frame that is not one ({problem})") from problem

    def _all(self, query: str, *values: object) -> list[Any]:
        with _Explained(self._path):
            return self._db.execute(query, values).fetchall()


def _run(row: tuple[Any, ...]) -> Run:
    run = Run(*row)
    return run._replace(complete=None if run.complete is None else bool(run.complete))


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    empty = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if empty and _pragma(db, "application_id") == 0:
        db.execute("PRAGMA journal_mode=WAL")
        db.executescript(
            f"BEGIN EXCLUSIVE;{_SCHEMA}{_METERS}"
            f"PRAGMA application_id={APPLICATION_ID};PRAGMA user_version={VERSION};COMMIT;"
        )
    _check(db, path)
    if _pragma(db, "user_version") < VERSION:
        db.executescript(f"BEGIN EXCLUSIVE;{_METERS}PRAGMA user_version={VERSION};COMMIT;")
    db.execute("PRAGMA foreign_keys=ON")


def _check(db: sqlite3.Connection, path: Path) -> None:
    if _pragma(db, "application_id") != APPLICATION_ID:
        raise LedgerError(f"{path} is a SQLite file, but no ledger of Potstill: name another file")
    version = _pragma(db, "user_version")
    if not 1 <= version <= VERSION:
        raise LedgerError(
            f"{path} is a ledger of version {version}, this release reads 1 to {VERSION}: use the release that wrote it"
        )


def _pragma(db: sqlite3.Connection, name: str) -> int:
    value = db.execute(f"PRAGMA {name}").fetchone()[0]
    assert isinstance(value, int)
    return value


def _message(frame: bytes) -> Message:
    return decode(frame, limit=len(frame))


class _Explained:
    """SQLite's errors as `LedgerError`, apart from constraints, which are defects."""

    __slots__ = ("_path",)

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, problem: BaseException | None, _trace: object) -> None:
        if not isinstance(problem, sqlite3.DatabaseError) or isinstance(problem, sqlite3.IntegrityError):
            return
        if isinstance(problem, sqlite3.OperationalError):
            advice = "see that the folder is writable, not full, and used by one run"
        else:
            advice = "it is no ledger, or damaged; move it away or name another"
        raise LedgerError(f"{self._path}: {problem}: {advice}") from problem
