"""A record becomes one page that stands by itself."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib.image import imread

from trainer.record.run import Curve, Device, Event, Joules, Layers, Point, Record, Spread, Table, now, write_record
from trainer.report.cli import merged, report
from trainer.report.figures import pictures
from trainer.report.page import COLOURS, shown
from trainer.report.write import write_report


def curve(method: str, seed: int, *, rounds: int = 10, size: float = 100.0, label: str = "") -> Curve:
    points = tuple(
        Point(
            round=r,
            score=Spread(mean=0.9 - 0.5 / (r + 1) + 0.01 * seed, worst=0.1, best=0.95),
            seconds=2.0 * (r + 1),
            up=Layers(payload=size * (r + 1), mqtt=20.0 * (r + 1), tls=None, tcpip=90.0 * (r + 1)),
            down=Layers(payload=size * (r + 1)),
            joules=Joules(compute=3.0 * (r + 1), radio=0.5 * (r + 1), idle=None),
        )
        for r in range(rounds)
    )
    device = Device(name="d0", profile="pi-4b", up=points[-1].up, figures={"segments": 12.0})
    return Curve(method=method, split="iid", seed=seed, points=points, label=label, devices=(device,))


RECORD = Record(
    kind="emulate",
    settings={"note": "<script>alert(1)</script>"},
    provenance={"accuracy": "measured: on the test set", "joules": "modelled: profile powers"},
    started=now(),
    complete=True,
    curves=(curve("fl", 0, size=40_000), curve("fl", 1, size=40_000), curve("fd", 0), curve("fd", 1, rounds=8)),
    events=(Event(kind="drop", text="d3 went away", round=3, seconds=8.0, device="d3"),),
    tables=(Table(title="What was asked", heads=("word", "number"), rows=(("a", 1.5), ("b", None))),),
)


def test_every_figure_that_the_record_can_fill(tmp_path: Path) -> None:
    write_report(RECORD, tmp_path)
    names = {file.name for file in tmp_path.iterdir()}
    drawn = {"accuracy-rounds.svg", "accuracy-bytes.svg", "accuracy-joules.svg", "accuracy-seconds.svg"}
    assert names == drawn | {"energy.svg", "layers.svg", "report.html", "points.csv", "devices.csv"}


def test_no_figure_of_what_nobody_knows() -> None:
    bare = tuple(replace(point, up=None, down=None, joules=None, seconds=None) for point in curve("fd", 0).points)
    record = replace(RECORD, curves=(replace(curve("fd", 0), points=bare),))
    assert [picture.name for picture in pictures(record)] == ["accuracy-rounds"]


def test_a_curve_that_costs_nothing_is_left_out_of_the_logarithmic_figure() -> None:
    nothing = Layers(payload=0.0)
    free = tuple(replace(point, up=nothing, down=nothing) for point in curve("alone", 0).points)
    alone = replace(curve("alone", 0), points=free)
    assert "accuracy-bytes" not in [picture.name for picture in pictures(replace(RECORD, curves=(alone,)))]
    (both,) = [p for p in pictures(replace(RECORD, curves=(alone, curve("fd", 0)))) if p.name == "accuracy-bytes"]
    assert [line.get_label() for line in both.figure.axes[0].get_lines()][:1] == ["fd"]


def test_the_page_stands_by_itself_and_quotes_what_it_is_given(tmp_path: Path) -> None:
    page = write_report(RECORD, tmp_path).read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert "<script" not in page
    for word in ("d3 went away", "modelled: profile powers", "What was asked", "To accuracy 0.84, iid", "segments"):
        assert word in page


def test_a_record_without_a_point_still_says_why(tmp_path: Path) -> None:
    empty = replace(RECORD, curves=(), complete=False, failure="no broker")
    assert "NOT complete: no broker" in write_report(empty, tmp_path).read_text(encoding="utf-8")


def test_csv_rows_are_the_points(tmp_path: Path) -> None:
    write_report(RECORD, tmp_path)
    rows, devices = (
        list(csv.DictReader((tmp_path / name).read_text(encoding="utf-8").splitlines()))
        for name in ("points.csv", "devices.csv")
    )
    assert len(rows) == 38
    assert (rows[0]["method"], rows[0]["up_payload"], rows[0]["up_tls"]) == ("fl", "40000", "")
    device = devices[0]
    assert (device["device"], device["up_tcpip"]) == ("d0", "900.0")


def test_several_runs_on_one_page(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_record(RECORD, tmp_path / name / "run.json")
    out = tmp_path / "both"
    result = CliRunner().invoke(report, [str(tmp_path / "a"), str(tmp_path / "b" / "run.json"), "--out", str(out)])
    assert result.exit_code == 0, result.output
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "fd (a)" in page
    assert "fd (b)" in page
    assert merged([RECORD], ["a"]) is RECORD


def test_runs_that_do_not_compare_are_refused(tmp_path: Path) -> None:
    for name, record in (("a", RECORD), ("b", replace(RECORD, score="return"))):
        write_record(record, tmp_path / f"{name}.json")
    result = CliRunner().invoke(report, [str(tmp_path / "a.json"), str(tmp_path / "b.json")])
    assert result.exit_code == 1
    assert "one by one" in result.output


def test_numbers_as_people_read_them() -> None:
    assert [shown(value) for value in (None, 0.12345, 12345.6, 7, 1234567, "x")] == [
        "",
        "0.1235",
        "12,346",
        "7",
        "1,234,567",
        "x",
    ]


@pytest.mark.browser
def test_a_browser_shows_it_without_a_network(tmp_path: Path) -> None:
    """Headless Chromium draws it: the curves' colours are on the screen, so the pictures decoded."""
    page = write_report(RECORD, tmp_path)
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'browser'}"]
    command += ["--window-size=1200,6000", f"--screenshot={tmp_path / 'seen.png'}", page.as_uri()]
    subprocess.run(command, check=True, timeout=120, stdout=sys.stderr, stderr=subprocess.STDOUT)
    pixels = (imread(tmp_path / "seen.png")[..., :3] * 255).round().astype(np.uint8)  # (height, width, 3)
    for colour in COLOURS[:2]:
        wanted = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)], np.uint8)
        assert np.count_nonzero((pixels == wanted).all(axis=-1)) > 200, colour
    assert (pixels == 255).all(axis=-1).mean() > 0.5
