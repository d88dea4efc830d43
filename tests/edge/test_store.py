from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.store import (
    FILES,
    DamagedError,
    Snapshot,
    WorkFolder,
    WorkFolderError,
    describe,
    parse_snapshot,
    read_newest,
    to_parts,
)

SNAPSHOT = Snapshot(
    device="lab/d0",
    session={"format": 1, "program": b"\x00\xff", "run": 7, "completed": 3, "seat": [7, 2], "pending": None},
    state=np.array([0.0, -1.5, 3e38], np.float32),
    traffic={"up": {"Upload": 12}, "down": {}, "refused": {"not CBOR": 2}, "closed": [1, 2], "reports": [0, 0]},
    loss=0.25,
    train_s=1.5,
)


def _bytes(snapshot: Snapshot, number: int = 1) -> bytes:
    return b"".join(to_parts(snapshot, number))


def _same(one: Snapshot | None, other: Snapshot) -> bool:
    return one is not None and _bytes(one) == _bytes(other)


def _round(completed: int) -> Snapshot:
    return replace(SNAPSHOT, session={**SNAPSHOT.session, "completed": completed})


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path / "a" / "b")
    assert work.load("lab/d0") == (None, "")
    work.save(SNAPSHOT)
    loaded, warning = work.load("lab/d0")
    assert loaded is not None
    assert _same(loaded, SNAPSHOT)
    assert loaded.session == SNAPSHOT.session
    assert warning == ""
    work.close()


def test_the_newest_counts_and_two_files_are_all_there_is(tmp_path: Path) -> None:
    for start in (0, 3):  # the second time after a restart
        work = WorkFolder(tmp_path)
        work.load("lab/d0")
        for completed in range(start, start + 3):
            work.save(_round(completed))
            assert _same(work.load("lab/d0")[0], _round(completed))
        work.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["device.a", "device.b", "lock"]


def test_a_shorter_snapshot_replaces_a_longer_one(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path)
    for size in (1000, 900, 10, 0):
        snapshot = replace(SNAPSHOT, state=np.ones(size, np.float32))
        work.save(snapshot)
        assert _same(work.load("lab/d0")[0], snapshot)
    work.close()


@pytest.mark.parametrize("completed", [3, 4])
def test_a_crash_while_writing_leaves_the_round_before(tmp_path: Path, completed: int) -> None:
    work = WorkFolder(tmp_path)
    for number in range(completed + 1):
        work.save(_round(number))
    older = tmp_path / FILES[completed % 2]  # round r is snapshot r + 1; the next overwrites this one
    half = _bytes(_round(completed + 1), completed + 2)[:100]
    older.write_bytes(half + older.read_bytes()[len(half) :])
    loaded, warning = work.load("lab/d0")
    assert _same(loaded, _round(completed))
    assert f"{older}: damaged or half written" in warning
    work.save(_round(completed + 1))
    assert _same(work.load("lab/d0")[0], _round(completed + 1))
    work.close()


def test_another_devices_state_is_set_aside_whole(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path)
    work.save(_round(0))
    work.save(_round(1))
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    loaded, warning = work.load("lab/d1")
    assert loaded is None
    assert "belongs to lab/d0, not lab/d1" in warning
    assert {name: (tmp_path / f"{name}.1").read_bytes() for name in FILES} == before
    assert work.load("lab/d1") == (None, "")
    work.close()


def test_damaged_files_are_set_aside_one_by_one(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path)
    for number in (1, 2):
        (tmp_path / FILES[0]).write_bytes(b"rubbish %d" % number)
        loaded, warning = work.load("lab/d0")
        assert loaded is None
        assert f"kept as {FILES[0]}.{number}" in warning
    assert (tmp_path / f"{FILES[0]}.1").read_bytes() == b"rubbish 1"
    work.close()


@given(st.integers(0, 2**31), st.binary(max_size=40))
def test_no_bytes_but_ours_are_a_snapshot(position: int, patch: bytes) -> None:
    good = _bytes(SNAPSHOT)
    at = position % (len(good) + 1)
    changed = good[:at] + patch + good[at + len(patch) :]
    if changed.startswith(good):
        assert _same(parse_snapshot(changed)[1], SNAPSHOT)
        return
    with pytest.raises(DamagedError):
        parse_snapshot(changed)


@given(st.integers(0, 10_000))
def test_no_shortened_file_is_a_snapshot(length: int) -> None:
    good = _bytes(SNAPSHOT)
    with pytest.raises(DamagedError):
        parse_snapshot(good[: length % len(good)])


def test_a_second_client_in_the_folder_is_refused_and_named(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(WorkFolderError, match=rf"process {holder.pid}\); end it"):
            WorkFolder(tmp_path)
    finally:
        holder.kill()
        holder.communicate(timeout=10)
    WorkFolder(tmp_path).close()  # the lock ends with its holder, however that ended


HOLD = """
import sys
from dataclasses import replace
from pathlib import Path
from edge.store import WorkFolder
work = WorkFolder(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkFolderError, match="--work"):
        WorkFolder(tmp_path / "file" / "work")


def test_describes_what_is_there(tmp_path: Path) -> None:
    assert read_newest(tmp_path) == (None, [])
    lines = dict(describe(SNAPSHOT))
    assert lines["run"] == "7"
    assert lines["last round"] == "3"
    assert lines["pending upload"] == "none"
    assert lines["frames refused"] == "not CBOR 2"
