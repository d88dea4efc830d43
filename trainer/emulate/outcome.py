"""One method's run as a curve, and the tables of a whole emulation. Pure.

Letters: D devices, r round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainer.demo.observe import Observed
from trainer.emulate.backend import Enforced, Limits
from trainer.emulate.fleet import Member
from trainer.emulate.spend import Metered, Spent, Work, joules, layers, mean_joules, mean_layers, metered
from trainer.record.reach import total_bytes, total_joules
from trainer.record.run import Curve, Device, Joules, Layers, Point, Table
from trainer.shards import ShardFile

PROVENANCE = {
    "accuracy": "measured: by each device on its test set after its round",
    "payload": "measured: by each device, packet by packet; reports are left out, as in every layer",
    "mqtt": "measured: every byte of the MQTT client, parsed",
    "tls": "measured: TCP_INFO of the device's connection, less MQTT; the reports' share is modelled",
    "tcpip": "measured: TCP_INFO, headers of all segments and what was sent again; the reports' share is modelled",
    "link": "modelled: frames of the radio profile for the packets counted",
    "seconds": "measured: this host's monotonic clock, from the first plan on; the devices' speed is emulated",
    "compute": "modelled: processor seconds of the device on this host, evaluation left out, scaled to the board, "
    "x (one_core_w - idle_w); of emulated ARM code, or with compute = instructions: ARM instructions counted of a "
    "training step x steps x nj_per_instruction, the rest of the client left out",
    "radio": "modelled: packets counted, through the radio profile's airtime and powers, above idle",
    "idle": "modelled: idle_w of the profile x seconds",
    "link_packets": "measured: by the emulated link, packet by packet, reports among them",
}


@dataclass(slots=True, kw_only=True)
class Outcome:
    members: Mapping[str, Member]
    works: Mapping[str, Work | None]
    """How each device's work becomes joules; None where nobody can say."""
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
        both = [pair for name in self.members if (pair := self._layers(name, number)) is not None]
        used = [self._joules(name, number) for name in self._all_spent(number)]
        return Point(
            round=number,
            score=self.seen.accuracy(number),
            seconds=round(seconds, 3),
            up=mean_layers([up for up, _ in both]),
            down=mean_layers([down for _, down in both]),
            joules=mean_joules(used),
            missing=tuple(self.seen.missing[number]),
            devices=reports,
        )

    def _all_spent(self, number: int) -> dict[str, Spent]:
        return self.spent.get(number, {})

    def _metered(self, name: str, number: int) -> Metered | None:
        """The last of a device's own counts up to round `number`: one that is away has spent what it had then."""
        rounds = [each for each, meters in self.seen.meters.items() if each <= number and name in meters]
        return metered(self.seen.meters[max(rounds)][name]) if rounds else None

    def _layers(self, name: str, number: int) -> tuple[Layers, Layers] | None:
        meter, used = self._metered(name, number), self._all_spent(number).get(name)
        return None if meter is None or used is None else layers(self.members[name], meter, used.seconds)

    def _joules(self, name: str, number: int) -> Joules:
        used = self._all_spent(number)[name]
        rounds = sum(each <= number and name in reports for each, reports in self.seen.reports.items())
        return joules(self.members[name], self.works[name], used, self._metered(name, number), rounds=rounds)

    def _device(self, name: str) -> Device:
        member, shard = self.members[name], self.shards[name]
        rounds = [number for number, reports in self.seen.reports.items() if name in reports]
        report = self.seen.reports[max(rounds)][name] if rounds else None
        last = max(self.spent, default=None)
        both = None if last is None else self._layers(name, last)
        meter = None if last is None else self._metered(name, last)
        return Device(
            name=name,
            profile=member.profile.name,
            runtime=member.group.runtime,
            link=member.air.link.name,
            backend=member.group.backend if member.group.arch == "native" else member.group.arch,
            samples=tuple(shard.counts),
            test_samples=shard.test_samples,
            score=None if report is None else float(report["accuracy"]),
            up=None if both is None else both[0],
            down=None if both is None else both[1],
            joules=None if last is None else self._joules(name, last),
            figures={} if last is None else _figures(self.spent[last][name], meter),
        )


def _figures(used: Spent, meter: Metered | None) -> dict[str, float | None]:
    """The emulator's own counts beside the device's."""
    up, down = used.up, used.down
    return {
        "cpu_s": used.cpu_s,
        "retransmitted_bytes": None if meter is None else meter.retransmitted_bytes,
        "connects": None if meter is None else meter.connects,
        "link_packets_up": None if up is None else up.count,
        "link_bytes_up": None if up is None else up.bytes,
        "link_packets_down": None if down is None else down.count,
        "link_bytes_down": None if down is None else down.bytes,
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
