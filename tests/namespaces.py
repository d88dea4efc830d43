"""Network namespaces and veth pairs for tests of real packets: made here, removed here; needs root."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any


def do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)


def inside(name: str) -> list[str]:
    """A prefix that runs a command in the namespace."""
    return ["ip", "netns", "exec", name]


@contextlib.contextmanager
def namespaces(*roles: str) -> Iterator[list[str]]:
    """One for each role, without IPv6 (whose neighbour discovery would be on the wire), their loopback up."""
    with contextlib.ExitStack() as stack:
        names = [f"ps-{role}-{os.getpid()}" for role in roles]
        for name in names:
            do("ip", "netns", "add", name)
            stack.callback(do, "ip", "netns", "del", name)
            for setting in ("net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"):
                do(*inside(name), "sh", "-c", f"test ! -d /proc/sys/net/ipv6 || sysctl -qw {setting}")
            do("ip", "-n", name, "link", "set", "lo", "up")
        yield names


def veth(*ends: tuple[str, str, str]) -> None:
    """A pair between two (namespace, interface, address); offloads off, so that what it counts is what a wire carries.

    Static neighbours: there is no ARP.
    """
    (near, near_link, _), (far, far_link, _) = ends
    do("ip", "-n", near, "link", "add", near_link, "type", "veth", "peer", "name", far_link, "netns", far)
    for name, link, address in ends:
        do("ip", "-n", name, "address", "add", f"{address}/24", "dev", link)
        off = [word for feature in ("tx", "rx", "tso", "gso", "gro") for word in (feature, "off")]
        do(*inside(name), "ethtool", "-K", link, *off)
        do("ip", "-n", name, "link", "set", link, "up")
    for (name, link, _), (there, there_link, address) in ((ends[0], ends[1]), (ends[1], ends[0])):
        mac = link_of(there, there_link)["address"]
        do("ip", "-n", name, "neighbour", "replace", address, "lladdr", mac, "dev", link, "nud", "permanent")


def link_of(name: str, link: str) -> dict[str, Any]:
    """What `ip` knows of an interface, its counters among it."""
    command = ["ip", "-n", name, "-json", "-statistics", "link", "show", "dev", link]
    (found,) = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=30).stdout)
    assert isinstance(found, dict)
    return found


def counted(name: str, link: str) -> tuple[int, int]:
    """Ethernet bytes (sent, received) of an interface: header and up, without preamble and checksum."""
    counters = link_of(name, link)["stats64"]
    return counters["tx"]["bytes"], counters["rx"]["bytes"]
