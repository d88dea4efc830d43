from __future__ import annotations

import numpy as np

from edge.wire.streams import FLEET, Purpose, stream


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
