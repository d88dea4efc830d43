"""What a container may not do, whichever engine runs it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from trainer.emulate.backend import Limits
from trainer.emulate.container import CONFINED, limited

BUSY = (
    "import time; begin, cpu = time.monotonic(), time.process_time()\n"
    "while time.monotonic() < begin + 3: pass\n"
    "print((time.process_time() - cpu) / (time.monotonic() - begin))"
)
HUNGRY = "held = [bytearray(b'x' * 2**20) for _ in range(400)]; print('held all of it')"


def check_confinement(folder: Path, run: list[str], image: str) -> None:
    """`run`: of the engine, up to its options."""

    def in_container(limits: Limits, code: str) -> subprocess.CompletedProcess[str]:
        words = [*run, "--rm", "--network=none", *CONFINED, *limited(limits), "--entrypoint=/usr/bin/python3"]
        words += [image, "-c", code]
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=120, cwd=folder)

    busy = in_container(Limits(cpus=0.3, memory_mib=128), BUSY)
    assert busy.returncode == 0, busy.stderr
    share = float(busy.stdout)
    # A loaded machine gives less than the quota; the burst of the first period may give a little more.
    assert 0.05 < share < 0.36, f"asked for 0.3 of a processor, got {share}"
    hungry = in_container(Limits(cpus=1, memory_mib=128), HUNGRY)
    assert hungry.returncode == 137, (hungry.stdout, hungry.stderr)
    assert "held" not in hungry.stdout
    fed = in_container(Limits(cpus=1, memory_mib=640), HUNGRY)
    assert "held all of it" in fed.stdout, fed.stderr
    confined = in_container(Limits(cpus=1, memory_mib=128), "import os; print(os.getuid()); open('/etc/x', 'w')")
    assert confined.stdout == "1000\n"
    assert "Read-only file system" in confined.stderr
