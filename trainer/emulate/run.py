"""The emulator: lays the links, starts every device through its back end, runs each method, and lets things happen."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from edge.runtime.choose import installed
from firmware_profiles.facts import Quality
from firmware_profiles.schema import Profile
from trainer.calibration.measure import step_cpu_s
from trainer.data import Dataset
from trainer.demo.observe import Observed
from trainer.demo.processes import (
    Child,
    Processes,
    check_reachable,
    failure,
    lines_and_ticks,
    signals_interrupt,
    start_broker,
)
from trainer.demo.progress import row
from trainer.demo.settings import DemoError
from trainer.emulate import inside
from trainer.emulate.backend import Backend, BackendError, Enforced, Limits, Order
from trainer.emulate.backends import REMOVERS, make_backend
from trainer.emulate.container import DEFAULT_RUNTIME
from trainer.emulate.fleet import UNSHAPED, Fleet, Happening, Member
from trainer.emulate.leftovers import Leftovers, clean
from trainer.emulate.netem import has_netem
from trainer.emulate.network import HUB_ADDRESS, Network, Wire
from trainer.emulate.outcome import PROVENANCE, Outcome, enforced_table, member_table, totals_table
from trainer.emulate.rootfs import ARM64
from trainer.emulate.roster import Roster, last_words
from trainer.emulate.scenario import Scenario, Step, wrong_clocks
from trainer.emulate.settle import Settled, settle
from trainer.emulate.speed import EMULATED, Speed, calibrated_speed, read_host_mhz, speed
from trainer.emulate.spend import Instructions, Reading, Work, joules, spent
from trainer.instructions.counts import known_counts
from trainer.progress import Progress
from trainer.record.inputs import data_of, program_of
from trainer.record.reach import reach_table
from trainer.record.run import Curve, Event, Record, environment, now, write_record
from trainer.shards import ShardFile, deal, write_shards

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


def run_fleet(fleet: Fleet, dataset: Dataset, out: Path, progress: Progress, *, folder: Path) -> Record:
    """Everything, -> the record, which also lies in `out` as run.json. `folder` is that of the fleet's file.

    Raises DemoError, BackendError or SplitError. In every case nothing is left running or laid, and run.json holds what
    was done.
    """
    settled = settle(fleet, dataset, folder)
    record = _begin(fleet, settled, dataset)
    emulation = Emulation(fleet=fleet, settled=settled, out=out, progress=progress)
    try:
        out.mkdir(parents=True, exist_ok=True)
        emulation.run(dataset)
        record = replace(record, complete=True)
    except (DemoError, BackendError) as problem:
        record = replace(record, failure=str(problem))
        raise
    except KeyboardInterrupt:
        record = replace(record, failure="stopped by the user")
        raise
    finally:
        record = replace(record, ended=now(), curves=tuple(emulation.curves), events=tuple(emulation.events))
        record = replace(record, tables=tuple(emulation.tables(record)))
        write_record(record, out / "run.json")
    return record


def _begin(fleet: Fleet, settled: Settled, dataset: Dataset) -> Record:
    manifest = settled.manifest
    chosen = {name: getattr(settled, name) for name in ("samples", "own_test", "rounds", "steps", "lr", "gamma")}
    return Record(
        kind="emulate",
        settings={
            **asdict(fleet.training),
            **chosen,
            "normalise": settled.normalise,
            "split": str(settled.split),
            "program": settled.program.name,
            "fleet": fleet.name,
            "devices": len(fleet.members),
            "quorum": fleet.quorum,
            "happenings": [asdict(happening) for happening in fleet.happenings],
        },
        provenance=PROVENANCE,
        started=now(),
        environment={**environment(), "host_mhz": read_host_mhz()},
        data=data_of(dataset),
        program=program_of(manifest),
    )


@dataclass(slots=True, kw_only=True)
class Emulation:
    """One fleet, from its links to its last method."""

    fleet: Fleet
    settled: Settled
    out: Path
    progress: Progress
    curves: list[Curve] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    enforced: dict[str, Enforced] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)

    def run(self, dataset: Dataset) -> None:
        """Raises DemoError, BackendError or SplitError."""
        shards = self._deal(dataset)
        with signals_interrupt(), ExitStack() as stack:
            for problem in _clean_up():
                self.progress.say(f"left by an earlier run and still there: {problem}")
            leftovers = stack.enter_context(Leftovers.of_new_run(REMOVERS))
            prefix = f"ps-{leftovers.path.stem[:6]}"
            backends = {name: self._prepare(name, prefix, leftovers, stack) for name in self.fleet.backends}
            network = self._network(backends, prefix, leftovers, stack)
            processes = stack.enter_context(Processes())
            within = _within(None if network is None else network.hub)
            broker = Broker(self.fleet, processes, self.out / "logs" / "broker.log", within, shared=network is None)
            broker.start()
            for member, shard in zip(self.fleet.members, shards, strict=True):
                self.places[member.name] = self._place(member, shard, network)
            if sum(place.limits.cpus for place in self.places.values()) > len(os.sched_getaffinity(0)):
                self.progress.say("All devices together want more than this host's processors: times are upper bounds.")
            roster = Roster(
                self._orders(broker.url, network),
                {name: backends[place.member.group.backend] for name, place in self.places.items()},
            )
            stack.callback(roster.stop)
            for method in self.fleet.training.methods:
                self._run_method(method, Stage(self, roster, processes, broker, within))

    def tables(self, record: Record) -> Iterator[Any]:
        if any(curve.points for curve in self.curves):
            yield reach_table(record, str(self.settled.split), self.fleet.training.target)
            yield totals_table(self.curves)
        if self.enforced:
            yield enforced_table(self.enforced)
        if self.places:
            yield member_table([(place.member, place.limits, place.speed.how) for place in self.places.values()])

    # ------------------------------------------------------------ before the first method

    def _deal(self, dataset: Dataset) -> list[ShardFile]:
        shards = deal(
            dataset,
            self.settled.split,
            devices=len(self.fleet.members),
            samples=self.settled.samples,
            seed=self.fleet.training.seed,
            own_test=self.settled.own_test,
        )
        return write_shards(self.out / "shards", shards, scale=dataset.scale, label_count=dataset.label_count)

    def _prepare(self, name: str, prefix: str, leftovers: Leftovers, stack: ExitStack) -> Backend:
        members = [member for member in self.fleet.members if member.group.backend == name]
        backend = make_backend(name, prefix, leftovers, members)
        stack.callback(backend.close)
        self.enforced[name] = backend.prepare()
        if self.enforced[name].clock.startswith("not"):
            for device in wrong_clocks(self.fleet.happenings):
                if self.fleet.member(device).group.backend == name:
                    raise BackendError(f"{device} is to have a wrong clock, but {name}: {self.enforced[name].clock}")
        return backend

    def _network(
        self, backends: Mapping[str, Backend], prefix: str, leftovers: Leftovers, stack: ExitStack
    ) -> Network | None:
        if not any(backend.needs_namespace for backend in backends.values()):
            return None
        log = self.out / "logs" / "links.log"
        return stack.enter_context(Network(prefix, leftovers, log, shaper=self._shaper()))

    def _shaper(self) -> str:
        """Raises BackendError."""
        wanted = self.fleet.training.shaper
        there = wanted != "tun" and os.geteuid() == 0 and has_netem()
        if wanted == "netem" and not there:
            raise BackendError("this kernel has no netem (or there is no tc): modprobe sch_netem, or shaper = 'tun'")
        self.progress.say(f"Links: {'netem' if there else 'two TUN interfaces each'}.")
        return "netem" if there else "tun"

    def _place(self, member: Member, shard: ShardFile, network: Network | None) -> Place:
        wire = None
        if network is not None and member.group.backend != "process":
            # A machine shapes its link itself.
            link = UNSHAPED if member.group.backend == "machine" else member.air.link
            wire = network.lay(member.name, member.number, link, seed=self.fleet.training.seed)
        estimated = EMULATED if _emulated(member) else _speed(member, self.settled.program)
        if member.group.cpus is not None:
            estimated = Speed(share=member.group.cpus, how="as the fleet's file says", quality=Quality.ESTIMATE)
        limits = Limits(cpus=estimated.share, memory_mib=member.group.memory_mib or _usable_mib(member.profile))
        work = self._work(member, estimated)
        return Place(member=member, speed=estimated, limits=limits, wire=wire, shard=shard, work=work)

    def _work(self, member: Member, speed: Speed) -> Work | None:
        """This host's processor seconds say nothing of a board whose code is emulated: its instructions do."""
        if not _emulated(member) and self.fleet.training.compute == "time":
            return speed.slowdown
        each = known_counts(member.profile.hardware.core.value, self.settled.manifest.name)
        count = each.get(member.group.runtime or DEFAULT_RUNTIME)
        if count is None or member.profile.power.nj_per_instruction is None:
            return None
        return Instructions(a_round=count * self.settled.steps)

    def _orders(self, url: str, network: Network | None) -> dict[str, Order]:
        clocks = wrong_clocks(self.fleet.happenings)
        # Short, because it rides in every topic; nobody else's on a broker that is shared.
        name_of_fleet = secrets.token_hex(3)
        orders = {}
        for name, place in self.places.items():
            namespace = None
            if network is not None:
                namespace = network.hub if place.wire is None else network.namespace(name)
            orders[name] = Order(
                device=name,
                fleet=name_of_fleet,
                broker=url,
                profile=place.member.profile,
                limits=place.limits,
                link=place.member.air.link,
                arch=place.member.group.arch,
                runtime=place.member.group.runtime,
                program=self.settled.program.resolve(),
                data=place.shard.path.resolve(),
                work=(self.out / "work" / name).resolve(),
                log=(self.out / "logs" / f"{name}.log").resolve(),
                namespace=namespace,
                clock_offset_s=clocks.get(name, 0.0),
            )
        return orders

    # ------------------------------------------------------------ a method

    def _run_method(self, method: str, stage: Stage) -> None:
        try:
            stage.run(method)
        finally:
            self.curves.append(stage.outcome.curve(method, str(self.settled.split), self.fleet.training.seed))
            self.events += stage.events


