"""Run 7 of fleet attic, as a ledger is told of it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np

from broker.ledger import Run
from broker.settings import RunSettings, settings_to_plain
from edge.wire.messages import Method, Plan

SETTINGS = RunSettings(
    run=7, program=b"prog", schema=b"labs", labels=3, parameters=4, devices=2, rounds=5, method=Method.FL
)


def a_run(number: int = 7, *, started: float = 100.0) -> Run:
    plain = json.dumps(settings_to_plain(dataclasses.replace(SETTINGS, run=number)))
    return Run(number, "attic", "fl", "00", plain, started, None, None, None)


def a_plan(number: int) -> Plan:
    return Plan(
        run=7,
        round=number,
        rounds=5,
        method=Method.FL,
        steps=1,
        seed=0,
        lr=0.5,
        gamma=1.0,
        bits=8,
        deadline_s=2.0,
        qos=1,
        report=False,
        normalise=False,
        program=b"prog",
        cohort=frozenset({0}),
        contributors=np.zeros(0, np.uint32),
        logits=None,
    )
