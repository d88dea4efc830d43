"""Proxy states and memories: cells, codes, the range coder, round trips and any bytes at all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.wire.arithmetic import Model, Reader, Writer, read_tree, write_tree
from edge.wire.codec import FrameError, Reason, decode, encode
from edge.wire.limits import memory_limit, pairs_limit
from edge.wire.messages import FleetMemory, FleetPairs, MemoryUpload, PairsUpload
from edge.wire.options import AgentOptions
from edge.wire.proxy import (
    Floats,
    Grid,
    Pairs,
    ProxyMemory,
    code_memory,
    code_policies,
    code_values,
    pair,
    read_policies,
    read_values,
)
from edge.wire.rows import NotFiniteError
from edge.wire.tasks import TASKS

CARTPOLE = Grid(ranges=TASKS["CartPole-v1"].ranges, bins=30)

# ---------------------------------------------------------------- cells


def test_a_cell_by_hand() -> None:
    """Two components of 4 bins: -1..1 in steps of .5 and -2..2 in steps of 1; the last component is the fastest."""
    grid = Grid(ranges=(1.0, 2.0), bins=4)
    states = np.array([[-1.0, -2.0], [0.1, 1.5], [0.99, -0.5], [7.0, -9.0]], np.float32)
    assert grid.cell(states).tolist() == [0, 2 * 4 + 3, 3 * 4 + 1, 3 * 4 + 0]
    np.testing.assert_allclose(grid.centres(np.array([0, 11], np.uint32)), [[-0.75, -1.5], [0.25, 1.5]])


@given(seed=st.integers(0, 99), bins=st.integers(2, 60))
def test_a_centre_lies_in_its_cell(seed: int, bins: int) -> None:
    for task in TASKS.values():
        if bins ** len(task.ranges) > 2**32:
            continue
        grid = Grid(ranges=task.ranges, bins=bins)
        cells = np.unique(np.random.default_rng(seed).integers(grid.cells, size=50).astype(np.uint32))
        np.testing.assert_array_equal(grid.cell(grid.centres(cells)), cells)


def test_too_fine_a_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"2\^32 cells"):
        Grid(ranges=TASKS["Acrobot-v1"].ranges, bins=100)


# ---------------------------------------------------------------- codes


def test_policy_codes_by_hand() -> None:
    policies = np.array([[0.5, 0.5], [0.2, 0.8], [1.0, 0.0], [0.1, 0.9]], np.float32)
    cells = np.array([0, 1, 2, 3], np.uint32)  # shifted by -1/2, .118, -.264, .354 of an octave
    assert code_policies(policies, cells, 4)[:, 0].tolist() == [0, 2, -7, 3]
    shifts = np.array([0, 0.618034, 0.236068, 0.854102]) - 0.5
    ratios = 2.0 ** (np.array([0, 2, -7, 3]) + shifts)
    read = read_policies(np.array([[0], [2], [-7], [3]], np.int8), cells, 4)
    np.testing.assert_allclose(read[:, 1], ratios / (1 + ratios), 1e-6)


@pytest.mark.parametrize(("bits", "worst"), [(4, 0.5), (8, 1 / 32)])
def test_a_ratio_is_known_to_half_a_step(bits: int, worst: float) -> None:
    policies = np.random.default_rng(0).dirichlet(np.ones(3), 500).astype(np.float32)
    policies = policies[(policies > 0.01).all(axis=1)]
    cells = np.arange(len(policies), dtype=np.uint32)
    back = read_policies(code_policies(policies, cells, bits), cells, bits)
    octaves = np.log2(policies[:, 1:] / policies[:, :1]) - np.log2(back[:, 1:] / back[:, :1])
    assert np.abs(octaves).max() <= worst + 1e-3
    assert abs(octaves.mean()) < worst / 10
    np.testing.assert_allclose(back.sum(axis=1), 1, atol=1e-6)


def test_less_than_half_a_step_is_not_lost() -> None:
    """A policy a tenth of an octave off even is so on average over the cells, which plain rounding calls even."""
    cells = np.arange(1000, dtype=np.uint32)
    policies = np.tile(np.array([[1.0, 2.0**0.1]]) / (1 + 2.0**0.1), (1000, 1)).astype(np.float32)
    back = read_policies(code_policies(policies, cells, 4), cells, 4)
    assert np.log2(back[:, 1] / back[:, 0]).mean() == pytest.approx(0.1, abs=0.01)


def test_values_are_known_to_half_a_step() -> None:
    values = np.linspace(-1.5, 2.0, 77, dtype=np.float32)
    span, codes = code_values(values)
    assert np.abs(read_values(span, codes) - values).max() <= 3.5 / 255 / 2 + 1e-6


def test_what_diverged_is_refused() -> None:
    nan = np.full((1, 2), np.nan, np.float32)
    with pytest.raises(NotFiniteError):
        code_policies(nan, np.zeros(1, np.uint32), 4)
    with pytest.raises(NotFiniteError):
        code_values(nan[0])
    with pytest.raises(NotFiniteError):
        pair(np.full((1, 4), np.inf, np.float32), np.full((1, 2), 0.5, np.float32))


# ---------------------------------------------------------------- the coder


@given(bits=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), max_size=400), tail=st.integers(0, 2**20 - 1))
def test_bits_come_back(bits: list[tuple[int, int]], tail: int) -> None:
    writer, model = Writer(), Model(4)
    for context, bit in bits:
        writer.bit(model, context, bit)
    writer.even(tail, 20)
    data = writer.finish()
    reader, model = Reader(data), Model(4)
    assert [reader.bit(model, context) for context, _ in bits] == [bit for _, bit in bits]
    assert reader.even(20) == tail
    assert not data.endswith(b"\0")


def test_a_carry_runs_through_the_bytes_written() -> None:
    """A long stretch of the least likely bit, then the most likely: the low end passes 2^32 with 0xFF bytes behind."""
    for seed in range(200):
        rng = np.random.default_rng(seed)
        wanted = (rng.random(300) < rng.choice([0.02, 0.98])).astype(int).tolist()
        writer, model = Writer(), Model(1)
        for bit in wanted:
            writer.bit(model, 0, bit)
        reader, model = Reader(writer.finish()), Model(1)
        assert [reader.bit(model, 0) for _ in wanted] == wanted


def test_a_biased_source_costs_about_its_entropy() -> None:
    rng = np.random.default_rng(1)
    symbols = rng.choice(8, 4000, p=[0.7, 0.1, 0.1, 0.02, 0.02, 0.02, 0.02, 0.02]).tolist()
    writer, model = Writer(), Model(8)
    for symbol in symbols:
        write_tree(writer, model, 0, symbol, 3)
    data = writer.finish()
    entropy = 4000 * -(0.7 * np.log2(0.7) + 0.2 * np.log2(0.1) + 0.1 * np.log2(0.02)) / 8
    assert entropy < len(data) < 1.08 * entropy
    reader, model = Reader(data), Model(8)
    assert [read_tree(reader, model, 0, 3) for _ in symbols] == symbols


# ---------------------------------------------------------------- memories


@st.composite
def memories(draw: st.DrawFn) -> tuple[ProxyMemory, np.ndarray, Floats, Floats | None]:
    grid = Grid(ranges=(1.0,) * draw(st.integers(1, 4)), bins=draw(st.integers(2, 40)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(0, min(60, grid.cells)))
    cells = np.sort(rng.choice(grid.cells, count, replace=False)).astype(np.uint32)
    policies = rng.dirichlet(np.full(draw(st.integers(2, 5)), 0.5), count).astype(np.float32)
    values = rng.normal(size=count).astype(np.float32) if draw(st.booleans()) else None
    bits = draw(st.sampled_from((4, 8)))
    return code_memory(grid, cells, policies, values, bits=bits), cells, policies, values


@given(made=memories())
def test_a_memory_comes_back(made: tuple[ProxyMemory, np.ndarray, Floats, Floats | None]) -> None:
    memory, cells, policies, values = made
    np.testing.assert_array_equal(memory.cells, cells)
    np.testing.assert_array_equal(
        memory.policies, read_policies(code_policies(policies, cells, memory.bits), cells, memory.bits)
    )
    assert (memory.values is None) == (values is None)
    for message in (
        MemoryUpload(run=1, round=2, check=3, memory=memory),
        FleetMemory(run=1, round=2, memory=memory),
    ):
        frame = encode(message)
        assert len(frame) <= memory_limit(memory.cells_there_are, memory.actions, memory.bits)
        back = decode(frame, limit=len(frame))
        assert back == message
        assert hash(back) == hash(message)
        assert encode(back) == frame


@settings(max_examples=300)
@given(data=st.binary(max_size=60), entries=st.integers(0, 40), bits=st.sampled_from((4, 8)), values=st.booleans())
def test_any_bytes_are_a_memory_or_refused(data: bytes, entries: int, bits: int, values: bool) -> None:
    """And what is read can be written: cells ascend and lie in the grid, policies are probabilities."""
    span = (-1.0, 1.0) if values else None
    try:
        memory = ProxyMemory(bins=9, components=3, actions=3, bits=bits, span=span, entries=entries, data=data)
    except ValueError:
        return
    assert (np.diff(memory.cells.astype(np.int64)) > 0).all()
    assert memory.cells.max(initial=0) < 9**3
    np.testing.assert_allclose(memory.policies.sum(axis=1), 1, atol=1e-5)
    assert not memory.policies.flags.writeable


WHOLE = code_memory(CARTPOLE, np.array([5, 9], np.uint32), np.full((2, 2), 0.5, np.float32))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"entries": 200_001}, "at most 200000 entries"),
        ({"bins": 1}, "at least 2 bins"),
        ({"components": 9}, "2\\^32 cells"),
        ({"actions": 1}, "2 to 64 actions"),
        ({"bits": 3}, "8 or 4 bits"),
        ({"span": (1.0, 0.0)}, "a least and a largest"),
        ({"data": b"\1\0"}, "zeros at a memory's end"),
        ({"data": b"\xff" * 9}, "a gap between cells"),
    ],
)
def test_what_is_no_memory_is_refused(changed: dict[str, object], message: str) -> None:
    fields = {
        name: getattr(WHOLE, name) for name in ("bins", "components", "actions", "bits", "span", "entries", "data")
    }
    with pytest.raises(ValueError, match=message):
        ProxyMemory(**(fields | changed))


def test_cells_that_do_not_ascend_are_refused() -> None:
    for cells in ([2, 1], [1, 1], [810_000]):
        policies = np.full((len(cells), 2), 0.5, np.float32)
        with pytest.raises(ValueError, match="cells ascend"):
            code_memory(CARTPOLE, np.array(cells, np.uint32), policies)


def test_a_dense_memory_takes_a_byte_an_entry_or_less() -> None:
    """Runs of neighbouring cells whose policy changes slowly, as agents leave them (docs/rl.md has the real ones)."""
    cells = (np.arange(40)[:, None] * 900 + np.arange(25)).ravel().astype(np.uint32)  # 40 runs of 25
    p = 1 / (1 + np.exp(-np.linspace(-4, 4, 25)))
    policies = np.tile(np.stack([1 - p, p], axis=1), (40, 1)).astype(np.float32)
    assert len(code_memory(CARTPOLE, cells, policies).data) < len(cells)


# ---------------------------------------------------------------- pairs, options


@given(seed=st.integers(0, 999), n=st.integers(0, 40), actions=st.integers(2, 4))
def test_pairs_come_back(seed: int, n: int, actions: int) -> None:
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(n, 4)).astype(np.float32)
    policies = rng.dirichlet(np.ones(actions), n).astype(np.float32)
    pairs = pair(states, policies)
    np.testing.assert_array_equal(pairs.states, states)
    np.testing.assert_allclose(pairs.policies, policies, atol=1e-6)
    for message in (PairsUpload(run=1, round=2, check=3, pairs=pairs), FleetPairs(run=1, round=2, pairs=pairs)):
        frame = encode(message)
        assert len(frame) <= pairs_limit(4 + actions - 1)
        back = decode(frame, limit=len(frame))
        assert back == message
        assert hash(back) == hash(message)


def test_pairs_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="a state and a policy a row"):
        Pairs(components=3, numbers=np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match="not negative"):
        Pairs(components=1, numbers=np.array([[0.0, 0.7, 0.7]], np.float32))
    frame = bytearray(
        encode(FleetPairs(run=1, round=2, pairs=Pairs(components=1, numbers=np.zeros((2, 3), np.float32))))
    )
    frame[5] = 4  # rows of 4 numbers
    with pytest.raises(FrameError) as refused:
        decode(bytes(frame), limit=1000)
    assert refused.value.reason is Reason.SHAPE


@given(
    segment=st.integers(1, 64),
    bins=st.integers(2, 1000),
    rates=st.tuples(*[st.floats(0.01, 1.0)] * 4),
    flags=st.tuples(st.booleans(), st.booleans()),
)
def test_options_come_back(
    segment: int, bins: int, rates: tuple[float, float, float, float], flags: tuple[bool, bool]
) -> None:
    discount, trace, reward, mixup = rates
    said = AgentOptions(
        segment=segment,
        bins=bins,
        discount=discount,
        trace=trace,
        reward=reward,
        mixup=mixup,
        average=flags[0],
        values=flags[1],
    )
    assert AgentOptions.from_plan(said.to_plan(3)) == said


def test_a_flag_is_0_or_1() -> None:
    options = replace(AgentOptions(), values=True).to_plan(0)
    with pytest.raises(ValueError, match="average and values"):
        AgentOptions.from_plan((*options[:-1], 2.0))
