r"""What a device keeps on its disk: one file a device, replaced whole, and a lock on the folder it lies in.

    WORK/device.state   "potstill-device 1\n" | SHA-256 of the rest, 32 bytes
                        | length of the next, uint32 | the fields but the state, JSON | the state, (S,) float32
    WORK/lock           held (flock) as long as a client works here

A file is written beside, synced and renamed over the old one, so a crash leaves the one or the other. What cannot be
read, or belongs to another device, is set aside under another name, never deleted. Letters: S numbers of the state.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32]

STATE_FILE = "device.state"
LOCK_FILE = "lock"
_MAGIC = b"potstill-device 1\n"
_DIGEST_BYTES = 32


class WorkFolderError(RuntimeError):
    """The work folder cannot be used: choose another, or end the client that holds it."""


class DamagedError(ValueError):
    """These bytes are not a snapshot that this version wrote."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Snapshot:
    """Everything a restart needs."""

    device: str
    """fleet/device: a folder carried to another device is not taken up there."""
    session: dict[str, Any]
    """`edge.session.snapshot`."""
    state: FloatArray
    """(S,) the runtime's."""
    traffic: dict[str, Any]
    """`edge.meter.traffic.Traffic.to_plain`."""
    loss: float
    """Mean training loss of the last finished round."""
    train_s: float
    """Its seconds of training."""


class WorkFolder:
    """One device's folder, locked from here until `close` (or the end of the process, however it ends)."""

    def __init__(self, path: Path) -> None:
        """Raises WorkFolderError if the folder cannot be made or another client works in it."""
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as problem:
            raise WorkFolderError(f"{path}: {problem.strerror}; give a folder of your own with --work") from problem
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as problem:
            holder = os.pread(self._lock, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._lock)
            raise WorkFolderError(
                f"{path}: a client works here already (process {holder}); end it, or give this one its own --work"
            ) from problem
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        os.close(self._lock)

    def load(self, device: str) -> tuple[Snapshot | None, str]:
        """The snapshot of this device, or None; and a message for the operator where something was set aside."""
        file = self.path / STATE_FILE
        try:
            snapshot = read_snapshot(file)
        except DamagedError as problem:
            return None, f"{problem}; {self.set_aside()}, starting fresh"
        if snapshot is not None and snapshot.device != device:
            return None, f"{file} belongs to {snapshot.device}, not {device}; {self.set_aside()}, starting fresh"
        return snapshot, ""

    def set_aside(self) -> str:
        """Move the state file out of the way; says where to."""
        numbers = (number for number in range(1, 10_000) if not (self.path / f"{STATE_FILE}.{number}").exists())
        aside = self.path / f"{STATE_FILE}.{next(numbers)}"
        (self.path / STATE_FILE).rename(aside)
        return f"kept as {aside.name}"

    def save(self, snapshot: Snapshot) -> None:
        """Replace the state file; on return the new one is on the disk. Raises OSError if the disk refuses."""
        beside = self.path / f"{STATE_FILE}.new"
        with beside.open("wb") as file:
            file.writelines(to_parts(snapshot))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.path / STATE_FILE)
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)  # or the rename itself may be lost with the power
        finally:
            os.close(folder)


def read_snapshot(file: Path) -> Snapshot | None:
    """None if there is no such file. Raises DamagedError."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return parse_snapshot(data)
    except DamagedError as problem:
        raise DamagedError(f"{file}: {problem}") from problem


def to_parts(snapshot: Snapshot) -> list[bytes]:
    """What a state file holds, in order."""
    head = {
        "device": snapshot.device,
        "session": {name: _to_json(value) for name, value in snapshot.session.items()},
        "traffic": snapshot.traffic,
        "loss": snapshot.loss,
        "train_s": snapshot.train_s,
    }
    text = json.dumps(head).encode()
    state = np.ascontiguousarray(snapshot.state, "<f4").tobytes()
    body = [struct.pack("<I", len(text)), text, state]
    digest = hashlib.sha256()
    for part in body:
        digest.update(part)
    return [_MAGIC, digest.digest(), *body]


def parse_snapshot(data: bytes) -> Snapshot:
    """The inverse of `to_parts`, joined. Raises DamagedError on anything else."""
    if not data.startswith(_MAGIC):
        raise DamagedError("not a state file of this version")
    body = memoryview(data)[len(_MAGIC) + _DIGEST_BYTES :]
    if hashlib.sha256(body).digest() != data[len(_MAGIC) : len(_MAGIC) + _DIGEST_BYTES]:
        raise DamagedError("damaged: its checksum does not fit")
    try:
        (length,) = struct.unpack_from("<I", body)
        head = json.loads(bytes(body[4 : 4 + length]))
        return Snapshot(
            device=str(head["device"]),
            session={str(name): _from_json(value) for name, value in head["session"].items()},
            state=np.frombuffer(body[4 + length :], "<f4").astype(np.float32),
            traffic=dict(head["traffic"]),
            loss=float(head["loss"]),
            train_s=float(head["train_s"]),
        )
    except (struct.error, KeyError, TypeError, AttributeError, ValueError) as problem:
        raise DamagedError(f"not what this version writes ({problem!r})") from problem


def _to_json(value: object) -> object:
    return {"hex": value.hex()} if isinstance(value, bytes) else value


def _from_json(value: Any) -> Any:
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value


def describe(snapshot: Snapshot) -> list[tuple[str, str]]:
    """Lines for the operator: name, value."""
    session = snapshot.session
    pending = session.get("pending")
    return [
        ("device", snapshot.device),
        ("run", str(session.get("run"))),
        ("last round", str(session.get("completed"))),
        ("pending upload", "none" if pending is None else f"of round {session.get('completed')}"),
        ("loss", f"{snapshot.loss:.4f}"),
        ("numbers", f"{len(snapshot.state)} of model and optimiser"),
        ("payload up", _counted(snapshot.traffic.get("up"))),
        ("payload down", _counted(snapshot.traffic.get("down"))),
        ("frames refused", _counted(snapshot.traffic.get("refused"))),
    ]


def _counted(counters: dict[str, int] | None) -> str:
    return ", ".join(f"{name} {count}" for name, count in (counters or {}).items()) or "none"
