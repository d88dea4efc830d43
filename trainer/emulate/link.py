"""One emulated link as a process: `python -m trainer.emulate.link`, two TUN interfaces, every packet in between.

For kernels without netem; needs root. It speaks JSON lines: the first on standard input says what to lay, the others
change it; when standard input ends (so also when the emulator dies) or on SIGTERM it says what it counted and ends, and
both interfaces go with it.

    > {"device": ["ps-1-d0", "air"], "hub": ["ps-1-hub", "d0"], "up": {"rate_bit_per_s": 250000, ...}, "down": {...},
       "seed": "0/d0"}                          (on one line; up and down are firmware_profiles.link.Shape)
    < {"event": "ready"}
    > {"up": {"rate_bit_per_s": 250000, "loss": 0.5, ...}}
    < {"event": "shaped"}
    > {}
    < {"event": "counts", "up": {"packets": 12, "bytes": 5010, ...}, "down": {...}}

Interfaces are made, not configured: addresses are `trainer.emulate.network`'s. It imports nothing heavy: there is one
process a device.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from firmware_profiles.link import Shape
from trainer.emulate.direction import Direction

_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
"""linux/if_tun.h; without IFF_VNET_HDR there are no offloads: what is read are packets of at most the MTU."""
_CLONE_NEWNET = 0x40000000
_BATCH = 64
"""Packets read from one end before the other end and the clock are looked at."""
_EARLY_S = 0.0001
"""A packet due this soon is handed over now: sleeping less than this is not reliable."""
_PRIORITY = -10
"""A link that waits for the processor behind 20 training devices is a slower link."""


class Pump:
    """Moves packets between two file descriptors, one packet a read and a write."""

    def __init__(self, *, device: int, hub: int, up: Direction, down: Direction) -> None:
        self.up, self.down = up, down
        self._ways = ((device, up, hub), (hub, down, device))

    def run(self, control: int, lines: ControlLines) -> None:
        """Until the control line ends."""
        sources = [device for device, _, _ in self._ways]
        while not lines.ended:
            ready, _, _ = select.select([control, *sources], [], [], self._wait_s())
            for source, direction, _ in self._ways:
                if source in ready:
                    _read(source, direction)
            self._hand_over()
            if control in ready:
                for line in lines.read():
                    _say(self.answer(json.loads(line)))

    def answer(self, order: dict[str, Any]) -> dict[str, Any]:
        for way, direction in (("up", self.up), ("down", self.down)):
            if way in order:
                direction.shape = Shape(**order[way])
        return {"event": "shaped"} if order else self.counted()

    def counted(self) -> dict[str, Any]:
        return {"event": "counts", "up": self.up.plain(), "down": self.down.plain()}

    def _wait_s(self) -> float | None:
        dues = [direction.next_due_s for _, direction, _ in self._ways]
        known = [due for due in dues if due is not None]
        return max(0.0, min(known) - time.monotonic()) if known else None

    def _hand_over(self) -> None:
        for _, direction, sink in self._ways:
            while (packet := direction.take(time.monotonic() + _EARLY_S)) is not None:
                try:
                    os.write(sink, packet)
                except OSError:  # the interface is down, or its queue full: a link may do that
                    direction.drop(len(packet))
                else:
                    direction.delivered(len(packet))


class ControlLines:
    """Whole lines of a file descriptor that is read as it comes."""

    def __init__(self, control: int) -> None:
        self._control = control
        self._rest = b""
        self.ended = False

    def read(self) -> list[bytes]:
        read = os.read(self._control, 65536)
        self.ended = not read
        *whole, self._rest = (self._rest + read).split(b"\n")
        return [line for line in whole if line.strip()]


def _read(source: int, direction: Direction) -> None:
    for _ in range(_BATCH):
        try:
            packet = os.read(source, 65536)
        except OSError:  # nothing more, or the interface is down
            return
        direction.offer(packet, time.monotonic())


def enter_namespace(name: str) -> None:
    """This process's network becomes that of /run/netns/`name`. Raises OSError."""
    with (Path("/run/netns") / name).open("rb") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {name}")


@contextlib.contextmanager
def inside_namespace(name: str) -> Iterator[None]:
    """The calling thread's network, for the length of the block."""
    with Path("/proc/self/ns/net").open("rb") as home:
        enter_namespace(name)
        try:
            yield
        finally:
            ctypes.CDLL(None).setns(home.fileno(), _CLONE_NEWNET)


def open_tun(namespace: str, interface: str) -> int:
    """A new TUN interface there: -> its file descriptor, non-blocking; it lives as long as that. Raises OSError."""
    with inside_namespace(namespace):
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", interface.encode(), _IFF_TUN | _IFF_NO_PI))
        return tun


def _say(event: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the emulator has died: nobody listens, and there is no harm in that
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the emulator ends us in order
    control = sys.stdin.fileno()
    signal.signal(signal.SIGTERM, lambda *_: os.dup2(os.open(os.devnull, os.O_RDONLY), control))
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)
    lines = ControlLines(control)
    first: list[bytes] = []
    while not first and not lines.ended:
        first = lines.read()
    if not first:
        return
    order = json.loads(first[0])
    pump = Pump(
        device=open_tun(*order["device"]),
        hub=open_tun(*order["hub"]),
        up=Direction(Shape(**order["up"]), f"{order['seed']}/up"),
        down=Direction(Shape(**order["down"]), f"{order['seed']}/down"),
    )
    _say({"event": "ready"})
    pump.run(control, lines)
    _say(pump.counted())


if __name__ == "__main__":
    main()