class Broker:
    """The run's broker: one of its own, which can be restarted on its port, or one that is there."""

    def __init__(
        self,
        fleet: Fleet,
        processes: Processes,
        log: Path,
        within: Callable[[list[str]], list[str]],
        *,
        shared: bool,
    ) -> None:
        self._kind = fleet.training.broker
        self._processes = processes
        self._log = log
        self._within = within
        self._host = "127.0.0.1" if shared else HUB_ADDRESS
        self._child: Child | None = None
        self.url = self._kind

    def start(self) -> None:
        """Raises DemoError."""
        if "://" in self._kind:
            check_reachable(self._kind)
            return
        options = ["--kind", self._kind, "--host", self._host]
        if self._host == HUB_ADDRESS:
            options.append("--expose")  # to the run's own namespaces, which nothing else is in
        if self._child is not None:
            options += ["--port", self.url.rpartition(":")[2]]
        self._child, self.url = start_broker(self._processes, self._log, *options, within=self._within)

    def restart(self) -> None:
        assert self._child is not None, "only a broker of our own has this event"
        self._processes.stop([self._child])
        self.start()


class Stage:
    """One method's run on the fleet."""

    def __init__(
        self,
        emulation: Emulation,
        roster: Roster,
        processes: Processes,
        broker: Broker,
        within: Callable[[list[str]], list[str]],
    ) -> None:
        self._of = emulation
        self._roster = roster
        self._processes = processes
        self._broker = broker
        self._within = within
        self._places = emulation.places
        self._scenario = Scenario(emulation.fleet.happenings)
        self._began_s: float | None = None
        self._looked_s = 0.0
        self._start: dict[str, Reading] = {}
        self._method = ""
        self.events: list[Event] = []
        rounds = emulation.settled.rounds
        self.outcome = Outcome(
            members={name: place.member for name, place in self._places.items()},
            works={name: place.work for name, place in self._places.items()},
            shards={name: place.shard for name, place in self._places.items()},
            seen=Observed(devices=len(self._places), rounds=rounds),
        )

    def run(self, method: str) -> None:
        """Raises DemoError or BackendError."""
        self._method = method
        for name in self._places:
            self._roster.start(name)
            self._shape(name, None)
        name = f"the aggregator ({method})"
        log = self._of.out / "logs" / f"aggregator-{method}.log"
        aggregator = self._processes.start(name, self._aggregator(method), log, piped=True, within=self._within)
        for event in lines_and_ticks(aggregator, self._processes):
            if event is not None:
                self._hear(event)
            self._look()
        self._processes.forget(aggregator)
        seen = self.outcome.seen
        for step in self._scenario.waiting:
            self._note("not-reached", f"the run ended before {step.trigger}: {step.text}", None)
        if not seen.complete:
            raise DemoError(f"{seen.reason}\n{failure(aggregator)}".lstrip())

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
            up = len(self._roster.up)
            self._of.progress.show(row(str(self._of.settled.split), self._method, seen, up))

    # ------------------------------------------------------------ what a device has spent

    def _reading(self, name: str) -> Reading:
        wire = self._places[name].wire
        return Reading(cpu_s=self._roster.cpu_s(name), counts=None if wire is None else wire.counts())

    def _measure(self, number: int) -> None:
        """At the close of a round. A start of which nothing is known (a quorum was enough to begin) counts from now."""
        if self._began_s is None:
            self._began_s = time.monotonic() - self.outcome.seen.seconds
            self._start = {name: self._reading(name) for name in self._places}
        seconds = time.monotonic() - self._began_s
        for name, start in self._start.items():
            self.outcome.spent.setdefault(number, {})[name] = spent(self._reading(name), start, seconds)

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
        for name, code in self._roster.ended():
            words = f"device {name} ended with code {code}:\n  {last_words(self._roster.log(name))}"
            if self._began_s is None:
                raise DemoError(f"{words}\nThe whole log: {self._roster.log(name)}")
            usage = self._roster.usage(name)
            killed = " (killed for its memory)" if usage.oom_kills else ""
            self._note("ended", f"{name} ended with code {code}{killed}", name)

    def _happen(self, step: Step) -> None:
        happening = step.happening
        self._note(happening.kind, step.text, happening.devices[0] if len(happening.devices) == 1 else None)
        if happening.kind == "broker-restart":
            self._broker.restart()
        for name in happening.devices:
            if happening.kind == "fade":
                self._shape(name, None if step.back else happening)
            elif step.back:
                self._roster.start(name)
            else:
                self._roster.kill(name)

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
            if capacity is None or name not in self._roster.up:
                continue
            outside = spent(self._reading(name), self._start[name], seconds)
            used = joules(place.member, place.work, outside, rounds=self.outcome.seen.closed)
            if used.known >= capacity:
                self._roster.kill(name)
                self._note("battery", f"{name}'s battery is empty: {capacity:g} J (modelled)", name)

    def _note(self, kind: str, text: str, device: str | None) -> None:
        seconds = None if self._began_s is None else round(time.monotonic() - self._began_s, 3)
        closed = self.outcome.seen.closed
        self.events.append(
            Event(kind=kind, text=text, method=self._method, round=closed, seconds=seconds, device=device)
        )
        self._of.progress.say(f"{self._method}, round {closed}: {text}")

    def _aggregator(self, method: str) -> list[str]:
        training, settled = self._of.fleet.training, self._of.settled
        values = {
            "broker": self._broker.url,
            "fleet": self._roster.fleet,
            "program": settled.program,
            "ledger": self._of.out / "ledger.sqlite",
            "method": method,
            "devices": len(self._places),
            "quorum": self._of.fleet.quorum,
            "extensions": training.extensions,
            "rounds": settled.rounds,
            "steps": settled.steps,
            "lr": settled.lr,
            "gamma": settled.gamma,
            "bits": training.bits,
            "seed": training.seed,
            "deadline": training.deadline_s,
            "start-deadline": training.start_deadline_s,
        }
        flags = [word for flag, value in values.items() for word in (f"--{flag}", str(value))]
        return ["broker", "run", "--json", "--normalise" if settled.normalise else "--no-normalise", *flags]


