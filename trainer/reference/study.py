"""Many runs at once, over one engine, into one record: what every command of the reference trainer does.

The order of the record's curves is that of the jobs, whatever ended first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge.runtime.program import load_program
from trainer.data import Dataset
from trainer.progress import Progress
from trainer.record.inputs import data_of, program_of
from trainer.record.run import Curve, Record, Table, environment, now
from trainer.reference.engines import Engine
from trainer.reference.progress import row
from trainer.reference.run import Standing, follow
from trainer.reference.settings import Settings

PROVENANCE = {
    "accuracy": "measured: each device's model (fl and the fld family: the server's) on its test set after its round",
    "payload bytes": "measured: coded rows, labels, samples, parameters and counts; no frame, no layer below",
    "seconds": "measured: CPU time of the slowest device and of the server, summed over rounds; no network",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    settings: Settings
    label: str = ""


def run_jobs(jobs: Sequence[Job], engine: Engine, folder: Path | None, progress: Progress) -> list[Curve]:
    """One curve a job; interrupted, `folder` holds where each stood."""
    return asyncio.run(_all(jobs, engine, folder, progress))


async def _all(jobs: Sequence[Job], engine: Engine, folder: Path | None, progress: Progress) -> list[Curve]:
    """As many runs at a time as keep the workers busy: while one waits for its server, another has work."""
    slots = asyncio.Semaphore(engine.workers + 1 if engine.workers > 1 else 1)

    async def one(job: Job) -> Curve:
        def hear(settings: Settings, standing: Standing) -> None:
            progress.show(row(settings, job.label, standing))

        async with slots:
            return await follow(job.settings, job.label, engine, folder, hear)

    return list(await asyncio.gather(*[one(job) for job in jobs]))


def record_of(
    jobs: Sequence[Job],
    curves: Sequence[Curve],
    dataset: Dataset,
    *,
    started: str,
    settings: dict[str, Any],
    tables: Sequence[Table] = (),
) -> Record:
    first = jobs[0].settings
    manifest = load_program(Path(first.programs[0])).manifest
    return Record(
        kind="reference",
        settings={**settings, "runs": [{**asdict(job.settings), "label": job.label} for job in jobs]},
        provenance=PROVENANCE,
        started=started,
        ended=now(),
        complete=True,
        environment=environment(),
        data=data_of(dataset),
        program=program_of(manifest),
        curves=tuple(curves),
        tables=tuple(tables),
    )
