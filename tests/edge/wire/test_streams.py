from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge.wire.streams import FLEET, Purpose, batches, stream


def test_streams_differ_by_seed_device_round_and_purpose_and_by_nothing_else() -> None:
    first = stream(1, "d0", 0, Purpose.BATCHES).integers(0, 2**60, 4).tolist()
    assert first == stream(1, "d0", 0, Purpose.BATCHES).integers(0, 2**60, 4).tolist()
    others = [
        stream(2, "d0", 0, Purpose.BATCHES),
        stream(1, "d1", 0, Purpose.BATCHES),
        stream(1, "d0", 1, Purpose.BATCHES),
        stream(1, "d0", 0, Purpose.SHIFT),
        stream(1, FLEET, 0, Purpose.BATCHES),
    ]
    drawn = [first, *(rng.integers(0, 2**60, 4).tolist() for rng in others)]
    assert len({tuple(numbers) for numbers in drawn}) == 6


def test_the_stream_is_pcg64_over_seed_crc32_round_and_purpose() -> None:
    crc32_of_d07 = 3613665554
    expected = np.random.Generator(np.random.PCG64(np.random.SeedSequence([5, crc32_of_d07, 2, 0])))
    assert stream(5, "d07", 2, Purpose.BATCHES).random() == expected.random()


def test_a_purpose_keeps_its_number() -> None:
    assert {purpose.name: purpose.value for purpose in Purpose} == {
        "BATCHES": 0,
        "SEEDS": 1,
        "SHARED": 2,
        "SHIFT": 3,
        "PUBLIC": 4,
        "CONVERSION": 5,
        "EXPLORE": 6,
        "ENVIRONMENT": 7,
        "REPLAY": 8,
        "MIXUP": 9,
        "FADING": 10,
    }


@given(st.integers(1, 100), st.integers(1, 40), st.integers(1, 30))
def test_every_epoch_draws_every_sample_once(n: int, size: int, steps: int) -> None:
    rng = stream(1, "d0", 0, Purpose.BATCHES)
    drawn = list(batches(rng, n, size, steps))
    assert [len(batch) for batch in drawn] == [min(n, size)] * steps
    flat = np.concatenate(drawn)
    for start in range(0, len(flat) - n + 1, n):
        assert sorted(flat[start : start + n].tolist()) == list(range(n))
