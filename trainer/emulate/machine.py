"""A device as a whole machine: Debian's arm64 kernel under qemu-system, with the board's memory and its link in netem.

The truest emulation there is without the board, and the slowest. Its memory is honest: the machine has as much as the
board, the client's share in it is held by a cgroup, and nothing of an emulator counts towards it. The link is the
kernel's own netem, in both directions, inside the machine. Its power can be cut: the disk is what a crash leaves.

Outside, it lives in its network namespace like every device: the address of the namespace's own link moves into the
machine, and what is in between forwards packets.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from firmware_profiles.cpuinfo import core
from trainer.emulate import inside
from trainer.emulate.backend import BackendError, Enforced, Order, Usage
from trainer.emulate.container import DEFAULT_RUNTIME, exit_code
from trainer.emulate.link import inside_namespace
from trainer.emulate.network import DEVICE_INTERFACE
from trainer.emulate.rootfs import ARM64, DEVICE_UID, SITE, ImageError, device_root, kernel, run_tool
from trainer.emulate.shaping import netem

QEMU = "qemu-system-aarch64"
MODULES = (
    "virtio_ring", "virtio", "virtio_mmio", "virtio_blk", "failover", "net_failover", "virtio_net",
    "ifb", "sch_netem", "sch_ingress", "cls_u32", "act_mirred",
)  # fmt: skip
"""Of Debian's cloud kernel, in the order of their needs; one that is not there is built in."""
GUEST_INTERFACE = "guest"
"""The namespace's end of the machine's network card."""
_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_SPARE_DISK_BYTES = 32 * 2**20
_NICE = 5
_POWER_OFF_S = 10.0


class MachineBackend:
    """See `backend.Backend`. The emulator lays its link unshaped: the machine shapes it."""

    name = "machine"
    needs_namespace = True

    def __init__(self, runtimes: set[str | None]) -> None:
        """Nothing of it needs removing after a crash: its process ends with this one, its card with its namespace."""
        self._disks: dict[str | None, Path] = dict.fromkeys(runtimes, Path())
        self._kernel = Path()
        self._scratch: Path | None = None
        self._addresses: dict[str, str] = {}
        self._made: list[Machine] = []

    def prepare(self) -> Enforced:
        """Raises BackendError."""
        for tool, package in ((QEMU, "qemu-system-arm"), ("mkfs.ext4", "e2fsprogs")):
            if shutil.which(tool) is None:
                raise BackendError(f"no {tool} on this machine (Debian: apt-get install {package})")
        try:
            self._kernel = kernel(ARM64, MODULES)
            self._disks = {runtime: _system_disk(runtime) for runtime in self._disks}
        except ImageError as problem:
            raise BackendError(str(problem)) from problem
        self._scratch = Path(tempfile.mkdtemp(prefix="potstill-machine-"))
        (image,) = self._kernel.glob("vmlinuz-*")
        return Enforced(
            instruction_set=f"ARM code of the board's core under qemu-system, Linux {image.name.partition('-')[2]}",
            cpu="not: emulated cores, slower than the board's",
            memory="the machine has the board's RAM; in it a cgroup holds the client to the profile's usable memory",
            link="tc netem inside the machine, both directions",
            clock="its own, set at its start",
        )

    def start(self, order: Order) -> Machine:
        """Raises BackendError."""
        if order.runtime not in self._disks or self._scratch is None or order.namespace is None:
            raise BackendError(f"{order.device}: a machine needs a namespace, and its runtime prepared")
        if order.namespace not in self._addresses:
            self._addresses[order.namespace] = _move_address_behind(order.namespace)
        disk = _device_disk(order)
        initrd = self._scratch / f"{order.device}.cpio"
        initrd.write_bytes(_initrd(order, self._kernel, self._addresses[order.namespace]))
        (image,) = self._kernel.glob("vmlinuz-*")
        words = _qemu_words(order, image, initrd, self._disks[order.runtime], disk)
        order.log.parent.mkdir(parents=True, exist_ok=True)
        begin = order.log.stat().st_size if order.log.exists() else 0
        with order.log.open("ab") as log:
            process = subprocess.Popen(
                inside.command(words, namespace=order.namespace, nice=_NICE),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        machine = Machine(process=process, log=order.log, begin=begin)
        self._made.append(machine)
        return machine

    def close(self) -> None:
        for machine in self._made:
            machine.kill()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)


