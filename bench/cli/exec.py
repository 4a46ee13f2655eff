"""`bench exec`: one job as one command."""

from __future__ import annotations

from pathlib import Path

import click

from bench.cli.options import allow_factory, where, workplace
from bench.cli.parameters import JOBS, InputFile, Once
from bench.cli.say import say
from bench.core.device import set_threads
from bench.core.errors import BenchError
from bench.core.files import read_json
from bench.core.progress import Progress


@click.command("exec", cls=Once, hidden=True)
@click.argument("job_file", type=InputFile())
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), default=Path("data"), envvar="BENCH_DATA")
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", type=JOBS)
@allow_factory
@where
def command(
    job_file: Path,
    data: Path,
    device: str,
    threads: int | None,
    factories: tuple[str, ...],
    results: Path,
    db: str | None,
) -> int:
    """Do the job described in JOB_FILE and print the file it leaves; the driver takes that into the database.

    \b
    Example:
      bench exec results/jobs/4f0c….json --device cuda:1
    """
    from pydantic import ValidationError

    from bench.experiment.spec import Job
    from bench.jobs.executors.task import Task, carry_out
    from bench.jobs.locks import Locks, Owner

    try:
        job = Job.model_validate(read_json(job_file))
    except ValidationError as error:
        raise BenchError(
            f"{job_file} is not a job: {error.error_count()} faults, e.g. {error.errors()[0]['msg']}"
        ) from error
    set_threads(device, threads)
    place = workplace(results, data, device, factories=factories)
    with Locks(place.locks) as locks:
        held = locks.acquire(job.job_id)
        if isinstance(held, Owner):
            raise BenchError(f"{held} is doing this job; wait for it, or end it first")
        ok, path = carry_out(Task(job), place, Progress())
    say(str(path))
    return 0 if ok else 1
