"""The demo: for every split a fleet of device processes, for every method one run of the aggregator's process."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.data import Dataset
from trainer.demo import record
from trainer.demo.observe import Observed
from trainer.demo.processes import (
    Child,
    Processes,
    aggregator,
    check_reachable,
    failure,
    lines,
    signals_interrupt,
    start_broker,
)
from trainer.demo.progress import row
from trainer.demo.settings import DemoError, Settings, own_options, read_manifest
from trainer.demo.table import differences, explanation, markdown, rows_of, text
from trainer.partition import Split
from trainer.pool import for_run
from trainer.progress import Progress
from trainer.record.folder import make_folder
from trainer.record.run import Curve, Record, now, write_record
from trainer.shards import ShardFile, deal, write_shards

START_DEADLINE_S = 120
"""For all devices to join: ten onnxruntimes start in 4 s on two idle cores, two hundred on loaded ones take longer."""
ROUND_DEADLINE_S = 300
"""A round ends when all have answered; this long only where a device hangs."""


def run_demo(settings: Settings, dataset: Dataset, out: Path, progress: Progress) -> Record:
    """Everything, -> the record, which also lies in `out` as run.json beside table.txt and table.md.

    Raises DemoError or FolderError; SIGTERM and SIGHUP end it as Ctrl-C does, with KeyboardInterrupt. In every case
    all processes have ended and run.json holds what was done.
    """
    found = record.begin(settings, dataset, read_manifest(settings.program))
    make_folder(out)
    dealt = _deal_all(settings, dataset, out)
    curves: list[Curve] = []
    try:
        with signals_interrupt(), Processes() as processes:
            url = _broker(settings, processes, out)
            for split, files, program in dealt:
                stage = _Stage(
                    settings=settings,
                    out=out,
                    processes=processes,
                    progress=progress,
                    url=url,
                    split=split,
                    program=program,
                    # Short, because it rides in every topic; nobody else's on a broker that is shared.
                    fleet=secrets.token_hex(3),
                )
                stage.run(files, curves)
        found = replace(found, complete=True)
    except DemoError as problem:
        found = replace(found, failure=str(problem))
        raise
    except KeyboardInterrupt:
        found = replace(found, failure="stopped by the user")
        raise
    finally:
        found = replace(found, ended=now(), curves=tuple(curves))
        write_record(found, out / "run.json")
    _write_tables(found, out)
    return found


def _deal_all(settings: Settings, dataset: Dataset, out: Path) -> list[tuple[Split, list[ShardFile], Path]]:
    """Each split's data and program, before anything starts: an impossible split costs no time. Raises SplitError."""
    dealt = [
        deal(
            dataset,
            split,
            devices=settings.devices,
            samples=settings.samples,
            seed=settings.seed,
            own_test=settings.own_test,
        )
        for split in settings.splits
    ]
    return [
        (
            split,
            write_shards(out / "shards" / _folder(split), shards, scale=dataset.scale, label_count=dataset.label_count),
            for_run(
                settings.program,
                settings.methods,
                dataset,
                split,
                devices=settings.devices,
                samples=settings.samples,
                seed=settings.seed,
                out=out / "programs" / _folder(split),
            ),
        )
        for split, shards in zip(settings.splits, dealt, strict=True)
    ]


def _folder(split: Split) -> str:
    return str(split).replace(":", "-")


def _broker(settings: Settings, processes: Processes, out: Path) -> str:
    if settings.broker is None:
        return start_broker(processes, out / "logs" / "broker.log")[1]
    check_reachable(settings.broker)
    return settings.broker


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """One split's fleet on a broker that listens."""

    settings: Settings
    out: Path
    processes: Processes
    progress: Progress
    url: str
    split: Split
    program: Path
    fleet: str

    def run(self, shards: list[ShardFile], curves: list[Curve]) -> None:
        """The devices stay up from method to method, and start each from the program's initial state."""
        devices = [self._start_device(shard) for shard in shards]
        for method in self.settings.methods:
            seen = Observed(devices=self.settings.devices, rounds=self.settings.rounds)
            try:
                self._run_method(method, seen)
            finally:
                curves.append(record.curve(method, self.split, self.settings.seed, seen, shards))
        self.processes.stop(devices)

    def _start_device(self, shard: ShardFile) -> Child:
        arguments = ["edge", "run", "--broker", self.url, "--fleet", self.fleet, "--device", shard.device]
        arguments += ["--program", str(self.program), "--data", str(shard.path)]
        arguments += ["--work", str(self.out / "work" / _folder(self.split) / shard.device)]
        if self.settings.runtime is not None:
            arguments += ["--runtime", self.settings.runtime]
        return self.processes.start(f"device {shard.device}", arguments, self._log(shard.device))

    def _run_method(self, method: str, seen: Observed) -> None:
        name = f"the aggregator ({self.split}, {method})"
        log = self._log(f"aggregator-{method}")
        child = self.processes.start(name, self._aggregator(method), log, piped=True)
        helpers = 1 if self.settings.broker else 2
        for event in lines(child, self.processes):
            seen.hear(event)
            self.progress.show(row(str(self.split), method, seen, self.processes.alive() - helpers))
        self.processes.forget(child)
        if not seen.complete:
            raise DemoError(f"{seen.reason}\n{failure(child)}".lstrip())
        if len(seen.reports.get(seen.rounds - 1, {})) < seen.devices:
            raise DemoError(f"{self.split}, {method}: not every device reported its last round. Logs: {log.parent}")

    def _aggregator(self, method: str) -> list[str]:
        settings = self.settings
        return aggregator(
            broker=self.url,
            fleet=self.fleet,
            program=self.program,
            ledger=self.out / "ledger.sqlite",
            method=method,
            devices=settings.devices,
            quorum=settings.devices,
            extensions=0,
            rounds=settings.rounds,
            steps=settings.steps,
            lr=settings.lr,
            gamma=settings.gamma,
            bits=settings.bits,
            seed=settings.seed,
            deadline=ROUND_DEADLINE_S,
            start_deadline=START_DEADLINE_S,
            normalise=settings.normalise,
            **own_options(method, self.program),
        )

    def _log(self, name: str) -> Path:
        return self.out / "logs" / _folder(self.split) / f"{name}.log"


def _write_tables(found: Record, out: Path) -> None:
    rows = rows_of(found)
    notes = "".join(f"{line}\n" for line in differences(rows))
    (out / "table.txt").write_text(f"{text(rows)}\n{notes}\n{explanation(found)}")
    (out / "table.md").write_text(f"{markdown(rows)}\n{notes}\n```\n{explanation(found)}```\n")
