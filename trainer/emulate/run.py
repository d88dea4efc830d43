"""The emulator: lays the links, starts every device through its back end, runs each method, and lets things happen."""

from __future__ import annotations

import os
import secrets
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
from trainer.demo.processes import (
    Processes,
    signals_interrupt,
)
from trainer.demo.settings import DemoError, read_manifest
from trainer.emulate import inside
from trainer.emulate.backend import Backend, BackendError, Enforced, Limits, Order
from trainer.emulate.backends import REMOVERS, make_backend
from trainer.emulate.broker import Broker
from trainer.emulate.container import DEFAULT_RUNTIME
from trainer.emulate.fleet import UNSHAPED, Fleet, Member
from trainer.emulate.leftovers import Leftovers, clean
from trainer.emulate.netem import has_netem
from trainer.emulate.network import Network
from trainer.emulate.outcome import PROVENANCE, enforced_table, member_table, totals_table
from trainer.emulate.rootfs import ARM64
from trainer.emulate.roster import Roster
from trainer.emulate.scenario import wrong_clocks
from trainer.emulate.settle import Settled, settle
from trainer.emulate.speed import EMULATED, Speed, calibrated_speed, read_host_mhz, speed
from trainer.emulate.spend import Instructions, Work
from trainer.emulate.stage import Ground, Place, Stage
from trainer.instructions.counts import known_counts
from trainer.pool import for_run
from trainer.progress import Progress
from trainer.record.folder import make_folder
from trainer.record.inputs import data_of, program_of
from trainer.record.reach import reach_table
from trainer.record.run import Curve, Event, Record, environment, now, write_record
from trainer.shards import ShardFile, deal, write_shards


def run_fleet(fleet: Fleet, dataset: Dataset, out: Path, progress: Progress, *, folder: Path) -> Record:
    """Everything, -> the record, which also lies in `out` as run.json. `folder` is that of the fleet's file.

    Raises DemoError, BackendError, FolderError or SplitError. In every case nothing is left running or laid, and
    run.json holds what was done.
    """
    settled = settle(fleet, dataset, folder)
    record = _begin(fleet, settled, dataset)
    emulation = Emulation(fleet=fleet, settled=settled, out=out, progress=progress)
    make_folder(out)
    try:
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
    chosen = ("samples", "own_test", "rounds", "steps", "lr", "gamma", "normalise")
    return Record(
        kind="emulate",
        settings={
            **asdict(fleet.training),
            **{name: getattr(settled, name) for name in chosen},
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
        program=program_of(settled.manifest),
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
            ground = Ground(
                fleet=self.fleet,
                settled=self.settled,
                out=self.out,
                progress=self.progress,
                places=self.places,
                roster=roster,
                processes=processes,
                broker=broker,
                within=within,
            )
            for method in self.fleet.training.methods:
                self._run_method(method, ground)

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
        program = for_run(
            self.settled.program,
            self.fleet.training.methods,
            dataset,
            self.settled.split,
            devices=len(self.fleet.members),
            samples=self.settled.samples,
            seed=self.fleet.training.seed,
            out=self.out / "programs" / self.settled.program.name,
        )
        self.settled = replace(self.settled, program=program, manifest=read_manifest(program))
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

    def _run_method(self, method: str, ground: Ground) -> None:
        stage = Stage(method, ground)
        try:
            stage.run()
        finally:
            self.curves.append(stage.outcome.curve(method, str(self.settled.split), self.fleet.training.seed))
            self.events += stage.events


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
