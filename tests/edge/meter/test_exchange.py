"""The frames of a round: as long as the wire's own, and never shorter than a real run's."""

from __future__ import annotations

import numpy as np
import pytest

from edge.meter.exchange import BITS, fd, fl, share
from edge.wire.codec import encode
from edge.wire.labels import packed_bytes
from edge.wire.limits import parameters_limit, plan_limit, upload_limit
from edge.wire.messages import ParameterUpload, Upload
from edge.wire.rows import code_rows


@pytest.mark.parametrize("bits", BITS)
def test_a_real_upload_is_not_longer(bits: int) -> None:
    logits = code_rows(np.random.default_rng(0).dirichlet(np.ones(10), size=10), bits)
    real = Upload(run=123, round=7, check=0xABCD, counts=np.full(10, 8, np.uint32), logits=logits)
    frame = len(encode(real))
    (budget,) = fd(labels=10, devices=10, bits=bits).up
    assert frame <= budget <= frame + 8  # run and round as long as they get
    assert budget <= upload_limit(10, bits)


def test_the_upload_of_ten_labels_by_hand() -> None:
    """Array 1, version 1, kind 1, run 5, round 3, check 3, bits 1, counts 1 + 10, rows 2 + 50: 78 bytes at 4 bits."""
    assert fd(labels=10, devices=10, bits=4).up == (1 + 1 + 1 + 5 + 3 + 3 + 1 + 11 + 52,)


@pytest.mark.parametrize("labels", [2, 10, 100])
def test_the_plan_grows_with_labels_and_devices(labels: int) -> None:
    few, many = (fd(labels=labels, devices=devices, bits=8).down[0] for devices in (8, 800))
    assert many - few >= (800 - 8) // 8
    assert many <= plan_limit(labels, 800)


def test_shared_labels_come_on_top_both_ways() -> None:
    """900 labels of 10 take 375 bytes packed, and the head of a byte string."""
    alone, shared = fd(labels=10, devices=10, bits=4), share(labels=10, devices=10, bits=4, inputs=900)
    assert packed_bytes(900, 10) == 375
    assert 375 <= shared.up[0] - alone.up[0] <= 380
    assert 375 <= shared.down[0] - alone.down[0] <= 400


def test_fl_carries_four_bytes_a_parameter() -> None:
    found = fl(parameters=1000, labels=10, devices=10)
    real = ParameterUpload(run=1, round=1, check=1, samples=500, parameters=np.zeros(1000, np.float32))
    assert len(encode(real)) <= found.up[0] <= parameters_limit(1000)
    assert len(found.down) == 2
    assert found.largest == max(found.up + found.down) > 4000
