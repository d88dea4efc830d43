"""tflite-runtime 2.14, the last with 32-bit ARM wheels, in an environment of its own.

It needs Python 3.11 and NumPy 1.x.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from edge.runtime.graph import FloatArray
from edge.runtime.numpy_ import NumpyRuntime
from edge.runtime.program import load_program
from tests.environments import outside_ours, python_with
from trainer.compile.optimise import Optimiser
from trainer.compile.package import pack, write_folder

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("tflite-runtime==2.14.0", "numpy<2", "paho-mqtt>=2.1", "cbor2>=5.6", "click>=8.1")
"""What pyproject.toml gives a device with the extra `tflite-legacy`."""
AFTER_ONE, AFTER_ALL, STEPS, BATCH, LABELS = 1e-5, 1e-3, 200, 16, 4
LR: dict[Optimiser, float] = {"sgd": 0.05, "momentum": 0.01, "adam": 0.001}
SHAPES = {"dense": (30,), "images": (2, 9, 8), "signals": (3, 40)}

TRAINING = """
import sys
from pathlib import Path
import numpy as np
from edge.runtime.choose import load_runtime
from edge.runtime.program import load_program

for folder in map(Path, sys.argv[1:]):
    runtime = load_runtime(load_program(folder))
    data = np.load(folder / "batches.npz")
    lr = float(data["lr"])
    first = runtime.train(data["x"][0], data["target"][0], lr)
    after_one = runtime.parameters()
    for x, target in zip(data["x"][1:], data["target"][1:]):
        runtime.train(x, target, lr)
    np.savez(folder / "results.npz", name=runtime.name, loss=first[0], logits=first[1], one=after_one,
             all=runtime.state(), predicted=runtime.predict(data["x"][0]))
"""


def network(model: str) -> nn.Sequential:
    if model == "dense":
        return nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, LABELS))
    if model == "images":
        first = [nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, stride=2, padding=1)]
        return nn.Sequential(*first, nn.Sigmoid(), nn.Flatten(), nn.Linear(24, LABELS))
    first = [nn.Conv1d(3, 6, 5, stride=2), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(6, 8, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(72, LABELS))


@pytest.fixture(scope="module")
def python(request: pytest.FixtureRequest) -> Path:
    """The interpreter of the environment."""
    proof = "import tflite_runtime.interpreter, paho.mqtt, cbor2, click"
    return python_with(request, "tflite-2.14", *PACKAGES, versions=("3.11",), proof=proof)


def batches(model: str) -> tuple[FloatArray, FloatArray]:
    random = np.random.default_rng(2)
    x = np.maximum(random.standard_normal((STEPS, BATCH, *SHAPES[model])), 0).astype(np.float32)
    return x, np.eye(LABELS, dtype=np.float32)[random.integers(LABELS, size=(STEPS, BATCH))]


def trained_by_numpy(folder: Path, lr: float) -> tuple[float, FloatArray, FloatArray, FloatArray, FloatArray]:
    """First loss, first logits, parameters after one step, state after all, prediction."""
    runtime = NumpyRuntime(load_program(folder))
    data = np.load(folder / "batches.npz")
    loss, logits = runtime.train(data["x"][0], data["target"][0], lr)
    one = runtime.parameters()
    for x, target in zip(data["x"][1:], data["target"][1:], strict=True):
        runtime.train(x, target, lr)
    return loss, logits, one, runtime.state(), runtime.predict(data["x"][0])


@pytest.mark.slow
def test_the_last_32_bit_runtime_trains_as_numpy_does(python: Path, tmp_path: Path) -> None:
    pairs: list[tuple[str, Optimiser]] = [(m, o) for m in ("dense", "images") for o in LR] + [("signals", "sgd")]
    folders = {tmp_path / f"{model}-{optimiser}": (model, optimiser) for model, optimiser in pairs}
    for folder, (model, optimiser) in folders.items():
        write_folder(
            pack(
                network(model),
                name=model,
                input_shape=SHAPES[model],
                labels=tuple("abcd"),
                optimiser=optimiser,
                batch=BATCH,
                predict_batch=12,
            ),
            folder,
        )
        x, target = batches(model)
        np.savez(folder / "batches.npz", x=x, target=target, lr=LR[optimiser])
    environment = outside_ours() | {"PYTHONPATH": str(ROOT)}
    command = [str(python), "-c", TRAINING, *map(str, folders)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    for folder, (_, optimiser) in folders.items():
        loss, logits, one, everything, predicted = trained_by_numpy(folder, LR[optimiser])
        got = np.load(folder / "results.npz")
        assert str(got["name"]) == "tflite 2.14.0 (tflite-runtime)"
        assert abs(float(got["loss"]) - loss) < AFTER_ONE
        for key, want, tolerance in (
            ("logits", logits, AFTER_ONE),
            ("one", one, AFTER_ONE),
            ("all", everything, AFTER_ALL),
            ("predicted", predicted, AFTER_ALL),
        ):
            np.testing.assert_allclose(got[key], want, rtol=0, atol=tolerance, err_msg=f"{folder.name}: {key}")
