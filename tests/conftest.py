"""What a test may need beyond Python, or of the machine: marks say it, this file decides.

Without CI in the environment a test that lacks something is skipped, and the summary says so; with it, it fails: in CI
nothing is left out. Tests may run in several processes (docs/adr/0034-tests-side-by-side.md); one marked `alone` waits
until no other runs, and none begins before it has ended.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections import Counter
from collections.abc import Generator
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
COVERING = ("edge/", "broker/", "trainer/test_partition.py")
"""The pure modules' own tests. What a fleet or a study passes through on its way is not covered by that, and to trace
it takes Python code twice its time."""


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
    tools = [name for mark in item.iter_markers("tools") for name in mark.args]
    if "mmdebstrap" in tools and os.geteuid() != 0:
        tools.append("newuidmap")  # of Debian's uidmap: without root it makes an image under subordinate ids
    missing = [name for name in tools if shutil.which(name) is None]
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Which tests count for coverage, and their order.

    Files with slow tests first, lest one worker ends long after the others; files with tests to be alone last.
    """
    for item in items:
        if not item.path.relative_to(ROOT / "tests").as_posix().startswith(COVERING):
            item.add_marker("no_cover")
    slow, alone = ({item for item in items if item.get_closest_marker(mark)} for mark in ("slow", "alone"))
    begins, ends = ({item.path for item in marked} for marked in (slow, alone))
    items.sort(key=lambda item: (item.path in ends, item.path not in begins, item in alone))


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outside the timeout: who waits is not slow
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool, bool]:
    """A test with its fixtures; among workers under a lock on this file, which tests that bear each other share."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    with Path(__file__).open() as turn:
        fcntl.flock(turn, fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH)
        try:
            return (yield)
        finally:
            fcntl.flock(turn, fcntl.LOCK_UN)  # which closing does not do while a child has the file open too


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests measured (`record_property`), and what was left out."""
    reports = [report for group in ("passed", "failed", "skipped") for report in terminalreporter.stats.get(group, [])]
    measured = [each for report in reports if report.when == "call" for each in report.user_properties]
    reasons = Counter(
        str(report.longrepr[2]).removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple)
    )
    if measured:
        terminalreporter.section("measured")
        for name, value in measured:
            terminalreporter.line(f"{name}: {value}")
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
