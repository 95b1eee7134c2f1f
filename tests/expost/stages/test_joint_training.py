"""Priors that are learned with the VAE, and two stages that go on together: real runs in little, and refusals."""

import json
from pathlib import Path

import pytest
from command_line import SMALL, assert_refused, report_of, run_here
from safetensors.torch import load_file

from expost.config.schema import Trainer
from expost.forecast import notice
from expost.parts.assembly import ImageParts
from expost.stages import joint
from stage2_prior.prior import Prior

LITTLE = ("debug=fast", "trainer.val_every=2", "net.hidden=[32]", "logger=csv")
VAES = {
    "vamp": "vae.prior.num_components=20",
    "gmvae": "",
    "learned_gaussian": "",
    "flow_prior": "vae.prior.num_layers=2",
    "rbm": "vae.prior.num_hidden=16",
}


def stored(folder: Path, stage: str) -> list[Path]:
    return sorted((folder / "runs" / "store" / stage).iterdir())


@pytest.mark.parametrize("vae", VAES)
def test_a_prior_is_learned_with_the_vae_and_taken_over(tmp_path: Path, vae: str) -> None:
    result = run_here(tmp_path, *LITTLE, f"vae={vae}", *filter(None, [VAES[vae]]))
    assert result.code == 0, result.err
    report = report_of(tmp_path)
    row = report["rows"]["learned"]
    assert any("says what another prior would cost it" in note for note in report["notes"])
    assert row["latent_nll_nats"] is not None and row["num_parameters"] > 0
    (trained,), (prior,) = stored(tmp_path, "vae"), stored(tmp_path, "prior")
    learned, taken = load_file(trained / "learned.safetensors"), load_file(prior / "prior.safetensors")
    assert {f"prior.{name}" for name in learned} == set(taken)
    assert all(value.equal(taken[f"prior.{name}"]) for name, value in learned.items())


def test_both_stages_go_on_together_and_stay_as_they_are(tmp_path: Path) -> None:
    words = (*SMALL, "joint.max_epochs=2")
    assert run_here(tmp_path, *words).code == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    result = run_here(tmp_path, *words, "stage=joint")
    assert result.code == 0, result.err
    assert all(path.read_bytes() == content for path, content in before.items())
    (made,) = stored(tmp_path, "joint")
    assert [row["epoch"] for row in json.loads((made / "history.json").read_text(encoding="utf-8"))] == [0, 1]
    assert (made / "learned.safetensors").exists() and len(stored(tmp_path, "latents")) == 2
    again = run_here(tmp_path, *words, "stage=joint")
    assert again.code == 0 and "joint      unchanged, skipped" in again.out


