"""Every mistake that a user can make gets one line with the remedy, exit code 2, and leaves nothing behind."""

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import SMALL, assert_refused, keys, run_here, run_outside
from torch import Tensor, nn

from stage1_vae.base_priors import StandardNormal
from stage1_vae.bottleneck import Bottleneck, Encoding
from stage1_vae.latents import LatentSpec, Support
from stage1_vae.posteriors import DiagonalNormal


class MapBottleneck(Bottleneck):
    """A Gaussian posterior over feature maps: real latents that are no vectors."""

    family = "diagonal_normal"

    def __init__(
        self,
        features_shape: tuple[int, ...],
        num_classes: int = 0,
        latent_dim: int = 8,
        min_log_std: float = -8.0,
        max_log_std: float = 5.0,
        support: str = "real",
    ) -> None:
        super().__init__()
        self.spec = LatentSpec((2, 2, 2), Support(support))
        self.decoder_shape = self.spec.shape
        self.base_prior = StandardNormal(self.spec.shape)
        self.linear = nn.Linear(int(np.prod(features_shape)), 16)

    def forward(self, features: Tensor) -> Encoding:
        loc, log_std = self.linear(features.flatten(1)).view(-1, 2, 2, 2, 2).unbind(1)
        return Encoding(DiagonalNormal(loc, log_std))

    def embed(self, z: Tensor) -> Tensor:
        return z


