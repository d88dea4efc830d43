"""What is onnxruntime's own: its buffers, its refusals, its silence on the network. The steps are test_agreement's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before onnxruntime is imported

from edge.runtime.graph import FloatArray
from edge.runtime.onnx_ import OnnxRuntime
from edge.runtime.program import Program, ProgramRefused, load_program
from trainer.compile.package import pack, write_folder

B, F, L = 4, 6, 3

PROBE = """
import json, os, sys
sockets = []
sys.addaudithook(lambda event, _: sockets.append(event) if event.startswith("socket.") else None)
from pathlib import Path
import numpy as np
from edge.runtime.program import load_program
from edge.runtime.graph import FloatArray
from edge.runtime.onnx_ import OnnxRuntime
runtime = OnnxRuntime(load_program(Path(sys.argv[1])))
for _ in range(20):
    loss, _ = runtime.train(np.ones((4, 6), np.float32), np.full((4, 3), 1 / 3, np.float32), 0.1)
    runtime.predict(np.ones((5, 6), np.float32))
paths = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
links = [os.readlink(path) for path in paths if os.path.lexists(path)]
print(json.dumps({
    "environment": os.environ.get("ORT_DISABLE_TELEMETRY"),
    "python_sockets": sockets,
    "open_sockets": [link for link in links if link.startswith("socket:")],
    "threads": len(os.listdir("/proc/self/task")),
    "heavy": sorted({"torch", "onnx", "sklearn", "rich"} & set(sys.modules)),
    "loss": loss,
}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    packed = pack(
        nn.Sequential(nn.Linear(F, 8), nn.ReLU(), nn.Linear(8, L)),
        name="small",
        input_shape=(F,),
        labels=("a", "b", "c"),
        optimiser="momentum",
        batch=B,
        predict_batch=2,
    )
    folder = tmp_path_factory.mktemp("onnx") / "small"
    write_folder(packed, folder)
    return folder


@pytest.fixture
def program(folder: Path) -> Program:
    return load_program(folder)


def draw(seed: int) -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((B, F)).astype(np.float32), rng.dirichlet(np.ones(L), B).astype(np.float32)


def test_what_a_caller_holds_does_not_change_behind_its_back(program: Program) -> None:
    runtime = OnnxRuntime(program)
    _, logits = runtime.train(*draw(0), 0.1)
    held = logits, runtime.parameters(), runtime.state()
    kept = [array.copy() for array in held]
    for seed in range(1, 4):
        runtime.train(*draw(seed), 0.1)
    for now, before in zip(held, kept, strict=True):
        np.testing.assert_array_equal(now, before)


def test_an_even_and_an_odd_number_of_steps_start_from_the_same_state(program: Program) -> None:
    """The state alternates between two sets of buffers; set_state, set_parameters and reset reach the right one."""
    reference = OnnxRuntime(program)
    states = [reference.state()]
    for seed in range(3):
        reference.train(*draw(seed), 0.1)
        states.append(reference.state())
    for steps in (0, 1, 2):
        runtime = OnnxRuntime(program)
        for _ in range(steps):
            runtime.train(*draw(9), 0.3)
        runtime.set_state(states[1])
        runtime.train(*draw(1), 0.1)
        runtime.set_parameters(runtime.parameters())
        runtime.train(*draw(2), 0.1)
        np.testing.assert_array_equal(runtime.state(), states[3])
        runtime.reset()
        np.testing.assert_array_equal(runtime.state(), states[0])


def test_predicting_between_steps_changes_nothing(program: Program) -> None:
    one, other = OnnxRuntime(program), OnnxRuntime(program)
    for seed in range(3):
        one.train(*draw(seed), 0.1)
        other.train(*draw(seed), 0.1)
        x = draw(seed + 7)[0]
        np.testing.assert_array_equal(other.predict(x), other.predict(np.concatenate([x, x]))[:B])
    np.testing.assert_array_equal(one.state(), other.state())


def test_a_file_that_is_no_model_is_refused(program: Program) -> None:
    damaged = replace(program, files={**program.files, "train.onnx": b"not a model"})
    with pytest.raises(ProgramRefused, match=r"train\.onnx: onnxruntime .* does not load it"):
        OnnxRuntime(damaged)


def test_a_model_of_another_program_is_refused(program: Program) -> None:
    swapped = replace(program, files={**program.files, "train.onnx": program.file("predict.onnx")})
    with pytest.raises(ProgramRefused, match="not those of the manifest"):
        OnnxRuntime(swapped)


def test_the_name_gives_the_version(program: Program) -> None:
    import onnxruntime

    assert OnnxRuntime(program).name == f"onnx {onnxruntime.__version__}"


def test_it_trains_in_silence(folder: Path, tmp_path: Path) -> None:
    """A fresh interpreter, CI not set: telemetry is off before the import, no socket, no cache file, one thread.

    onnxruntime 1.29 and later write a device id below HOME and resolve a host as soon as they are imported.
    """
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(folder)],
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    seen = json.loads(done.stdout)
    assert seen["environment"] == "1"
    assert seen["python_sockets"] == []
    assert seen["open_sockets"] == []
    assert seen["heavy"] == []
    assert seen["threads"] == 1
    assert np.isfinite(seen["loss"])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.root
def test_without_the_switch_the_probe_would_see_it(folder: Path, tmp_path: Path) -> None:
    """The control of the test above: in a network namespace without a way out, telemetry leaves its file in HOME."""
    import onnxruntime

    if tuple(int(part) for part in onnxruntime.__version__.split(".")[:2]) < (1, 29):
        pytest.skip("this onnxruntime has no telemetry on Linux")
    environment = clean_environment(tmp_path) | {"ORT_DISABLE_TELEMETRY": "0"}
    command = ["unshare", "--net", sys.executable, "-c", PROBE, str(folder)]
    subprocess.run(command, env=environment, capture_output=True, timeout=120, check=True)
    assert [path.name for path in tmp_path.rglob("deviceid")] == ["deviceid"]


def clean_environment(home: Path) -> dict[str, str]:
    """As on a device: CI is not set (onnxruntime keeps quiet under CI), nor the switch."""
    environment = {key: value for key, value in os.environ.items() if key not in {"CI", "ORT_DISABLE_TELEMETRY"}}
    return environment | {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "OPENBLAS_NUM_THREADS": "1"}
