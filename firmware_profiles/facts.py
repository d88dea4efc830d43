"""Facts: a value with its source and its quality; reads tables of them and collects everything that is wrong.

In TOML `key = { value = 2.7, source = "pidramble", quality = "measured-by-source", note = "..." }`, the unit at the end
of the key; `others` lists what other sources say of the same thing. What keys there are is said by dataclasses of
facts (`firmware_profiles.schema` for boards, `firmware_profiles.radios` for radios).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, Generic, TypeVar

T = TypeVar("T")
S = TypeVar("S")
Path = tuple[str, ...]
"""Of keys, from the top of the file: ("power", "idle_w", "source")."""


class Quality(StrEnum):
    """How far a value can be trusted."""

    DOCUMENTED = "documented"
    """The maker's or publisher's own statement."""
    MEASURED = "measured-by-source"
    REGRESSION = "regression"
    """Read from a model fitted to measurements."""
    ESTIMATE = "engineering-estimate"
    """Derived from other figures; the note says how. Replace it by a calibration run."""
    GUESS = "guess"
    """Nothing citable was found; the note says what speaks for it. Replace it by a calibration run."""


NOTE_NEEDED = (Quality.ESTIMATE, Quality.GUESS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    title: str
    address: str
    """Where it can be read: an https address, or a file of this repository."""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact(Generic[T]):
    value: T
    source: str
    """A key of sources.toml."""
    quality: Quality
    note: str = ""
    others: tuple[Fact[T], ...] = ()
    """The same quantity by other sources or for other revisions of the board."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with a file."""

    path: Path
    message: str


# ---------------------------------------------------------------- what a key may hold


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    of: type
    low: float = 0
    high: float = 0
    """Plausible bounds: a value in another unit (mW for W) falls outside."""
    many: bool = False
    one_of: tuple[str, ...] = ()
    note_needed: bool = False


def needed(of: type, low: float = 0, high: float = 0, **settings: Any) -> Any:
    return field(metadata={"spec": Spec(of=of, low=low, high=high, **settings)})


def optional(of: type, low: float = 0, high: float = 0, **settings: Any) -> Any:
    return field(default=None, metadata={"spec": Spec(of=of, low=low, high=high, **settings)})


# ---------------------------------------------------------------- TOML -> values, or everything that is wrong


