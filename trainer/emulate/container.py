"""Devices in containers: the client's image under podman, native or as real ARM code under qemu-user.

The emulator's other parts see a device as they see one that is a process: it lives in the network namespace that its
link leads out of, and its processor time and memory are read from a cgroup that outlives it. podman only: docker joins
no namespace by name (its turn is `potstill emulate compose`).

ARM code needs no change of this machine: the emulator is the container's entry point, so nothing is registered with
binfmt_misc and nothing is left behind. Two traps are met here (docs/emulate-arm.md): this host's /proc/cpuinfo crashes
onnxruntime under qemu-user, so the board's stands in its place; and a crash of process 1 hangs, so there is an init.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from firmware_profiles.cpuinfo import core, cpuinfo
from firmware_profiles.schema import Profile
from trainer.emulate.backend import BackendError, Enforced, Limits, Order, Usage
from trainer.emulate.cgroups import ROOT, Cgroup, find_hierarchy
from trainer.emulate.image import Engine, build_image, find_engine
from trainer.emulate.leftovers import Leftovers, Remover
from trainer.emulate.rootfs import (
    ARM64,
    DEVICE_UID,
    Architecture,
    ImageError,
    device_root,
    host_architecture,
)

QEMU = "qemu-aarch64-static"
QEMU_INSIDE = "/usr/libexec/qemu-aarch64"
DEFAULT_RUNTIME = "onnx"
"""Of a group that names none: what the client takes where onnxruntime is there."""
CONFINED = (
    "--init",
    "--pull=never",
    "--read-only",
    "--tmpfs=/tmp",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    # Those of a Pi. podman's own default, more than a million files, needs CAP_SYS_RESOURCE.
    "--ulimit=nofile=1024:1024",
    "--ulimit=nproc=4096:4096",
)
"""Options of `podman run` and `docker run`: what a device's container may not do. The image's user is no root."""
_FORCE_S = 60.0
"""For podman to remove a container; an idle machine takes 0.2 s."""
_AGAIN_S = 0.5
PODMAN = Engine(name="podman")


def remove_container(name: str) -> None:
    """Whatever it is doing. No error where there is none. Raises OSError."""
    if shutil.which(PODMAN.name) is None:
        return
    try:
        PODMAN.run("rm", "--force", "--time", "0", "--ignore", name, timeout_s=_FORCE_S)
    except ImageError as problem:
        raise OSError(str(problem)) from problem


def remove_container_cgroup(name: str, root: Path = ROOT) -> None:
    """Made by podman in every hierarchy and left there. No error where there is none. Raises OSError."""
    for top in (root, *(path for path in root.iterdir() if path.is_dir())):
        group = top / name
        if group.is_dir():
            for path in sorted((group, *(path for path in group.rglob("*") if path.is_dir())), reverse=True):
                path.rmdir()


REMOVERS: Mapping[str, Remover] = {"container": remove_container, "container-cgroup": remove_container_cgroup}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Devices that share an image."""

    arch: str
    """native or arm64, as in FLEET.toml."""
    runtime: str | None

    @property
    def architecture(self) -> Architecture:
        return ARM64 if self.arch == "arm64" else host_architecture()

    @property
    def emulated(self) -> bool:
        return not self.architecture.native


class ContainerBackend:
    """See `backend.Backend`. One image a kind of device, made in `prepare`."""

    name = "container"
    needs_namespace = True

    def __init__(self, prefix: str, leftovers: Leftovers, kinds: set[Kind]) -> None:
        self._prefix = prefix
        self._leftovers = leftovers
        self._kinds = kinds
        self._images: dict[Kind, str] = {}
        self._scratch: Path | None = None
        self._started = 0
        self._made: list[Contained] = []

    def prepare(self) -> Enforced:
        """Raises BackendError."""
        if os.geteuid() != 0:
            raise BackendError("containers in network namespaces need root: run with sudo, or use backend = 'process'")
        try:
            find_engine(PODMAN.name)
            for kind in sorted(self._kinds, key=str):
                root = device_root(kind.architecture, runtime=kind.runtime or DEFAULT_RUNTIME)
                self._images[kind] = build_image(PODMAN, root)
        except ImageError as problem:
            raise BackendError(str(problem)) from problem
        emulated = any(kind.emulated for kind in self._kinds)
        if emulated and shutil.which(QEMU) is None:
            raise BackendError(f"no {QEMU} on this machine (Debian: apt-get install qemu-user-static)")
        self._scratch = Path(tempfile.mkdtemp(prefix="potstill-container-"))
        arm = "arm64 groups: ARM code of the board's core under qemu-user; " if emulated else ""
        held = "cgroup limit of the container: it is killed at the profile's usable memory"
        return Enforced(
            instruction_set=f"{arm}others: this host's" if arm else "not: this host's",
            cpu="cgroup quota of the container" + ("; emulated code is slower still" if emulated else ""),
            memory=held + (", of which qemu-user takes about 90 MiB" if emulated else ""),
            link="its namespace's only way out is the shaped link",
            clock="not: a container has this host's clock",
        )

    def start(self, order: Order) -> Contained:
        """Raises BackendError."""
        kind = Kind(arch=order.arch, runtime=order.runtime)
        if kind not in self._images or self._scratch is None:
            raise BackendError(f"{order.device}: no image of {kind} was prepared")
        self._started += 1
        name = f"{self._prefix}-{order.device}-{self._started}"
        cgroup = Cgroup(hierarchy=find_hierarchy(), name=name)
        self._leftovers.add("container-cgroup", name)
        self._leftovers.add("container", name)
        cgroup.make(order.limits)
        _give_to_device(order.work)
        words = _run_words(order, name, self._images[kind], self._emulation(order.profile) if kind.emulated else [])
        order.log.parent.mkdir(parents=True, exist_ok=True)
        with order.log.open("ab") as log:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self._scratch,  # conmon leaves a file there when a container is killed for its memory
            )
        device = Contained(name=name, process=process, cgroup=cgroup, leftovers=self._leftovers, emulated=kind.emulated)
        self._made.append(device)
        return device

    def _emulation(self, profile: Profile) -> list[str]:
        """Options of `podman run` that let ARM code run here as on the board."""
        assert self._scratch is not None
        told = self._scratch / f"{profile.name}.cpuinfo"
        told.write_text(cpuinfo(profile), encoding="ascii")
        entry = [QEMU_INSIDE, "-cpu", core(profile).qemu, "/usr/bin/python3", "-m", "potstill"]
        qemu = shutil.which(QEMU)
        return [
            *("--volume", f"{told}:/proc/cpuinfo:ro"),
            *("--volume", f"{qemu}:{QEMU_INSIDE}:ro"),
            *("--entrypoint", json.dumps(entry)),
        ]

    def close(self) -> None:
        """Never raises: what cannot be removed stays in `leftovers`."""
        for device in self._made:
            with contextlib.suppress(OSError, BackendError):
                device.remove()
        self._made = []
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)


