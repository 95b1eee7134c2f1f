"""A VAE that finds clusters, whole runs in little: the figure in the report, components placed, labels that help."""

import json
from pathlib import Path

import pytest
from command_line import report_of, run_here
from safetensors.torch import load_file

LITTLE = (
    *(
        "vae=gmvae",
        "net.hidden=[128]",
        "likelihood=bernoulli",
        "logger=csv",
        "trainer.max_epochs=40",
        "trainer.lr=2e-3",
    ),
    *("vae.bottleneck.latent_dim=8", "vae.objective.join_after=120", "vae.objective.alone_beta=0.3"),
    *("vae.prior.covariance=full", "evaluation.num_samples=256", "evaluation.importance_samples=2"),
    *("evaluation.num_bound_images=32", "trainer.val_every=20"),
)


def test_known_labels_make_clusters_classes(tmp_path: Path) -> None:
    """Without any, clusters are there and in no order; with a hundred, component k is class k, and more images are in
    the component of theirs."""
    accuracy = {}
    for name, words in {"none": (), "hundred": ("data.labelled=100",)}.items():
        (folder := tmp_path / name).mkdir()
        result = run_here(folder, *LITTLE, *words)
        assert result.code == 0, result.err
        assert "placed 10 components on 1,258 latents" in result.out
        report = report_of(folder)
        row, clusters = report["rows"]["learned"], report["clusters"]
        assert clusters["num_images"] == 359 and clusters["num_components"] == 10
        assert sum(map(sum, clusters["counts"])) == 359
        assert clusters["classes_known"] is (name == "hundred")
        assert row["cluster_accuracy"] == clusters["accuracy"]["value"] <= row["cluster_purity"] <= 1
        assert 0 < row["spread"]["cluster_accuracy"] < 0.05 and 0 < row["cluster_nmi"] < 1
        assert "lie in the component of their class" in report["verdict"]
        assert report["rows"]["standard_normal"]["cluster_accuracy"] is None
        accuracy[name] = row["cluster_accuracy"]
    assert accuracy["none"] > 0.5, "chance is about 0.15"
    assert accuracy["hundred"] > max(0.8, accuracy["none"])
    (trained,) = (tmp_path / "hundred" / "runs" / "store" / "vae").iterdir()
    history = json.loads((trained / "history.json").read_text(encoding="utf-8"))
    assert history[0]["train_label_nats"] == 0 < history[-1]["train_label_nats"] < 0.5
    assert set(load_file(trained / "learned.safetensors")) == {"log_weights", "means", "scale"}


def test_a_mixture_that_was_fitted_afterwards_has_clusters_too(tmp_path: Path) -> None:
    words = ("debug=fast", "net.hidden=[32]", "logger=csv", "prior=mixture", "prior.num_components=30")
    result = run_here(tmp_path, *words)
    assert result.code == 0, result.err
    report = report_of(tmp_path)
    clusters = report["clusters"]
    assert clusters["num_components"] == 30 and not clusters["classes_known"]
    assert sum(y >= 0 for y in clusters["matched"]) == 10  # the others are wrong, one to one
    assert report["rows"]["mixture"]["cluster_purity"] >= report["rows"]["mixture"]["cluster_accuracy"]
    assert "component of their class" not in report["verdict"]  # so many were not meant to be classes


def test_components_that_no_label_was_given_to_are_matched(tmp_path: Path) -> None:
    """Those of a mixture that is fitted to a VAE which knew labels; what no step would place is refused."""
    words = ("debug=fast", "net.hidden=[32]", "logger=csv", "vae=gmvae", "data.labelled=20")
    result = run_here(tmp_path, *words, "prior=mixture", "prior.num_components=10")
    assert result.code == 0, result.err
    assert report_of(tmp_path)["clusters"]["classes_known"] is False
    refused = run_here(tmp_path, *words, "vae.objective.join_after=5000", "stage=vae")
    assert refused.code == 2 and "components would never be placed" in refused.err and refused.err.count("\n") == 1


@pytest.mark.parametrize("setting", ["patience=2", "ema_decay=0.99"])
def test_what_spans_the_placing_of_components_is_refused(tmp_path: Path, setting: str) -> None:
    words = ("debug=fast", "logger=csv", "vae=gmvae", f"trainer.{setting}", "stage=vae")
    refused = run_here(tmp_path, *words, "vae.objective.join_after=12")
    remedy = f"set trainer.{setting.partition('=')[0]}=null"
    assert refused.code == 2 and remedy in refused.err and refused.err.count("\n") == 1
    assert run_here(tmp_path, *words).code == 0


@pytest.mark.parametrize("words", [(), ("data.labelled=50",), ("vae.objective.information_weight=5",)])
def test_components_are_placed_once_and_alike(tmp_path: Path, words: tuple[str, ...]) -> None:
    found = []
    common = ("debug=fast", "vae=gmvae", "net.hidden=[32]", "logger=csv", "stage=vae", "trainer.max_epochs=3")
    for name in ("first", "again"):
        (folder := tmp_path / name).mkdir()
        result = run_here(folder, *common, *words, "vae.objective.join_after=12")
        assert result.code == 0, result.err
        assert result.out.count("placed 10 components") == 1
        assert ("the loss bounds nothing" in result.out) is bool(words)
        (trained,) = (folder / "runs" / "store" / "vae").iterdir()
        found.append(load_file(trained / "learned.safetensors"))
    assert all(value.equal(found[1][name]) for name, value in found[0].items())
