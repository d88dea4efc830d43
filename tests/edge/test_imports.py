"""What a device process loads, seen in a fresh interpreter: memory and start-up time are imports."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

FORBIDDEN = {
    "torch",
    "sklearn",
    "rich",
    "matplotlib",
    "onnx",
    "scipy",
    "cbor2",
    "sqlite3",
    "asyncio",
    "broker",
    "trainer",
}
RUNTIMES = {"onnxruntime", "ai_edge_litert", "tflite_runtime"}


def _loaded(code: str) -> tuple[set[str], dict[str, str]]:
    """Top-level modules after running `code` in a new interpreter, and its environment."""
    report = (
        "import json, os, sys; print(json.dumps([sorted({m.split('.')[0] for m in sys.modules}), dict(os.environ)]))"
    )
    output = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    modules, environment = json.loads(output.splitlines()[-1])
    return set(modules), environment


def test_the_client_loads_no_more_than_numpy_and_paho() -> None:
    modules, _ = _loaded("import edge.client")
    assert {"numpy", "paho", "edge"} <= modules
    assert not modules & (FORBIDDEN | RUNTIMES | {"click"})


def test_the_client_loads_no_power_sensor_and_no_profile() -> None:
    code = """
import sys
import edge.client
print([name for name in sys.modules if name.startswith(("edge.meter.power", "edge.meter.energy", "firmware_profiles"))])
"""
    output = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    assert output.strip() == "[]"


def test_the_command_loads_nothing_but_click() -> None:
    modules, _ = _loaded("from potstill import main; main.get_command(None, 'edge').get_command(None, 'run')")
    assert {"click", "edge"} <= modules
    assert not modules & (FORBIDDEN | RUNTIMES | {"numpy", "paho"})


@pytest.mark.parametrize("arguments", [["edge", "--help"], ["edge", "run", "--help"], ["edge", "show", "--help"]])
def test_help_needs_neither_numpy_nor_paho(arguments: list[str]) -> None:
    code = f"from potstill import main\nmain({arguments!r}, standalone_mode=False)"
    modules, _ = _loaded(code)
    assert not modules & (FORBIDDEN | RUNTIMES | {"numpy", "paho"})


def test_threads_and_telemetry_are_settled_before_numpy_is_imported() -> None:
    code = """
import os, sys
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "ORT_DISABLE_TELEMETRY"):
    os.environ.pop(name, None)
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "ORT_DISABLE_TELEMETRY")
            os.environ["SEEN"] = "".join(os.environ.get(name, "0") for name in names)
sys.meta_path.insert(0, Watch())
from potstill import main
try:
    main(["edge", "show", "--work", "/nonexistent"], standalone_mode=False)
except Exception:
    pass
"""
    modules, environment = _loaded(code)
    assert "numpy" in modules
    assert environment["SEEN"] == "111"
