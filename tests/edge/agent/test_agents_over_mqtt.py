"""Two device processes, one on onnx and one on numpy, one with larger networks than the other, solve CartPole."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from broker.servers.embedded import EmbeddedBroker
from edge.wire.tasks import TASKS
from tests.fleet import POTSTILL, Aggregator, until
from trainer.rl.agents import Learning, parameters
from trainer.rl.programs import pack_agent, write_agent

TASK = TASKS["CartPole-v1"]
SOLVED = TASK.fraction(TASK.solved)
AGENTS = {"d00": ("onnx", (24, 24)), "d01": ("numpy", (32, 16))}
ROUNDS, PATIENCE_S = 40, 240.0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_agents_of_different_networks_solve_cartpole_together(tmp_path: Path) -> None:
    """The test ends when both have; a thousand episodes are allowed, a hundred are the rule."""
    devices: list[subprocess.Popen[bytes]] = []
    with EmbeddedBroker() as server:
        options = ["--broker", server.url, "--ledger", str(tmp_path / "ledger.sqlite"), "--fleet", "poles"]
        options += ["--task", TASK.name, "--method", "frd", "--devices", "2", "--rounds", str(ROUNDS)]
        aggregator = Aggregator([*options, "--lr", "0.003", "--seed", "1"])
        try:
            for name, (runtime, hidden) in AGENTS.items():
                actor, critic = parameters(TASK, hidden, 1, name)
                write_agent(pack_agent(TASK, hidden, actor, critic, clip=Learning().clip, name="pole"), tmp_path / name)
                command = [*POTSTILL, "edge", "agent", "--broker", server.url, "--fleet", "poles", "--device", name]
                command += ["--program", str(tmp_path / name), "--env", TASK.name, "--runtime", runtime]
                command += ["--work", str(tmp_path / f"work-{name}")]
                with (tmp_path / f"{name}.log").open("wb") as log:
                    devices.append(subprocess.Popen(command, stderr=log))

            def best() -> dict[str, float]:
                reports = aggregator.named("report")
                return {
                    name: max((r["accuracy"] for r in reports if r["device"] == name), default=0) for name in AGENTS
                }

            until(
                lambda: min(best().values()) > SOLVED or aggregator.process.poll() is not None,
                f"both agents above {SOLVED}; {[(tmp_path / f'{n}.log').read_text()[-500:] for n in AGENTS]}",
                PATIENCE_S,
            )
            assert min(best().values()) > SOLVED, best()
            rounds = aggregator.named("round")
            assert all(set(entry["cohort"]) == set(AGENTS) for entry in rounds)
            sent = aggregator.named("report")[-1]
            assert 0 < sent["payload_up"] < 6_000 * (sent["round"] + 1)  # FRL's networks alone would be more
        finally:
            for device in devices:
                device.terminate()
            aggregator.close()
            for device in devices:
                device.wait(20)