class Machine:
    """See `backend.Running`."""

    def __init__(self, *, process: subprocess.Popen[bytes], log: Path, begin: int) -> None:
        self._process = process
        self._log = log
        self._begin = begin
        """Where in the log this start of the machine begins."""

    def poll(self) -> int | None:
        code = self._process.poll()
        if code is None:
            return None
        said = self._said("exit")
        return exit_code(int(said[0])) if said else code or 1

    def terminate(self) -> None:
        """A word on the console; the machine's init sends the signal."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(b"stop\n")
            self._process.stdin.flush()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def wait(self, timeout_s: float) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        return self.poll()

    def usage(self) -> Usage:
        """As the machine's own kernel counted it, at most five seconds ago.

        Its processor seconds are an emulator's: no figure of the board's.
        """
        said = self._said("usage")
        if len(said) != 2:
            return Usage()
        peak_bytes, kills = map(int, said)
        return Usage(memory_peak_bytes=peak_bytes, oom_kills=kills)

    def _said(self, what: str) -> list[str]:
        """The words of the newest whole line of this kind."""
        with self._log.open("rb") as log:
            log.seek(self._begin)
            text = log.read().decode(errors="replace")
        found = re.findall(rf"^potstill-machine {what} (.+?)\r?\n", text, re.MULTILINE)
        return str(found[-1]).split() if found else []


# ---------------------------------------------------------------- disks


def _system_disk(runtime: str | None) -> Path:
    """Of all machines with this runtime, which only read it; kept beside the root it is made of. Raises ImageError."""
    root = device_root(ARM64, runtime=runtime or DEFAULT_RUNTIME)
    disk = root.folder.with_suffix(".ext4")
    if not disk.exists():
        fresh = root.folder.with_suffix(f".{os.getpid()}.part")
        _make_disk(fresh, "system", root.folder, _size(root.folder) * 5 // 4)
        fresh.rename(disk)
    return disk


def _device_disk(order: Order) -> Path:
    """The device's own: program, data and work. It lies in the work folder and is kept. Raises BackendError."""
    disk = order.work / "machine.ext4"
    if disk.exists():
        return disk
    order.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.copytree(order.program, folder / "program")
        shutil.copy(order.data, folder / "data.npz")
        (folder / "work").mkdir()
        for path in (folder, *folder.rglob("*")):
            os.chown(path, DEVICE_UID, DEVICE_UID)
        try:
            _make_disk(disk, "own", folder, _size(folder))
        except ImageError as problem:
            raise BackendError(f"{order.device}: {problem}") from problem
    return disk


def _make_disk(disk: Path, label: str, content: Path, size_bytes: int) -> None:
    """The label is how the machine finds it: the order of its disks is qemu's."""
    kib = (size_bytes + _SPARE_DISK_BYTES) // 1024
    run_tool(["mkfs.ext4", "-q", "-L", label, "-d", str(content), str(disk), f"{kib}k"], package="e2fsprogs")


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size + 4096 for path in folder.rglob("*"))


# ---------------------------------------------------------------- what the machine is told


def _initrd(order: Order, kernel_folder: Path, address: str) -> bytes:
    busybox = device_root(ARM64, runtime=order.runtime or DEFAULT_RUNTIME).folder / "bin/busybox"
    entries = {
        "init": (files("trainer.emulate").joinpath("machine-init").read_bytes(), 0o755),
        "bin/busybox": (busybox.read_bytes(), 0o755),
        "settings": (_settings(order, address).encode(), 0o644),
        "link.tc": (netem(order.link).encode(), 0o644),
    }
    for number, name in enumerate(MODULES):
        module = kernel_folder / f"{name}.ko"
        if module.exists():
            entries[f"modules/{number:02}-{name}.ko"] = (module.read_bytes(), 0o644)
    return cpio(entries)


def _settings(order: Order, address: str) -> str:
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": "/tmp",  # noqa: S108 - the machine's own
        "PYTHONPATH": f"/{SITE}",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        **order.environment,
    }
    client = order.arguments(program="/mnt/program", data="/mnt/data.npz", work="/mnt/work")
    words = [*(f"{key}={value}" for key, value in environment.items()), "/usr/bin/python3", "-m", "potstill", *client]
    now_s = round(time.time() + order.clock_offset_s)
    return (
        f"ADDRESS={shlex.quote(address)}\nMEMORY_BYTES={order.limits.memory_mib * 2**20}\nNOW_S={now_s}\n"
        f"USER_ID={DEVICE_UID}\nset -- {shlex.join(words)}\n"
    )


