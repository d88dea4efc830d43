"""The emulated network: a hub namespace for broker and aggregator, a namespace a device, a shaped link to each.

Nothing is added to the host's own network: no interface, no address, no route, no listening port. A device's namespace
has one way out, its link `air`, and behind it one address, the hub's. IPv6 is off, so that nothing but the device's own
traffic is on the link.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import selectors
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from firmware_profiles.link import Link
from trainer.emulate import netem
from trainer.emulate.backend import BackendError
from trainer.emulate.direction import Counts
from trainer.emulate.leftovers import Leftovers
from trainer.emulate.link import inside_namespace

HUB_ADDRESS = "10.213.0.1"
"""Of the broker, as every device sees it. It exists inside the run's own namespaces only."""
_FIRST_DEVICE = ipaddress.IPv4Address("10.213.1.1")
DEVICE_INTERFACE = "air"
CONGESTION_CONTROL = "cubic"
"""Linux's default, so a Pi's; a host may have another, and bbr all but hides losses."""
QUEUE_PACKETS = 10_000
"""Of an interface, towards the link's process: what overflows here is lost uncounted, so only a flood may."""
ANSWER_S = 30.0
"""For the link's process to start, or to answer; an idle machine takes 0.1 s."""
NAMESPACES = Path("/run/netns")


