"""The table's cells and the sentences under it."""

from __future__ import annotations

from dataclasses import replace

from trainer.demo.table import HEADS, Row, differences, markdown, text

ALONE = Row(
    split="iid",
    method="alone",
    mean=0.8,
    worst=0.7,
    best=0.9,
    rounds=25,
    payload_up=9.4,
    payload_down=52,
    stream_up=34,
    stream_down=77,
    seconds=5.04,
)
FD = Row(
    split="iid",
    method="fd",
    mean=0.85,
    worst=0.71,
    best=0.9,
    rounds=25,
    payload_up=76,
    payload_down=124,
    stream_up=101,
    stream_down=140,
    seconds=5.6,
)
FL = Row(
    split="iid",
    method="fl",
    mean=0.94,
    worst=0.94,
    best=0.94,
    rounds=25,
    payload_up=40_000,
    payload_down=40_000,
    stream_up=40_000,
    stream_down=40_000,
    seconds=6,
)


def test_every_line_is_as_wide_as_its_columns() -> None:
    head, alone, fl = text([ALONE, FL]).splitlines()
    assert head.split("  ")[0] == "split"
    assert alone.split() == ["iid", "alone", "0.800", "0.700", "0.900", "25", "9", "52", "34", "77", "5.0"]
    assert len(head) == len(alone) == len(fl)
    assert "40,000" in fl


def test_markdown_has_a_cell_for_every_head() -> None:
    lines = markdown([ALONE, FD]).splitlines()
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {len(HEADS) + 1}


def test_differences_are_points_and_a_ratio() -> None:
    assert differences([ALONE, FL, FD]) == [
        (
            "iid: fd - alone = +5.0 points in the mean, +1.0 points in the worst device; "
            "fl - fd = +9.0 points in the mean for 400 times the payload"
        )
    ]
    share = replace(FD, method="share", mean=0.9, worst=0.88, payload_up=376, payload_down=424)
    assert differences([ALONE, FD, share, FL])[1] == (
        "iid: share - alone = +10.0 points in the mean, +18.0 points in the worst device; "
        "fl - share = +4.0 points in the mean for 100 times the payload"
    )
    assert differences([ALONE, FL]) == []
    assert differences([ALONE, FD]) == ["iid: fd - alone = +5.0 points in the mean, +1.0 points in the worst device"]