class Contained:
    """See `backend.Running`."""

    def __init__(
        self,
        *,
        name: str,
        process: subprocess.Popen[bytes],
        cgroup: Cgroup,
        leftovers: Leftovers,
        emulated: bool,
    ) -> None:
        self.name = name
        self._process = process
        self._cgroup = cgroup
        self._leftovers = leftovers
        self._emulated = emulated
        self._killed_here = False

    def poll(self) -> int | None:
        return exit_code(self._process.poll())

    def terminate(self) -> None:
        """The signal is passed on by podman."""
        if self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        if self._process.poll() is None:
            self._killed_here = True
        end = time.monotonic() + _FORCE_S
        remove_container(self.name)
        while self.wait(_AGAIN_S) is None and time.monotonic() < end:
            remove_container(self.name)  # podman knew no container of this name before it had made it
        self._process.kill()
        self._process.wait()

    def wait(self, timeout_s: float) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        return self.poll()

    def usage(self) -> Usage:
        read = self._cgroup.usage()
        # What kills is the container's own limit, below the cgroup that is read; version 1 counts it there alone, and
        # podman 4.3 forgets it. Nobody but the kernel sends a SIGKILL that is not ours.
        killed = self.poll() == -signal.SIGKILL and not self._killed_here
        # Processor seconds of emulated code are the emulator's: no figure of the board's.
        cpu_s = None if self._emulated else read.cpu_s
        return Usage(cpu_s=cpu_s, memory_peak_bytes=read.memory_peak_bytes, oom_kills=int(killed))

    def remove(self) -> None:
        """Container and cgroup. Raises OSError."""
        self.kill()
        self._leftovers.remove("container", self.name)
        self._leftovers.remove("container-cgroup", self.name)


def exit_code(code: int | None) -> int | None:
    """Of the client: a container says 128 + signal where a process says - signal."""
    if code is None or code <= 128:
        return code
    with contextlib.suppress(ValueError):
        return -signal.Signals(code - 128)
    return code


def _give_to_device(work: Path) -> None:
    """The client is no root, and its work folder the only place it writes to."""
    work.mkdir(parents=True, exist_ok=True)
    for path in (work, *work.rglob("*")):
        os.chown(path, DEVICE_UID, DEVICE_UID, follow_symlinks=False)


def _run_words(order: Order, name: str, image: str, emulation: list[str]) -> list[str]:
    """`podman run`: as the Containerfile says, with the order's limits and namespace."""
    network = "host" if order.namespace is None else f"ns:/run/netns/{order.namespace}"
    options = [
        *("--name", name),
        *CONFINED,
        *limited(order.limits),
        f"--network={network}",
        f"--cgroup-parent=/{name}",
        "--cgroups=no-conmon",  # podman's own watcher is no part of the device
        *("--volume", f"{order.program.resolve()}:/program:ro"),
        *("--volume", f"{order.data.resolve()}:/data.npz:ro"),
        *("--volume", f"{order.work.resolve()}:/work:rw"),
        *(word for key, value in order.environment.items() for word in ("--env", f"{key}={value}")),
    ]
    command = order.arguments(program="/program", data="/data.npz", work="/work")
    return [*podman_run(), *options, *emulation, image, *command]


def podman_run() -> list[str]:
    """With systemd's cgroups a parent must be a slice of systemd's making; ours is a plain folder.

    crun, podman's own choice, refuses a machine that has both versions of cgroup mounted; runc works there.
    """
    runtime = ["--runtime=runc"] if find_hierarchy().version == 1 and shutil.which("runc") else []
    return [PODMAN.name, "--cgroup-manager=cgroupfs", *runtime, "run"]


def limited(limits: Limits) -> list[str]:
    """Options of `podman run` and `docker run`; swap would let a device have more memory than its board."""
    memory = f"{limits.memory_mib}m"
    return [f"--memory={memory}", f"--memory-swap={memory}", f"--cpus={limits.cpus:.3f}"]
