"""One method's run as a curve, and the tables of a whole emulation. Pure.

Letters: D devices, r round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from edge.meter.energy import Slowdown
from trainer.demo.observe import Observed
from trainer.emulate.backend import Enforced, Limits
from trainer.emulate.fleet import Member
from trainer.emulate.spend import Spent, joules, layers, mean_joules, mean_layers
from trainer.record.reach import total_bytes, total_joules
from trainer.record.run import Curve, Device, Point, Spread, Table
from trainer.shards import ShardFile

PROVENANCE = {
    "accuracy": "measured: by each device on its test set after its round",
    "payload": "measured: counted by each device's client, message by message",
    "mqtt": "measured: TCP_INFO of each device's connection, less the payload",
    "tcpip": "measured: IP packets counted on the device's emulated link, less the TCP stream; reports are among them",
    "seconds": "measured: this host's monotonic clock, from the first plan on; the devices' speed is emulated",
    "compute": "modelled: processor seconds of the device on this host, scaled to the board, x (one_core_w - idle_w)",
    "radio": "modelled: packets counted on the link, through the radio profile's airtime and powers",
    "idle": "modelled: idle_w of the profile x seconds",
}


@dataclass(slots=True, kw_only=True)
class Outcome:
    members: Mapping[str, Member]
    slowdowns: Mapping[str, Slowdown]
    """Of each board beside this host."""
    shards: Mapping[str, ShardFile]
    seen: Observed
    spent: dict[int, dict[str, Spent]] = field(default_factory=dict)
    """round -> device -> what it had spent when the round closed."""

    def curve(self, method: str, split: str, seed: int) -> Curve:
        """A point for each round that somebody has reported."""
        seen = self.seen
        seconds, points = 0.0, []
        for number, took in sorted(seen.round_seconds.items()):
            seconds += took
            if seen.reports.get(number):
                points.append(self._point(number, seconds))
        return Curve(
            method=method,
            split=split,
            seed=seed,
            points=tuple(points),
            complete=seen.complete,
            reason=seen.reason,
            devices=tuple(self._device(name) for name in self.members),
            figures={"run": seen.run, "refused": seen.refused, "seconds": round(seen.seconds, 3)},
        )

    def _point(self, number: int, seconds: float) -> Point:
        reports = dict(sorted(self.seen.reports[number].items()))
        heard = {name: round_ for name in self.members if (round_ := self._last_heard(name, number)) is not None}
        both = [layers(self.seen.reports[at][name], self._spent(at, name)) for name, at in heard.items()]
        used = [
            joules(self.members[name], self.slowdowns[name], each) for name, each in self._all_spent(number).items()
        ]
        return Point(
            round=number,
            score=Spread(**{name: round(value, 6) for name, value in asdict(self.seen.accuracy(number)).items()}),
            seconds=round(seconds, 3),
            up=mean_layers([up for up, _ in both]),
            down=mean_layers([down for _, down in both]),
            joules=mean_joules(used),
            missing=tuple(self.seen.missing[number]),
            devices=reports,
        )

    def _all_spent(self, number: int) -> dict[str, Spent]:
        return self.spent.get(number, {})

    def _spent(self, number: int, name: str) -> Spent | None:
        return self._all_spent(number).get(name)

    def _last_heard(self, name: str, number: int) -> int | None:
        """The last round up to `number` that a device has reported: one that is away has spent what it had then."""
        rounds = [each for each, reports in self.seen.reports.items() if each <= number and name in reports]
        return max(rounds, default=None)

    def _device(self, name: str) -> Device:
        member, shard = self.members[name], self.shards[name]
        heard = self._last_heard(name, self.seen.rounds)
        report = None if heard is None else self.seen.reports[heard][name]
        used = self._spent(max(self.spent), name) if self.spent else None
        both = (None, None) if report is None or heard is None else layers(report, self._spent(heard, name))
        return Device(
            name=name,
            profile=member.profile.name,
            runtime=member.group.runtime,
            link=member.air.link.name,
            backend=member.group.backend if member.group.arch == "native" else member.group.arch,
            samples=tuple(shard.counts),
            test_samples=shard.test_samples,
            score=None if report is None else float(report["accuracy"]),
            up=both[0],
            down=both[1],
            joules=None if used is None else joules(member, self.slowdowns[name], used),
            figures=_figures(used),
        )


def _figures(used: Spent | None) -> dict[str, float | None]:
    if used is None:
        return {}
    return {
        "cpu_s": used.cpu_s,
        "link_packets_up": used.packets_up,
        "link_bytes_up": used.bytes_up,
        "link_packets_down": used.packets_down,
        "link_bytes_down": used.bytes_down,
        "link_lost_up": used.lost_up,
        "link_lost_down": used.lost_down,
    }


# ---------------------------------------------------------------- tables


def totals_table(curves: Sequence[Curve]) -> Table:
    """A row a method: after its last round."""
    heads = ("method", "accuracy", "worst", "best", "rounds", "bytes", "joules", "compute J", "radio J", "idle J", "s")
    rows = []
    for curve in curves:
        if curve.points:
            last = curve.points[-1]
            parts = (None,) * 3 if last.joules is None else (last.joules.compute, last.joules.radio, last.joules.idle)
            score = (last.score.mean, last.score.worst, last.score.best)
            sums = (total_bytes(last), total_joules(last))
            rows.append((curve.name, *score, len(curve.points), *sums, *parts, last.seconds))
    notes = ("Bytes of both directions and joules are means of a device. Joules are modelled.",)
    return Table(title="After the last round", heads=heads, rows=tuple(rows), notes=notes)


def enforced_table(enforced: Mapping[str, Enforced]) -> Table:
    names = tuple(enforced)
    kinds = ("instruction_set", "cpu", "memory", "link", "clock")
    rows = tuple((kind.replace("_", " "), *(getattr(enforced[name], kind) for name in names)) for kind in kinds)
    return Table(title="What is truly enforced", heads=("", *names), rows=rows)


def member_table(members: Sequence[tuple[Member, Limits, str]]) -> Table:
    """A row a group."""
    rows: dict[str, tuple[Any, ...]] = {}
    for member, limits, how in members:
        group = member.group
        rows[group.name] = (
            group.name,
            group.count,
            member.profile.name,
            member.air.link.name,
            group.backend if group.arch == "native" else f"{group.backend} ({group.arch})",
            limits.cpus,
            limits.memory_mib,
            how,
        )
    heads = ("group", "devices", "profile", "link", "back end", "processor", "MiB", "the processor's share")
    return Table(title="The fleet", heads=heads, rows=tuple(rows.values()))
