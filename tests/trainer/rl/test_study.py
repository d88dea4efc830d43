"""Studies of agents: small ones of what docs/rl.md reports, and every figure in a report by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import potstill
from edge.runtime.program import load_program
from edge.wire.messages import Method
from edge.wire.options import AgentOptions
from edge.wire.proxy import Grid, code_memory
from edge.wire.tasks import TASKS
from trainer.record.run import read_record
from trainer.rl.agents import Learning, parameters, population
from trainer.rl.exchange import Exchanged, Memory, distil, exchange, merge
from trainer.rl.networks import Networks, initial
from trainer.rl.newcomer import evaluate, teach
from trainer.rl.study import Figures, Group, Study, figures, run

CARTPOLE = TASKS["CartPole-v1"]


def study(method: Method, *, seeds: int = 2, lr: float = 3e-3, cap: int = 300, **more: object) -> Study:
    learning = Learning(lr=lr, options=AgentOptions(**more))  # type: ignore[arg-type]
    return Study(task=CARTPOLE, method=method, seeds=tuple(range(seeds)), cap=cap, learning=learning)


# ---------------------------------------------------------------- what the studies are for


@pytest.mark.slow
def test_fleets_that_tell_their_policies_of_now_solve_cartpole_for_a_few_kilobytes() -> None:
    asked = study(Method.FRD, seeds=1)
    found = figures(run(asked), asked.cap)
    assert found.solved == found.agents == 2
    assert found.mean < 200
    assert found.up < 3_000
    assert found.to_solve < 60_000


@pytest.mark.slow
def test_a_newcomer_plays_as_well_as_its_teachers_from_a_kilobyte() -> None:
    (small,) = [one for one in teach(study(Method.FRD, seeds=1), kinds=((30, 1000),)) if one.what.startswith("30")]
    assert small.payload < 3_000
    assert small.median >= 400


def test_the_same_seed_gives_the_same_study() -> None:
    """And a fleet does not depend on the fleets beside it, nor an agent alone on the others of its fleet."""
    both = run(study(Method.FRD, cap=50))
    assert both == run(study(Method.FRD, cap=50))
    (one,) = run(study(Method.FRD, seeds=1, cap=50))
    assert one.returns == both[0].returns
    alone = run(study(Method.ALONE, cap=50))
    assert alone[0].returns[0][:25] == both[0].returns[0][:25]  # before the first exchange
    assert alone[0].returns[0] != both[0].returns[0]


def test_agents_of_different_networks_learn_from_each_other() -> None:
    asked = Study(task=CARTPOLE, method=Method.FRD, seeds=(0,), agents=3, cap=50, hidden=((24, 24), (16,), (8, 8, 8)))
    (group,) = run(asked)
    assert len(group.exchanges) == 2
    assert [len(returns) for returns in group.returns] == [50] * 3
    with pytest.raises(ValueError, match="one shape"):
        Study(task=CARTPOLE, method=Method.FRL, seeds=(0,), hidden=((4,), (5,)))


def test_acrobot_is_played_too() -> None:
    asked = Study(task=TASKS["Acrobot-v1"], method=Method.FRD, seeds=(0,), episodes=2, cap=4)
    (group,) = run(asked)
    assert len(group.exchanges) == 2
    assert all(-500 <= one <= 0 for returns in group.returns for one in returns)


# ---------------------------------------------------------------- the exchange, by hand


def test_the_mean_in_a_cell_is_over_the_agents_that_visited_it() -> None:
    grid = Grid(ranges=(1.0,), bins=10)
    even, sure = [0.5, 0.5], [1 / 257, 256 / 257]
    a = code_memory(grid, np.array([1, 4], np.uint32), np.array([even, sure], np.float32), bits=8)
    b = code_memory(grid, np.array([4, 7], np.uint32), np.array([even, even], np.float32), bits=8)
    both = merge([a, b], grid, 8)
    assert both.cells.tolist() == [1, 4, 7]
    np.testing.assert_allclose(both.policies[:, 1], [0.5, (0.5 + 256 / 257) / 2, 0.5], atol=0.02)


def test_networks_are_averaged() -> None:
    agents = population(CARTPOLE, Learning(), names=["a", "b", "c"], seeds=[0] * 3, hidden=[(4,)] * 3, common=False)
    (bank,) = agents.banks
    wanted = bank.actor.parameters[:2].mean(axis=0)
    third = bank.actor.parameters[2].copy()
    told, memory = exchange(Method.FRL, agents, np.array([0, 1]), [], AgentOptions(), 0)
    assert memory is None
    np.testing.assert_allclose(bank.actor.parameters[0], wanted, rtol=1e-6)
    np.testing.assert_array_equal(bank.actor.parameters[0], bank.actor.parameters[1])
    np.testing.assert_array_equal(bank.actor.parameters[2], third)
    P = bank.actor.parameters.shape[1] + bank.critic.parameters.shape[1]
    assert 4 * P < min(told.up) == max(told.up) < 4 * P + 30


def test_distilling_brings_a_network_to_what_the_memory_says() -> None:
    """And leaves Adam's moments, and every other agent, as they were."""
    agents = population(CARTPOLE, Learning(), names=["a", "b"], seeds=[0, 0], hidden=[(24, 24)] * 2, common=False)
    (bank,) = agents.banks
    rng = np.random.default_rng(0)
    states = rng.normal(0, 1, (300, 4)).astype(np.float32)
    p = 1 / (1 + np.exp(-4 * states[:, 2]))
    memory = Memory(states, np.stack([1 - p, p], axis=1).astype(np.float32), p.astype(np.float32))
    bank.actor.mean[:], before = 0.5, bank.actor.parameters[1].copy()
    distil(agents, np.array([0]), [memory], AgentOptions(epochs=60, distil_lr=3e-3), 1, mix=False)
    told = agents.policies(np.array([0]), states[None])[0]
    assert np.abs(told - memory.policies).mean() < 0.02
    assert np.abs(agents.values(np.array([0]), states[None])[0] - p).mean() < 0.02
    assert (bank.actor.mean == 0.5).all()
    np.testing.assert_array_equal(bank.actor.parameters[1], before)


