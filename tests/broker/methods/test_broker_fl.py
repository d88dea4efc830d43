"""FedAvg's mean, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from broker.methods.fl import average
from edge.wire.messages import ParameterUpload


def upload(samples: int, *parameters: float) -> ParameterUpload:
    return ParameterUpload(run=1, round=0, check=0, samples=samples, parameters=np.array(parameters, np.float32))


def test_the_mean_is_weighted_by_samples() -> None:
    mean = average([upload(1, 0.0, 4.0), upload(3, 4.0, 0.0)])
    assert mean.tolist() == [3.0, 1.0]
    assert mean.dtype == np.float32


def test_it_is_summed_in_float64() -> None:
    # In float32, 2^24 + 1 is 2^24 again: a hundred ones would be lost one by one.
    assert average([upload(1, 2.0**24), *[upload(1, 1.0)] * 100])[0] == np.float32((2**24 + 100) / 101)


def test_large_parameters_do_not_overflow() -> None:
    assert average([upload(2**31, 3e38), upload(2**31, 3e38)])[0] == np.float32(3e38)


def test_what_cannot_be_averaged_is_said() -> None:
    with pytest.raises(ValueError, match="at least one"):
        average([])
    with pytest.raises(ValueError, match="one parameter layout"):
        average([upload(1, 1.0), upload(1, 1.0, 2.0)])
