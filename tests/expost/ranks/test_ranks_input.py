"""What several ranks are told before any of them starts: who divides what, who is which machine, what cannot be."""

import subprocess
from itertools import chain
from pathlib import Path

import pytest
import torch
from command_line import SMALL, run_here
from hydra.types import RunMode
from omegaconf import OmegaConf
from training_run import DEFAULTS

from expost.base.command import Command
from expost.base.errors import UserError
from expost.base.machines import Machine, without_ranks
from expost.config.schema import Trainer
from expost.ranks import parent as ranks
from expost.ranks.messages import Ending, Order
from stage1_vae.data.images import DataError, InMemory
from stage1_vae.data.loader import Batches, Part
from stage1_vae.data.preprocess import Preprocess
from stage1_vae.ranks import Ranks
from stage2_prior.fit import FixedDraws, FreshBatches
from stage2_prior.prior import LatentDataset, LatentSpec

DYNAMIC, PLAIN = Preprocess(levels=17, binarize="dynamic"), Preprocess(levels=256)


def images(num: int = 57) -> InMemory:
    return InMemory(torch.arange(num, dtype=torch.uint8).view(num, 1, 1, 1).expand(num, 1, 4, 4), torch.arange(num))


def rows_of(batches: Batches, epoch: int = 0) -> list[list[int]]:
    batches.sampler.set_epoch(epoch)
    return [labels.tolist() for _, labels in batches if labels is not None]


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_every_batch_of_training_equally(world: int) -> None:
    alone = rows_of(Batches(images(), PLAIN, 12, True, seed=3), 5)
    parts = [Batches(images(), PLAIN, 12, True, seed=3, part=Part(rank, world)) for rank in range(world)]
    shares = [rows_of(part, 5) for part in parts]
    assert all(len(part) == len(share) == len(alone) for part, share in zip(parts, shares, strict=True))
    for batch, *pieces in zip(alone, *shares, strict=True):
        assert len({len(share) for share in pieces}) == 1, "ranks would not take the same steps"
        assert list(chain(*pieces)) == batch[: len(batch) - len(batch) % world]


def test_a_rest_with_fewer_images_than_ranks_waits_for_another_epoch() -> None:
    parts = [Batches(images(49), PLAIN, 12, True, seed=3, part=Part(rank, 2)) for rank in range(2)]
    assert [len(part) for part in parts] == [4, 4]
    assert len(Batches(images(49), PLAIN, 12, True, seed=3)) == 5


def test_ranks_share_all_of_a_validation_set() -> None:
    shares = [rows_of(Batches(images(49), PLAIN, 12, False, seed=0, part=Part(rank, 2))) for rank in range(2)]
    assert len(shares[0]) == len(shares[1]) == 5
    assert sorted(chain(*chain(*shares))) == list(range(49))


def test_ranks_draw_noise_of_their_own_in_training() -> None:
    grey = InMemory(torch.full((40, 1, 8, 8), 8, dtype=torch.uint8))
    noisy = [[x for x, _ in Batches(grey, DYNAMIC, 20, True, seed=3, part=Part(rank, 2))] for rank in range(2)]
    assert not torch.equal(noisy[0][0], noisy[1][0])


@pytest.mark.parametrize("world", [2, 3, 7])
def test_whole_batches_are_those_of_one_process(world: int) -> None:
    grey = InMemory(torch.full((57, 1, 8, 8), 8, dtype=torch.uint8))
    alone = [x for x, _ in Batches(grey, DYNAMIC, 12, False, seed=0)]
    parts = [Batches(grey, DYNAMIC, 12, False, 0, part=Part(rank, world, whole_batches=True)) for rank in range(world)]
    together = [x for part in parts for x, _ in part]
    assert len(together) == len(alone) and all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))
    assert [row for part in parts for row in part.rows] == list(range(57))


def test_more_ranks_than_images_are_refused() -> None:
    with pytest.raises(DataError, match=r"5 images a batch cannot be shared among 8 ranks.*trainer\.devices"):
        Batches(images(5), PLAIN, 16, False, seed=0, part=Part(0, 8))


