"""What the aggregator makes of agents' memories, by hand, and which uploads it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from broker import admit
from broker.methods.proxy import gather, merge
from broker.round import Arrived, Born, Publish, open_run, step
from broker.settings import AGENT_DEFAULTS, RunSettings, settings_from_plain, settings_to_plain
from edge.wire.codec import FrameError, Reason, encode
from edge.wire.limits import pairs_limit
from edge.wire.messages import (
    Birth,
    Done,
    FleetMemory,
    FleetPairs,
    MemoryUpload,
    Method,
    PairsUpload,
    Parameters,
    ParameterUpload,
)
from edge.wire.options import AgentOptions
from edge.wire.proxy import Grid, code_memory, pair
from edge.wire.tasks import TASKS

TASK = TASKS["CartPole-v1"]
GRID = Grid(ranges=TASK.ranges, bins=10)
EVEN, SURE = (0.5, 0.5), (1 / 129, 128 / 129)
CHECK = int.from_bytes(TASK.digest[:2], "big")


def told(cells: list[int], policies: list[tuple[float, float]], values: list[float] | None = None) -> MemoryUpload:
    said = None if values is None else np.array(values, np.float32)
    memory = code_memory(GRID, np.array(cells, np.uint32), np.array(policies, np.float32), said, bits=8)
    return MemoryUpload(run=7, round=0, check=CHECK, memory=memory)


def raw(*rows: tuple[float, float]) -> PairsUpload:
    states = np.arange(4 * len(rows), dtype=np.float32).reshape(-1, 4)
    return PairsUpload(run=7, round=0, check=CHECK, pairs=pair(states, np.array(rows, np.float32)))


def settings(method: Method, **more: Any) -> RunSettings:
    options = AgentOptions(bins=10)
    fields = dict(run=7, program=TASK.digest, schema=TASK.digest, labels=2, parameters=3, size=4, devices=2, bits=8)
    return RunSettings(**{**AGENT_DEFAULTS, **fields, "method": method, "options": options, **more})


def test_a_cells_policy_is_the_mean_over_those_who_were_there() -> None:
    merged = merge([told([3, 500], [EVEN, SURE], [0.0, 1.0]), told([500, 9999], [EVEN, EVEN], [0.5, 1.0])])
    assert merged.cells.tolist() == [3, 500, 9999]
    np.testing.assert_allclose(merged.policies[:, 1], [0.5, (0.5 + 128 / 129) / 2, 0.5], atol=0.02)
    assert merged.values is not None
    np.testing.assert_allclose(merged.values, [0.0, 0.75, 1.0], atol=0.01)


def test_values_are_told_where_everybody_tells_them() -> None:
    assert merge([told([3], [EVEN], [0.5]), told([4], [EVEN])]).values is None


def test_pairs_stand_one_agent_after_another() -> None:
    both = gather([raw(EVEN, SURE), raw(SURE)])
    assert both.states[:, 0].tolist() == [0, 4, 0]
    np.testing.assert_allclose(both.policies[:, 0], [0.5, 1 / 129, 1 / 129], atol=1e-6)


def test_of_too_many_pairs_the_newest_stay() -> None:
    """What is gathered fits in a frame that every device reads."""
    states = np.arange(40_000, dtype=np.float32)[:, None] + np.zeros(4, np.float32)
    many = pair(states, np.full((40_000, 2), 0.5, np.float32))
    gathered = gather([replace(raw(EVEN), pairs=many)] * 2)
    assert len(encode(FleetPairs(run=7, round=1, pairs=gathered))) <= pairs_limit(5)
    assert gathered.states[-1, 0] == 39_999
    assert gathered.states[0, 0] > 0


def test_what_cannot_be_merged_is_said() -> None:
    other = replace(told([1], [EVEN]), memory=code_memory(GRID, np.array([1], np.uint32), np.array([EVEN], np.float32)))
    with pytest.raises(ValueError, match="one grid"):
        merge([told([1], [EVEN]), other])
    for function in (merge, gather):
        with pytest.raises(ValueError, match="at least one"):
            function([])


# ---------------------------------------------------------------- a round


@pytest.mark.parametrize(
    ("method", "uploads", "kind"),
    [
        (Method.FRD, [told([1], [EVEN]), told([2], [SURE])], FleetMemory),
        (Method.MIXFRD, [told([1], [EVEN]), told([2], [SURE])], FleetMemory),
        (Method.PD, [raw(EVEN), raw(SURE)], FleetPairs),
        (
            Method.FRL,
            [
                ParameterUpload(run=7, round=0, check=CHECK, samples=1, parameters=np.full(3, v, np.float32))
                for v in (1, 2)
            ],
            Parameters,
        ),
    ],
)
def test_a_round_closes_with_what_opens_the_next(method: Method, uploads: list[Any], kind: type) -> None:
    run = settings(method)
    state, _ = open_run(run, 0.0)
    birth = Birth(
        profile="x", runtime="y", version="z", program=TASK.digest, schema=TASK.digest, samples=np.zeros(2, np.uint32)
    )
    for device in ("d0", "d1"):
        state, _ = step(state, Born(device, birth), 0.0)
    for device, upload in zip(("d0", "d1"), uploads, strict=True):
        assert admit.upload(encode(upload), run) == upload
        state, actions = step(state, Arrived(device, upload), 1.0)
    sent = [action.message for action in actions if isinstance(action, Publish)]
    assert isinstance(sent[0], kind)
    assert [getattr(message, "round", None) for message in sent] == [1, 1]
    assert state.opening == sent[0]
    assert settings_from_plain(settings_to_plain(run)) == run


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("message", "method", "reason"),
    [
        (replace(told([1], [EVEN]), run=8), Method.FRD, Reason.RUN),
        (replace(told([1], [EVEN]), check=1), Method.FRD, Reason.SCHEMA),
        (raw(EVEN), Method.FRD, Reason.UNEXPECTED),
        (told([1], [EVEN]), Method.PD, Reason.UNEXPECTED),
        (Done(run=7, round=0), Method.MIXFRD, Reason.UNEXPECTED),
        (
            replace(raw(EVEN), pairs=pair(np.zeros((1, 3), np.float32), np.full((1, 2), 0.5, np.float32))),
            Method.PD,
            Reason.SHAPE,
        ),
    ],
)
def test_what_does_not_belong_to_the_run_is_refused(message: Any, method: Method, reason: Reason) -> None:
    with pytest.raises(FrameError) as refused:
        admit.upload(encode(message), settings(method))
    assert refused.value.reason is reason


@pytest.mark.parametrize(
    ("changes", "reason"), [({"options": AgentOptions(bins=11)}, Reason.SHAPE), ({"bits": 4}, Reason.BITS)]
)
def test_a_memory_of_another_plan_is_refused(changes: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(FrameError) as refused:
        admit.upload(encode(told([1], [EVEN])), settings(Method.FRD, **changes))
    assert refused.value.reason is reason


def test_settings_no_agent_can_have() -> None:
    with pytest.raises(ValueError, match="4 or 8"):
        settings(Method.FRD, bits=3)
    with pytest.raises(ValueError, match="components"):
        settings(Method.PD, size=0)
