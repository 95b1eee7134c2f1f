"""Which of the machines of a job this is, from what a launcher (torchrun's words, SLURM) left in the environment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from expost.base.errors import UserError

RANK_VARIABLES = re.compile(
    r"(RANK|LOCAL_RANK|GROUP_RANK|NODE_RANK|ROLE_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|GROUP_WORLD_SIZE|ROLE_WORLD_SIZE"
    r"|MASTER_ADDR|MASTER_PORT|TORCHELASTIC_.*|SLURM_(PROCID|LOCALID|NODEID|NTASKS.*|TASKS_PER_NODE|STEP_.*)"
    r"|OMPI_COMM_WORLD_.*|PMI_.*|PMIX_.*)"
)
"""What tells a process that it is one of several; a rank sees those alone that are set for it."""
FIRST_PORT, NUM_PORTS = 15_000, 5_000


def without_ranks(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` but for whatever says which of several processes this is."""
    return {name: value for name, value in environment.items() if not RANK_VARIABLES.fullmatch(name)}


@dataclass(frozen=True)
class Machine:
    """One machine of a job.

    Attributes:
        rank: of the machine; 0 holds locks and commits.
        address, port: where machine 0 answers; port 0 is any free one, where there is one machine alone.
    """

    rank: int = 0
    address: str = "127.0.0.1"
    port: int = 0

    @classmethod
    def of(cls, num_nodes: int, environment: Mapping[str, str]) -> "Machine":
        """This machine: NODE_RANK, MASTER_ADDR and MASTER_PORT, or what SLURM says where they are missing.

        Raises:
            UserError: with several machines, when the environment does not say which one this is, or says nonsense.
        """
        if num_nodes == 1:
            return cls()
        rank = environment.get("NODE_RANK") or environment.get("GROUP_RANK") or environment.get("SLURM_NODEID")
        address = environment.get("MASTER_ADDR") or _first_host(environment.get("SLURM_JOB_NODELIST", ""))
        port = environment.get("MASTER_PORT") or _port_of_job(environment.get("SLURM_JOB_ID", ""))
        if not (rank and address and port):
            raise UserError(
                f"trainer.num_nodes={num_nodes}: run the same command on each machine with NODE_RANK (0 to "
                f"{num_nodes - 1}), MASTER_ADDR and MASTER_PORT set, or under srun with one task a machine"
            )
        if not (rank.isdecimal() and int(rank) < num_nodes):
            raise UserError(f"NODE_RANK={rank}: give 0 to {num_nodes - 1}, for trainer.num_nodes={num_nodes}")
        if not (port.isdecimal() and 0 < int(port) < 2**16):
            raise UserError(f"MASTER_PORT={port}: give the number of a free port on machine 0, such as 29500")
        return cls(int(rank), address, int(port))


def refuse_study(num_ranks: int) -> None:
    """
    Raises:
        UserError: a study of Optuna's with several ranks.
    """
    if num_ranks > 1:
        raise UserError(
            f"an Optuna sweep with {num_ranks} ranks is refused: each process that runs the command asks the study for "
            "hyper-parameters of its own, so ranks that a launcher starts beside this process or on another machine "
            "would train on different ones without a word; set trainer.devices=1 trainer.num_nodes=1 for the study"
        )


def _first_host(nodes: str) -> str:
    """The first name of a list in SLURM's shorthand: `gpu[07-09,12],cpu1` -> gpu07."""
    name = re.match(r"([^\[,]+)(?:\[([^\],-]+)[^\]]*\])?([^,]*)", nodes)
    return "".join(part or "" for part in name.groups()) if name else ""


def _port_of_job(job: str) -> str:
    """A port that every machine of a SLURM job works out alike."""
    return str(FIRST_PORT + int(job) % NUM_PORTS) if job.isdecimal() else ""