def _within(namespace: str | None) -> Callable[[list[str]], list[str]]:
    """Broker and aggregator end with the emulator, and live in the hub where there is one."""
    return lambda words: inside.command(words, namespace=namespace)


def _speed(member: Member, program: Path) -> Speed:
    """By the board's calibration where its profile has one of this program, else estimated."""
    if member.profile.calibration is None:
        return speed(member.profile)
    runtime = member.group.runtime or installed()[0]
    known = calibrated_speed(
        member.profile, runtime=runtime, program=program.name, host_step_s=_host_step_s(program, runtime)
    )
    return known or speed(member.profile)


@cache
def _host_step_s(program: Path, runtime: str) -> float:
    return step_cpu_s(program, runtime)


def _emulated(member: Member) -> bool:
    """Whether its instructions are another processor's than this host's."""
    return member.group.backend == "machine" or (member.group.arch == "arm64" and not ARM64.native)


def _usable_mib(profile: Profile) -> int:
    """Of the smallest size sold; all of it where nobody knows what the system leaves."""
    usable = profile.hardware.usable_ram_mib
    return min(profile.hardware.ram_mib.value) if usable is None else usable.value


def _clean_up() -> list[str]:
    """What crashed runs left: -> what could not be removed."""
    return clean(REMOVERS)[1]
