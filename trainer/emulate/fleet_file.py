"""FLEET.toml: what is emulated. Its text in, frozen values out, or everything that is wrong with it.

    [fleet]
    data = "digits"
    methods = ["fl", "fd"]

    [[group]]
    profile = "pi-zero-2-w"
    count = 8
    link = "wifi-2.4-fair"

    [[event]]
    kind = "drop"
    devices = ["d0"]
    at_round = 3
    until_round = 6

Every key is in docs/emulate.md.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from firmware_profiles.link import Link
from firmware_profiles.load import ProfileError, list_radios, load_link, load_profile, read_profile
from firmware_profiles.schema import Profile
from trainer.channel import POWERS_DBM, load_channel
from trainer.demo.settings import BITS, OFFERED
from trainer.emulate.fleet import (
    BACKENDS,
    UNSHAPED,
    Air,
    Figures,
    Fleet,
    FleetError,
    Group,
    Happening,
    Member,
    Training,
    Trigger,
)
from trainer.shards import device_names

SHAPERS = ("auto", "tun", "netem")
COMPUTES = ("time", "instructions")
ARCHES = ("native", "arm64")
MAX_DEVICES = 1000
"""As many seats as a /22 of link addresses; memory ends earlier (some 50 MB a device)."""

NUMBERS: Mapping[str, tuple[Callable[[float], bool], str]] = {
    **dict.fromkeys(
        ("rounds", "steps", "samples", "quorum", "deadline_s", "start_deadline_s"),
        (lambda value: value > 0, "more than 0"),
    ),
    "lr": (lambda value: 0 < value < 1000, "more than 0, less than 1000"),
    "gamma": (lambda value: 0 <= value < 1000, "0 or more, less than 1000"),
    "seed": (lambda value: 0 <= value < 2**32, "a whole number below 2^32, not a negative one"),
    "target": (lambda value: 0 < value <= 1, "an accuracy, 0 to 1"),
}
"""Of the [fleet] table: what fits, and how that is said."""

T = TypeVar("T")

EVENT_KEYS = {
    "drop": ("devices", "group", "at_round", "at_s", "until_round", "until_s"),
    "fade": ("devices", "group", "at_round", "at_s", "until_round", "until_s", "up", "down"),
    "broker-restart": ("at_round", "at_s"),
    "clock": ("devices", "group", "offset_s"),
}


def read_fleet(file: Path) -> Fleet:
    """Raises FleetError."""
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as problem:
        raise FleetError(f"{file} cannot be read: {problem}") from problem
    except tomllib.TOMLDecodeError as problem:
        raise FleetError(f"{file} is not TOML: {problem}") from problem
    return parse_fleet(raw, name=file.stem, source=str(file), folder=file.parent)


def parse_fleet(raw: Mapping[str, Any], *, name: str, source: str = "the fleet", folder: Path = Path()) -> Fleet:
    """Parsed TOML -> the fleet; profiles that are files are looked up from `folder`.

    Raises FleetError that lists everything.
    """
    reader = _Reader(folder)
    fleet = reader.fleet(raw, name)
    if reader.problems:
        raise FleetError("\n".join(f"{source}: {problem}" for problem in reader.problems))
    assert fleet is not None, "no problems, so a fleet"
    return fleet


@cache
def named_links(devices: int = 10) -> Mapping[str, Air]:
    """The links that ship: every radio profile's, the wireless channels as `devices` share them, and `none`."""
    radios = {name: Air(link=load_link(name), radio=name) for name in list_radios()}
    channels = {name: Air(link=load_channel(name, devices=devices).link(), radio=None) for name in POWERS_DBM}
    return {"none": Air(link=UNSHAPED, radio=None), **radios, **channels}


