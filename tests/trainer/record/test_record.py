"""A record on disk is the record that was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainer.record.run import (
    Curve,
    Device,
    Event,
    Joules,
    Layers,
    Point,
    Record,
    RecordError,
    Spread,
    Table,
    environment,
    now,
    read_record,
    write_record,
)


def record() -> Record:
    point = Point(
        round=0,
        score=Spread(mean=0.5, worst=0.25, best=0.75),
        seconds=1.5,
        up=Layers(payload=78, mqtt=14, tcpip=92),
        joules=Joules(compute=1.0, radio=None, idle=2.0),
        missing=("d3",),
        devices={"d0": {"accuracy": 0.5}},
    )
    device = Device(name="d0", profile="pi-4b", samples=(1, 2), score=0.5, figures={"segments": 3})
    return Record(
        kind="emulate",
        settings={"rounds": 1},
        provenance={"bytes": "measured: TCP_INFO", "joules": "modelled: profile powers"},
        started=now(),
        environment=environment(),
        curves=(Curve(method="fd", split="iid", seed=0, label="4 bits", points=(point,), devices=(device,)),),
        events=(Event(kind="drop", text="d3 went away", round=0, device="d3"),),
        tables=(Table(title="t", heads=("a", "b"), rows=(("x", 1.0), ("y", None))),),
    )


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_record(record(), path)
    assert read_record(path) == record()
    assert [left.name for left in tmp_path.iterdir()] == ["run.json"]


def test_sums_over_the_layers_that_are_known() -> None:
    (curve,) = record().curves
    (point,) = curve.points
    assert point.up is not None
    assert point.up.known == 78 + 14 + 92
    assert point.joules is not None
    assert point.joules.known == 3.0
    assert curve.name == "fd 4 bits"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "name a run folder"),
        ("[]", "is no run record"),
        ('{"format": "potstill-run", "version": 1}', "run the command again"),
        ('{"format": "potstill-run", "version": 2}', "is damaged"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=says):
        read_record(path)


def test_a_damaged_curve_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_record(record(), path)
    plain = json.loads(path.read_text())
    plain["curves"][0]["points"][0]["score"] = {"mean": 1}
    path.write_text(json.dumps(plain))
    with pytest.raises(RecordError, match="is damaged"):
        read_record(path)


def test_every_figure_says_where_it_comes_from() -> None:
    with pytest.raises(ValueError, match="begins with measured"):
        Record(kind="demo", settings={}, provenance={"joules": "guessed"}, started=now())
    with pytest.raises(ValueError, match="kind is one of"):
        Record(kind="dream", settings={}, provenance={}, started=now())
