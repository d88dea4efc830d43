"""The folder of a run: one of its own, or an error that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from potstill import main
from trainer.record.folder import FolderError, make_folder, run_folder

COMMANDS = {
    "demo": ("demo",),
    "emulate": ("emulate", "docs/fleets/processes.toml"),
    "rl": ("trainer", "rl", "alone", "--env", "CartPole-v1"),
}


def test_without_a_name_it_is_one_of_this_moment() -> None:
    assert run_folder(None).parent == Path("runs")
    assert run_folder(None, prefix="ntk-").name.startswith("ntk-20")


def test_a_folder_in_use_is_refused_but_where_a_run_goes_on(tmp_path: Path) -> None:
    assert run_folder(tmp_path) == tmp_path
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(FolderError, match="is not empty: name another folder with --out"):
        run_folder(tmp_path)
    assert run_folder(tmp_path, again=True) == tmp_path


def test_a_folder_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match=r"cannot be made \(Not a directory\): name another folder with --out"):
        make_folder(tmp_path / "file" / "run")


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_no_command_writes_over_a_run(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("an earlier run")
    said = CliRunner().invoke(main, [*command, "--out", str(tmp_path)])
    assert said.exit_code == 1
    assert "is not empty: name another folder" in said.output
    assert (tmp_path / "run.json").read_text() == "an earlier run"
