"""The live table on a terminal, lines elsewhere."""

from __future__ import annotations

import io

from trainer.demo.observe import Observed
from trainer.demo.progress import HEADS, row
from trainer.progress import Live, Row, choose


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def stand(line: str | None, *, done: float = 0.5) -> Row:
    return Row(run=("iid", "fd"), done=done, figures=("5/10", "0.900", "0.800", "4/4"), line=line)


def test_a_line_is_said_once_however_often_it_is_shown() -> None:
    stream = io.StringIO()
    with choose(HEADS, stream) as progress:
        for line in (None, "round 5", "round 5", None, "round 10"):
            progress.show(stand(line))
        progress.say("done")
    assert stream.getvalue() == "round 5\nround 10\ndone\n"


def test_a_terminal_gets_a_table_of_all_runs() -> None:
    live = choose(HEADS, Terminal())
    assert isinstance(live, Live)
    with live:
        live.show(stand(None))
        live.show(Row(run=("iid", "fl"), done=1, figures=("10/10", "0.950", "0.950", "4/4"), line=None))
        table = live.table()
    assert [column.header for column in table.columns] == ["split", "method", "", "round", "mean", "worst", "devices"]
    bars = list(table.columns[2].cells)
    assert bars == ["━" * 10 + "╌" * 10, "━" * 20]


def test_a_demo_tells_every_fifth_round_and_the_last_when_all_have_reported() -> None:
    seen = Observed(devices=2, rounds=6)
    told = []
    for number in range(6):
        for device in ("d0", "d1"):
            seen.hear({"event": "report", "device": device, "round": number, "accuracy": 0.5})
            told.append(row("iid", "fd", seen, up=2).line)
    assert [number for number, line in enumerate(told) if line] == [9, 10, 11]
    assert told[9] == told[10] == "iid          fd     round   5/6  accuracy mean 0.500 worst 0.500  devices up 2/2"
    assert told[11] == "iid          fd     round   6/6  accuracy mean 0.500 worst 0.500  devices up 2/2"
