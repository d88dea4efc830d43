"""A link as the kernel's netem lays it: a veth pair, offloads off, a queueing discipline at each end.

Faster than the two TUNs, which move every packet through Python, and as exact as the kernel. What it does not have:
draws that a seed repeats, packets that keep their order under jitter, and the size of what it lost.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import shutil
import socket
import struct
import subprocess
import uuid

from firmware_profiles.link import Shape
from trainer.emulate.direction import Counts
from trainer.emulate.link import inside_namespace
from trainer.emulate.shaping import netem_words

_SIOCETHTOOL = 0x8946
_OFFLOADS = {"rx": 0x15, "tx": 0x17, "tso": 0x1F, "gso": 0x24, "gro": 0x2C}
"""linux/ethtool.h, ETHTOOL_S...: with them a 64 KB super-packet is lost, or counted, as one."""
_HEADER_BYTES = 14
"""Of Ethernet, which a veth's counts have in them."""


def has_netem() -> bool:
    """Whether there is `tc` and this kernel knows netem: tried in a namespace that goes at once. Needs root."""
    from pyroute2 import netns

    if shutil.which("tc") is None:
        return False
    name = f"ps-{uuid.uuid4().hex[:6]}-try"
    netns.create(name)
    try:
        return _tc(name, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms").returncode == 0
    finally:
        netns.remove(name)


def _tc(namespace: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["tc", "-n", namespace, *words], capture_output=True, text=True, check=False)


def lay_pair(ends: tuple[tuple[str, str], tuple[str, str]]) -> None:
    """A veth pair between two (namespace, interface), without offloads. Raises OSError."""
    from pyroute2 import IPRoute

    (there, one), (here, other) = ends
    with inside_namespace(here):
        ip = IPRoute()
    with ip:
        ip.link("add", ifname=other, kind="veth", peer={"ifname": one, "net_ns_fd": there})
    for namespace, interface in ends:
        with inside_namespace(namespace), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for command in _OFFLOADS.values():
                value = ctypes.create_string_buffer(struct.pack("II", command, 0))
                request = struct.pack("16sP16x", interface.encode(), ctypes.addressof(value))
                fcntl.ioctl(sock, _SIOCETHTOOL, request)


def shape_end(namespace: str, interface: str, shape: Shape, mtu_bytes: int) -> None:
    """What leaves by this interface, from now on. Raises OSError."""
    words = netem_words(shape, mtu_bytes).split()
    done = _tc(namespace, "qdisc", "replace", "dev", interface, "root", "handle", "1:", *words)
    if done.returncode != 0:
        raise OSError(f"tc on {interface} of {namespace}: {done.stderr.strip()}")


def count_end(namespace: str, interface: str) -> Counts:
    """What left by this interface. Raises OSError."""
    done = _tc(namespace, "-s", "-j", "qdisc", "show", "dev", interface, "root")
    if done.returncode != 0:
        raise OSError(f"tc on {interface} of {namespace}: {done.stderr.strip()}")
    return parse_counts(done.stdout)


def parse_counts(text: str) -> Counts:
    """From `tc -s -j qdisc show`. The size of what was lost is unknown, and taken for the mean of what was not."""
    (queue,) = [entry for entry in json.loads(text) if entry.get("kind") == "netem"]
    packets, lost = int(queue["packets"]), int(queue["drops"])
    size = int(queue["bytes"]) - _HEADER_BYTES * packets
    lost_bytes = round(lost * size / packets) if packets else 0
    waiting = int(queue["backlog"]) - _HEADER_BYTES * int(queue["qlen"])
    return Counts(
        packets=packets + lost + int(queue["qlen"]),
        bytes=size + lost_bytes + waiting,
        lost_packets=lost,
        lost_bytes=lost_bytes,
        delivered_packets=packets,
        delivered_bytes=size,
    )
