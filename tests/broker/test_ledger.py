"""The ledger's file: what it keeps, what it refuses, what a crash leaves."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from broker.ledger import APPLICATION_ID, Ledger, LedgerError, UploadRow
from broker.settings import settings_from_plain, settings_to_plain
from edge.wire.codec import encode
from edge.wire.messages import Parameters, ParameterUpload
from tests.broker.entries import SETTINGS, a_plan, a_run


def an_upload(device: str, number: int = 0, fate: str = "counted") -> UploadRow:
    frame = encode(ParameterUpload(run=7, round=number, check=1, samples=5, parameters=np.arange(4, dtype=np.float32)))
    return UploadRow(7, number, device, fate, len(frame), 101.0, frame if fate == "counted" else None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path: Path) -> Ledger:
    ledger = Ledger.open(path)
    with ledger.commit(durable=True):
        ledger.begin_run(a_run())
    return ledger


def test_the_settings_come_back_as_they_were() -> None:
    assert settings_from_plain(json.loads(json.dumps(settings_to_plain(SETTINGS)))) == SETTINGS


def test_an_unfinished_run_comes_back_as_a_resumption(ledger: Ledger, path: Path) -> None:
    averaged = Parameters(run=7, round=1, parameters=np.full(4, 0.25, np.float32))
    with ledger.commit():
        ledger.seat(7, "d0", 0)
        ledger.seat(7, "d1", 1)
        ledger.seat(7, "d0", 0)
        ledger.open_round(7, 0, encode(a_plan(0)), 100.0)
        ledger.add_uploads([an_upload("d0")], [])
        ledger.close_round(7, 0, closed=102.0, cohort=("d0",), missing=("d1",), keep=False)
        ledger.keep_parameters(7, encode(averaged))
        ledger.open_round(7, 1, encode(a_plan(1)), 102.0)
        ledger.add_uploads([an_upload("d1", 1)], [an_upload("d0", 0, "late")])
    ledger.close()
    with Ledger.open(path) as again:
        found = again.unfinished(7)
        assert again.settings(7) == SETTINGS
    assert found.seats == {"d0": 0, "d1": 1}
    assert found.plan is not None
    assert found.plan.round == 1
    assert isinstance(found.opening, Parameters)
    assert found.opening.parameters.tolist() == [0.25] * 4
    assert set(found.uploads) == {"d1"}
    upload = found.uploads["d1"]
    assert isinstance(upload, ParameterUpload)
    assert upload.parameters.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_a_run_without_a_plan_resumes_from_nothing(ledger: Ledger) -> None:
    found = ledger.unfinished(7)
    assert (found.plan, found.opening, dict(found.uploads), dict(found.seats)) == (None, None, {}, {})


def test_nobody_counts_twice(ledger: Ledger) -> None:
    with pytest.raises(sqlite3.IntegrityError), ledger.commit():
        ledger.add_uploads([an_upload("d0"), an_upload("d0")], [])
    assert ledger.uploads(7) == []


def test_what_does_not_count_is_counted_up(ledger: Ledger) -> None:
    with ledger.commit():
        ledger.open_round(7, 0, encode(a_plan(0)), 100.0)
        ledger.add_uploads([an_upload("d0")], [an_upload("d0", 0, "repeated")] * 3)
        ledger.add_refusals(7, {("d1", "not CBOR"): 2})
    with ledger.commit():
        ledger.add_refusals(7, {("d1", "not CBOR"): 5, ("d0", "too long"): 1})
    size = an_upload("d0").size
    assert ledger.uploads(7) == [(0, "d0", "counted", size, 1), (0, "d0", "repeated", size, 3)]
    assert ledger.refusals(7) == [("d1", "not CBOR", 7), ("d0", "too long", 1)]
    (entry,) = ledger.rounds(7)
    assert entry.fates == {"counted": 1, "repeated": 3}
    assert entry.payload_bytes == size


def test_a_plan_published_again_opens_nothing_new(ledger: Ledger) -> None:
    with ledger.commit():
        ledger.open_round(7, 0, encode(a_plan(0)), 100.0)
        ledger.open_round(7, 0, encode(a_plan(0)), 999.0)
    assert [entry.opened for entry in ledger.rounds(7)] == [100.0]


def test_the_last_report_stays(ledger: Ledger) -> None:
    with ledger.commit():
        ledger.add_report(7, 0, "d0", {"accuracy": 0.25})
        ledger.add_report(7, 0, "d0", {"accuracy": 0.5})
    assert ledger.reports(7) == [(0, "d0", {"accuracy": 0.5})]


def test_the_last_meter_stays(ledger: Ledger) -> None:
    with ledger.commit():
        ledger.add_meter(7, 0, "d0", {"connects": 0})
        ledger.add_meter(7, 0, "d0", {"connects": 1})
    assert ledger.meters(7) == [(0, "d0", {"connects": 1})]


def test_a_ledger_of_version_1_is_read_and_goes_on(ledger: Ledger, path: Path) -> None:
    ledger.close()
    db = sqlite3.connect(path)
    db.executescript("DROP TABLE meters; PRAGMA user_version=1;")
    db.close()
    with Ledger.read(path) as old:
        assert old.meters(7) == []
    with Ledger.open(path) as again:
        with again.commit():
            again.add_meter(7, 0, "d0", {"connects": 1})
        assert again.meters(7) == [(0, "d0", {"connects": 1})]


def test_a_run_ends_once_and_its_number_is_used_once(ledger: Ledger) -> None:
    with ledger.commit():
        ledger.end_run(7, ended=200.0, complete=True, reason="all rounds closed")
    assert ledger.run(7).complete is True
    with pytest.raises(LedgerError, match="has a run 7 already"), ledger.commit():
        ledger.begin_run(a_run())
    with ledger.commit():
        ledger.begin_run(a_run(8, started=99.0))
    assert [row.run for row in ledger.runs()] == [8, 7]
    with pytest.raises(LedgerError, match="no run 9"):
        ledger.run(9)


def test_a_transaction_that_fails_leaves_nothing(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="syntax error"), ledger.commit():  # noqa: PT012
        ledger.add_report(7, 0, "d0", {})
        ledger._db.execute("NOT SQL")
    assert ledger.reports(7) == []


def test_it_is_read_while_it_is_written(ledger: Ledger, path: Path) -> None:
    with Ledger.read(path) as reader:
        assert reader.reports(7) == []
        with ledger.commit():
            ledger.add_report(7, 0, "d0", {})
        assert reader.reports(7) == [(0, "d0", {})]


def foreign(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE diary(entry)")
    db.commit()
    db.close()


def newer(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA application_id={APPLICATION_ID}")
    db.execute("PRAGMA user_version=3")
    db.commit()
    db.close()


def garbage(path: Path) -> None:
    path.write_bytes(b"not a database at all, but long enough for a header" * 20)


@pytest.mark.parametrize(
    ("make", "says"), [(foreign, "no ledger of Potstill"), (newer, "version 3"), (garbage, "damaged")]
)
@pytest.mark.parametrize("opener", [Ledger.open, Ledger.read])
def test_other_files_are_left_alone(path: Path, make: object, says: str, opener: object) -> None:
    assert callable(make)
    assert callable(opener)
    make(path)
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=says):
        opener(path)
    assert path.read_bytes() == before


def test_a_missing_file_or_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no such file"):
        Ledger.read(tmp_path / "none")
    with pytest.raises(LedgerError, match="make it first"):
        Ledger.open(tmp_path / "none" / "ledger")


WRITER = """
import sys
from pathlib import Path
from broker.ledger import Ledger
ledger = Ledger.open(Path(sys.argv[1]))
number = 0
while True:
    with ledger.commit():
        ledger.add_report(7, number, "d0", {})
    print(number, flush=True)
    number += 1
"""


def test_what_was_committed_survives_a_kill(ledger: Ledger, path: Path) -> None:
    """The line is printed after the commit, as the acknowledgement is sent after it."""
    ledger.close()
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    end = time.monotonic() + 20
    said = -1
    while said < 200 and time.monotonic() < end:
        said = int(writer.stdout.readline())
    os.kill(writer.pid, signal.SIGKILL)
    said = max([said, *[int(line) for line in writer.stdout.read().split("\n")[:-1]]])
    writer.wait()
    writer.stdout.close()
    assert said >= 200
    with Ledger.open(path) as again:
        kept = {number for number, _, _ in again.reports(7)}
    assert set(range(said + 1)) <= kept <= set(range(said + 2))
