"""Processor and memory limits: written as each version wants them, and held by the kernel."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.emulate.backend import BackendError, Limits, Usage
from trainer.emulate.cgroups import Cgroup, Hierarchy, find_hierarchy, remove_cgroup
from trainer.emulate.inside import command

BUSY = """
import time
end, before = time.monotonic() + 2, time.process_time()
while time.monotonic() < end: pass
print(time.process_time() - before)
"""


def version_2(root: Path) -> Path:
    """The files of a cgroup v2 root that matter (Documentation/admin-guide/cgroup-v2.rst)."""
    root.mkdir()
    (root / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (root / "cgroup.subtree_control").write_text("")
    return root


def test_version_2_is_taken_where_it_has_the_controllers(tmp_path: Path) -> None:
    root = version_2(tmp_path / "cgroup")
    found = find_hierarchy(root)
    assert found == Hierarchy(version=2, root=root)
    group = root / "d0"
    group.mkdir()
    (group / "memory.swap.max").write_text("max\n")
    cgroup = Cgroup(hierarchy=found, name="d0")
    cgroup.make(Limits(cpus=0.1, memory_mib=420))
    assert (root / "cgroup.subtree_control").read_text() == "+cpu +memory"
    assert (group / "cpu.max").read_text() == "2000 20000"
    assert (group / "memory.max").read_text() == str(420 * 2**20)
    assert (group / "memory.swap.max").read_text() == "0"
    (group / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\nsystem_usec 2\n")
    (group / "memory.peak").write_text("1048576\n")
    (group / "memory.events").write_text("low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n")
    assert cgroup.usage() == Usage(cpu_s=1.5, memory_peak_bytes=1048576, oom_kills=1)


def test_a_hybrid_machine_takes_version_1(tmp_path: Path) -> None:
    for controller in ("cpu", "cpuacct", "memory"):
        (tmp_path / controller).mkdir()
    (tmp_path / "cgroup.controllers").write_text("hugetlb\n")
    assert find_hierarchy(tmp_path).version == 1


def test_no_cgroups_is_told_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="use backend = 'process'"):
        find_hierarchy(tmp_path)


def test_the_least_quota_is_the_kernel_s(tmp_path: Path) -> None:
    root = version_2(tmp_path / "cgroup")
    Cgroup(hierarchy=Hierarchy(version=2, root=root), name="d0").make(Limits(cpus=0.001, memory_mib=32))
    assert (root / "d0" / "cpu.max").read_text() == "1000 20000"


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    made = Cgroup(hierarchy=find_hierarchy(), name=f"potstill-test-{uuid.uuid4().hex[:8]}")
    yield made
    remove_cgroup(made.name)
    assert not any(path.exists() for path in made.paths)
    assert made.usage() == Usage()


@pytest.mark.root
def test_the_kernel_holds_the_processor_share(cgroup: Cgroup) -> None:
    cgroup.make(Limits(cpus=0.2, memory_mib=64))
    words = command([sys.executable, "-c", BUSY], cgroups=cgroup.paths)
    used = float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert used < 0.2 * 2 * 1.3, "of two seconds; less where the machine is busy"
    spent = cgroup.usage().cpu_s
    assert spent is not None
    assert spent >= used * 0.9


@pytest.mark.root
def test_the_kernel_kills_what_takes_too_much_memory(cgroup: Cgroup) -> None:
    cgroup.make(Limits(cpus=1.0, memory_mib=64))
    words = command([sys.executable, "-c", "bytearray(100 * 2**20)"], cgroups=cgroup.paths)
    assert subprocess.run(words, check=False).returncode == -9
    usage = cgroup.usage()
    assert usage.oom_kills == 1
    assert usage.memory_peak_bytes is not None
    assert usage.memory_peak_bytes <= 64 * 2**20


@pytest.mark.root
def test_removing_a_cgroup_ends_what_runs_in_it(cgroup: Cgroup) -> None:
    cgroup.make(Limits(cpus=1.0, memory_mib=64))
    sleep = [sys.executable, "-c", "print(flush=True); import time; time.sleep(600)"]
    with subprocess.Popen(command(sleep, cgroups=cgroup.paths), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        remove_cgroup(cgroup.name)
        assert process.wait(30) == -9


def test_a_process_has_its_own_memory_limit() -> None:
    words = command([sys.executable, "-c", "bytearray(100 * 2**20)"], data_bytes=64 * 2**20)
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "MemoryError" in ended.stderr