class _Reader:
    """Collects problems instead of stopping at the first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[str] = []

    def wrong(self, where: str, message: str) -> None:
        problem = f"{where}: {message}"
        if problem not in self.problems:
            self.problems.append(problem)

    # ------------------------------------------------------------ tables

    def keys(self, where: str, table: Mapping[str, Any], known: Sequence[str]) -> None:
        for key in table:
            if key not in known:
                near = get_close_matches(key, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}"
                self.wrong(where, f"unknown key {key!r}: {hint}")

    def table(self, where: str, value: object) -> Mapping[str, Any]:
        if isinstance(value, dict):
            return value
        self.wrong(where, "is a table")
        return {}

    def tables(self, where: str, value: object) -> list[Mapping[str, Any]]:
        if isinstance(value, list):
            return [self.table(f"{where} {number}", entry) for number, entry in enumerate(value, 1)]
        self.wrong(where, f"is written as [[{where}]]")
        return []

    def build(self, where: str, kind: type[T], table: Mapping[str, Any], **given: Any) -> T | None:
        """A dataclass from a table of its fields; None when something is wrong."""
        before = len(self.problems)
        hints = get_type_hints(kind)
        known = [entry for entry in fields(kind) if entry.name not in given]  # type: ignore[arg-type]
        self.keys(where, table, [entry.name for entry in known])
        values = {
            entry.name: self.value(f"{where}, {entry.name}", table[entry.name], hints[entry.name])
            for entry in known
            if entry.name in table
        }
        for entry in known:
            if entry.default is MISSING and entry.default_factory is MISSING and entry.name not in table:
                self.wrong(where, f"{entry.name} is missing")
        if len(self.problems) > before:
            return None
        try:
            return kind(**values, **given)
        except ValueError as problem:
            self.wrong(where, str(problem))
            return None

    def value(self, where: str, value: object, hint: Any) -> object:
        """Of the field's type; whole numbers are numbers, true is no number."""
        text = str(hint)
        if "tuple" in text:
            if isinstance(value, list) and value and all(isinstance(entry, str) for entry in value):
                return tuple(value)
            self.wrong(where, f"{value!r} is no list of names")
        elif "bool" in text:
            if not isinstance(value, bool):
                self.wrong(where, f"{value!r} is not true or false")
        elif "float" in text:
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return float(value)
            self.wrong(where, f"{value!r} is not a number")
        elif "int" in text:
            if not isinstance(value, int) or isinstance(value, bool):
                self.wrong(where, f"{value!r} is not a whole number")
        elif not isinstance(value, str):
            self.wrong(where, f"{value!r} is not a text")
        return value

    # ------------------------------------------------------------ parts

    def links(self, raw: Mapping[str, Any], shipped: Mapping[str, Air]) -> dict[str, Air]:
        """The fleet's own [link.NAME] tables, each made from a named one (`from`, none where not given)."""
        found = {}
        for name, value in raw.items():
            where, table = f"[link.{name}]", self.table(f"[link.{name}]", value)
            self.keys(where, table, ["from", "up", "down"])
            base = shipped.get(table.get("from", "none"))
            if base is None:
                self.wrong(where, f"from = {table['from']!r}: one of {', '.join(shipped)}")
                continue
            link = self.changed(where, replace(base.link, name=name), table)
            found[name] = Air(link=link or base.link, radio=base.radio)
        return found

    def changed(self, where: str, link: Link, table: Mapping[str, Any]) -> Link | None:
        up, down = self.figures(where, table, "up"), self.figures(where, table, "down")
        if up is None or down is None:
            return None
        try:
            return replace(link, up=up.change(link.up), down=down.change(link.down))
        except ValueError as problem:
            self.wrong(where, str(problem))
            return None

    def figures(self, where: str, table: Mapping[str, Any], way: str) -> Figures | None:
        return self.build(f"{where}, {way}", Figures, self.table(f"{where}, {way}", table.get(way, {})))

    def fleet(self, raw: Mapping[str, Any], name: str) -> Fleet | None:
        self.keys("the file", raw, ["fleet", "group", "event", "link"])
        training = self.training(self.table("[fleet]", raw.get("fleet", {})))
        read = [
            self.group(f"[[group]] {number}", table)
            for number, table in enumerate(self.tables("group", raw.get("group", [])), 1)
        ]
        groups = [group for group in read if group is not None]
        shipped = named_links(max(1, sum(group.count for group in groups)))
        links = {**shipped, **self.links(self.table("[link]", raw.get("link", {})), shipped)}
        members = self.members(groups, links)
        if not 2 <= len(members) <= MAX_DEVICES and not self.problems:
            self.wrong("[[group]]", f"{len(members)} devices in all: 2 to {MAX_DEVICES}; raise or lower a count")
        if self.problems or training is None:
            return None
        happenings = [
            self.happening(f"[[event]] {number}", table, members)
            for number, table in enumerate(self.tables("event", raw.get("event", [])), 1)
        ]
        fleet = Fleet(
            name=name,
            training=training,
            members=tuple(members),
            happenings=tuple(happening for happening in happenings if happening is not None),
        )
        self.whole(fleet)
        return fleet

    def training(self, table: Mapping[str, Any]) -> Training | None:
        where = "[fleet]"
        training = self.build(where, Training, table)
        if training is None:
            return None
        self.methods(where, training.methods)
        if training.broker not in {"embedded", "mosquitto"} and "://" not in training.broker:
            self.wrong(where, f"broker = {training.broker!r}: embedded, mosquitto or mqtt://HOST:PORT")
        for key, choices in (("bits", BITS), ("compute", COMPUTES), ("shaper", SHAPERS)):
            if getattr(training, key) not in choices:
                self.wrong(where, f"{key} = {getattr(training, key)!r}: one of {', '.join(map(str, choices))}")
        for key, (fits, words) in NUMBERS.items():
            value = getattr(training, key)
            if value is not None and not fits(value):
                self.wrong(where, f"{key} = {value:g}: {words}")
        return training

    def methods(self, where: str, names: Sequence[str]) -> None:
        for name in names:
            if name not in OFFERED:
                self.wrong(where, f"unknown method {name!r}: one of {', '.join(OFFERED)}")
        if len(set(names)) != len(names):
            self.wrong(where, "a method is named twice")

    def group(self, where: str, table: Mapping[str, Any]) -> Group | None:
        group = self.build(where, Group, table)
        if group is None:
            return None
        if group.backend not in BACKENDS:
            self.wrong(where, f"unknown backend {group.backend!r}: one of {', '.join(BACKENDS)}")
        if group.arch not in ARCHES:
            self.wrong(where, f"unknown arch {group.arch!r}: one of {', '.join(ARCHES)}")
        if group.arch != "native" and group.backend not in {"container", "machine"}:
            self.wrong(where, f"arch = {group.arch!r} needs backend = 'container' or 'machine'")
        if group.count < 1:
            self.wrong(where, f"count = {group.count}: at least 1")
        for key in ("memory_mib", "cpus", "battery_j"):
            value = getattr(group, key)
            if value is not None and value <= 0:
                self.wrong(where, f"{key} = {value:g}: more than 0")
        return replace(group, name=group.name or Path(group.profile).name.removesuffix(".toml"))

    def members(self, groups: Sequence[Group], links: Mapping[str, Air]) -> list[Member]:
        members: list[Member] = []
        for name in {group.name for group in groups}:
            if sum(group.name == name for group in groups) > 1:
                self.wrong("[[group]]", f"two groups are named {name!r}: give one of them another `name`")
        each = [group for group in groups for _ in range(min(group.count, MAX_DEVICES))]
        for number, (name, group) in enumerate(zip(device_names(len(each)), each, strict=True)):
            profile = self.profile(group)
            if group.link not in links:
                self.wrong(f"group {group.name}", f"unknown link {group.link!r}: one of {', '.join(links)}")
            elif profile is not None:
                members.append(Member(name=name, number=number, group=group, profile=profile, air=links[group.link]))
        return members

    def profile(self, group: Group) -> Profile | None:
        """One that ships, by its name, or a file beside the fleet's, as `potstill profiles calibrate` writes it."""
        if group.profile.endswith(".toml"):
            read = read_profile(self.folder / group.profile)
            for finding in read if isinstance(read, list) else ():
                self.wrong(f"group {group.name}", str(finding))
            return None if isinstance(read, list) else read
        try:
            return load_profile(group.profile)
        except ProfileError as problem:
            self.wrong(f"group {group.name}", str(problem))
            return None

    def happening(self, where: str, table: Mapping[str, Any], members: Sequence[Member]) -> Happening | None:
        kind = table.get("kind")
        if kind not in EVENT_KEYS:
            self.wrong(where, f"kind = {kind!r}: one of {', '.join(EVENT_KEYS)}")
            return None
        before = len(self.problems)
        self.keys(f"{where} ({kind})", table, ["kind", *EVENT_KEYS[kind]])
        devices = self.devices(where, table, members) if "devices" in EVENT_KEYS[kind] else ()
        if kind == "clock" and not self.value(f"{where}, offset_s", table.get("offset_s", 0), float):
            self.wrong(where, "a wrong clock needs offset_s, seconds that it is ahead (or, negative, behind)")
        at, until = self.trigger(where, table, "at"), self.trigger(where, table, "until")
        if kind != "clock" and at is None:
            self.wrong(where, "needs at_round or at_s")
        if kind == "fade" and "up" not in table and "down" not in table:
            self.wrong(where, "a fade needs up = {...} or down = {...}")
        up, down = self.figures(where, table, "up"), self.figures(where, table, "down")
        for device in devices if kind == "fade" else ():
            self.changed(f"{where}, {device}", next(each for each in members if each.name == device).air.link, table)
        if len(self.problems) > before or up is None or down is None:
            return None
        offset_s = float(table.get("offset_s", 0))
        return Happening(
            kind=kind, devices=devices, at=at or Trigger(), until=until, up=up, down=down, offset_s=offset_s
        )

    def devices(self, where: str, table: Mapping[str, Any], members: Sequence[Member]) -> tuple[str, ...]:
        known = [member.name for member in members]
        if "group" in table:
            found = tuple(member.name for member in members if member.group.name == table["group"])
            if not found or "devices" in table:
                self.wrong(where, f"names devices, or a group that is there; not {table['group']!r}")
            return found
        devices = table.get("devices", [])
        if not isinstance(devices, list) or not devices:
            self.wrong(where, "needs devices = [...] or group = ...")
            return ()
        for device in devices:
            if device not in known:
                near = get_close_matches(str(device), known, n=1)
                self.wrong(where, f"no device {device!r}" + (f": did you mean {near[0]}?" if near else ""))
        return tuple(device for device in devices if device in known)

    def trigger(self, where: str, table: Mapping[str, Any], edge: str) -> Trigger | None:
        round_, seconds = table.get(f"{edge}_round"), table.get(f"{edge}_s")
        if round_ is None and seconds is None:
            return None
        if round_ is not None and seconds is not None:
            self.wrong(where, f"{edge}_round or {edge}_s, not both")
        if round_ is not None:
            self.value(f"{where}, {edge}_round", round_, int)
        if seconds is not None:
            self.value(f"{where}, {edge}_s", seconds, float)
        return Trigger(round=round_, seconds=seconds)

    # ------------------------------------------------------------ the whole

    def whole(self, fleet: Fleet) -> None:
        """What can only be seen with all of it read."""
        training = fleet.training
        if fleet.quorum > len(fleet.members):
            self.wrong("[fleet]", f"quorum = {fleet.quorum}, but there are {len(fleet.members)} devices")
        own = "://" not in training.broker
        others = [name for name in fleet.backends if name != "process"]
        if not own and others:
            self.wrong(
                "[fleet]",
                f"broker = {training.broker!r} cannot be reached from {', '.join(others)} devices, which are on a "
                "network of their own: use embedded or mosquitto",
            )
        for happening in fleet.happenings:
            if happening.kind == "broker-restart" and not own:
                self.wrong("[[event]]", "broker-restart: this command restarts only a broker that it started")
            for name in happening.devices:
                if happening.kind == "fade" and fleet.member(name).group.backend == "process":
                    self.wrong("[[event]]", f"fade: {name} is a process, its link is not shaped: use backend = 'netns'")
                if happening.kind == "fade" and fleet.member(name).group.backend == "machine":
                    self.wrong("[[event]]", f"fade: {name} is a machine, whose netem stays as it was at its start")
