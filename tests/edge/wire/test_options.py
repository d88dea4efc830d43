from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edge.wire.messages import OPTIONS, Method
from edge.wire.options import FldOptions, Options, ShareOptions


@pytest.mark.parametrize("kind", dict.fromkeys(OPTIONS.values()))
def test_a_plan_says_the_defaults(kind: type[FldOptions | ShareOptions]) -> None:
    options = kind()
    said = options.to_plan(99)
    assert all(number == float(np.float32(number)) for number in said)
    assert kind.from_plan(said).to_plan(99) == said


def test_share_says_no_inputs_while_it_warms_up() -> None:
    options = ShareOptions(inputs=900, warm_up=2)
    assert [options.to_plan(round_)[0] for round_ in range(4)] == [0, 0, 900, 900]
    assert ShareOptions.from_plan(options.to_plan(1)).inputs == 0
    assert ShareOptions.from_plan(options.to_plan(2)) == ShareOptions(inputs=900, warm_up=0)


def test_zeros_at_the_end_are_left_out() -> None:
    assert ShareOptions(shift=0).to_plan(9) == (900.0, 3.0)
    assert ShareOptions(shift=0, bits=4).to_plan(9) == (900.0, 3.0, 0.0, 4.0)


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda: FldOptions(seeds=0), "seeds a device"),
        (lambda: FldOptions(steps=0), "conversion steps"),
        (lambda: FldOptions(lr=0.0), "conversion lr"),
        (lambda: FldOptions(beta=-1.0), "beta"),
        (lambda: FldOptions(lam=0.5), "taken apart"),
        (lambda: FldOptions(lam=1e60), "float32"),
        (lambda: ShareOptions(inputs=20_001), "shared inputs"),
        (lambda: ShareOptions(buffer=0), "buffer"),
        (lambda: ShareOptions(shift=65), "pixels"),
        (lambda: ShareOptions(bits=5), "one of 0, 8, 4, 3"),
        (lambda: ShareOptions.from_plan((900.0, 3.0, 2.0, 0.0, 1.0)), "at most 4"),
        (lambda: ShareOptions.from_plan((900.0, 3.0, 0.0)), "left out"),
        (lambda: ShareOptions.from_plan((float("nan"), 3.0)), "whole number"),
        (lambda: ShareOptions.from_plan((900.5, 3.0)), "whole number"),
        (lambda: FldOptions.from_plan(()), "seeds a device"),
    ],
)
def test_options_check_themselves(build: Callable[[], Options], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        build()


def test_methods_of_the_first_wire_have_no_options() -> None:
    assert {Method.ALONE, Method.FL, Method.FD}.isdisjoint(OPTIONS)
