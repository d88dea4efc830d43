"""Reads the profiles that ship with the package, or any other file; finds the lines that are wrong."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from firmware_profiles.facts import Problem, Source, parse_sources
from firmware_profiles.link import Link
from firmware_profiles.radio_schema import Radio, parse_radio
from firmware_profiles.schema import Profile, parse_profile

_PROFILES = Path(__file__).parent / "devices"
_RADIOS = Path(__file__).parent / "radios"
SOURCES_FILE = Path(__file__).with_name("sources.toml")

_T = TypeVar("_T")


class ProfileError(ValueError):
    """A profile that is not there or not valid; the message lists everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing wrong with one line of one file."""

    file: Path
    line: int
    """1-based; that of the nearest enclosing key where the key itself is missing."""
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.key} {self.message}".replace(":  ", ": ")


def list_profiles() -> tuple[str, ...]:
    """Names of the profiles that ship with the package, in alphabetical order."""
    return _names(_PROFILES)


def list_radios() -> tuple[str, ...]:
    """Names of the radios that ship with the package, in alphabetical order."""
    return _names(_RADIOS)


def profile_file(name: str) -> Path:
    """Where a shipped profile lies. Raises `ProfileError` on a name that is none."""
    return _shipped(_PROFILES, "profile", name)


def radio_file(name: str) -> Path:
    """Where a shipped radio lies. Raises `ProfileError` on a name that is none."""
    return _shipped(_RADIOS, "radio", name)


@cache
def load_profile(name: str) -> Profile:
    """A profile that ships with the package, by its name. Raises `ProfileError`."""
    return _whole(read_profile(profile_file(name)))


@cache
def load_radio(name: str) -> Radio:
    """A radio that ships with the package, by its name. Raises `ProfileError`."""
    return _whole(read_radio(radio_file(name)))


def load_link(name: str) -> Link:
    """How an emulator shapes the link of a radio that ships with the package. Raises `ProfileError`."""
    return load_radio(name).link()


@cache
def load_sources() -> Mapping[str, Source]:
    """Every source by its key. Raises `ProfileError`."""
    return _whole(read_sources(SOURCES_FILE))


def read_profile(file: Path) -> Profile | list[Finding]:
    """Any profile file -> the profile, or everything that is wrong with it. Its sources are the package's."""
    return _parsed(file, lambda raw: parse_profile(raw, file.stem, load_sources()))


def read_radio(file: Path) -> Radio | list[Finding]:
    """Any radio file -> the radio, or everything that is wrong with it. Its sources are the package's."""
    return _parsed(file, lambda raw: parse_radio(raw, file.stem, load_sources()))


def read_either(file: Path) -> Profile | Radio | list[Finding]:
    """A device class or a radio: a file with `up` and `down` is a radio's."""
    _, raw = _read(file)
    return read_radio(file) if isinstance(raw, dict) and {"up", "down"} & raw.keys() else read_profile(file)


def read_sources(file: Path) -> dict[str, Source] | list[Finding]:
    """A table of sources, or everything that is wrong with it."""
    return _parsed(file, parse_sources)


def _names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in folder.glob("*.toml")))


def _shipped(folder: Path, what: str, name: str) -> Path:
    if name not in _names(folder):
        raise ProfileError(f"no {what} {name!r}: one of {', '.join(_names(folder))}")
    return folder / f"{name}.toml"


def _whole(read: _T | list[Finding]) -> _T:
    if isinstance(read, list):
        raise ProfileError("\n".join(map(str, read)))
    return read


def _parsed(file: Path, parse: Callable[[dict[str, Any]], _T | list[Problem]]) -> _T | list[Finding]:
    text, raw = _read(file)
    if isinstance(raw, Finding):
        return [raw]
    parsed = parse(raw)
    return _located(file, text, parsed) if isinstance(parsed, list) else parsed


def _read(file: Path) -> tuple[str, dict[str, Any] | Finding]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        return "", Finding(file=file, line=1, key="", message=f"cannot be read: {problem}")
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        where = re.search(r"line (\d+)", str(problem))
        line = int(where[1]) if where else len(text.splitlines())
        return text, Finding(file=file, line=line, key="", message=f"is not TOML: {problem}")


def _located(file: Path, text: str, problems: list[Problem]) -> list[Finding]:
    findings = [
        Finding(file=file, line=find_line(text, problem.path), key=".".join(problem.path), message=problem.message)
        for problem in problems
    ]
    return sorted(findings, key=lambda finding: finding.line)


def find_line(text: str, path: tuple[str, ...]) -> int:
    """The line of a key's path, or of as much of it as there is; 1 where there is nothing of it.

    tomllib says no lines. Profiles are written one fact a line under [section] headers, and that is what this reads.
    """
    lines = text.splitlines()
    best, depth, section = 1, 0, ""
    for number, line in enumerate(lines, 1):
        if header := re.match(r"\s*\[+([^\]]+)\]", line):
            section = header[1].strip().strip('"')
            here: tuple[str, ...] = (section,)
        elif key := re.match(r'\s*"?([A-Za-z0-9_-]+)"?\s*=', line):
            here = (section, key[1]) if section else (key[1],)
        else:
            continue
        if path[: len(here)] == here and len(here) > depth:
            best, depth = number, len(here)
    return best