CONFIGURATION = {
    # unknown stage, group, key, value
    "stage=evalute": ["stage", "did you mean 'evaluate'"],
    "stage=trian": ["stage", "choices: all, answer, check, compare, encode"],
    "data=mnst": ["data", "did you mean 'mnist'", "image_folder"],
    "prior=mixtur": ["prior", "did you mean 'mixture'", "autoregressive"],
    "vae=gausian": ["did you mean 'gaussian'"],
    "experiment=mnist_referense": ["did you mean 'mnist_reference'"],
    "piror=mixture": ["piror", "did you mean 'prior'"],
    "prior.num_component=3": ["prior.num_component", "did you mean 'num_components'"],
    "prior=autoregressive prior.hiden=[1]": ["prior.hiden", "did you mean 'hidden'"],
    "traner.lr=1": ["traner.lr", "did you mean 'trainer'"],
    "trainer.learning_rate=1": ["trainer.learning_rate", "choices: accelerator", " lr,"],
    "vae.bottleneck.latnt_dim=3": ["did you mean 'latent_dim'"],
    "+trainer.foo=1": ["trainer.foo", "unknown key"],
    "+prior.foo=1": ["prior.foo", "unknown key", "num_components"],
    "+prior.fit.lr=1": ["prior.fit", "unknown key"],
    "prior=autoregressive prior.fit.lr=1": ["prior.fit.lr", "learning_rate"],
    "~nosuch": ["nosuch"],
    "~prior": ["prior is missing", "prior=VALUE"],
    "experiment=null": ["experiment=null: no choice; leave experiment= out", "choices: cifar10_map"],
    "-m prior=mixture,null": ["leave prior= out"],
    "~trainer.lr": ["trainer.lr is missing"],
    "prior=": ["prior", "choices: aggregate, auto, autoregressive"],
    "upstream=maybe": ["upstream=maybe", "require, run"],
    "trainer.precision=64": ["trainer.precision=64", "32, auto, bf16"],
    "trainer.lr=abc": ["trainer.lr=abc", "number"],
    "logger.mode=onlin": ["did you mean 'online'"],
    "data.binarize=dynmic": ["data.binarize=dynmic", "dynamic"],
    "prior.covariance=ful": ["prior.covariance=ful", "full"],
    "prior=autoregressive prior.wrap=[standardise]": ["standardise", "did you mean 'standardize'"],
    "prior=autoregressive prior.wrap=standardize": ["prior.wrap=standardize", "[standardize]"],
    "prior=autoregressive prior.hidden=3": ["prior.hidden=3", "list"],
    "prior.num_components=2.5": ["prior.num_components=2.5", "integer"],
    "prior=autoregressive prior.fit.batch_size=abc": ["prior.fit.batch_size=abc", "integer"],
    "vae.bottleneck._target_=nowhere.Bottleneck": ["nowhere.Bottleneck", "no such class"],
    "prior._target_=os.system": ["os.system", "no such class"],
    "name=../elsewhere": ["name=../elsewhere", "letters"],
    # syntax
    "a=b=c": ["a=b=c", "KEY=VALUE"],
    "prior.hidden=[1": ["prior.hidden=[1", "KEY=VALUE"],
    "stage": ["stage", "KEY=VALUE"],
    "prior=mixture,gaussian": ["prior=mixture,gaussian", "-m"],
    "--stage=vae": ["--stage=vae", "stage=vae"],
    # numbers that mean nothing
    "trainer.lr=inf": ["trainer.lr=inf", "finite"],
    "trainer.lr=nan": ["trainer.lr=nan", "finite"],
    "prior.tol=nan": ["prior.tol=nan", "finite"],
    "vae.objective.beta=nan": ["vae.objective.beta=nan", "finite"],
    "likelihood=gaussian likelihood.scale=-1": ["likelihood.scale", "positive"],
    "seed=-1": ["seed=-1"],
    "seed=99999999999999999999": ["seed=99999999999999999999", "less than"],
    "trainer.max_epochs=0": ["trainer.max_epochs=0", "greater than 0"],
    "trainer.batch_size=-128": ["trainer.batch_size=-128", "greater than 0"],
    "trainer.num_workers=-1": ["trainer.num_workers=-1"],
    "evaluation.num_samples=-1": ["evaluation.num_samples=-1", "greater than 0"],
    "evaluation.importance_samples=0": ["evaluation.importance_samples=0", "greater than 0"],
    "stage=sample sample.num=-5": ["sample.num=-5", "greater than 0"],
    "prior.num_components=-1": ["prior.num_components=-1", "at least 1"],
    "prior.num_components=0": ["prior.num_components=0", "at least 1"],
    "prior=autoregressive prior.num_components=-1": ["prior.num_components=-1", "at least 1"],
    "prior=autoregressive prior.fit.max_epochs=-3": ["prior.fit.max_epochs=-3"],
    "prior=autoregressive prior.fit.batch_size=0": ["prior.fit.batch_size=0"],
    "prior=autoregressive prior.fit.average=1": ["prior.fit.average=1", "below 1"],
    "vae.bottleneck.latent_dim=-2": ["latent_dim", "at least 1"],
    "net.hidden=[-5]": ["net.hidden", "[-5]"],
    # what does not fit together
    "prior.num_components=100000": ["100000", "1258", "lower prior.num_components"],
    "data.binarize=dynamic data.dequantize=true": ["data.dequantize=false"],
    "vae=delta vae.objective._target_=stage1_vae.objectives.elbo.ELBO ~vae.objective.latent_penalty": ["vae=delta"],
    "stage=sample sample.prior=base vae=delta": ["sample.prior=learned"],
    "vae.bottleneck._target_=test_bad_input.MapBottleneck": [
        "mixture models vectors",
        "(2, 2, 2)",
        "priors that do: aggregate, auto, autoregressive, diffusion, flow_matching, glow, isotropic, kde, realnvp, "
        "second_vae, standard_normal, transformer",
    ],
    # outputs
    "stage=sample sample.out={folder}/absent/x.npz": ["{folder}/absent", "does not exist"],
    "stage=sample sample.out=/proc/x.npz": ["sample.out=/proc/x.npz", "cannot write"],
    "stage=sample sample.out=": ["sample.out", "FILE.npz"],
    "stage=sample sample.out=/": ["sample.out", "FILE.npz"],
    "stage=sample sample.out=samples.png": ["sample.out=samples.png", "FILE.npz"],
}
LIMITED = {
    "prior=mixture prior.max_iter=many": ["prior.max_iter=many", "integer"],
    "prior=mixture prior.max_iter=null": ["prior.max_iter"],
    "prior=mixture prior.num_restarts=x": ["prior.num_restarts=x"],
    "prior=autoregressive prior.fit.max_steps=many": ["prior.fit.max_steps"],
    "prior=autoregressive prior.fit.max_steps=0": ["prior.fit.max_steps"],
    "prior=autoregressive prior.fit.max_tokens=lots": ["prior.fit.max_tokens"],
    "prior=autoregressive prior.fit=3": ["prior.fit=3", "section"],
    "prior=autoregressive prior.fit=0": ["prior.fit=0", "section"],
}
"""Refused under limits too, which are worked out from what was asked for."""


@pytest.mark.parametrize("words", LIMITED)
def test_mistake_under_limits(words: str, tmp_path: Path) -> None:
    assert_refused(run_here(tmp_path, "debug=fast", *words.split(" ")), tmp_path, *LIMITED[words])