def cpio(entries: Mapping[str, tuple[bytes, int]]) -> bytes:
    """An archive of (content, permissions) by path, in the form that Linux's initramfs has.

    "newc", Documentation/driver-api/early-userspace/buffer-format.rst: a header of hexadecimal fields, the name and
    the content each padded to four bytes.
    """
    folders = {parent.as_posix() for name in entries for parent in Path(name).parents} - {"."}
    everything: list[tuple[str, bytes, int]] = [(name, b"", 0o040755) for name in sorted(folders)]
    everything += [(name, data, 0o100000 | mode) for name, (data, mode) in entries.items()]
    everything.append(("TRAILER!!!", b"", 0))
    archive = bytearray()
    for number, (name, data, mode) in enumerate(everything, 1):
        path = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        archive += b"070701" + b"".join(b"%08X" % field for field in fields) + path
        archive += bytes(-len(archive) % 4) + data
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


def _qemu_words(order: Order, image: Path, initrd: Path, system: Path, disk: Path) -> list[str]:
    hardware = order.profile.hardware
    cores = min(hardware.cores.value, os.cpu_count() or 1)
    return [
        QEMU,
        *("-M", "virt", "-cpu", core(order.profile).qemu, "-smp", str(cores), "-m", str(hardware.ram_mib.value[0])),
        *("-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot", "-nodefaults"),
        *("-kernel", str(image), "-initrd", str(initrd)),
        *("-append", "console=ttyAMA0 quiet loglevel=3 panic=-1 ipv6.disable=1"),
        *("-drive", f"file={system},format=raw,if=none,id=system,readonly=on"),
        *("-device", "virtio-blk-device,drive=system"),
        *("-drive", f"file={disk},format=raw,if=none,id=own"),
        *("-device", "virtio-blk-device,drive=own"),
        *("-netdev", f"tap,id=card,ifname={GUEST_INTERFACE},script=no,downscript=no"),
        *("-device", "virtio-net-device,netdev=card"),
    ]


# ---------------------------------------------------------------- the namespace


def _move_address_behind(namespace: str) -> str:
    """The address of the namespace's link becomes the machine's, which is reached by forwarding: -> that address.

    The machine asks for its peer's hardware address; the namespace answers in the peer's place (proxy ARP, RFC 1027).
    Raises BackendError.
    """
    from pyroute2 import NetNS
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with NetNS(namespace, flags=0) as ip:
            (outer,) = ip.link_lookup(ifname=DEVICE_INTERFACE)
            (told,) = ip.get_addr(index=outer, family=2)
            address = str(told.get_attr("IFA_LOCAL"))
            peers = list(ip.get_routes(family=2, oif=outer, table=254))
            ip.addr("del", index=outer, address=address, prefixlen=32)
            for route in peers:
                ip.route("replace", dst=f"{route.get_attr('RTA_DST')}/32", oif=outer, scope="link")
            _make_tap(namespace)
            (card,) = ip.link_lookup(ifname=GUEST_INTERFACE)
            ip.link("set", index=card, state="up")
            ip.route("add", dst=f"{address}/32", oif=card, scope="link")
        with inside_namespace(namespace):
            ipv4 = Path("/proc/sys/net/ipv4")
            (ipv4 / "ip_forward").write_text("1")
            (ipv4 / f"conf/{GUEST_INTERFACE}/proxy_arp").write_text("1")
    except (NetlinkError, OSError, ValueError) as problem:
        raise BackendError(f"{namespace}: a machine cannot be put behind its link: {problem}") from problem
    return address


def _make_tap(namespace: str) -> None:
    """A network card's other end, which waits for the machine and outlives it. Raises OSError.

    By the kernel's own calls (linux/if_tun.h): pyroute2 makes one in another process, and does not wait for it.
    """
    with inside_namespace(namespace):
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", GUEST_INTERFACE.encode(), _IFF_TAP | _IFF_NO_PI))
            fcntl.ioctl(tap, _TUNSETPERSIST, 1)
        finally:
            os.close(tap)