def test_ranks_share_the_draws_of_stage_two() -> None:
    loc = torch.arange(40.0).view(40, 1).expand(40, 2).numpy()
    latents = LatentDataset(LatentSpec((2,)), "delta", {"loc": loc})

    def drawn(source: type, *args: int) -> list[torch.Tensor]:
        found = []
        for part in (Ranks(), Ranks(0, 2), Ranks(1, 2)):
            torch.manual_seed(1)
            found.append([z for z, *_ in source(latents, *args, part)])
        return [torch.cat([own, other]) for own, other in zip(*found[1:], strict=True)] + found[0]

    for halves in (drawn(FreshBatches, 8), drawn(FixedDraws, 40, 16)):
        shared, alone = halves[: len(halves) // 2], halves[len(halves) // 2 :]
        assert alone and all(torch.equal(a, b) for a, b in zip(shared, alone, strict=True))


TORCHRUN = {"NODE_RANK": "1", "MASTER_ADDR": "gpu07", "MASTER_PORT": "29500"}
SLURM = {"SLURM_NODEID": "1", "SLURM_JOB_NODELIST": "gpu[07-09,12],cpu1", "SLURM_JOB_ID": "1234567"}


def test_machines_are_told_apart_by_their_launcher() -> None:
    assert Machine.of(1, TORCHRUN) == Machine(0, "127.0.0.1", 0)
    assert Machine.of(2, TORCHRUN) == Machine(1, "gpu07", 29500)
    assert Machine.of(2, SLURM) == Machine(1, "gpu07", 19567)
    assert Machine.of(2, {**SLURM, "SLURM_JOB_NODELIST": "alpha,beta"}).address == "alpha"
    assert Machine.of(2, {**SLURM, **TORCHRUN, "NODE_RANK": "0"}) == Machine(0, "gpu07", 29500)


@pytest.mark.parametrize(
    "changes",
    [{"NODE_RANK": ""}, {"NODE_RANK": "2"}, {"NODE_RANK": "x"}, {"MASTER_PORT": "70000"}, {"MASTER_ADDR": ""}],
)
def test_a_machine_that_does_not_know_itself_is_told_what_to_set(changes: dict[str, str]) -> None:
    with pytest.raises(UserError, match=r"NODE_RANK|MASTER_PORT") as caught:
        Machine.of(2, {**TORCHRUN, **changes})
    assert "\n" not in str(caught.value)


def test_variables_of_other_ranks_are_not_handed_on() -> None:
    kept = {"PATH": "/bin", "SLURM_JOB_ID": "7", "OMP_NUM_THREADS": "4", "WANDB_MODE": "offline"}
    other = {
        "RANK": "3",
        "SLURM_PROCID": "3",
        "TORCHELASTIC_RUN_ID": "x",
        "SLURM_NTASKS": "4",
        "OMPI_COMM_WORLD_RANK": "1",
    }
    assert without_ranks({**kept, **TORCHRUN, **other}) == kept


def test_the_cause_is_told_before_what_follows_from_it() -> None:
    lost = Ending.of(RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:1"))
    full = Ending.of(OSError(28, "No space left on device", "/store/x"))
    assert (lost.kind, full.kind, full.code, full.file) == ("peer", "disk", 28, "/store/x")
    assert Ending.of(DataError("one line")) == Ending("user", "one line")
    assert Ending.of(ZeroDivisionError("x")).kind == "crash"


@pytest.mark.parametrize(("num_nodes", "kind"), [(1, ranks.RankError), (2, UserError)])
def test_ranks_that_lost_those_of_another_machine_are_one_line(num_nodes: int, kind: type[Exception]) -> None:
    """Its cause is told there; of a single machine's it would have been heard here."""
    order = Order("vae", "0" * 20, 2, 0, 4, 1, "", 0, {"trainer": {"num_nodes": num_nodes}}, "", {}, None, False)
    with subprocess.Popen(["true"]) as process:
        lost = Ending.of(RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:1"))
        assert type(ranks.Child(order, process, None, lost).error()) is kind


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("trainer=ddp", "trainer.batch_size=127"), "trainer.batch_size=126"),
        (("trainer=ddp", "trainer.devices=1024", "trainer.batch_size=1024"), "a core for"),
        (("trainer.num_nodes=2", "trainer.batch_size=128"), "NODE_RANK"),
        (("trainer=ddp", "trainer.accelerator=gpu"), "no GPU here"),
        (("trainer.devices=0",), "trainer.devices=0"),
        (("trainer.strategy=dp",), "auto, ddp"),
        (("trainer=fsdp", "trainer.compile=true"), "trainer.strategy=ddp"),
        (("trainer=fsdp", "trainer.ema_decay=0.9"), "trainer.ema_decay=null"),
    ],
)
def test_what_ranks_cannot_do_is_refused_in_one_line(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    result = run_here(tmp_path, *SMALL, *words)
    assert result.code == 2 and len(result.lines) == 1 and said in result.err, result.err
    assert not (tmp_path / "runs/store/vae").exists()


@pytest.mark.parametrize("devices", [1, 2])
def test_a_study_of_optunas_has_one_rank(devices: int) -> None:
    sweeper = {"_target_": "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"}
    facts = {"sweeper": sweeper, "runtime": {"choices": {}}, "overrides": {"task": []}, "job": {"num": 0}}
    command = Command.of(OmegaConf.create({"mode": RunMode.MULTIRUN, **facts}))
    trainer = Trainer(**{**DEFAULTS, "devices": devices, "accelerator": "cpu"})
    if devices == 1:
        return ranks.check_ranks(trainer, command)
    with pytest.raises(UserError, match=r"Optuna sweep with 2 ranks is refused: .* different ones"):
        ranks.check_ranks(trainer, command)


def test_keys_know_of_ranks_only_where_there_are_several() -> None:
    def division(**changes: object) -> dict[str, object]:
        return Trainer(**{**DEFAULTS, **changes}).division

    assert division() == division(strategy="ddp") == {}
    assert division(devices=2) == division(devices=2, strategy="ddp") == division(num_nodes=2) == {"ranks": 2}
    assert division(devices=2, strategy="fsdp") == {"ranks": 2, "strategy": "fsdp"} and division(strategy="fsdp") == {}