def remove_namespace(name: str) -> None:
    """No error where there is none. Raises OSError."""
    if (NAMESPACES / name).exists():
        from pyroute2 import netns

        netns.remove(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkCounts:
    up: Counts
    down: Counts


class Wire(Protocol):
    """One laid link."""

    def shape(self, link: Link) -> None:
        """From now on; what is underway keeps its time. Raises BackendError."""
        ...

    def counts(self) -> LinkCounts:
        """Of IP packets since the link was laid; the last ones known once it is closed. Raises BackendError."""
        ...

    def close(self) -> None:
        """Both interfaces go; the last counts stay."""
        ...


class KernelWire:
    """A veth pair under netem."""

    def __init__(self, *, namespace: str, hub: str, device: str) -> None:
        self._up = (namespace, DEVICE_INTERFACE)
        self._down = (hub, device)
        self._last = LinkCounts(up=Counts(), down=Counts())
        self._closed = False

    def shape(self, link: Link) -> None:
        with _told():
            netem.shape_end(*self._up, link.up, link.mtu_bytes)
            netem.shape_end(*self._down, link.down, link.mtu_bytes)

    def counts(self) -> LinkCounts:
        if not self._closed:
            with _told():
                self._last = LinkCounts(up=netem.count_end(*self._up), down=netem.count_end(*self._down))
        return self._last

    def close(self) -> None:
        with contextlib.suppress(BackendError):
            self.counts()
        self._closed = True
        with contextlib.suppress(BackendError), _routes(self._down[0]) as ip:
            for index in ip.link_lookup(ifname=self._down[1]):
                ip.link("del", index=index)


class TunWire:
    """The process that is a link."""

    def __init__(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self.name = name
        self._process = process
        self._last = LinkCounts(up=Counts(), down=Counts())

    def shape(self, link: Link) -> None:
        self.ask({"up": asdict(link.up), "down": asdict(link.down)}, "shaped")

    def counts(self) -> LinkCounts:
        if self._process.poll() is None:
            self._keep(self.ask({}, "counts"))
        return self._last

    def close(self) -> None:
        if self._process.poll() is None:
            with contextlib.suppress(BackendError, OSError):
                self.counts()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(ANSWER_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _keep(self, event: dict[str, Any]) -> None:
        self._last = LinkCounts(up=Counts(**event["up"]), down=Counts(**event["down"]))

    def ask(self, order: dict[str, Any], answer: str) -> dict[str, Any]:
        """One line there, one line back. Raises BackendError."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            line = b""
        else:
            with selectors.DefaultSelector() as selector:
                selector.register(self._process.stdout, selectors.EVENT_READ)
                line = self._process.stdout.readline() if selector.select(ANSWER_S) else b""
        if not line:
            raise BackendError(f"the link of {self.name} does not answer (code {self._process.poll()}): see links.log")
        event = json.loads(line)
        if event["event"] != answer:
            raise BackendError(f"the link of {self.name} answered {event}, not {answer}")
        return dict(event)


class Network:
    """A context manager: nothing of it outlives it, nor (through `leftovers`) a crash.

    Namespaces are `prefix`-hub and `prefix`-DEVICE.
    """

    def __init__(self, prefix: str, leftovers: Leftovers, log: Path, *, shaper: str = "tun") -> None:
        """`shaper`: how links are laid, `tun` or `netem`."""
        self.prefix = prefix
        self.shaper = shaper
        self.hub = f"{prefix}-hub"
        self._leftovers = leftovers
        self._log = log
        self._wires: list[Wire] = []
        self._namespaces: list[str] = []

    def __enter__(self) -> Self:
        """Raises BackendError."""
        check_possible(self.shaper)
        self._add_namespace(self.hub)
        with _routes(self.hub) as ip:
            (lo,) = ip.link_lookup(ifname="lo")
            ip.addr("add", index=lo, address=HUB_ADDRESS, prefixlen=32)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        for wire in self._wires:
            wire.close()
        for name in reversed(self._namespaces):
            self._leftovers.remove("netns", name)

    def namespace(self, device: str) -> str:
        return f"{self.prefix}-{device}"

    def lay(self, device: str, number: int, link: Link, *, seed: int) -> Wire:
        """A namespace for the device and its link to the hub. `number` is its own in the fleet. Raises BackendError."""
        namespace = self.namespace(device)
        self._add_namespace(namespace)
        if self.shaper == "netem":
            with _told():
                netem.lay_pair(((namespace, DEVICE_INTERFACE), (self.hub, device)))
            wire: Wire = KernelWire(namespace=namespace, hub=self.hub, device=device)
        else:
            wire = self._start(device, namespace, link, seed)
        self._wires.append(wire)
        address = str(_FIRST_DEVICE + number)
        _connect(namespace, DEVICE_INTERFACE, address, HUB_ADDRESS, link.mtu_bytes)
        _connect(self.hub, device, HUB_ADDRESS, address, link.mtu_bytes)
        if self.shaper == "netem":
            wire.shape(link)
        return wire

    def _add_namespace(self, name: str) -> None:
        from pyroute2 import netns

        self._leftovers.add("netns", name)
        self._namespaces.append(name)
        netns.create(name)
        with inside_namespace(name):
            for which in ("all", "default"):
                switch = Path(f"/proc/sys/net/ipv6/conf/{which}/disable_ipv6")
                if switch.exists():
                    switch.write_text("1")
        with _routes(name) as ip:
            (lo,) = ip.link_lookup(ifname="lo")
            ip.link("set", index=lo, state="up")

    def _start(self, device: str, namespace: str, link: Link, seed: int) -> TunWire:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "trainer.emulate.link"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        wire = TunWire(device, process)
        order = {
            "device": [namespace, DEVICE_INTERFACE],
            "hub": [self.hub, device],
            "up": asdict(link.up),
            "down": asdict(link.down),
            "seed": f"{seed}/{device}",
        }
        try:
            wire.ask(order, "ready")
        except BackendError:
            wire.close()
            raise
        return wire


def check_possible(shaper: str) -> None:
    """Raises BackendError that says what is missing for namespaces and TUN links."""
    if os.geteuid() != 0:
        raise BackendError("network namespaces need root: run with sudo, or use backend = 'process' (no shaped links)")
    try:
        import pyroute2  # noqa: F401
    except ImportError:
        raise BackendError("shaped links need pyroute2: pip install 'potstill[emulate]'") from None
    if shaper == "tun" and not Path("/dev/net/tun").exists():
        raise BackendError("shaped links need /dev/net/tun: modprobe tun (in a container, add --device /dev/net/tun)")


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What the kernel or `tc` refuses becomes BackendError."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except (OSError, NetlinkError) as problem:
        raise BackendError(str(problem)) from problem


@contextlib.contextmanager
def _routes(namespace: str) -> Iterator[Any]:
    """Netlink in a namespace. Its errors become BackendError."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        # Not pyroute2's NetNS: it forks, and a copy of the emulator with its signal handlers removes what the original
        # has just made. A netlink socket stays in the namespace that it was opened in.
        with inside_namespace(namespace):
            ip = IPRoute()
        with ip:
            yield ip
    except NetlinkError as problem:
        raise BackendError(f"{namespace}: the kernel refused a change of its network: {problem}") from problem


def _connect(namespace: str, interface: str, address: str, peer: str, mtu_bytes: int) -> None:
    """Address and route of one end of a link."""
    with _routes(namespace) as ip:
        (index,) = ip.link_lookup(ifname=interface)
        if not ip.get_addr(address=address):
            ip.addr("add", index=index, address=address, prefixlen=32)
        ip.link("set", index=index, mtu=mtu_bytes, txqlen=QUEUE_PACKETS, state="up")
        metrics = {"cc_algo": CONGESTION_CONTROL}
        ip.route("add", dst=f"{peer}/32", oif=index, prefsrc=address, metrics=metrics)
