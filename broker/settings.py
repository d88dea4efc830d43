"""What a run is set to, every default of it, and the plans that say so. Pure.

Letters: L labels, P parameters, D devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edge.wire.codec import VERSION
from edge.wire.messages import AGENTS, OPTIONS, SEEDED, Method, Plan, UintArray
from edge.wire.options import Options
from edge.wire.proxy import POLICY_BITS
from edge.wire.rows import CodedRows

MOST_SEATS = 65536
"""A seat is a uint16 on the wire."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """One run, and every default of it.

    Steps, rate, gamma and rounds are those with which FD was best on MNIST, 10 devices of 500 samples (docs/round.md).
    """

    run: int
    """uint32, never used before: a device takes an old number for its old run."""
    program: bytes
    schema: bytes
    labels: int
    """L."""
    parameters: int
    """P."""
    devices: int
    """The run starts when so many are born."""
    method: Method = Method.FD
    options: Options | None = None
    """Of the method; None: its defaults, where it has options."""
    size: int = 0
    """Numbers of one sample, for methods whose devices give samples away; components of a state, for agents."""
    rounds: int = 30
    steps: int = 32
    seed: int = 0
    lr: float = 0.1
    gamma: float = 1.0
    bits: int = 4
    qos: int = 1
    report: bool = True
    normalise: bool = False
    deadline_s: float = 60.0
    """Of a round, from its opening; an extension is as long again."""
    quorum: int = 1
    """Uploads without which no round closes, devices without which no run starts."""
    extensions: int = 3
    """Times that one round is extended before the run fails."""
    start_deadline_s: float = 60.0
    """When the run starts with the quorum, or fails."""

    def __post_init__(self) -> None:
        if not 1 <= self.quorum <= self.devices <= MOST_SEATS:
            raise ValueError(f"1 <= quorum ({self.quorum}) <= devices ({self.devices}) <= {MOST_SEATS}")
        if self.extensions < 0 or self.start_deadline_s <= 0:
            raise ValueError("extensions is at least 0, start_deadline_s is positive")
        kind = OPTIONS.get(self.method)
        if kind is not None and self.options is None:
            object.__setattr__(self, "options", kind())
        if not isinstance(self.options, kind or type(None)):
            raise ValueError(f"options of {self.method.name.lower()}: not {self.options}")  # noqa: TRY004
        if self.method in SEEDED and self.size < 1:
            raise ValueError("size is positive: take a sample's from the program's manifest")
        if self.method in AGENTS - {Method.FRL} and self.size < 1:
            raise ValueError("size is positive: take the number of a state's components from the task")
        if self.method in {Method.FRD, Method.MIXFRD} and self.bits not in POLICY_BITS:
            raise ValueError("bits of a policy: 4 or 8")
        if self.labels < 1 or self.parameters < 1:
            raise ValueError("labels and parameters are positive: take them from the program's manifest")
        make_plan(self, 0, frozenset(), nobody(self), None)  # raises ValueError for what a plan cannot carry


AGENT_DEFAULTS: Mapping[str, Any] = {"steps": 25, "lr": 1e-3, "deadline_s": 600.0}
"""Where agents differ: steps are episodes, lr that of the actor (docs/rl.md); 25 episodes of 500
steps take a minute on a slow board."""


def settings_to_plain(settings: RunSettings) -> dict[str, Any]:
    """For JSON: digests as hexadecimal, the method by name, its options by theirs, and the version of the wire."""
    names = {"program": settings.program.hex(), "schema": settings.schema.hex(), "method": settings.method.name.lower()}
    return asdict(settings) | names | {"wire": VERSION}


def settings_from_plain(plain: Mapping[str, Any]) -> RunSettings:
    """Raises ValueError, TypeError or KeyError on what `settings_to_plain` did not write, or for another wire."""
    version = plain.get("wire", 1)
    if version != VERSION:
        raise ValueError(
            f"it speaks version {version} of the wire, this release {VERSION}: "
            "end it with the release that began it, or begin a new run"
        )
    digests = {"program": bytes.fromhex(plain["program"]), "schema": bytes.fromhex(plain["schema"])}
    method = Method[plain["method"].upper()]
    said = plain.get("options")
    options = None if said is None else OPTIONS[method](**said)
    fields = {name: value for name, value in plain.items() if name != "wire"}
    return RunSettings(**{**fields, **digests, "method": method, "options": options})


def nobody(settings: RunSettings) -> UintArray:
    """(L,) nobody holds any label; empty where no logits are exchanged."""
    return np.zeros(settings.labels if settings.method.averages_logits else 0, np.uint32)


def make_plan(  # noqa: PLR0917 - in the order of the wire
    settings: RunSettings,
    number: int,
    cohort: frozenset[int],
    contributors: UintArray,
    logits: CodedRows | None,
    labels: bytes = b"",
) -> Plan:
    """The plan of round `number`, with what came out of the round before."""
    return Plan(
        run=settings.run,
        round=number,
        rounds=settings.rounds,
        method=settings.method,
        steps=settings.steps,
        seed=settings.seed,
        lr=settings.lr,
        gamma=settings.gamma,
        bits=settings.bits,
        deadline_s=settings.deadline_s,
        qos=settings.qos,
        report=settings.report,
        normalise=settings.normalise,
        program=settings.program,
        cohort=cohort,
        contributors=contributors,
        logits=logits,
        options=() if settings.options is None else settings.options.to_plan(number),
        labels=labels,
    )
