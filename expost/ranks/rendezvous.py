"""Where the ranks of all machines find each other: machine 0 answers there for as long as it is at a stage.

It answers from before it waits for the artifact's lock until it has let go of it. So a rank of another machine may wait
as long as machine 0 does, for a VAE that another job trains, say: that it is answered is the sign that machine 0 lives.
"""

from contextlib import AbstractContextManager, closing, nullcontext
from datetime import timedelta
from pathlib import Path
from socket import create_server

import torch
import torch.distributed as dist
from torch.distributed import DistError, DistNetworkError, TCPStore

from expost.base.errors import UserError
from expost.base.machines import Machine
from expost.config.schema import Trainer
from expost.ranks.messages import Order
from expost.training.devices import device_of

COMING = timedelta(minutes=30)
"""Until machine 0 answers, or does again where it was at something else; and then until all ranks are there."""
GONE = timedelta(seconds=30)
"""Without an answer from a machine 0 that was at this very stage."""
ASKING = timedelta(minutes=1)
"""Then a rank that is still waiting looks anew whether anybody answers."""


class Rendezvous:
    """Machine 0's end, which all ranks connect to.

    Args:
        machine: this machine.
        key: of the artifact that is to be made, or waited for.

    Raises:
        UserError: it cannot answer where the ranks will ask.
    """

    def __init__(self, machine: Machine, key: str) -> None:
        # A single machine's are met where no other can connect; of several, a name may mean another interface here.
        interface = machine.address if machine == Machine() else ""
        try:
            server = create_server((interface, machine.port))
            self.port: int = server.getsockname()[1]
            store = TCPStore(
                machine.address, self.port, is_master=True, wait_for_workers=False, master_listen_fd=server.detach()
            )
        except (OSError, DistNetworkError) as error:
            raise UserError(
                f"MASTER_ADDR={machine.address} MASTER_PORT={machine.port}: cannot be listened on here; machine 0 "
                "needs its own name or address there, and a free port"
            ) from error
        store.set(f"{key}/host", "")
        self.key = key
        self._store: TCPStore | None = store

    def invite(self, folder: Path) -> None:
        """Tell all ranks where the artifact's files go, for which they wait."""
        assert self._store is not None
        self._store.set(f"{self.key}/folder", str(folder.resolve()))

    def close(self) -> None:
        self._store = None  # torch's own has no other end


def serve(machine: Machine, key: str, in_ranks: bool) -> AbstractContextManager[Rendezvous | None]:
    """Answer inside the block, where ranks make the artifact; machine 0 of several always, to be seen alive."""
    is_first_of_several = machine.rank == 0 and machine.port > 0
    return closing(Rendezvous(machine, key)) if in_ranks or is_first_of_several else nullcontext()


def join(order: Order) -> tuple[TCPStore, Path]:
    """Wait until machine 0 is ready; the connection to it, and where the artifact's files go.

    Raises:
        UserError: it did not come, or it is gone.
    """
    patience, place = COMING, f"{order.address}:{order.port}"
    while True:
        try:
            store = TCPStore(order.address, order.port, is_master=False, timeout=patience)
        except DistError as error:
            if patience == GONE:
                raise UserError(
                    f"machine 0 at {place} is gone or gave up the {order.stage} {order.key}; see what it said, then "
                    "repeat the command on all machines"
                ) from error
            raise UserError(
                f"rank {order.rank} of stage {order.stage} waited {round(COMING.total_seconds() / 60)} minutes for "
                f"machine 0 at {place}; see that it runs the same command, and that MASTER_ADDR and MASTER_PORT lead "
                "to it"
            ) from error
        try:
            if store.check([f"{order.key}/host"]):
                patience = GONE
            store.set_timeout(ASKING)
            folder = Path(store.get(f"{order.key}/folder").decode())
        except DistError:  # it waits itself, is at something else, or is gone: the next connection tells
            continue
        store.set_timeout(COMING)
        return store, folder


def wait_for_all(store: TCPStore, order: Order) -> None:
    """Return when every rank of every machine has come here.

    Raises:
        UserError: some do not come.
    """
    store.set(f"{order.key}/rank {order.rank}", "")
    everybody = [f"{order.key}/rank {rank}" for rank in range(order.world)]
    try:
        store.wait(everybody, COMING)
    except DistError as error:
        raise UserError(
            f"rank {order.rank} of stage {order.stage} waited {round(COMING.total_seconds() / 60)} minutes for those "
            "of other machines; see that the command runs on all of them"
        ) from error


def connect(order: Order, settings: Trainer, wait: timedelta) -> Path:
    """Meet the other ranks; the folder that all write to.

    Args:
        order: who this is, and where they meet.
        settings: the `trainer:` section.
        wait: longest time in a collective.

    Raises:
        UserError: machine 0 does not come, cannot be reached, or is gone; or others do not come.
    """
    on_gpu = device_of(settings).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(order.local_rank)
    store, folder = join(order)
    wait_for_all(store, order)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=dist.PrefixStore(order.key, store),
        rank=order.rank,
        world_size=order.world,
        timeout=wait,
    )
    return folder
