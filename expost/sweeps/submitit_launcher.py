"""Jobs of a sweep by submitit: a SLURM array, or processes of this machine.

submitit hands jobs and their answers over as pickles in `.sweep/submitit` of the sweep's own folder. They are read by
the command and by its jobs alone, but whoever can write there can run code as the user: it is no place to share.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from omegaconf import OmegaConf

from expost.base.errors import UserError
from expost.sweeps.failures import SUBMITTED
from expost.sweeps.launchers import Outcome, SweepJob, Workers, missing_extra, run_in_threads


class Again:
    """Runs a job, as submitit has it: it looks here for what it queues when SLURM takes the machine away or time is up.

    That is the job itself: the store has kept what it had made.
    """

    def __call__(self, job: SweepJob) -> JobReturn:
        return job()

    def checkpoint(self, job: SweepJob) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)


class SubmititLauncher(Workers):
    """Args:
    n_jobs: at a time.
    cluster: slurm | local.
    parameters: more of `submitit.AutoExecutor.update_parameters`, by their names there; null ones are left out.
    """

    def __init__(self, n_jobs: int, cluster: str, **parameters: Any) -> None:
        super().__init__(n_jobs)
        self.cluster, self.parameters = cluster, parameters

    def threads(self) -> dict[str, str]:
        return super().threads() if self.cluster == "local" else {}  # SLURM hands out cores

    def start(self) -> None:
        try:
            import submitit
        except ImportError as error:
            raise missing_extra("submitit") from error
        folder = Path(self.own.hydra.sweep.dir) / SUBMITTED
        plain = {k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in self.parameters.items()}
        try:
            self.executor = submitit.AutoExecutor(folder=folder, cluster=self.cluster)
            self.executor.update_parameters(name="expost", **{k: v for k, v in plain.items() if v is not None})
        except (RuntimeError, NameError, ValueError, TypeError) as error:  # no SLURM here, or a parameter it has not
            raise UserError(f"launcher={self.cluster}: {' '.join(str(error).split())}") from error
        self.started: list[Any] = []

    def stop(self) -> None:
        for started in self.started if self.cluster == "local" else ():  # what SLURM has in its queue stays there
            started.cancel()

    def run(self, jobs: Sequence[SweepJob]) -> Sequence[Outcome]:
        if self.cluster == "local":
            return run_in_threads(self.n_jobs, jobs, self._here)
        self.executor.update_parameters(slurm_array_parallelism=self.n_jobs)
        queued = self.executor.map_array(Again(), jobs)
        print(f"{'slurm':<11}{len(queued)} jobs in the queue: {queued[0].job_id.split('_')[0]}", flush=True)
        return [_outcome(job, started) for job, started in zip(jobs, queued, strict=True)]

    def _here(self, job: SweepJob) -> Outcome:
        started = self.executor.submit(Again(), job)
        self.started.append(started)
        return _outcome(job, started)


def _outcome(job: SweepJob, started: Any) -> Outcome:
    """Wait for a job of submitit, whose words are in files."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    print(f"{f'job {job.number}':<11}{shlex.join(job.overrides)}: {started.paths.stdout}", flush=True)
    try:
        return started.result()
    except UncompletedJobError:
        return f"its process was killed or never started ({started.state.lower()}); see {started.paths.stderr}"
    except FailedJobError as error:
        return f"{str(error).strip().splitlines()[-1]}; see {started.paths.stderr}"
