from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from broker.conversion import Converter
from broker.round import Convert
from edge.runtime.numpy_ import NumpyRuntime
from edge.runtime.program import load_program
from edge.wire.messages import Method, Seeds
from edge.wire.options import FldOptions
from edge.wire.streams import FLEET, Purpose, batches, stream
from tests.edge.conftest import write_program

L, SIZE, B = 10, 64, 32
rng = np.random.default_rng(2)
Y = rng.integers(0, L, 40)
X = rng.integers(0, 100, (40, SIZE)).astype(np.uint8)
X[np.arange(40), Y] = 255


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_program(tmp_path / "program")


def order(samples: int = 40, **changes: object) -> Convert:
    x, y, none = X[:samples], Y[:samples].astype(np.uint32), np.zeros(0, np.uint32)
    given = [Seeds(x=x, first=y, second=none, scale=1 / 255, offset=0.0)] if samples else []
    base = Convert(
        round=2,
        method=Method.FLD,
        options=FldOptions(steps=5, lr=0.5, beta=0.5),
        seed=9,
        normalise=False,
        parameters=None,
        seeds=tuple(given),
        teacher=np.full((L, L), 1 / L),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def convert(folder: Path, what: Convert) -> tuple[NDArray[np.floating], int]:
    """-> parameters, steps taken."""
    converter = Converter(folder)
    converter.begin(what)
    steps = 0
    while (found := converter.advance()) is None:
        steps += 1
    return found, steps


def by_hand(what: Convert) -> NDArray[np.floating]:
    """Softmax regression in plain numpy, by docs/methods.md."""
    wb = np.zeros(SIZE * L + L) if what.parameters is None else what.parameters.astype(np.float64)
    w, b = wb[: SIZE * L].reshape(SIZE, L).copy(), wb[SIZE * L :].copy()
    x, y = what.seeds[0].x / 255, what.seeds[0].first
    for chosen in batches(stream(what.seed, FLEET, what.round, Purpose.CONVERSION), len(y), B, what.options.steps):
        target = np.eye(L)[y[chosen]] + what.options.beta * what.teacher[y[chosen]]
        z = x[chosen] @ w + b
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        gradient = (target.sum(axis=1, keepdims=True) * p - target) / len(chosen)
        w -= what.options.lr * x[chosen].T @ gradient
        b -= what.options.lr * gradient.sum(axis=0)
    return np.concatenate([w.reshape(-1), b])


@pytest.mark.parametrize("samples", [40, 7])
@pytest.mark.parametrize("parameters", [None, np.full(SIZE * L + L, 0.01, np.float32)])
def test_a_conversion_is_plain_training_on_the_seeds(
    folder: Path, samples: int, parameters: NDArray[np.floating] | None
) -> None:
    what = order(samples, parameters=parameters)
    found, steps = convert(folder, what)
    assert steps == 5
    np.testing.assert_allclose(found, by_hand(what), atol=1e-5)


def test_the_same_order_gives_the_same_bits_whatever_came_before(folder: Path) -> None:
    first, _ = convert(folder, order())
    converter = Converter(folder)
    converter.begin(order(seed=1))
    for _ in range(3):
        assert converter.advance() is None
    converter.begin(order())  # as after a restart in the middle
    while (again := converter.advance()) is None:
        pass
    assert np.array_equal(first, again)


def test_without_seeds_the_model_stays(folder: Path) -> None:
    parameters = np.arange(SIZE * L + L, dtype=np.float32)
    assert np.array_equal(convert(folder, order(0, parameters=parameters))[0], parameters)
    initial = NumpyRuntime(load_program(folder)).parameters()
    assert np.array_equal(convert(folder, order(0))[0], initial)


def test_what_is_no_program_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no program"):
        Converter(tmp_path / "nothing")
