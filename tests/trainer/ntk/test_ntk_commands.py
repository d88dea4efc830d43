"""`potstill ntk kd`, `cd`, `fd` and `program` on small networks: what they print, what they leave behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from trainer.data import load_digits
from trainer.ntk import experiments
from trainer.ntk.check import FALL, all_claims
from trainer.ntk.cli import ntk, print_claims
from trainer.ntk.exact import Claim
from trainer.ntk.networks import draw_points

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
ROOT = Path(__file__).resolve().parents[3]
SMALL = ["--width", "32,128", "--seeds", "1", "--steps", "30", "--samples", "12"]
COMMANDS = {
    "kd": (["--lambda", "0.5,4"], {"modes", "speed", "blend", "flip", "error-width", "trajectories-unseen"}),
    "cd": (["--lambda", "1", "--workers", "2,3", "--period", "10"], {"consensus", "mean-error", "workers"}),
    "fd": (["--gamma", "0,2", "--period", "10"], {"labels", "error-width", "trajectories-train"}),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_an_experiment_leaves_a_report_and_a_record(name: str, tmp_path: Path) -> None:
    arguments, figures = COMMANDS[name]
    done = CliRunner().invoke(ntk, [name, *SMALL, *arguments, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "out" / "run.json").read_text(encoding="utf-8"))
    assert figures <= record["figures"].keys()
    assert all((tmp_path / "out" / f"{figure}.svg").stat().st_size > 5000 for figure in record["figures"])
    assert {result["width"] for result in record["results"]} == {32, 128}
    assert all(0 < result["train_error"] < 0.5 for result in record["results"])
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == len(record["figures"])
    assert 'src="http' not in page
    again = CliRunner().invoke(ntk, [name, *SMALL, *arguments, "--out", str(tmp_path / "out")])
    assert again.exit_code != 0
    assert "not empty" in again.output


def test_the_program_is_looked_at(tmp_path: Path) -> None:
    folder = ROOT / "trainer" / "programs" / "cnn-8x8"
    arguments = ["program", str(folder), "--samples", "8", "--rounds", "1", "--checkpoint", str(folder / "initial.npy")]
    done = CliRunner().invoke(ntk, arguments)
    assert done.exit_code == 0, done.output
    assert "condition" in done.output
    assert "initial.npy: kernel drift 0.000, alignment 1.000" in done.output
    wrong = CliRunner().invoke(ntk, ["program", str(folder.parent / "har-cnn")])
    assert wrong.exit_code != 0
    assert "the program takes (9, 128)" in wrong.output
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_is_refused() -> None:
    for arguments, complaint in (
        (["cd", "--workers", "1"], "at least 2 workers"),
        (["kd", "--width", "0"], "positive whole numbers"),
        (["kd", "--lambda", "-1"], "negative"),
        (["kd", "--data", "nothing"], "unknown data"),
        (["fd", "--devices", "5"], "as many --classes"),
    ):
        done = CliRunner().invoke(ntk, arguments)
        assert done.exit_code != 0
        assert complaint in done.output


def test_finite_width_errors_fall_and_prediction_and_network_differ() -> None:
    points = draw_points(load_digits(), train=12, unseen=4, classes=2, seed=0)
    errors = []
    for width in (64, 1024):
        made = [
            experiments.run_kd(
                points,
                experiments.linearise(points, width, seed),
                experiments.noisy_teacher(points, seed),
                lam=1,
                width=width,
                seed=seed,
                steps=40,
            ).train_error
            for seed in range(4)
        ]
        errors.append(experiments.geometric_mean(made))
    assert errors[0] / errors[1] > FALL**2
    assert errors[1] > 1e-6  # a network, not the linear model


def test_check_begins_with_the_exact_claims() -> None:
    torch.set_num_threads(1)
    first = next(all_claims(load_digits()))
    assert first.passed
    assert first.tolerance == 1e-10


def test_failures_are_printed_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    good = Claim(text="holds", measured=1e-12, predicted=0, tolerance=1e-10)
    bad = Claim(text="formula", measured=0.3, predicted=0, tolerance=1e-10)
    flat = Claim(text="falls", measured=1.2, predicted=2, tolerance=1.5, at_least=True)
    assert print_claims([good, bad, flat], every=False) == 2
    told = capsys.readouterr().out
    assert "FAIL  formula" in told
    assert "at least 1.5" in told
    assert "holds " not in told
    assert "1 of 3 claims hold" in told
    assert print_claims([good], every=True) == 0
    assert "pass  holds" in capsys.readouterr().out
