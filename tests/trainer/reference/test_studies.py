"""Studies and paper tables, small, from the command line to run.json; and what their tables compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from potstill import main
from trainer.data import DataError, load_dataset, load_mnist, with_features
from trainer.programs import shipped
from trainer.record.run import Curve, Layers, Point, Spread, read_record
from trainer.reference.papers import FD_BITS, FD_DEVICES, FD_PUBLISHED, FD_ROUNDS
from trainer.reference.settings import RunError
from trainer.reference.settle import Wish, settle
from trainer.reference.studies import STUDIES, made
from trainer.reference.summary import spread, summary, text

SMALL = ["--rounds", "2", "--steps", "2", "--workers", "1", "--devices", "3"]


def _command(*arguments: str, folder: Path) -> str:
    found = CliRunner().invoke(main, ["trainer", *arguments, "--out", str(folder)], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.output


def test_run_prints_a_table_and_leaves_a_record(tmp_path: Path) -> None:
    said = _command("run", "alone", "fd", "fld", "--split", "iid,fd", *SMALL, folder=tmp_path)
    assert "iid" in said
    record = read_record(tmp_path / "run.json")
    assert record.kind == "reference"
    assert [curve.name for curve in record.curves] == ["alone", "alone", "fd", "fd", "fld", "fld"]
    assert set(record.curves[4].points[-1].devices["d0"]) == {"server common", "devices common"}
    assert record.settings["runs"][2]["method"] == "fd"
    assert (tmp_path / "tables.md").read_text().startswith("**Accuracy")


def test_a_study_from_the_command_line(tmp_path: Path) -> None:
    said = _command("study", "channel", "--split", "iid", *SMALL, folder=tmp_path)
    (table,) = read_record(tmp_path / "run.json").tables
    assert table.title in said
    assert len(table.rows) == 10


def test_models_of_three_kinds_learn_from_each_other(tmp_path: Path) -> None:
    """fd, ds-fl and share run with three models; what sends parameters refuses."""
    said = _command("study", "models", "--model", "cnn-8x8,mlp-32,cnn-8x8", "--split", "iid", *SMALL, folder=tmp_path)
    assert "third model" in said
    assert len(read_record(tmp_path / "run.json").settings["runs"][0]["programs"]) == 3
    with pytest.raises(RunError, match="3 models"):
        STUDIES["models"].jobs(Wish(methods=(), models=("cnn-8x8",)), tmp_path)
    with pytest.raises(RunError, match="one model"):
        settle(Wish(methods=("fl",), models=("cnn-8x8", "mlp-32")), tmp_path / "programs")


def test_the_mix2fld_table_has_two_channels_and_privacy(tmp_path: Path) -> None:
    _command("table", "mix2fld", "--split", "iid", *SMALL, folder=tmp_path)
    channels, privacy = read_record(tmp_path / "run.json").tables
    assert [row[1] for row in channels.rows][:2] == ["fl asym", "fd asym"]
    assert [row[3] for row in channels.rows if str(row[1]).startswith("fl ")] == ["+0.0 %", "+0.0 %"]
    mixed = [float(row[1] or 0) for row in privacy.rows]
    assert mixed == sorted(mixed)  # the more is mixed in, the farther from the sample


def test_the_fd_table_shows_published_figures_beside_ours(tmp_path: Path) -> None:
    _command("table", "fd-2018", *SMALL, "--devices", "2", folder=tmp_path)
    (table,) = read_record(tmp_path / "run.json").tables
    assert [row[0] for row in table.rows] == ["fd published", "fl published", "alone ours", "fd ours", "fl ours"]
    assert table.rows[0] == ("fd published", "0.723", FD_BITS["fd"])
    assert all(len(row) == len(table.heads) for row in table.rows)


def test_published_payload_is_what_the_method_sends() -> None:
    """FD: 100 values each way a round; FL: 1,199,648."""
    assert FD_BITS["fd"] == FD_ROUNDS * 2 * 100 * 32
    assert FD_BITS["fl"] == FD_ROUNDS * 2 * 1_199_648 * 32
    assert all(len(row) == len(FD_DEVICES) for row in FD_PUBLISHED.values())


def test_the_payload_study_pays_until_the_target() -> None:
    def point(round_: int, score: float, up: float) -> Point:
        spread_ = Spread(mean=score, worst=score, best=score)
        return Point(round=round_, score=spread_, up=Layers(payload=up), down=Layers(payload=up))

    curves = [
        Curve(method="fd", split="iid", seed=0, points=(point(0, 0.81, 60), point(1, 0.91, 120))),
        Curve(method="fd", split="iid", seed=1, points=(point(0, 0.79, 60), point(1, 0.86, 120))),
    ]
    (row,) = STUDIES["payload"].table(curves).rows
    assert row == ("iid", "fd", 90, 120, None, None, None, None, "0.885 (0.035)")


def test_what_was_typed_wins_over_a_study(tmp_path: Path) -> None:
    (job,) = made(Wish(methods=(), splits=("iid",), changes={"every": 7}), tmp_path, ["fd"], every=1, rounds=3)
    assert (job.settings.every, job.settings.rounds) == (7, 3)


def test_spread_has_no_deviation_of_one_seed() -> None:
    assert spread([0.5]) == "0.500"
    assert spread([0.4, 0.6]) == "0.500 (0.141)"


def test_tables_wrap_their_notes() -> None:
    point = Point(
        round=0,
        score=Spread(mean=0.5, worst=0.4, best=0.6),
        up=Layers(payload=1),
        down=Layers(payload=2),
        devices={"d0": {"devices common": 0.5}},
    )
    said = text(summary([Curve(method="fd", split="iid", seed=0, points=(point,))]))
    assert max(map(len, said.splitlines())) <= 120
    assert "0.500" in said


def test_unknown_methods_and_shifts_of_no_image_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="choose from alone"):
        settle(Wish(methods=("fedavg",)), tmp_path)
    with pytest.raises(RunError, match="lr is -1"):
        settle(Wish(methods=("fd",), changes={"lr": -1.0}), tmp_path)
    with pytest.raises(RunError, match="no program at"):
        settle(Wish(methods=("fd",), programs=(str(tmp_path / "none"),)), tmp_path)
    with pytest.raises(RunError, match="compile one that fits"):
        settle(Wish(methods=("fd",), programs=(str(shipped("cnn-28x28")),)), tmp_path)
    with pytest.raises(RunError, match="lambda"):
        settle(Wish(methods=("mix2fld",), changes={"lam": 0.5}), tmp_path)


@pytest.mark.shared
def test_features_of_sensor_windows(shared_data: Path) -> None:
    """15 a channel, standardised on the last five persons; what is not a window is refused."""
    dataset = load_dataset(f"features:{shared_data / 'har'}")
    assert dataset.input_shape == (135,)
    rest = np.concatenate([device.train.x for device in dataset.natural[-5:]])
    np.testing.assert_allclose(rest.mean(axis=0), 0, atol=0.1)
    with pytest.raises(DataError, match="windows"):
        with_features(load_mnist(shared_data / "mnist"))
