"""The device's record of its bytes on disk, and the table made of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edge.cli import edge
from edge.meter import journal, table
from edge.meter.energy import Energy, Measured
from edge.meter.journal import Journal, Line
from edge.meter.packets import KIND, empty_tally
from edge.meter.stream import Stream
from edge.meter.traffic import Account


def a_line(run: int | None, round_: int | None, *, stream: Stream | None = None) -> Line:
    up = empty_tally()
    up[KIND["upload"]] = 1, 76, 93
    seen = stream or Stream(sent=93, segments_out=1, data_segments_out=1, headers_out=52)
    return Line(at=1.5, run=run, round=round_, tls=False, account=Account(up=up, stream=seen, cpu_s=0.5, elapsed_s=2.0))


def write(folder: Path, *lines: Line) -> None:
    record = Journal(folder)
    for line in lines:
        record.append(line)
    record.close()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    write(tmp_path, a_line(7, None), a_line(7, 0), a_line(7, 1), a_line(9, 0), a_line(7, 1))
    return tmp_path


def test_lines_are_read_as_they_were_written(work: Path) -> None:
    lines, damaged = journal.read(work)
    assert damaged == 0
    assert [(line.run, line.round, line.at, line.tls) for line in lines[:2]] == [
        (7, None, 1.5, False),
        (7, 0, 1.5, False),
    ]
    assert lines[1].account.up.tolist() == a_line(7, 0).account.up.tolist()
    assert lines[1].account.stream == a_line(7, 0).account.stream
    assert table.runs(lines) == [9, 7]


def test_a_half_line_is_passed_over(work: Path) -> None:
    with (work / journal.FILE).open("a") as file:
        file.write('{"at": 3, "run"')
    lines, damaged = journal.read(work)
    assert (len(lines), damaged) == (5, 1)
    said = CliRunner().invoke(edge, ["meter", "--work", str(work)])
    assert said.exit_code == 0
    assert "1 lines of the record are damaged" in said.stderr


def test_a_long_record_keeps_its_last_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "ROTATE_BYTES", 2000)
    write(tmp_path, *(a_line(7, number) for number in range(60)))
    sizes = [(tmp_path / name).stat().st_size for name in (journal.FILE, journal.OLD_FILE)]
    assert max(sizes) < 3000
    rounds = [line.round for line in journal.read(tmp_path)[0]]
    assert rounds == list(range(rounds[0] or 0, 60))  # none is missing in between
    assert len(rounds) >= 5


def test_a_record_that_is_taken_away_is_begun_anew(tmp_path: Path) -> None:
    record = Journal(tmp_path)
    record.append(a_line(7, 0))
    record.path.unlink()
    record.append(a_line(7, 1))
    record.close()
    assert [line.round for line in journal.read(tmp_path)[0]] == [1]


def test_the_table_of_a_run(work: Path) -> None:
    said = CliRunner().invoke(edge, ["meter", "--work", str(work)])
    assert said.exit_code == 0
    rows = {line[:16].strip(): line[16:].split() for line in said.stdout.splitlines()}
    assert said.stdout.startswith("run 7: 2 rounds, 6.0 s\n")
    assert rows["payload"] == ["228", "0", "114", "0"]
    assert rows["MQTT"] == ["51", "0", "26", "0"]
    assert rows["TCP/IP"] == ["156", "0", "78", "0"]
    assert rows["together"] == ["477", "0", "238", "0"]
    assert rows["method"] == ["279", "0", "477", "0"]
    assert "outside of its rounds (start, joining, farewell): 159 up, 0 down" in said.stdout


def test_another_run_is_asked_for(work: Path) -> None:
    assert CliRunner().invoke(edge, ["meter", "--work", str(work), "--run", "9"]).stdout.startswith("run 9: 1 rounds")
    refused = CliRunner().invoke(edge, ["meter", "--work", str(work), "--run", "8"])
    assert refused.exit_code == 1
    assert "it has: 9, 7" in refused.output


def test_json_has_every_line(work: Path) -> None:
    said = CliRunner().invoke(edge, ["meter", "--work", str(work), "--json"])
    whole = json.loads(said.stdout)
    assert (whole["damaged"], len(whole["lines"])) == (0, 5)
    line = whole["lines"][1]
    assert line["layers"]["up"] == {"payload": 76, "mqtt": 17, "tls": 0, "tcpip": 52, "link": 14}
    assert line["classes"]["up"]["method"] == line["layers"]["up"]
    assert line["counts"]["up"] == {"upload": [1, 76, 93]}
    assert line["counts"]["cpu_s"] == 0.5


def test_where_the_kernel_does_not_say_the_table_says_so(tmp_path: Path) -> None:
    blind = a_line(7, 0)
    write(tmp_path, Line(at=1.0, run=7, round=0, tls=True, account=Account(up=blind.account.up, stream=None)))
    said = CliRunner().invoke(edge, ["meter", "--work", str(tmp_path)]).stdout
    assert "unknown, this kernel has no TCP_INFO" in said
    rows = {line[:16].strip(): line[16:].split() for line in said.splitlines()}
    assert rows["payload"] == ["76", "0", "76", "0"]
    assert rows["TCP/IP"] == ["-", "-", "-", "-"]


def test_a_folder_without_a_record_says_what_to_do(tmp_path: Path) -> None:
    refused = CliRunner().invoke(edge, ["meter", "--work", str(tmp_path)])
    assert refused.exit_code == 1
    assert "--work is another" in refused.output


def measured(total_j: float, *, idle_w: float | None = 2.0) -> dict[str, Any]:
    basis = Measured(
        sensor="ina219 at 0x40 on i2c-1",
        covers="what flows through the shunt",
        rate_hz=50,
        samples=100,
        window_s=2.0,
        covered_s=2.0,
        idle_w=idle_w,
        idle_window_s=10.0,
    )
    idle_j = None if idle_w is None else 2.0 * idle_w
    return Energy(total_j=total_j, idle_j=idle_j, compute_j=None, radio_j=None, basis=basis).to_plain()


def told(work: Path, *lines: Line) -> str:
    write(work, *lines)
    said = CliRunner().invoke(edge, ["meter", "--work", str(work)])
    assert said.exit_code == 0, said.output
    return said.stdout


def test_joules_are_told_where_they_were_measured(tmp_path: Path) -> None:
    lines = [replace(a_line(7, number), energy=measured(5.0 + number)) for number in (0, 1)]
    said = told(tmp_path, *lines)
    assert "energy 11.00 J measured, 3.00 J above idle; 5.5 J a round" in said
    assert "ina219 at 0x40 on i2c-1, 50 a second, 200 readings, 2.000 W at rest over 10.0 s" in said
    assert journal.read(tmp_path)[0][1].energy == lines[1].energy


def test_lines_without_a_sensor_are_told_of(tmp_path: Path) -> None:
    said = told(tmp_path, a_line(7, 0), replace(a_line(7, 1), energy=measured(5.0, idle_w=None)))
    assert "energy 5.00 J measured; 5 J a round; 1 lines without a sensor are not in it" in said
    assert "no idle baseline" in said


def test_without_a_sensor_nothing_is_said_of_joules(work: Path) -> None:
    assert "energy" not in told(work)
