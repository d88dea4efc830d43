"""Count the ARM instructions of one training step: qemu-user with a plugin of our own, on a device's root file system.

The count is of the step alone: marks stand before and after it (`step.py`, `plugin.c`). Address randomisation, hash
seeds and garbage collection are off, so the numpy runtime gives the same count to the instruction each time;
onnxruntime's by hundreds in millions (docs/energy.md).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from firmware_profiles.cpuinfo import core, cpuinfo
from firmware_profiles.load import load_profile
from firmware_profiles.schema import Profile
from trainer.emulate.rootfs import ARM64, SITE, ImageError, Root, device_root, run_tool

QEMU = "qemu-aarch64"
TOOLS = {QEMU: "qemu-user", "gcc": "gcc libc6-dev", "mmdebstrap": "mmdebstrap", "setarch": "util-linux"}
"""Program -> Debian packages. The static build of qemu-user takes no plugins."""
RUNTIMES = ("numpy", "onnx", "tflite")
STEPS = 9
RUN_S = 900
_HERE = Path(__file__).parent
_FIRST_WITH_API_2 = 9
"""QEMU 9.0 refuses plugins of version 1, QEMU 8 and before know no other (include/qemu/qemu-plugin.h)."""


class CountError(RuntimeError):
    """Nothing was counted; the message says what to install or change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """Of training steps that all begin at the program's initial state."""

    program: str
    runtime: str
    """With its version, as the runtime says it."""
    cpu: str
    """qemu's name of the core."""
    overhead: int
    """Between two marks with no step between them; taken off below."""
    steps: tuple[int, ...]
    """(N,) each step's instructions. They differ by tenths of a per mille: memory lies elsewhere."""

    @property
    def each(self) -> int:
        """A step's: the median."""
        return int(median(self.steps))

    @property
    def spread(self) -> float:
        """Largest less smallest, over the median."""
        return (max(self.steps) - min(self.steps)) / self.each


def missing_tools() -> list[str]:
    """What to install, as words for apt-get; empty where all is there."""
    return [package for tool, package in TOOLS.items() if shutil.which(tool) is None]


def count_step(program: Path, *, runtime: str = "numpy", profile: str = "pi-4b", steps: int = STEPS) -> Count:
    """Count `steps` training steps of the program in this folder, on this board's core. Raises CountError."""
    if missing := missing_tools():
        raise CountError(
            f"counting instructions needs more: apt-get install --no-install-recommends {' '.join(missing)}"
        )
    try:
        board = load_profile(profile)
        cpu = core(board).qemu
        root = device_root(ARM64, runtime=runtime)
        with tempfile.TemporaryDirectory(prefix="potstill-count-") as scratch:
            fixed = ["setarch", "--addr-no-randomize", QEMU, "-seed", "1", "-cpu", cpu]
            counted = ["-plugin", str(_plugin(Path(scratch))), "-L", str(_view(Path(scratch) / "root", root, board))]
            what = [str(program.resolve()), runtime, str(steps)]
            name, marks = _run([*fixed, *counted], root, Path(scratch) / "marks", what)
    except (ImageError, ValueError) as problem:
        raise CountError(str(problem)) from problem
    return read_marks(marks, program=program.name, runtime=name, cpu=cpu, steps=steps)


def read_marks(marks: list[int], *, program: str, runtime: str, cpu: str, steps: int) -> Count:
    """Counts at the marks, two a step and two empty pairs before them -> what lies in each pair. Raises CountError."""
    if len(marks) != 2 * (steps + 2):
        raise CountError(f"{len(marks)} marks of {2 * (steps + 2)} were seen: this emulator hides the umask call")
    between = [after - before for before, after in pairwise(marks)][::2]
    overhead = between[1]
    return Count(
        program=program,
        runtime=runtime,
        cpu=cpu,
        overhead=overhead,
        steps=tuple(count - overhead for count in between[2:]),
    )


def _plugin(folder: Path) -> Path:
    """The plugin, compiled for the QEMU that is here."""
    told = run_tool([QEMU, "--version"], package="qemu-user")
    found = re.search(r"version (\d+)", told)
    version = 1 if found is None or int(found[1]) < _FIRST_WITH_API_2 else 2
    library = folder / "count.so"
    flags = ["-O2", "-shared", "-fPIC", "-fvisibility=hidden", f"-DAPI_VERSION={version}"]
    run_tool(["gcc", *flags, "-o", str(library), str(_HERE / "plugin.c")], package="gcc libc6-dev")
    return library


def _view(folder: Path, root: Root, board: Profile) -> Path:
    """The root as qemu's -L sees it, with this board's /proc/cpuinfo: links to all else."""
    folder.mkdir()
    for entry in root.folder.iterdir():
        if entry.name != "proc":
            (folder / entry.name).symlink_to(entry)
    (folder / "proc").mkdir()
    (folder / "proc/cpuinfo").write_text(cpuinfo(board))
    return folder


def _run(emulator: list[str], root: Root, out: Path, arguments: list[str]) -> tuple[str, list[int]]:
    """-> what the runtime is called, and the count at each mark."""
    environment = {
        "POTSTILL_INSTRUCTIONS": str(out),
        "PYTHONHOME": str(root.folder / "usr"),
        "PYTHONPATH": f"/{SITE}",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "ORT_DISABLE_TELEMETRY": "1",
        "PATH": os.environ.get("PATH", os.defpath),
    }
    python = str(root.folder / f"usr/bin/python{root.python}")
    words = [*emulator, python, str(_HERE / "step.py"), *arguments]
    try:
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=RUN_S, check=False)
    except subprocess.TimeoutExpired as problem:
        raise CountError(f"{QEMU} did not end within {RUN_S} s: count fewer --steps, or a smaller program") from problem
    if done.returncode:
        said = "\n  ".join(done.stderr.strip().splitlines()[-6:])
        raise CountError(f"{QEMU} ended with code {done.returncode}:\n  {said}")
    return done.stdout.strip(), [int(line) for line in out.read_text().splitlines()]
