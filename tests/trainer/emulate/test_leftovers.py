"""What a run made is written down before it is made, and removed whatever happens."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.emulate.leftovers import Leftovers, clean

CRASH = """
import os, sys
from pathlib import Path
from trainer.emulate.leftovers import Leftovers
left = Leftovers(Path(sys.argv[1]), {"thing": print})
left.add("thing", "one")
left.add("thing", "two")
os.kill(os.getpid(), 9)
"""


def test_last_made_is_removed_first_and_the_file_goes(tmp_path: Path) -> None:
    removed: list[str] = []
    with Leftovers(tmp_path / "a.jsonl", {"thing": removed.append}) as left:
        for name in ("one", "two", "three"):
            left.add("thing", name)
        left.remove("thing", "two")
    assert removed == ["two", "three", "one"]
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_killed_is_cleaned_by_another(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", CRASH, tmp_path / "a.jsonl"], check=False).returncode == -9
    removed: list[str] = []
    assert clean({"thing": removed.append}, where=tmp_path) == (["thing one", "thing two"], [])
    assert removed == ["two", "one"]
    assert clean({"thing": removed.append}, where=tmp_path) == ([], [])


def test_a_run_that_lives_is_left_alone(tmp_path: Path) -> None:
    removed: list[str] = []
    with Leftovers(tmp_path / "a.jsonl", {"thing": removed.append}) as left:
        left.add("thing", "one")
        assert clean({"thing": removed.append}, where=tmp_path) == ([], [])
        assert removed == []


def test_what_cannot_be_removed_is_told_and_stays_in_the_file(tmp_path: Path) -> None:
    def refuse(name: str) -> None:
        raise OSError(16, "busy", name)

    left = Leftovers(tmp_path / "a.jsonl", {"thing": refuse})
    left.add("thing", "one")
    (problem,) = left.close()
    assert "thing one" in problem
    assert clean({"thing": refuse}, where=tmp_path)[1] == [problem]
    removed: list[str] = []
    assert clean({"thing": removed.append}, where=tmp_path)[0] == ["thing one"]


def test_a_line_that_the_crash_cut_off_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('["thing", "one"]\n["thi')
    removed: list[str] = []
    clean({"thing": removed.append}, where=tmp_path)
    assert removed == ["one"]


def test_an_unknown_kind_is_refused_when_made_and_told_when_found(tmp_path: Path) -> None:
    with Leftovers(tmp_path / "a.jsonl", {}) as left, pytest.raises(ValueError, match="no remover of 'thing'"):
        left.add("thing", "one")
    (tmp_path / "b.jsonl").write_text('["thing", "one"]\n')
    assert "another version" in clean({}, where=tmp_path)[1][0]


def test_the_lock_is_the_kernels(tmp_path: Path) -> None:
    with Leftovers(tmp_path / "a.jsonl", {}), (tmp_path / "a.jsonl").open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