STORE = {
    "paths.root=/proc/runs": ["/proc/runs", "paths.root=DIR"],
    "paths.root=/dev/null/runs": ["/dev/null/runs", "paths.root=DIR"],
    "stage=prior upstream=require": ["python pipeline.py stage=vae"],
}
"""Found when the store is looked at, and what was taken of the data has been said."""


@pytest.mark.parametrize("words", CONFIGURATION)
def test_mistake_in_the_command(words: str, tmp_path: Path) -> None:
    typed = words.replace("{folder}", str(tmp_path)).split(" ")
    parts = [part.replace("{folder}", str(tmp_path)) for part in CONFIGURATION[words]]
    assert_refused(run_here(tmp_path, *typed), tmp_path, *parts)


@pytest.mark.parametrize("words", STORE)
def test_mistake_about_the_store(words: str, tmp_path: Path) -> None:
    assert_refused(run_here(tmp_path, *words.split(" ")), tmp_path, *STORE[words], data_was_read=True)


def test_a_file_is_no_folder_for_pictures_and_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "letters").write_text("dear", encoding="utf-8")
    result = run_here(tmp_path, "stage=sample", "sample.out=letters")
    assert_refused(result, tmp_path, "sample.out=letters", before=[tmp_path / "letters"])
    assert (tmp_path / "letters").read_text(encoding="utf-8") == "dear"


def test_latents_that_no_prior_supports(tmp_path: Path) -> None:
    result = run_here(
        tmp_path,
        "vae.bottleneck._target_=test_bad_input.MapBottleneck",
        "+vae.bottleneck.support=sphere",
    )
    assert_refused(result, tmp_path, "sphere", "priors that do: none")


def test_loss_that_becomes_nan_names_step_and_tensor_and_leaves_no_artifact(tmp_path: Path) -> None:
    result = run_here(tmp_path, *SMALL, "trainer.lr=1e30")
    assert result.code == 2 and len(result.lines) == 1
    assert result.err.startswith("error: ") and "NaN or infinite at step 1" in result.err
    assert "the rate" in result.err or "parameter" in result.err
    assert "trainer.lr" in result.err
    assert not keys(tmp_path, "vae") and not list(tmp_path.rglob("*.safetensors"))
    assert not (tmp_path / "runs/latest").exists()


def test_mistakes_in_a_sweep_that_are_seen_before_it(tmp_path: Path) -> None:
    result = run_here(tmp_path, "-m", "prior=mixtur,gaussian")
    assert_refused(result, tmp_path, "prior=mixtur", "did you mean 'mixture'")
    assert_refused(run_here(tmp_path, "-m", "prior.num_component=1,2"), tmp_path, "did you mean 'num_components'")


def test_a_failed_job_does_not_end_the_others_and_all_failures_are_told(tmp_path: Path) -> None:
    result = run_here(tmp_path, "-m", *SMALL[:-1], "logger=csv", "stage=vae,encode", "prior.num_components=5,0,99999")
    assert result.code == 2
    assert len(result.lines) == 4 and all(line.startswith("error: job ") for line in result.lines), result.err
    assert [line.split()[2] for line in result.lines] == ["2", "3", "4", "5"]
    assert "prior.num_components=0: give at least 1" in result.lines[0] and "99999" in result.lines[3]
    assert len(keys(tmp_path, "vae")) == 1 and len(keys(tmp_path, "latents")) == 1


def test_all_jobs_fail_and_nothing_is_written(tmp_path: Path) -> None:
    result = run_here(tmp_path, "-m", "prior.num_components=-1,-2")
    assert result.code == 2 and result.out == ""
    assert [line.split(":")[0] for line in result.lines] == ["error", "error"]
    assert not list(tmp_path.iterdir())


def test_a_mistake_of_ours_shows_its_traceback_and_another_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from expost import dispatch

    monkeypatch.setattr(dispatch, "run", lambda *_: 1 / 0)
    result = run_here(tmp_path)
    assert result.code == 1
    assert "Traceback" in result.err and result.lines[-1] == "error: ZeroDivisionError: division by zero"


def test_a_shell_sees_the_line_and_the_exit_code(tmp_path: Path) -> None:
    assert_refused(run_outside(tmp_path, "trainer.devices=0"), tmp_path, "trainer.devices=0")


def test_the_harness_leaves_torch_as_it_was(tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    run_here(tmp_path, "prior.num_components=100000")
    assert torch.equal(state, torch.random.get_rng_state())
