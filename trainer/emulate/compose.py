"""A fleet as a compose file, for docker compose: each device a container, its link beside it.

Broker and aggregator stay on this machine: they listen on the network's own address, which no other machine reaches.
The link is laid by a second container in the device's network, which may change that and nothing else, and ends then.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firmware_profiles.cpuinfo import core, cpuinfo
from firmware_profiles.load import list_profiles
from trainer.data import Dataset
from trainer.emulate.container import DEFAULT_RUNTIME, QEMU, QEMU_INSIDE, Kind
from trainer.emulate.fleet import Fleet, FleetError, Member
from trainer.emulate.image import Engine, build_image
from trainer.emulate.rootfs import DEVICE_UID, device_root
from trainer.emulate.settle import Settled
from trainer.emulate.shaping import netem, tbf
from trainer.emulate.speed import EMULATED, speed
from trainer.shards import deal, write_shards

NETWORK = "10.214.0.0/16"
GATEWAY = "10.214.0.1"
"""This machine, as the containers see it."""
BROKER = f"mqtt://{GATEWAY}:1883"
_LAY_LINK = (
    "/sbin/ip link show ifb0 >/dev/null 2>&1 || /sbin/ip link add ifb0 type ifb; /sbin/ip link set ifb0 up; "
    "/sbin/tc qdisc del dev eth0 ingress 2>/dev/null || :; /sbin/tc -batch - < /link.tc"
)
"""Again where it was laid before: `up` of a project that is up starts this container a second time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    file: Path
    left_out: tuple[str, ...]
    """What of the fleet the compose file does not do."""
    aggregator: str
    """The command that runs the first method on it."""


def kinds(fleet: Fleet) -> dict[str, Kind]:
    """By device. Raises FleetError for a machine, which no container is."""
    machines = [member.name for member in fleet.members if member.group.backend == "machine"]
    if machines:
        raise FleetError(f"{', '.join(machines)}: a whole machine is no container; leave its group out of this file")
    return {member.name: Kind(arch=member.group.arch, runtime=member.group.runtime) for member in fleet.members}


def kernel_has_netem() -> bool:
    """Tried on a network of its own, which is gone at once; yes where that cannot be tried."""
    words = ["unshare", "--user", "--map-root-user", "--net", "tc", "qdisc", "add", "dev", "lo", "root", "netem"]
    if shutil.which("tc") is None or shutil.which("unshare") is None:
        return True
    done = subprocess.run(words, capture_output=True, check=False, text=True)
    return done.returncode == 0 or "unknown" not in done.stderr


def compose(
    fleet: Fleet, settled: Settled, dataset: Dataset, engine: Engine, out: Path, *, broker: str = BROKER
) -> Composed:
    """Write `out`/compose.yaml with everything it mounts; builds the images it names.

    Raises FleetError, ImageError, SplitError, or FileExistsError where `out` holds shards already.
    """
    kind_of = kinds(fleet)
    images = {kind: _built(engine, kind) for kind in dict.fromkeys(kind_of.values())}
    native = next((images[kind] for kind in images if not kind.emulated), None)
    native = native or _built(engine, Kind(arch="native", runtime="numpy"))
    dealt = deal(
        dataset,
        settled.split,
        devices=len(fleet.members),
        samples=settled.samples,
        seed=fleet.training.seed,
        own_test=settled.own_test,
    )
    write_shards(out / "shards", dealt, scale=dataset.scale, label_count=dataset.label_count)
    shutil.copytree(settled.program, out / "program", dirs_exist_ok=True)
    whole_link = kernel_has_netem()
    services: dict[str, Any] = {}
    for member in fleet.members:
        kind = kind_of[member.name]
        _write_files(out, member, whole_link=whole_link)
        services[member.name] = _device(member, kind, images[kind], broker, fleet.name)
        if member.air.link.name != "none":
            services[f"{member.name}-link"] = _link(member, native)
    network = {"internal": True, "ipam": {"config": [{"subnet": NETWORK, "gateway": GATEWAY}]}}
    file = out / "compose.yaml"
    # JSON is YAML (YAML 1.2, section 1.2), and needs no library.
    text = json.dumps({"version": "3.8", "services": services, "networks": {"fleet": network}}, indent=1)
    file.write_text(f"# Written by potstill container compose from {fleet.name}.toml.\n{text}\n", encoding="utf-8")
    left_out = [] if whole_link else ["delay, jitter and loss of the links: this kernel has no netem, only rates hold"]
    if fleet.happenings:
        left_out.append("[[event]]: only potstill emulate lets things happen")
    return Composed(file=file, left_out=tuple(left_out), aggregator=_aggregator(fleet, settled, broker, out))


