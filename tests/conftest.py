"""What a test may need beyond Python: marks say it, this file decides, and the summary says what was left out.

Without CI in the environment a test that lacks something is skipped; with it, it fails: in CI nothing is left out.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before numpy and torch are imported. Threads that wait for each other by spinning starve on a busy machine: at a
# load of 20 on 2 cores, 3 tests of test_agreement.py took 45 s of processor time; on one thread all of them take 18 s.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine is no failure: examples have no deadline, the suite's own timeout stands.
settings.register_profile("potstill", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("potstill")

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


def _missing(mark: str) -> str | None:
    """Why a test with this mark cannot run here, or None."""
    if mark == "shared" and not (SHARED / "data").is_dir():
        return "no ../shared/data beside the repository (MNIST and HAR)"
    if mark == "mosquitto" and _mosquitto() is None:
        return "no mosquitto on this machine (Debian: apt-get install mosquitto)"
    if mark == "browser" and shutil.which("chromium") is None:
        return "no chromium on this machine (Debian: apt-get install chromium)"
    if mark == "root" and os.geteuid() != 0:
        return "network namespaces need root"
    if mark == "root" and shutil.which("ip") is None:
        return "no ip command on this machine (Debian: apt-get install iproute2)"
    return None


def _mosquitto() -> str | None:
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def _missing_tools(item: pytest.Item) -> str | None:
    """Why a test marked tools("podman", ...) cannot run here, or None."""
    marks = item.iter_markers("tools")
    missing = [name for mark in marks for name in mark.args if shutil.which(name) is None]
    return f"no {', '.join(missing)} on this machine (docs/emulate-arm.md has the Debian packages)" if missing else None


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in ("shared", "mosquitto", "browser", "root", "tools"):
        if item.get_closest_marker(mark) is None:
            continue
        reason = _missing_tools(item) if mark == "tools" else _missing(mark)
        if reason is None:
            continue
        if os.environ.get("CI"):
            pytest.fail(f"in CI nothing is left out, but: {reason}", pytrace=False)
        pytest.skip(reason)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        if isinstance(report.longrepr, tuple):
            reason = str(report.longrepr[2]).removeprefix("Skipped: ")
            reasons[reason] = reasons.get(reason, 0) + 1
    if reasons:
        terminalreporter.section("left out on this machine")
        for reason, count in sorted(reasons.items()):
            terminalreporter.line(f"{count:4d}  {reason}")


@pytest.fixture
def shared_data() -> Path:
    """`../shared/data`; the test carries `@pytest.mark.shared`."""
    return SHARED / "data"


@pytest.fixture(autouse=True)
def _no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Onnxruntime reads it at its import; the processes that tests start inherit it."""
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "1")
