"""Priors that are learned with the VAE, and two stages that go on together: real runs in little, and refusals."""

import json
from pathlib import Path

import pytest
from command_line import SMALL, assert_refused, report_of, run_here
from safetensors.torch import load_file

LITTLE = ("debug=fast", "trainer.val_every=2", "net.hidden=[32]", "logger=csv")
VAES = {
    "vamp": "vae.prior.num_components=20",
    "gmvae": "",
    "learned_gaussian": "",
    "flow_prior": "vae.prior.num_layers=2",
}


def stored(folder: Path, stage: str) -> list[Path]:
    return sorted((folder / "runs" / "store" / stage).iterdir())


@pytest.mark.parametrize("vae", VAES)
def test_a_prior_is_learned_with_the_vae_and_taken_over(tmp_path: Path, vae: str) -> None:
    result = run_here(tmp_path, *LITTLE, f"vae={vae}", *filter(None, [VAES[vae]]))
    assert result.code == 0, result.err
    report = report_of(tmp_path)
    row = report["rows"]["learned"]
    assert any("the row of standard_normal says what another prior would cost it" in note for note in report["notes"])
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
    (joint,) = stored(tmp_path, "joint")
    assert [row["epoch"] for row in json.loads((joint / "history.json").read_text(encoding="utf-8"))] == [0, 1]
    assert (joint / "learned.safetensors").exists() and len(stored(tmp_path, "latents")) == 2
    again = run_here(tmp_path, *words, "stage=joint")
    assert again.code == 0 and "joint      unchanged, skipped" in again.out


def test_an_export_needs_nothing_of_the_training(tmp_path: Path) -> None:
    words = (*LITTLE, "vae=gmvae")
    result = run_here(tmp_path, *words, "stage=export", f"export.out={tmp_path / 'model'}")
    assert result.code == 0, result.err
    from expost import TwoStage

    assert TwoStage.load(tmp_path / "model").sample(3).shape == (3, 1, 8, 8)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("prior=learned",), ("prior=learned takes over what was learned with the VAE", "vae=vamp")),
        (("vae=gmvae", "vae.prior.num_components=100000"), ("100000", "lower vae.prior.num_components")),
        (("vae=flow_prior", "vae.objective.free_nats=1"), ("vae.objective.free_nats=0",)),
        (("vae=delta", "+vae.prior=mixture"), ("vae.prior", "trains against no prior")),
        (("+vae.prior=diffusion",), ("vae.prior: Diffusion has no exact density that a gradient",)),
        (("+vae.prior=mixtrue",), ("vae.prior: mixtrue: no such prior", "mixture")),
        (("stage=joint", "prior=diffusion"), ("prior: Diffusion has no exact density that a gradient",)),
        (("stage=joint", "vae=gmvae"), ("prior=learned was trained together with the VAE already",)),
        (("stage=joint", "vae=delta"), ("trains against no prior",)),
        (("stage=joint", "joint.max_epochs=0"), ("joint.max_epochs=0",)),
    ],
)
def test_what_cannot_go_together_is_refused(tmp_path: Path, words: tuple[str, ...], told: tuple[str, ...]) -> None:
    assert_refused(run_here(tmp_path, *words), tmp_path, *told)
