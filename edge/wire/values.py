"""What the messages have in common: how they check themselves, how they compare. A ValueError says what is wrong."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.wire.rows import NotFiniteError

_FLOAT32 = struct.Struct("<f")


def require(condition: bool, message: str) -> None:
    """Raises ValueError(message) unless the condition holds."""
    if not condition:
        raise ValueError(message)


def is_uint32(value: int) -> bool:
    """Whether four bytes hold this number."""
    return 0 <= value < 2**32


def float32(value: float) -> float:
    """The value as the wire says it, so that a message is the same before and after its journey."""
    if not math.isfinite(value):
        raise NotFiniteError("learning rate, gamma, deadline, options and reported numbers are finite")
    try:
        short: float = _FLOAT32.unpack(_FLOAT32.pack(value))[0]
    except OverflowError:
        raise ValueError(f"{value} is more than a float32 can say") from None
    return short


def shorten(value: object, *names: str) -> None:
    """Round these fields of a frozen value, in its `__post_init__`, to float32."""
    for name in names:
        object.__setattr__(value, name, float32(getattr(value, name)))


def vector(name: str, values: NDArray[Any], dtype: np.dtype[np.generic]) -> None:
    """Of this type, with one axis; read-only from here on."""
    if values.ndim != 1 or values.dtype != dtype:
        raise ValueError(f"{name} is a vector of {dtype}")
    if values.flags.writeable:
        values.flags.writeable = False


class Value:
    """Equality over all fields, arrays included (which a dataclass cannot compare by itself)."""

    __slots__ = ()

    def _key(self) -> tuple[object, ...]:
        names: tuple[str, ...] = tuple(type(self).__slots__)
        values = (getattr(self, name) for name in names)
        return tuple((v.shape, v.tobytes()) if isinstance(v, np.ndarray) else v for v in values)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Value) and type(self) is type(other) else False

    def __hash__(self) -> int:
        return hash((type(self), self._key()))
