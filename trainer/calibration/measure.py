"""Times training steps on the machine it runs on, and reads its power meanwhile, where there is a sensor.

Step times are CPU seconds of this process: on a board that does nothing else they are seconds, on a busy one they are
still the step's own.
"""

from __future__ import annotations

import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np

from edge.meter.energy import Measured
from edge.meter.power.sampler import EnergyMeter
from edge.runtime.choose import RuntimeMissing, installed, load_runtime
from edge.runtime.program import Program, ProgramRefused, load_program

WARM_UP, TOGETHER = 3, 4
"""Steps before the first that counts; steps timed in one go."""
LR = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Power:
    watts: float
    seconds: float
    """That readings cover."""
    sensor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Of one runtime on one core."""

    runtime: str
    """onnx, tflite, numpy or torch."""
    version: str
    steps: int
    cpu_s: float
    """Of a step: the median."""
    power: Power | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one calibration found."""

    date: str
    machine: str
    program: str
    sensor: str
    idle: Power | None
    all_cores: Power | None
    runtimes: tuple[Steps, ...]
    """Best first, as the client would choose them."""


def measure(
    folder: Path,
    *,
    seconds: float,
    rest_s: float,
    meter: EnergyMeter | None,
    cores: int,
    say: Callable[[str], None] = lambda _: None,
) -> Figures:
    """Every runtime that is installed, `seconds` each, after `rest_s` of rest; then all cores at once.

    Power is read where there is a meter. Raises ValueError where the program or the sensor will not do.
    """
    program = load_program(folder)
    idle = None
    if meter is not None:
        say(f"at rest for {rest_s:g} s")
        watts = meter.rest(rest_s)
        idle = Power(watts=watts, seconds=rest_s, sensor=meter.sensor)
        meter.start()
    found = []
    for name in installed():
        try:
            found.append(_one_runtime(program, name, seconds=seconds, meter=meter))
        except (RuntimeMissing, ProgramRefused) as problem:
            say(f"{name} left out: {problem}")
            continue
        say(f"{found[-1].version}: {found[-1].cpu_s * 1e6:.0f} us a step")
    if not found:
        raise ValueError(f"no runtime here takes {program.manifest.name}: pip install 'potstill[onnx]'")
    all_cores = None
    if meter is not None and cores > 1:
        say(f"{cores} cores busy for {seconds:g} s")
        with _others_busy(folder, found[0].runtime, cores - 1):
            all_cores = _one_runtime(program, found[0].runtime, seconds=seconds, meter=meter).power
    return Figures(
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        machine=machine(),
        program=program.manifest.name,
        sensor="none" if meter is None else meter.sensor,
        idle=idle,
        all_cores=all_cores,
        runtimes=tuple(found),
    )


def machine() -> str:
    """What this is: a board's own name for itself, or its processor's."""
    for file in (Path("/proc/device-tree/model"), Path("/sys/class/dmi/id/product_name")):
        if file.exists() and (model := file.read_text(errors="replace").strip("\0 \n")):
            return f"{model}, {platform.machine()}, Linux {platform.release()}"
    return f"{_processor()}, {platform.machine()}, Linux {platform.release()}"


def _processor() -> str:
    info = Path("/proc/cpuinfo").read_text(errors="replace") if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", info, re.MULTILINE)
    return found[1] if found else "unknown processor"


def step_cpu_s(folder: Path, runtime: str, *, seconds: float = 1.0) -> float:
    """CPU seconds of a training step on this machine: what `edge.meter.energy.slowdown` compares a profile with."""
    return _one_runtime(load_program(folder), runtime, seconds=seconds, meter=None).cpu_s


def _one_runtime(program: Program, name: str, *, seconds: float, meter: EnergyMeter | None) -> Steps:
    runtime = load_runtime(program, name)
    step = _step(program, runtime.train)
    for _ in range(WARM_UP):
        step()
    if meter is not None:
        meter.mark()
    taken: list[float] = []
    end_s = time.monotonic() + seconds
    while not taken or time.monotonic() < end_s:
        started_s = time.process_time()
        for _ in range(TOGETHER):
            step()
        taken.append((time.process_time() - started_s) / TOGETHER)
    energy = None if meter is None else meter.mark()
    power = None
    if energy is not None and isinstance(energy.basis, Measured):
        if energy.basis.covered_s <= 0:
            raise ValueError(f"{energy.basis.sensor} fell silent: measure for more --seconds, or check its wiring")
        power = Power(
            watts=energy.total_j / energy.basis.covered_s, seconds=energy.basis.covered_s, sensor=energy.basis.sensor
        )
    return Steps(
        runtime=name,
        version=runtime.name,
        steps=TOGETHER * len(taken),
        cpu_s=median(taken),
        power=power,
    )


def _step(program: Program, train: Callable[..., object]) -> Callable[[], object]:
    manifest = program.manifest
    L = len(manifest.labels)
    x = np.random.Generator(np.random.PCG64(0)).random((manifest.batch, *manifest.input_shape), np.float32)  # (B, ...)
    target = np.eye(L, dtype=np.float32)[np.arange(manifest.batch) % L]  # (B, L)
    return lambda: train(x, target, LR)


@contextmanager
def _others_busy(folder: Path, runtime: str, count: int) -> Iterator[None]:
    """So many processes train until the block ends; it begins when all of them do."""
    words = [sys.executable, "-m", "trainer.calibration.measure", str(folder), runtime]
    with ExitStack() as stack:
        others = [stack.enter_context(_process(words)) for _ in range(count)]
        for other in others:
            assert other.stdout is not None
            other.stdout.readline()  # it says so when it trains; an end without a word ends the wait too
        if any(other.poll() is not None for other in others):
            raise ValueError("a process that keeps another core busy has ended: is there memory for one on each core?")
        yield


@contextmanager
def _process(words: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def main(folder: str, runtime_name: str) -> None:
    """Train until killed: what keeps another core busy."""
    program = load_program(Path(folder))
    step = _step(program, load_runtime(program, runtime_name).train)
    step()
    print("training", flush=True)
    while True:
        step()


if __name__ == "__main__":
    main(*sys.argv[1:3])
