"""One method's run on a fleet that is laid: its rounds, what its devices spend, and what happens to them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer.demo.observe import Observed
from trainer.demo.processes import Processes, aggregator, failure, lines_and_ticks
from trainer.demo.progress import row
from trainer.demo.settings import DemoError, own_options
from trainer.emulate.backend import Limits
from trainer.emulate.broker import Broker
from trainer.emulate.fleet import Fleet, Happening, Member
from trainer.emulate.network import Wire
from trainer.emulate.outcome import Outcome
from trainer.emulate.roster import Roster, last_words
from trainer.emulate.scenario import Scenario, Step
from trainer.emulate.settle import Settled
from trainer.emulate.speed import Speed
from trainer.emulate.spend import Reading, Work, joules, spent
from trainer.progress import Progress
from trainer.record.run import Event
from trainer.shards import ShardFile

LOOK_S = 1.0
"""Between two looks at batteries and at who is still there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One device's in the emulation: what does not change from method to method."""

    member: Member
    speed: Speed
    limits: Limits
    wire: Wire | None
    shard: ShardFile
    work: Work | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What the runs of all methods stand on."""

    fleet: Fleet
    settled: Settled
    out: Path
    progress: Progress
    places: Mapping[str, Place]
    roster: Roster
    processes: Processes
    broker: Broker
    within: Callable[[list[str]], list[str]]
    """Makes of a command one that runs beside the broker."""


class Stage:
    """One method's run on the fleet."""

    def __init__(self, method: str, ground: Ground) -> None:
        self._method = method
        self._of = ground
        self._places = ground.places
        self._scenario = Scenario(ground.fleet.happenings)
        self._began_s: float | None = None
        self._looked_s = 0.0
        self._start: dict[str, Reading] = {}
        self.events: list[Event] = []
        self.outcome = Outcome(
            members={name: place.member for name, place in self._places.items()},
            works={name: place.work for name, place in self._places.items()},
            shards={name: place.shard for name, place in self._places.items()},
            seen=Observed(devices=len(self._places), rounds=ground.settled.rounds),
        )

    def run(self) -> None:
        """Raises DemoError or BackendError."""
        for name in self._places:
            self._of.roster.start(name)
            self._shape(name, None)
        name = f"the aggregator ({self._method})"
        log = self._of.out / "logs" / f"aggregator-{self._method}.log"
        child = self._of.processes.start(name, self._aggregator(), log, piped=True, within=self._of.within)
        for event in lines_and_ticks(child, self._of.processes):
            if event is not None:
                self._hear(event)
            self._look()
        self._of.processes.forget(child)
        seen = self.outcome.seen
        for step in self._scenario.waiting:
            self._note("not-reached", f"the run ended before {step.trigger}: {step.text}", None)
        if not seen.complete:
            raise DemoError(f"{seen.reason}\n{failure(child)}".lstrip())

    def _hear(self, event: dict[str, Any]) -> None:
        seen = self.outcome.seen
        seen.hear(event)
        kind = event["event"]
        if self._began_s is None and kind == "waiting" and event["born"] >= event["devices"]:
            self._began_s = time.monotonic()
            self._start = {name: self._reading(name) for name in self._places}
        if kind == "round":
            self._measure(int(event["round"]))
        if kind in {"round", "report"}:
            up = len(self._of.roster.up)
            self._of.progress.show(row(str(self._of.settled.split), self._method, seen, up))

    # ------------------------------------------------------------ what a device has spent

    def _reading(self, name: str) -> Reading:
        wire = self._places[name].wire
        return Reading(cpu_s=self._of.roster.cpu_s(name), counts=None if wire is None else wire.counts())

    def _measure(self, number: int) -> None:
        """At the close of a round. A start of which nothing is known (a quorum was enough to begin) counts from now."""
        if self._began_s is None:
            self._began_s = time.monotonic() - self.outcome.seen.seconds
            self._start = {name: self._reading(name) for name in self._places}
        seconds = time.monotonic() - self._began_s
        # All of them or none: a user may stop the run in between.
        self.outcome.spent[number] = {
            name: spent(self._reading(name), start, seconds) for name, start in self._start.items()
        }

    # ------------------------------------------------------------ what happens to it

    def _look(self) -> None:
        self._report_ended()
        if self._began_s is None:
            return
        seconds = time.monotonic() - self._began_s
        for step in self._scenario.due(closed=self.outcome.seen.closed, seconds=seconds):
            self._happen(step)
        if seconds - self._looked_s >= LOOK_S:
            self._looked_s = seconds
            self._look_at_batteries(seconds)

    def _report_ended(self) -> None:
        """A device that ends by itself before the first plan is a mistake; later it is something to tell."""
        for name, code in self._of.roster.ended():
            words = f"device {name} ended with code {code}:\n  {last_words(self._of.roster.log(name))}"
            if self._began_s is None:
                raise DemoError(f"{words}\nThe whole log: {self._of.roster.log(name)}")
            usage = self._of.roster.usage(name)
            killed = " (killed for its memory)" if usage.oom_kills else ""
            self._note("ended", f"{name} ended with code {code}{killed}", name)

    def _happen(self, step: Step) -> None:
        happening = step.happening
        self._note(happening.kind, step.text, happening.devices[0] if len(happening.devices) == 1 else None)
        if happening.kind == "broker-restart":
            self._of.broker.restart()
        for name in happening.devices:
            if happening.kind == "fade":
                self._shape(name, None if step.back else happening)
            elif step.back:
                self._of.roster.start(name)
            else:
                self._of.roster.kill(name)

    def _shape(self, name: str, fading: Happening | None) -> None:
        place = self._places[name]
        if place.wire is not None:
            link = place.member.air.link
            if fading is not None:
                link = replace(link, up=fading.up.change(link.up), down=fading.down.change(link.down))
            place.wire.shape(link)

    def _look_at_batteries(self, seconds: float) -> None:
        for name, place in self._places.items():
            capacity = place.member.group.battery_j
            if capacity is None or name not in self._of.roster.up:
                continue
            outside = spent(self._reading(name), self._start[name], seconds)
            used = joules(place.member, place.work, outside, rounds=self.outcome.seen.closed)
            if used.known >= capacity:
                self._of.roster.kill(name)
                self._note("battery", f"{name}'s battery is empty: {capacity:g} J (modelled)", name)

    def _note(self, kind: str, text: str, device: str | None) -> None:
        seconds = None if self._began_s is None else round(time.monotonic() - self._began_s, 3)
        closed = self.outcome.seen.closed
        self.events.append(
            Event(kind=kind, text=text, method=self._method, round=closed, seconds=seconds, device=device)
        )
        self._of.progress.say(f"{self._method}, round {closed}: {text}")

    def _aggregator(self) -> list[str]:
        training, settled = self._of.fleet.training, self._of.settled
        return aggregator(
            broker=self._of.broker.url,
            fleet=self._of.roster.fleet,
            program=settled.program,
            ledger=self._of.out / "ledger.sqlite",
            method=self._method,
            devices=len(self._places),
            quorum=self._of.fleet.quorum,
            extensions=training.extensions,
            rounds=settled.rounds,
            steps=settled.steps,
            lr=settled.lr,
            gamma=settled.gamma,
            bits=training.bits,
            seed=training.seed,
            deadline=training.deadline_s,
            start_deadline=training.start_deadline_s,
            normalise=settled.normalise,
            **own_options(self._method, settled.program),
        )
