"""Golden frames: the bytes of version 2, which change only with the version number (docs/wire.md).

To add one: extend `GOLDEN`, run `python tests/edge/wire/test_golden.py`, and read the new
.hex file before it is committed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pycddl
import pytest

from edge.wire import codec
from edge.wire.labels import pack_labels
from edge.wire.messages import (
    Birth,
    Command,
    Done,
    FleetMemory,
    FleetPairs,
    Gone,
    LabelUpload,
    MemoryUpload,
    Message,
    Meter,
    Method,
    Order,
    PairsUpload,
    Parameters,
    ParameterUpload,
    Plan,
    Report,
    Seat,
    Seeds,
    SeedUpload,
    Upload,
)
from edge.wire.options import AgentOptions, FldOptions, ShareOptions
from edge.wire.proxy import Grid, code_memory, pair
from edge.wire.rows import code_rows

FOLDER = Path(__file__).with_name("golden")
ROWS = np.array([[0.75, 0.1875, 0.0625], [0.03125, 0.96875, 0.0]])
COUNTS = np.array([40, 0, 9], np.uint32)
BITS = (32, 16, 8, 4, 3)


def _plan(bits: int) -> Plan:
    return Plan(
        run=1700000000,
        round=4,
        rounds=30,
        method=Method.FD,
        steps=50,
        seed=7,
        lr=0.05,
        gamma=0.5,
        bits=bits,
        deadline_s=60.0,
        qos=1,
        report=True,
        normalise=False,
        program=bytes.fromhex("01234567"),
        cohort=frozenset({0, 1, 9}),
        contributors=np.array([3, 0, 300], np.uint32),
        logits=code_rows(ROWS, bits),
    )


def _first_plan() -> Plan:
    return Plan(
        run=1,
        round=0,
        rounds=3,
        method=Method.FL,
        steps=250,
        seed=0,
        lr=0.5,
        gamma=0.0,
        bits=32,
        deadline_s=0.1,
        qos=0,
        report=False,
        normalise=True,
        program=bytes(4),
        cohort=frozenset(),
        contributors=np.zeros(0, np.uint32),
        logits=None,
    )


LABELS = np.array([2, 0, 1, 1, 2, 0, 0], np.int64)  # of 7 shared inputs
MEANS = Upload(run=1700000000, round=4, check=0xFEDC, counts=COUNTS, logits=code_rows(ROWS, 4))
SHARE = replace(_plan(4), method=Method.SHARE, options=ShareOptions(inputs=7).to_plan(9), labels=pack_labels(LABELS, 3))
SOFT = code_rows(np.array([[0.5, 0.25, 0.25], [0.125, 0.875, 0.0]]), 4).data
FLD = replace(
    _plan(4), method=Method.MIX2FLD, options=FldOptions().to_plan(4), contributors=np.zeros(0, np.uint32), logits=None
)
SEEDS = Seeds(
    x=np.array([[0, 16, 255], [1, 2, 3]], np.uint8),
    first=np.array([2, 0], np.uint32),
    second=np.array([0, 2], np.uint32),
    scale=1 / 255,
    offset=-0.5,
)

MEMORY = code_memory(
    Grid(ranges=(2.4, 3.0, 0.2095, 3.5), bins=30),
    np.array([3, 4, 5, 36, 70000, 809_999], np.uint32),
    np.array([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0], [0.125, 0.875], [0.0, 1.0], [0.5, 0.5]], np.float32),
)
VALUED = code_memory(
    Grid(ranges=(1.0, 2.0), bins=10),
    np.array([0, 99], np.uint32),
    np.array([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]], np.float32),
    np.array([-0.5, 1.25], np.float32),
    bits=8,
)
PAIRS = pair(np.array([[0.5, -1.0], [0.0, 2.0]], np.float32), np.array([[0.25, 0.75], [1.0, 0.0]], np.float32))

GOLDEN: dict[str, Message] = {
    **{f"plan-{bits}": _plan(bits) for bits in BITS},
    "plan-first": _first_plan(),
    **{
        f"upload-{bits}": Upload(run=1700000000, round=4, check=0xFEDC, counts=COUNTS, logits=code_rows(ROWS, bits))
        for bits in BITS
    },
    "plan-share": SHARE,
    "plan-share-soft": replace(SHARE, options=ShareOptions(inputs=2, bits=4).to_plan(9), labels=SOFT),
    "plan-share-warm-up": replace(SHARE, options=ShareOptions(inputs=7).to_plan(4), labels=b""),
    "plan-mix2fld": FLD,
    "label-upload": LabelUpload(means=MEANS, labels=pack_labels(LABELS, 3)),
    "label-upload-soft": LabelUpload(means=MEANS, labels=SOFT),
    "seed-upload": SeedUpload(means=MEANS, seeds=replace(SEEDS, second=np.zeros(0, np.uint32))),
    "seed-upload-mixed": SeedUpload(means=MEANS, seeds=SEEDS),
    "parameter-upload": ParameterUpload(
        run=1700000000, round=4, check=0xFEDC, samples=500, parameters=np.array([1.5, -2.0], np.float32)
    ),
    "plan-frd": replace(FLD, method=Method.FRD, options=AgentOptions().to_plan(4)),
    "memory-upload": MemoryUpload(run=1700000000, round=4, check=0xFEDC, memory=MEMORY),
    "fleet-memory": FleetMemory(run=1700000000, round=5, memory=MEMORY),
    "fleet-memory-values": FleetMemory(run=1700000000, round=5, memory=VALUED),
    "pairs-upload": PairsUpload(run=1700000000, round=4, check=0xFEDC, pairs=PAIRS),
    "fleet-pairs": FleetPairs(run=1700000000, round=5, pairs=PAIRS),
    "done": Done(run=1700000000, round=4),
    "parameters": Parameters(run=1700000000, round=5, parameters=np.array([0.25, 1e-3], np.float32)),
    "birth": Birth(
        profile="pi-zero-2-w",
        runtime="onnx 1.32.0",
        version="0.1.0",
        program=bytes.fromhex("01234567"),
        schema=bytes.fromhex("fedcba98"),
        samples=np.array([100, 5, 70000], np.uint32),
    ),
    "gone": Gone(),
    "seat": Seat(run=1700000000, seat=41),
    "command-rebirth": Command(order=Order.REBIRTH),
    "command-stop": Command(order=Order.STOP),
    "report": Report(
        run=1700000000,
        round=4,
        accuracy=0.875,
        loss=0.3,
        payload_up=400,
        payload_down=520,
        stream_up=70000,
        stream_down=5_000_000_000,
        train_s=1.25,
    ),
    **{
        name: Meter(
            run=1700000000,
            round=4,
            packets_up=np.array([0, 0, 5, 1, 0, 8, 9, 0, 2, 0], np.uint64),
            packets_down=np.array([6, 0, 0, 0, 1, 0, 13, 1, 2, 1], np.uint64),
            payload_up=np.array([0, 0, 380, 84, 0, 900, 0, 0, 0, 0], np.uint64),
            payload_down=np.array([700, 0, 0, 0, 8, 0, 0, 0, 0, 112], np.uint64),
            mqtt_up=np.array([0, 0, 455, 99, 0, 1020, 36, 0, 150, 0], np.uint64),
            mqtt_down=np.array([790, 5_000_000_000, 0, 0, 23, 0, 52, 2, 16, 126], np.uint64),
            stream=None if name == "meter-no-stream" else np.arange(60000, 71000, 1000, dtype=np.uint64),
            connects=2,
            cpu_s=3.5,
            review_cpu_s=0.25,
            elapsed_s=60.1,
        )
        for name in ("meter", "meter-no-stream")
    },
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_bytes_are_golden(name: str) -> None:
    frame = bytes.fromhex((FOLDER / f"{name}.hex").read_text())
    assert codec.encode(GOLDEN[name]).hex() == frame.hex()
    assert codec.decode(frame, limit=len(frame)) == GOLDEN[name]


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_frames_are_valid_by_the_schema(name: str) -> None:
    schema = pycddl.Schema(Path(codec.__file__).with_name("potstill.cddl").read_text())
    schema.validate_cbor(bytes.fromhex((FOLDER / f"{name}.hex").read_text()))


@pytest.mark.parametrize("path", sorted((FOLDER / "version-1").glob("*.hex")), ids=lambda path: path.stem)
def test_frames_of_version_1_are_refused_saying_what_to_do(path: Path) -> None:
    with pytest.raises(codec.FrameError, match=r"update the sender.*1; only 2 is read here") as refused:
        codec.decode(bytes.fromhex(path.read_text()), limit=1000)
    assert refused.value.reason is codec.Reason.OLDER


def test_every_golden_file_is_tested_and_every_kind_has_one() -> None:
    assert {path.stem for path in FOLDER.glob("*.hex")} == set(GOLDEN)
    kinds = {codec.encode(message)[2] for message in GOLDEN.values()}
    assert kinds == {*range(1, 17), 20}


if __name__ == "__main__":
    for stem, golden in GOLDEN.items():
        file = FOLDER / f"{stem}.hex"
        if not file.exists():  # a golden frame is never overwritten
            file.write_text(codec.encode(golden).hex() + "\n")