# ---------------------------------------------------------------- figures and reports


def test_figures_by_hand() -> None:
    exchanged = (Exchanged([10, 30], 5), Exchanged([20, 20], 5))
    groups = [
        Group(seed=0, names=("a", "b"), solved=(40, 60), returns=((), ()), exchanges=exchanged),
        Group(seed=1, names=("a", "b"), solved=(20, None), returns=((), ()), exchanges=()),
    ]
    assert figures(groups, 100) == Figures(
        agents=4,
        solved=3,
        mean=55.0,
        deviation=float(np.std([40, 60, 20, 100])),
        slowest=80.0,
        slowest_deviation=20.0,
        up=20.0,
        down=5.0,
        to_solve=25.0,
    )


def test_the_greedy_policy_is_measured() -> None:
    """A network that pushes towards where the pole falls balances for long, one that always pushes left does not."""
    agents = population(CARTPOLE, Learning(), names=["a", "b"], seeds=[0, 0], hidden=[()] * 2, common=False)
    (bank,) = agents.banks
    good = np.zeros((2, 5), np.float32)
    good[1, :4] = [0.0, 0.5, 1.0, 1.5]
    bank.actor.parameters[0] = np.concatenate([good[:, :4].ravel(), good[:, 4]])
    bank.actor.parameters[1] = np.concatenate([np.zeros(8), [1.0, 0.0]])
    held, pushed = evaluate(agents, np.arange(2), episodes=3)
    assert held > 100
    assert pushed < 15


def test_networks_of_no_hidden_layer_are_linear() -> None:
    flat = initial((2, 3), np.random.default_rng(0), 1.0)
    net = Networks((2, 3), (1.0, 2.0), flat[None])
    x = np.array([[[1.0, -1.0]]], np.float32)
    wanted = flat[:6].reshape(3, 2) @ [1.0, -2.0] + flat[6:]
    np.testing.assert_allclose(net.scores(np.array([0]), x)[0, 0], wanted, rtol=1e-5)


def test_the_command_writes_a_record_and_tables(tmp_path: Path) -> None:
    """By either name."""
    told = {}
    for words in (["rl"], ["run"]):
        out = tmp_path / words[0]
        options = ["--env", "CartPole-v1", "--seeds", "2", "--cap", "25", "--policy", "current", "--policy", "average"]
        done = CliRunner().invoke(potstill.main, ["trainer", *words, "alone", "frd", *options, "--out", str(out)])
        assert done.exit_code == 0, done.output
        record = read_record(out / "run.json")
        assert [(c.method, c.label, c.seed) for c in record.curves][::2] == [
            ("alone", "", 0),
            ("frd", "current", 0),
            ("frd", "average", 0),
        ]
        assert record.kind == "rl"
        assert record.score == "return"
        last = record.curves[2].points[-1]
        assert last.up is not None
        assert last.up.payload > 0
        assert [table.title.partition(":")[0] for table in record.tables] == [
            "CartPole-v1",
            "Published claims, and what was found here",
        ]
        assert "frd average" in done.output
        told[words[0]] = json.loads((out / "run.json").read_text())["curves"]
    assert told["rl"] == told["run"]


def test_the_command_says_what_is_wrong() -> None:
    for words, says in (
        (["frl", "--env", "CartPole-v1", "--hidden", "4", "--hidden", "5"], "one shape"),
        (["frd", "--env", "CartPole-v1", "--segment", "99"], "1 to 64 steps"),
        (["frd", "--env", "CartPole-v1", "--hidden", "a"], "positive numbers"),
        (["frd", "--env", "Pong"], "CartPole-v1"),
    ):
        done = CliRunner().invoke(potstill.main, ["trainer", "rl", *words])
        assert done.exit_code != 0
        assert says in done.output


def test_an_agent_is_compiled_with_the_parameters_of_its_name(tmp_path: Path) -> None:
    words = ["trainer", "agent", "--env", "Acrobot-v1", "--hidden", "8", "--seed", "4", "--name", "d01"]
    done = CliRunner().invoke(potstill.main, [*words, "-o", str(tmp_path)])
    assert done.exit_code == 0, done.output
    actor, critic = parameters(TASKS["Acrobot-v1"], (8,), 4, "d01")
    for part, wanted in (("actor", actor), ("critic", critic)):
        program = load_program(tmp_path / part)
        np.testing.assert_array_equal(program.initial[: len(wanted)], wanted)
