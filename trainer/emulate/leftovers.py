"""What a run of the emulator made outside its own processes, written down before it is made.

A run holds a lock on its file as long as it lives, whatever ends it; a file without a lock is of a run that crashed,
and everything in it is removed: by the next run, or by `potstill emulate --clean`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

Remover = Callable[[str], None]
"""Removes what it is given the name of; no error if it is not there. Raises OSError when it cannot."""


def folder() -> Path:
    """Of the state files: root's survive no reboot, as what they name does not."""
    if os.geteuid() == 0:
        return Path("/run/potstill")
    return Path(tempfile.gettempdir()) / f"potstill-{os.geteuid()}"


class Leftovers:
    """A context manager: what was added last is removed first."""

    def __init__(self, path: Path, removers: dict[str, Remover]) -> None:
        self.path = path
        self._removers = removers
        self._made: list[tuple[str, str]] = []
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    @classmethod
    def of_new_run(cls, removers: dict[str, Remover]) -> Self:
        return cls(folder() / f"{secrets.token_hex(4)}.jsonl", removers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, kind: str, name: str) -> None:
        """Before it is made. `kind` has a remover."""
        if kind not in self._removers:
            raise ValueError(f"no remover of {kind!r}")
        os.write(self._file, (json.dumps([kind, name]) + "\n").encode())
        self._made.append((kind, name))

    def remove(self, kind: str, name: str) -> None:
        """Now, instead of at the end; once removed it stays in the file, where it does no harm."""
        self._removers[kind](name)
        self._made = [entry for entry in self._made if entry != (kind, name)]

    def close(self) -> list[str]:
        """Remove everything: -> what could not be removed, which stays in the file for another try."""
        problems = remove_all(self._made, self._removers)
        if not problems:
            self.path.unlink(missing_ok=True)
        self._made = []
        os.close(self._file)
        return problems


def remove_all(made: list[tuple[str, str]], removers: dict[str, Remover]) -> list[str]:
    """Last first, each tried: -> what could not be removed and why."""
    problems = []
    for kind, name in reversed(made):
        if kind not in removers:
            problems.append(f"{kind} {name}: made by another version of potstill, clean with that one")
            continue
        try:
            removers[kind](name)
        except OSError as problem:
            problems.append(f"{kind} {name}: {problem}")
    return problems


def clean(removers: dict[str, Remover], *, where: Path | None = None) -> tuple[list[str], list[str]]:
    """Remove what crashed runs left: -> (what was removed, what could not be and why). Living runs are left alone."""
    removed: list[str] = []
    problems: list[str] = []
    for path in sorted((where or folder()).glob("*.jsonl")):
        with _locked(path) as lines:
            if lines is None:
                continue
            made = [entry for line in lines if (entry := _entry(line)) is not None]
            failed = remove_all(made, removers)
            problems += failed
            if not failed:
                removed += [f"{kind} {name}" for kind, name in made]
                path.unlink(missing_ok=True)
    return removed, problems


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[list[str] | None]:
    """The file's lines while nobody else holds it, None where its run lives."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield path.read_text(encoding="utf-8").splitlines()
    finally:
        os.close(file)


def _entry(line: str) -> tuple[str, str] | None:
    """None for a line that the crash cut off: what it was to name had not been made."""
    try:
        kind, name = json.loads(line)
    except ValueError:
        return None
    return str(kind), str(name)
