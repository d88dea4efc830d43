"""The tflite runtime: its state between steps, what it refuses, what it costs. Agreement is in test_agreement.py."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from edge.runtime.graph import FloatArray
from edge.runtime.numpy_ import NumpyRuntime
from edge.runtime.program import Program, ProgramRefused, load_program
from edge.runtime.protocol import Runtime
from edge.runtime.tflite_ import TfliteRuntime
from trainer.compile.optimise import Optimiser
from trainer.compile.package import pack, write_folder

BATCH, LABELS, SHAPE = 8, 4, (2, 6, 6)
MEMORY_LIMIT_MIB = 50
"""Issue 2: peak PSS of a device process that trains 784-128-10 with tflite."""


def image_model() -> nn.Sequential:
    layers = [nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(45, LABELS)]
    return nn.Sequential(*layers)


def compiled(folder: Path, optimiser: Optimiser, labels: int = LABELS) -> Program:
    module = image_model() if labels == LABELS else nn.Sequential(nn.Flatten(), nn.Linear(72, labels))
    packed = pack(
        module,
        name="images",
        input_shape=SHAPE,
        labels=tuple("abcdef"[:labels]),
        optimiser=optimiser,
        batch=BATCH,
        predict_batch=5,
    )
    write_folder(packed, folder)
    return load_program(folder)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return compiled(tmp_path_factory.mktemp("program"), "momentum")


def batch(random: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    x = random.standard_normal((BATCH, *SHAPE)).astype(np.float32)
    return x, np.eye(LABELS, dtype=np.float32)[random.integers(LABELS, size=BATCH)]


def test_it_says_which_library_and_version(program: Program) -> None:
    assert TfliteRuntime(program).name == f"tflite {version('ai-edge-litert')} (ai-edge-litert)"


@pytest.mark.parametrize("seed", range(8))
def test_any_order_of_calls_leaves_the_state_that_numpy_has(program: Program, seed: int) -> None:
    """The state wanders between the interpreter and numpy arrays: every order of calls must find the newest one."""
    random = np.random.default_rng(seed)
    pair: tuple[Runtime, Runtime] = (TfliteRuntime(program), NumpyRuntime(program))
    kept = [runtime.state() for runtime in pair]
    for _ in range(40):
        move = random.choice(["train", "train", "train", "predict", "parameters", "put", "keep", "restore", "reset"])
        data = batch(random)
        new = random.standard_normal(program.manifest.parameter_count).astype(np.float32) * np.float32(0.1)
        results = [_move(runtime, str(move), data, new, kept[i]) for i, runtime in enumerate(pair)]
        np.testing.assert_allclose(results[0], results[1], rtol=0, atol=1e-4, err_msg=str(move))
        if move == "keep":
            kept = results
    np.testing.assert_allclose(pair[0].state(), pair[1].state(), rtol=0, atol=1e-4)


def _move(
    runtime: Runtime, move: str, data: tuple[FloatArray, FloatArray], new: FloatArray, kept: FloatArray
) -> FloatArray:
    if move == "train":
        return runtime.train(*data, 0.05)[1]
    if move == "predict":
        return runtime.predict(data[0][:7])
    if move == "put":
        runtime.set_parameters(new)
    if move == "restore":
        runtime.set_state(kept)
    if move == "reset":
        runtime.reset()
    return runtime.state() if move == "keep" else runtime.parameters()


def test_what_it_returns_is_the_callers(program: Program) -> None:
    random = np.random.default_rng(0)
    runtime = TfliteRuntime(program)
    x, target = batch(random)
    _, logits = runtime.train(x, target, 0.1)
    state, parameters, seen = runtime.state(), runtime.parameters(), logits.copy()
    before = state.copy(), parameters.copy()
    runtime.train(*batch(random), 0.1)
    np.testing.assert_array_equal(logits, seen)
    np.testing.assert_array_equal(state, before[0])
    np.testing.assert_array_equal(parameters, before[1])
    state[:] = parameters[:] = 0
    assert np.abs(runtime.state()).max() > 0


def test_a_damaged_step_is_refused(program: Program) -> None:
    for damage in (b"", b"not a flatbuffer at all", program.file("train.tflite")[:200]):
        broken = replace(program, files=program.files | {"train.tflite": damage})
        with pytest.raises(
            ProgramRefused, match=r"train\.tflite: this interpreter cannot run it .* or use --runtime numpy"
        ):
            TfliteRuntime(broken)


def test_the_step_of_another_program_is_refused(program: Program, tmp_path: Path) -> None:
    other = compiled(tmp_path, "momentum", labels=3)
    with pytest.raises(ProgramRefused, match="not those of the manifest: compile the program again"):
        TfliteRuntime(replace(program, files=program.files | {"train.tflite": other.file("train.tflite")}))
    runtime = TfliteRuntime(replace(program, files=program.files | {"predict.tflite": other.file("predict.tflite")}))
    with pytest.raises(ProgramRefused, match=r"predict\.tflite"):
        runtime.predict(np.zeros((1, *SHAPE), np.float32))


DEVICE = """
import json, re, sys
from pathlib import Path
from edge.cli import prepare_environment
prepare_environment()
import edge.client
from edge.memory import release_code
from edge.runtime.choose import load_runtime
from edge.runtime.program import load_program
import numpy as np

def pss():
    return int(re.search(r"^Pss:\\s+(\\d+)", Path("/proc/self/smaps_rollup").read_text(), re.M)[1]) / 1024

release_code()
runtime = load_runtime(load_program(Path(sys.argv[1])), "tflite")
release_code()  # before and after the runtime is loaded, as the client does
random = np.random.default_rng(0)
pixels = random.integers(0, 256, (500, 784)).astype(np.uint8)
peak = 0.0
for _ in range(30):
    chosen = random.integers(0, 500, 32)
    x = pixels[chosen].astype(np.float32) / np.float32(255)
    runtime.train(x, np.eye(10, dtype=np.float32)[chosen % 10], 0.1)
    peak = max(peak, pss())
runtime.predict(pixels.astype(np.float32) / np.float32(255))
runtime.state()
heavy = {"torch", "jax", "google.protobuf", "ml_dtypes", "tqdm", "tensorflow", "sklearn", "rich"} & set(sys.modules)
print(json.dumps({"peak_pss_mib": max(peak, pss()), "heavy": sorted(heavy)}))
"""


@pytest.mark.alone
def test_a_training_device_fits_its_memory(tmp_path: Path) -> None:
    """The client with all it imports, 784-128-10, 500 MNIST-sized samples: 30 steps, one evaluation."""
    module = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    packed = pack(module, name="mlp", input_shape=(784,), labels=tuple("0123456789"), optimiser="sgd", batch=32)
    write_folder(packed, tmp_path)
    command = [sys.executable, "-c", DEVICE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["heavy"] == []
    assert 15 < measured["peak_pss_mib"] <= MEMORY_LIMIT_MIB
