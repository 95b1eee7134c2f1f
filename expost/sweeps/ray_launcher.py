"""Jobs of a sweep as tasks of Ray.

The plugin that Hydra once had for it needs boto3 and, by that, a python-dateutil below 3.
"""

import os
from collections.abc import Sequence
from typing import Any

from expost.sweeps.launchers import Outcome, SweepJob, Workers, missing_extra, run_in_threads


class RayLauncher(Workers):
    """Args:
    n_jobs: at a time.
    address: of a running cluster; None: start a small one here, and stop it in the end.
    cpus_per_job, gpus_per_job: what Ray keeps free for each.
    """

    def __init__(self, n_jobs: int, address: str | None, cpus_per_job: float, gpus_per_job: float) -> None:
        super().__init__(n_jobs)
        self.address = address
        self.resources: dict[str, Any] = {"num_cpus": cpus_per_job, "num_gpus": gpus_per_job}

    def threads(self) -> dict[str, str]:
        return {}  # Ray says how many

    def start(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # what two jobs say is not one thing said twice
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")
        try:
            import ray
        except ImportError as error:
            raise missing_extra("ray") from error
        cluster: dict[str, Any] = {"address": self.address, "logging_level": "error"}
        if self.address is None:
            cluster["num_cpus"] = max(1, round(self.n_jobs * self.resources["num_cpus"]))
            cluster["object_store_memory"] = 80 * 2**20  # jobs hand over files; this is about the least that Ray takes
            cluster["include_dashboard"] = False
        ray.init(**cluster)

    def stop(self) -> None:
        import ray

        ray.shutdown()

    def run(self, jobs: Sequence[SweepJob]) -> Sequence[Outcome]:
        import ray

        call: Any = ray.remote(max_retries=0, **self.resources)(lambda job: job())

        def on_ray(job: SweepJob) -> Outcome:
            try:
                return ray.get(call.remote(job))
            except ray.exceptions.RayError as error:
                return f"its process was killed or never started ({type(error).__name__})"

        return run_in_threads(self.n_jobs, jobs, on_ray)
