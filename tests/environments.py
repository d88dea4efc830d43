"""Python environments of their own, for packages that bear neither ours nor each other: made once, then kept.

They lie below $XDG_CACHE_HOME or pytest's own cache. Where one cannot be made its tests are skipped; in CI they fail.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

INSTALL_S = 280


def python_with(request: pytest.FixtureRequest, name: str, *words: str, versions: tuple[str, ...], proof: str) -> Path:
    """The interpreter of environment `name`, one of `versions` ("3.11"), in which `pip install *words` was done.

    `proof` is Python code that runs where the environment is whole.
    """
    cache_home = os.environ.get("XDG_CACHE_HOME")
    cache_folder = Path(cache_home) / "potstill-tests" if cache_home else request.config.cache.mkdir("potstill-tests")
    found = cache_folder / name / "bin" / "python"
    if not _holds(found, proof):
        problem = _install(found, words, versions)
        if problem is None and not _holds(found, proof):
            problem = "it installed, but does not import"
        if problem is not None and os.environ.get("CI"):
            pytest.fail(f"in CI nothing is left out, but {name} did not install: {problem}", pytrace=False)
        if problem is not None:
            pytest.skip(f"{name} did not install: {problem}")
    return found


def outside_ours() -> dict[str, str]:
    """The environment variables for a process of such an interpreter."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


def _holds(python: Path, proof: str) -> bool:
    command = [str(python), "-c", proof]
    return python.exists() and subprocess.run(command, capture_output=True, check=False, timeout=120).returncode == 0


def _install(python: Path, words: tuple[str, ...], versions: tuple[str, ...]) -> str | None:
    """What went wrong, in a line."""
    bases = [f"python{version}" for version in versions]
    fits = f"python{sys.version_info[0]}.{sys.version_info[1]}" in bases
    base = sys.executable if fits else next(filter(None, map(shutil.which, bases)), None)
    if base is None:
        return f"no {' or '.join(bases)} on this machine"
    # Neither a pip of its own nor byte code of what nobody imports: half of the time.
    venv = [base, "-m", "venv", "--clear", "--without-pip", str(python.parent.parent)]
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--disable-pip-version-check"]
    for command in (venv, [*pip, "--no-compile", *words]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_S)
        except subprocess.TimeoutExpired:
            return f"it took more than {INSTALL_S} s"
        if done.returncode:
            return next((line for line in reversed(done.stderr.splitlines()) if "ERROR" in line), done.stderr[-200:])
    return None
