"""The folder of one run: runs/TIME where none is named."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path


class FolderError(Exception):
    """A run cannot be kept there. The message says what to do."""


def run_folder(named: Path | None, *, prefix: str = "", again: bool = False) -> Path:
    """Where the run is kept; nothing is made yet.

    Raises FolderError where the one named holds anything, unless an interrupted run may go on there (`again`).
    """
    folder = named or Path("runs") / f"{prefix}{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    try:
        used = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as problem:
        raise FolderError(f"{folder} cannot be read ({problem.strerror}): name another folder with --out") from problem
    if used and not again:
        raise FolderError(f"{folder} is not empty: name another folder with --out, or leave it out")
    return folder


def make_folder(folder: Path) -> None:
    """Raises FolderError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise FolderError(f"{folder} cannot be made ({problem.strerror}): name another folder with --out") from problem
