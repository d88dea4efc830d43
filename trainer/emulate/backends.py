"""Every back end by its name, and what removes what each leaves behind."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.emulate import container
from trainer.emulate.backend import Backend
from trainer.emulate.cgroups import remove_cgroup
from trainer.emulate.fleet import Member
from trainer.emulate.leftovers import Leftovers, Remover
from trainer.emulate.local import NamespaceBackend, ProcessBackend
from trainer.emulate.machine import MachineBackend
from trainer.emulate.network import remove_namespace

REMOVERS: dict[str, Remover] = {"netns": remove_namespace, "cgroup": remove_cgroup, **container.REMOVERS}


def make_backend(name: str, prefix: str, leftovers: Leftovers, members: Sequence[Member]) -> Backend:
    """For those `members` that it will start; `prefix` begins the name of everything it makes."""
    if name == "container":
        kinds = {container.Kind(arch=member.group.arch, runtime=member.group.runtime) for member in members}
        return container.ContainerBackend(prefix, leftovers, kinds)
    if name == "machine":
        return MachineBackend({member.group.runtime for member in members})
    if name == "netns":
        return NamespaceBackend(prefix, leftovers)
    return ProcessBackend()