class Reader:
    """Collects problems instead of stopping at the first."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self.sources = sources
        self.problems: list[Problem] = []

    def wrong(self, path: Path, message: str) -> None:
        self.problems.append(Problem(path=path, message=message))

    def keys(self, path: Path, table: Mapping[str, Any], known: list[str], needed: list[str]) -> None:
        for key in table:
            if key not in known:
                near = get_close_matches(key, known, n=1)
                hint = f": did you mean {near[0]}?" if near else f": one of {', '.join(known)}"
                self.wrong((*path, key), f"unknown key{hint}")
        for key in needed:
            if key not in table:
                self.wrong((*path, key), "is missing")

    def text(self, path: Path, value: object) -> str:
        if isinstance(value, str) and value.strip():
            return value
        self.wrong(path, "is a text that says something")
        return ""

    def table(self, path: Path, value: object) -> dict[str, Any] | None:
        if isinstance(value, dict):
            return value
        self.wrong(path, "is a table")
        return None

    def heading(self, raw: Mapping[str, Any], name: str) -> None:
        """`name` is the file's, `title` says something."""
        for key in ("name", "title"):
            if key in raw:
                self.text((key,), raw[key])
        if "name" in raw and raw["name"] != name:
            self.wrong(("name",), f"{raw['name']!r} is not the file's name, {name!r}")

    def section(self, name: str, kind: type[S], raw: object) -> S | None:
        """A table of facts -> a dataclass of them, or None when anything so far is wrong."""
        table = self.table((name,), raw)
        if table is None:
            return None
        keys = fields(kind)  # type: ignore[arg-type]  # every kind is a dataclass
        self.keys((name,), table, [key.name for key in keys], [key.name for key in keys if _is_needed(key)])
        facts = {
            key.name: self.fact((name, key.name), table[key.name], key.metadata["spec"])
            for key in keys
            if key.name in table
        }
        return None if self.problems else kind(**facts)

    def fact(self, path: Path, raw: object, spec: Spec) -> Fact[Any] | None:
        table = self.table(path, raw)
        if table is None:
            return None
        self.keys(path, table, [key.name for key in fields(Fact)], ["value", "source", "quality"])
        others = table.get("others", [])
        if not isinstance(others, list):
            self.wrong((*path, "others"), "is a list of facts")
            others = []
        return Fact(
            value=self.value((*path, "value"), table["value"], spec) if "value" in table else None,
            source=self.source((*path, "source"), table["source"]) if "source" in table else "",
            quality=self.quality(path, table, spec) if "quality" in table else Quality.GUESS,
            note=self.text((*path, "note"), table["note"]) if "note" in table else "",
            others=tuple(fact for other in others if (fact := self.fact((*path, "others"), other, spec)) is not None),
        )

    def value(self, path: Path, value: object, spec: Spec) -> object:
        if not spec.many:
            return self.one(path, value, spec)
        if not isinstance(value, list) or not value:
            self.wrong(path, "is a list with at least one entry")
            return None
        return tuple(self.one(path, entry, spec) for entry in value)

    def one(self, path: Path, value: object, spec: Spec) -> object:
        if spec.of is str:
            value = self.text(path, value)
            if spec.one_of and value not in spec.one_of:
                self.wrong(path, f"{value!r} is none of {', '.join(spec.one_of)}")
            return value
        if spec.of is bool:
            if not isinstance(value, bool):
                self.wrong(path, "is true or false")
            return value
        if isinstance(value, bool) or not isinstance(value, (int, spec.of)):
            self.wrong(path, f"{value!r} is not {'a whole number' if spec.of is int else 'a number'}")
        elif not spec.low <= value <= spec.high:  # type: ignore[operator]
            unit = path[-2].rpartition("_")[2]
            self.wrong(path, f"{value} is outside {spec.low:g}..{spec.high:g}: is it in the key's unit ({unit})?")
        return spec.of(value) if isinstance(value, (int, float)) else value

    def source(self, path: Path, source: object) -> str:
        key = self.text(path, source)
        if key and key not in self.sources:
            self.wrong(path, f"{key!r} is not in sources.toml: add its title and address there")
        return key

    def quality(self, path: Path, table: Mapping[str, Any], spec: Spec) -> Quality:
        try:
            quality = Quality(table["quality"])
        except ValueError:
            self.wrong((*path, "quality"), f"{table['quality']!r} is none of {', '.join(Quality)}")
            return Quality.GUESS
        if (spec.note_needed or quality in NOTE_NEEDED) and "note" not in table:
            self.wrong(path, "needs a note that says why" if spec.note_needed else f"a {quality} needs a note: how so?")
        return quality


def _is_needed(key: Field[Any]) -> bool:
    return key.default is MISSING


def parse_sources(raw: Mapping[str, Any]) -> dict[str, Source] | list[Problem]:
    """sources.toml, parsed -> its sources by key, or everything that is wrong with it."""
    reader = Reader({})
    found: dict[str, Source] = {}
    for key, entry in raw.items():
        table = reader.table((key,), entry)
        if table is None:
            continue
        reader.keys((key,), table, [name.name for name in fields(Source)], ["title", "address"])
        texts = {name: reader.text((key, name), value) for name, value in table.items()}
        address = texts.get("address", "")
        if not address.startswith(("https://", "docs/")):
            reader.wrong((key, "address"), "begins with https://, or with docs/ for a file of this repository")
        if not reader.problems:
            found[key] = Source(**texts)
    return reader.problems or found