def test_long_joint_training_is_foretold_with_its_prior(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (*LITTLE, "prior=mixture", "prior.num_components=3", "joint.max_epochs=1")
    assert run_here(tmp_path, *words, "stage=prior").code == 0
    monkeypatch.setattr(notice, "LONG_SECONDS", 0.0)
    shortest = notice.stage1_parts
    priors: list[object] = []

    def watched(trainer: Trainer, parts: ImageParts) -> list[notice.Expectation]:
        assert parts.objective is not None
        priors.append(parts.objective.prior)
        return shortest(trainer, parts)

    monkeypatch.setattr(joint, "stage1_parts", watched)
    result = run_here(tmp_path, *words, "stage=joint")
    assert result.code == 0, result.err
    assert "joint      is expected to take" in result.out and "lower joint.max_" in result.out
    assert len(priors) == 1 and isinstance(priors[0], Prior)


def test_it_is_the_same_whether_the_prior_was_just_fitted_or_found(tmp_path: Path) -> None:
    """Of a prior whose fit is lent the encoder, frozen; the joint training moves it."""
    words = ("debug=fast", "net.hidden=[32]", "logger=csv", "prior=vamp_expost", "prior.num_components=5")
    found, layer = [], "encoder.layers.0.weight"
    for name, stages in {"fitted": ("joint",), "found": ("prior", "joint")}.items():
        folder = tmp_path / name
        folder.mkdir()
        for stage in stages:
            result = run_here(folder, *words, f"stage={stage}")
            assert result.code == 0, result.err
        (made,), (vae,) = stored(folder, "joint"), stored(folder, "vae")
        found.append(load_file(made / "model.safetensors"))
        assert not found[-1][layer].equal(load_file(vae / "model.safetensors")[layer])
    assert all(value.equal(found[1][name]) for name, value in found[0].items())


@pytest.mark.parametrize(
    ("words", "moved"),
    [
        (("vae=bernoulli", "prior=rbm", "prior.num_hidden=8"), ("weights", "visible_bias", "hidden_bias")),
        (("prior=mixture", "prior.num_components=3", "prior.conditional=true"), ("priors.0.means", "priors.9.means")),
        (
            ("prior=realnvp", "prior.base.num_components=3"),
            ("prior.prior.base.means", "prior.prior.flow.0.first.weight"),
        ),
    ],
)
def test_all_of_a_prior_moves(tmp_path: Path, words: tuple[str, ...], moved: tuple[str, ...]) -> None:
    result = run_here(tmp_path, *LITTLE, *words, "joint.max_epochs=2", "stage=joint")
    assert result.code == 0, result.err
    fitted = [load_file(folder / "prior.safetensors") for folder in stored(tmp_path, "prior")]
    (started,) = [state for state in fitted if moved[0] in state]
    (made,) = stored(tmp_path, "joint")
    learned = load_file(made / "learned.safetensors")
    assert not [name for name in moved if learned[name].equal(started[name])]


def test_what_was_made_together_is_sampled_and_exported(tmp_path: Path) -> None:
    words = (*SMALL, "joint.max_epochs=1")
    assert "joint.use=true" in run_here(tmp_path, *words, "stage=joint").out
    assert "then joint (max_epochs=1" in report_of(tmp_path)["provenance"]["stage1"]
    samples, model = tmp_path / "samples.npz", tmp_path / "model"
    for asked in (("stage=sample", f"sample.out={samples}"), ("stage=export", f"export.out={model}")):
        result = run_here(tmp_path, *words, "joint.use=true", *asked)
        assert result.code == 0, result.err
    from expost import TwoStage

    (made,) = stored(tmp_path, "joint")
    exported = TwoStage.load(model).vae.state_dict()
    assert all(value.equal(exported[name]) for name, value in load_file(made / "model.safetensors").items())


def test_an_export_needs_nothing_of_the_training(tmp_path: Path) -> None:
    words = (*LITTLE, "vae=gmvae")
    result = run_here(tmp_path, *words, "stage=export", f"export.out={tmp_path / 'model'}")
    assert result.code == 0, result.err
    from expost import TwoStage

    assert TwoStage.load(tmp_path / "model").sample(3).shape == (3, 1, 8, 8)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("prior=learned",), ("prior=learned takes over what was learned with the VAE", "vae=vamp")),
        (("vae=gmvae", "vae.prior.num_components=100000"), ("100000", "lower vae.prior.num_components")),
        (("vae=flow_prior", "vae.objective.free_nats=1"), ("vae.objective.free_nats=0",)),
        (("vae=delta", "+vae.prior=mixture"), ("vae.objective: Reconstruction trains against no prior",)),
        (("+vae.prior=diffusion",), ("vae.prior: Diffusion is not trained by the gradient of a VAE",)),
        (("vae=bernoulli", "+vae.prior=unigram"), ("vae.prior: Unigram", "take one that is, such as rbm")),
        (("vae=rbm", "vae.bottleneck._target_=stage1_vae.bottlenecks.gaussian.Gaussian"), ("an RBM models bits",)),
        (("prior=rbm",), ("an RBM models bits, as vae=bernoulli makes them; these latents are real", "mixture")),
        (("vae=fsq", "prior=rbm"), ("an RBM models bits", "codes", "transformer")),
        (("vae=bernoulli", "prior=rbm", "prior.num_hidden=0"), ("prior.num_hidden=0: give at least 1",)),
        (("vae=gumbel", "+vae.prior=transformer"), ("vae.prior: priors are learned with VAEs of real numbers",)),
        (("vae=infovae", "vae.objective.alpha=1", "+vae.prior=mixture"), ("by which alone a prior is learned",)),
        (("vae=vamp", "net=conv", "net.batch_norm=true"), ("set net.batch_norm=false",)),
        (("vae=gmvae", "+vae.prior.conditional=true"), ("vae.prior.conditional",)),
        (("vae=gmvae", "+prior.wrap=[standardize]"), ("leave out prior.wrap",)),
        (("vae=gmvae", "prior.prior=realnvp"), ("choose it by vae.prior",)),
        (("stage=joint", "trainer.devices=2", "trainer.accelerator=cpu"), ("trainer.devices=1",)),
        (("stage=joint", "prior=realnvp", "prior.base=aggregate"), ("is not trained by the gradient of a VAE",)),
        (("+vae.prior=mixtrue",), ("vae.prior: mixtrue: no such prior", "mixture")),
        (("stage=joint", "prior=diffusion"), ("prior: Diffusion is not trained by the gradient of a VAE",)),
        (("stage=joint", "vae=gmvae"), ("prior=learned was trained together with the VAE already",)),
        (("stage=joint", "vae=delta"), ("trains against no prior",)),
        (("stage=joint", "joint.max_epochs=0"), ("joint.max_epochs=0",)),
    ],
)
def test_what_cannot_go_together_is_refused(tmp_path: Path, words: tuple[str, ...], parts: tuple[str, ...]) -> None:
    assert_refused(run_here(tmp_path, *words), tmp_path, *parts)
