"""The models that Potstill brings along, and the user's own by `module:Class`. Needs torch.

Letters: L labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from trainer.compile.optimise import Optimiser

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelKind:
    build: Callable[[Shape, int], nn.Module]
    """(input shape of one sample, L) -> module."""
    input_shape: Shape
    """Where none is asked for."""
    labels: tuple[str, ...]
    optimiser: Optimiser
    about: str


_DIGITS = tuple("0123456789")
_ACTIVITIES = ("walking", "walking-upstairs", "walking-downstairs", "sitting", "standing", "laying")
"""Of UCI HAR, in its label order 1 to 6."""


def mlp(input_shape: Shape, labels: int) -> nn.Module:
    """One hidden layer of 128: 784-128-10 has 101,770 parameters."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), 128), nn.ReLU(), nn.Linear(128, labels))


def mlp_32(input_shape: Shape, labels: int) -> nn.Module:
    """One hidden layer of 32: 135-32-6 has 4,550 parameters."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(input_shape), 32), nn.ReLU(), nn.Linear(32, labels))


def cnn(input_shape: Shape, labels: int) -> nn.Module:
    """conv3x3x12 same - maxpool2 - relu - conv3x3x6 same - relu - FC: 12,544 parameters for 1x28x28 and 10 labels.

    One layout of the size that is recalled of Mix2FLD's model (arXiv 2006.09801); its own could not be checked.
    """
    return _cnn(input_shape, labels, 12, 6)


def cnn_wide(input_shape: Shape, labels: int) -> nn.Module:
    """`cnn` with twice the channels: 26,374 parameters for 1x28x28 and 10 labels."""
    return _cnn(input_shape, labels, 24, 12)


def _cnn(input_shape: Shape, labels: int, first: int, second: int) -> nn.Module:
    channels, height, width = input_shape
    return nn.Sequential(
        nn.Conv2d(channels, first, 3, padding=1),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(second * (height // 2) * (width // 2), labels),
    )


def cnn_fd2018(input_shape: Shape, labels: int) -> nn.Module:
    """Of arXiv 1811.11479: conv3x3x32 - conv3x3x64 - maxpool2 - FC 128 - FC; 1,199,648 weights on 28x28, and biases."""
    channels, height, width = input_shape
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * ((height - 4) // 2) * ((width - 4) // 2), 128),
        nn.ReLU(),
        nn.Linear(128, labels),
    )


def cnn_8x8(input_shape: Shape, labels: int) -> nn.Module:
    """For scikit-learn's digits: conv3x3x16 same - relu - maxpool2 - conv3x3x32 same - relu - FC; 9,930 parameters."""
    channels, height, width = input_shape
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * (height // 2) * (width // 2), labels),
    )


def har_cnn(input_shape: Shape, labels: int) -> nn.Module:
    """conv9/4x16 - relu - conv5/2x32 - relu - FC over 9 x 128 samples of phone sensors."""
    channels, length = input_shape
    first = (length - 9) // 4 + 1
    second = (first - 5) // 2 + 1
    return nn.Sequential(
        nn.Conv1d(channels, 16, 9, stride=4),
        nn.ReLU(),
        nn.Conv1d(16, 32, 5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * second, labels),
    )


MODELS: dict[str, ModelKind] = {
    "mlp": ModelKind(
        build=mlp, input_shape=(1, 28, 28), labels=_DIGITS, optimiser="sgd", about="dense, one hidden layer of 128"
    ),
    "cnn": ModelKind(
        build=cnn,
        input_shape=(1, 28, 28),
        labels=_DIGITS,
        optimiser="sgd",
        about="two convolutions, 12,544 parameters on 28x28",
    ),
    "mlp-32": ModelKind(
        build=mlp_32, input_shape=(135,), labels=_ACTIVITIES, optimiser="sgd", about="dense, one hidden layer of 32"
    ),
    "cnn-wide": ModelKind(
        build=cnn_wide, input_shape=(1, 28, 28), labels=_DIGITS, optimiser="sgd", about="cnn with twice the channels"
    ),
    "cnn-fd2018": ModelKind(
        build=cnn_fd2018,
        input_shape=(1, 28, 28),
        labels=_DIGITS,
        optimiser="sgd",
        about="the FD paper's, 1,199,648 weights",
    ),
    "cnn-8x8": ModelKind(
        build=cnn_8x8, input_shape=(1, 8, 8), labels=_DIGITS, optimiser="sgd", about="two convolutions for 8x8 digits"
    ),
    "har-cnn": ModelKind(
        build=har_cnn,
        input_shape=(9, 128),
        labels=_ACTIVITIES,
        optimiser="momentum",
        about="two 1-D convolutions for phone sensors",
    ),
}


def build_model(model: str, *, input_shape: Shape | None, labels: int | None, seed: int) -> nn.Module:
    """One of `MODELS`, or "module:Class" or "file.py:Class" called without arguments; `seed` draws the parameters.

    Raises ValueError that says what can be asked for.
    """
    torch.manual_seed(seed)
    if model in MODELS:
        kind = MODELS[model]
        return kind.build(input_shape or kind.input_shape, labels or len(kind.labels))
    source, colon, name = model.rpartition(":")
    if not colon:
        raise ValueError(
            f"no model is called {model!r}: one of {', '.join(MODELS)}, or your own as module:Class or file.py:Class"
        )
    try:
        built = getattr(_module(source), name)()
    except (ImportError, AttributeError, TypeError, OSError, SyntaxError) as problem:
        raise ValueError(f"{model} cannot be built (a class that takes no arguments): {problem}") from problem
    if not isinstance(built, nn.Module):
        raise ValueError(f"{model} is a {type(built).__name__}, not a torch module")  # noqa: TRY004 - as documented
    return built


def _module(source: str) -> ModuleType:
    """A module on the path, or a file's."""
    if not source.endswith(".py"):
        return import_module(source)
    spec = spec_from_file_location(Path(source).stem, source)
    if spec is None or spec.loader is None:
        raise ImportError(f"{source} is not a Python file")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
