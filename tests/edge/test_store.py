from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.store import (
    STATE_FILE,
    DamagedError,
    Snapshot,
    WorkFolder,
    WorkFolderError,
    describe,
    parse_snapshot,
    read_snapshot,
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


def _same(one: Snapshot, other: Snapshot) -> bool:
    return to_parts(one) == to_parts(other)


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


def test_saving_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path)
    for _ in range(3):
        work.save(SNAPSHOT)
    assert sorted(file.name for file in tmp_path.iterdir()) == [STATE_FILE, "lock"]
    work.close()


def test_a_half_written_file_beside_is_not_taken_for_the_state(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path)
    work.save(SNAPSHOT)
    (tmp_path / f"{STATE_FILE}.new").write_bytes(b"potstill-device 1\ncut")  # a crash while writing
    loaded, _ = work.load("lab/d0")
    assert loaded is not None
    work.save(SNAPSHOT)
    work.close()


def test_another_devices_state_is_set_aside_whole(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path)
    work.save(SNAPSHOT)
    before = (tmp_path / STATE_FILE).read_bytes()
    loaded, warning = work.load("lab/d1")
    assert loaded is None
    assert "belongs to lab/d0, not lab/d1" in warning
    assert (tmp_path / f"{STATE_FILE}.1").read_bytes() == before
    assert work.load("lab/d1") == (None, "")
    work.close()


def test_damaged_files_are_set_aside_one_by_one(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path)
    for number in (1, 2):
        (tmp_path / STATE_FILE).write_bytes(b"rubbish %d" % number)
        loaded, warning = work.load("lab/d0")
        assert loaded is None
        assert f"kept as {STATE_FILE}.{number}" in warning
    assert (tmp_path / f"{STATE_FILE}.1").read_bytes() == b"rubbish 1"
    work.close()


@given(st.integers(0, 2**31), st.binary(max_size=40))
def test_no_bytes_but_ours_are_a_snapshot(position: int, patch: bytes) -> None:
    good = b"".join(to_parts(SNAPSHOT))
    at = position % (len(good) + 1)
    changed = good[:at] + patch + good[at + len(patch) :]
    if changed == good:
        assert _same(parse_snapshot(changed), SNAPSHOT)
        return
    with pytest.raises(DamagedError):
        parse_snapshot(changed)


@given(st.integers(0, 10_000))
def test_no_shortened_file_is_a_snapshot(length: int) -> None:
    good = b"".join(to_parts(SNAPSHOT))
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
    assert read_snapshot(tmp_path / STATE_FILE) is None
    lines = dict(describe(SNAPSHOT))
    assert lines["run"] == "7"
    assert lines["last round"] == "3"
    assert lines["pending upload"] == "none"
    assert lines["frames refused"] == "not CBOR 2"