def _built(engine: Engine, kind: Kind) -> str:
    return build_image(engine, device_root(kind.architecture, runtime=kind.runtime or DEFAULT_RUNTIME))


def _write_files(out: Path, member: Member, *, whole_link: bool) -> None:
    link = member.air.link
    (out / "links").mkdir(exist_ok=True)
    (out / "links" / f"{link.name}.tc").write_text((netem if whole_link else tbf)(link), encoding="ascii")
    if member.group.arch == "arm64":
        (out / "boards").mkdir(exist_ok=True)
        (out / "boards" / f"{member.profile.name}.cpuinfo").write_text(cpuinfo(member.profile), encoding="ascii")


def _device(member: Member, kind: Kind, image: str, broker: str, fleet: str) -> dict[str, Any]:
    usable = member.profile.hardware.usable_ram_mib
    memory_mib = member.group.memory_mib or (
        member.profile.hardware.ram_mib.value[0] if usable is None else usable.value
    )
    share = member.group.cpus or (EMULATED if kind.emulated else speed(member.profile)).share
    command = ["edge", "run", "--broker", broker, "--fleet", fleet, "--device", member.name]
    command += ["--program", "/program", "--data", "/data.npz", "--work", "/work"]
    if member.profile.name in list_profiles():  # the image knows what ships, and not a profile of the user's own
        command += ["--profile", member.profile.name]
    emulation: dict[str, Any] = {}
    volumes = ["./program:/program:ro", f"./shards/{member.name}.npz:/data.npz:ro"]
    if kind.emulated:
        volumes.append(f"./boards/{member.profile.name}.cpuinfo:/proc/cpuinfo:ro")
        volumes.append(f"{shutil.which(QEMU) or f'/usr/bin/{QEMU}'}:{QEMU_INSIDE}:ro")
        entry = [QEMU_INSIDE, "-cpu", core(member.profile).qemu, "/usr/bin/python3", "-m", "potstill"]
        emulation = {"entrypoint": entry, "platform": f"linux/{kind.architecture.debian}"}
    return {
        "image": image,
        "command": command if member.group.runtime is None else [*command, "--runtime", member.group.runtime],
        **emulation,
        **_CONFINED,
        "user": f"{DEVICE_UID}:{DEVICE_UID}",
        "cpus": share,
        "mem_limit": f"{memory_mib}m",
        "memswap_limit": f"{memory_mib}m",
        "volumes": volumes,
        "tmpfs": ["/tmp", f"/work:uid={DEVICE_UID},gid={DEVICE_UID}"],  # noqa: S108 - the container's own
        "networks": ["fleet"],
    }


_CONFINED = {
    "init": True,
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "ulimits": {"nofile": {"soft": 1024, "hard": 1024}, "nproc": {"soft": 4096, "hard": 4096}},
}


def _link(member: Member, image: str) -> dict[str, Any]:
    """Lays the link in the device's network and ends. A native image: qemu-user does not speak all of netlink."""
    return {
        "image": image,
        **_CONFINED,
        "entrypoint": ["/bin/sh", "-ec", _LAY_LINK],
        "user": "0:0",
        "cap_add": ["NET_ADMIN"],
        "network_mode": f"service:{member.name}",
        "depends_on": [member.name],
        "volumes": [f"./links/{member.air.link.name}.tc:/link.tc:ro"],
    }


def _aggregator(fleet: Fleet, settled: Settled, broker: str, out: Path) -> str:
    training = fleet.training
    flags = {
        "broker": broker,
        "fleet": fleet.name,
        "program": out / "program",
        "method": training.methods[0],
        "devices": len(fleet.members),
        "rounds": settled.rounds,
        "steps": settled.steps,
        "lr": settled.lr,
        "seed": training.seed,
    }
    return "potstill broker run " + " ".join(f"--{name} {value}" for name, value in flags.items())
