"""Milliseconds a round of Flower 1.8 takes without local work, to set beside `bench_round.py`: 4 clients, one core.

    python3 -m venv flower && flower/bin/pip install flwr==1.8.0
    flower/bin/python benchmarks/peer_flower_round.py [--rounds 300]

Federated distillation in its published shape: a matrix of 10 x 10 float32 through `fit`, no evaluation. Clients and
server write nothing to a disk, check nothing and keep no record. Needs no Potstill.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import statistics
import subprocess
import sys
import time
from typing import Any

CLIENTS = 4
WARM_UP = 20


def serve(port: int, rounds: int) -> None:
    import flwr as fl
    import numpy as np

    logging.disable(logging.INFO)
    began: list[float] = []

    class Strategy(fl.server.strategy.FedAvg):
        def configure_fit(self, *args: Any, **kwargs: Any) -> Any:
            began.append(time.perf_counter())
            return super().configure_fit(*args, **kwargs)

        def evaluate(self, *_: Any, **__: Any) -> None:
            return None

    rows = fl.common.ndarrays_to_parameters([np.full((10, 10), 0.1, np.float32)])
    strategy = Strategy(
        min_fit_clients=CLIENTS, min_available_clients=CLIENTS, fraction_evaluate=0.0, initial_parameters=rows
    )
    config = fl.server.ServerConfig(num_rounds=rounds)
    fl.server.start_server(server_address=f"127.0.0.1:{port}", config=config, strategy=strategy)
    took = [1000 * (after - before) for before, after in zip(began[WARM_UP:], began[WARM_UP + 1 :], strict=False)]
    print(f"Flower {fl.__version__}: median round {statistics.median(took):.1f} ms, mean {statistics.mean(took):.1f}")


def take_part(port: int) -> None:
    import flwr as fl

    class Client(fl.client.NumPyClient):
        def fit(self, parameters: Any, _config: Any) -> Any:
            return [parameters[0] * 0.5 + 0.05], 10, {}

    fl.client.start_client(server_address=f"127.0.0.1:{port}", client=Client().to_client())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--role", choices=["server", "client"], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not WARM_UP + 2 <= options.rounds <= 5000:
        parser.error(f"{WARM_UP + 2} to 5,000 rounds")
    if options.role == "server":
        serve(options.port, options.rounds)
        return
    if options.role == "client":
        take_part(options.port)
        return
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # inherited by every process below
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, __file__, "--rounds", str(options.rounds), "--port", str(port), "--role"]
    quiet = {"stderr": subprocess.DEVNULL}
    with subprocess.Popen([*command, "server"], **quiet) as server:
        _await(port)
        clients = [subprocess.Popen([*command, "client"], stdout=subprocess.DEVNULL, **quiet) for _ in range(CLIENTS)]
        try:
            server.wait(timeout=300)
        finally:
            for process in (server, *clients):
                process.kill()
                process.wait()


def _await(port: int) -> None:
    """Until the server listens; a client of Flower 1.8 does not come again."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit("the server does not listen: is flwr 1.8 installed for this Python?")


if __name__ == "__main__":
    main()
