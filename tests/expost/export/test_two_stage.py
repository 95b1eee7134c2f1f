"""An exported model is the pipeline's own, to the last bit, and stands alone."""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import PROJECT, run_here
from exported_model import TINY, exported, job, rewrite, stages_of
from torch.distributions import Distribution

from expost import pipeline
from expost.base.errors import UserError
from expost.export.two_stage import TwoStage
from expost.measure.bounds import measure_bounds
from expost.parts.decoding import image_blocks
from expost.store.safe import UnsafeError
from stage1_vae.data.images import subset

FEW_POINTS = ("data.num_train=300", "data.num_val=50", "data.num_test=50")
KINDS = {
    "mixture": (*TINY, "prior.num_components=5"),
    "autoregressive": (*TINY, "prior=autoregressive", "prior.hidden=[16,16]", "prior.fit.max_epochs=1"),
    "conv": (*TINY[:2], "net=conv", "net.channels=[4,8]", "likelihood=gaussian", "prior=gaussian", "logger=csv"),
    "resnet": (*TINY[:2], "net=resnet", "net.channels=[8]", "data.binarize=dynamic", "likelihood=bernoulli"),
    "delta": (*TINY, "vae=delta", "prior.num_components=5"),
    "rings": ("debug=fast", "data=mixture_rings", *FEW_POINTS, "vae=identity", "prior.num_components=5"),
}
WITH_BOUND = ("mixture", "autoregressive", "conv", "resnet")


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """Name of the kind, folder of the runs, folder of the model."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, exported(folder, *KINDS[request.param])


def test_the_same_bits_as_the_pipelines_own_objects(made: tuple[str, Path, Path]) -> None:
    name, folder, out = made
    (theirs, run), model = stages_of(folder, *KINDS[name]), TwoStage.load(out)
    torch.manual_seed(3)
    z = theirs.draw(theirs.prior, 1203)
    images = torch.cat(list(theirs.decode(z)))
    torch.manual_seed(3)
    assert torch.equal(model.sample_latents(1203), z)
    torch.manual_seed(3)
    ours = model.sample(1203)
    assert torch.equal(ours, images) and ours.shape == (1203, *model.image_shape)
    assert 0 <= ours.min() < ours.max() <= 1
    for x, _ in theirs.parts.batches(theirs.parts.data.test, 32):
        one, other = model.encode(x), theirs.vae.encode(x).posterior
        assert torch.equal(one.mean, other.mean) and torch.equal(one.variance, other.variance)
        break
    if name in WITH_BOUND:
        small = run.config.evaluation.model_copy(update={"num_bound_images": 40, "importance_samples": 7})
        run = replace(run, config=run.config.model_copy(update={"evaluation": small}))
        torch.manual_seed(5)
        costs = measure_bounds(theirs, run)["learned"].iwae_nats
        torch.manual_seed(5)
        batches = theirs.parts.batches(subset(theirs.parts.data.test, 40), 40)
        bound = torch.cat([model.log_prob_bound(x, num_samples=7) for x, _ in batches])
        assert costs is not None and torch.equal(bound, -costs) and bound.dtype == torch.float64
    else:
        with pytest.raises(ValueError, match="no bound on log p"):
            model.log_prob_bound(torch.zeros(2, *model.image_shape))


def test_maps_of_codes_and_the_transformer_over_them(tmp_path: Path) -> None:
    net = ("vae=vq2", "net.channels=[4,8]", "vae.bottleneck.num_codes=16", "vae.bottleneck.code_dim=4")
    words: tuple[str, ...] = (*TINY[:2], *net, "prior.width=8", "prior.depth=1", "prior.num_heads=2", "logger=csv")
    words += ("prior.fit.max_epochs=1", "prior.positions=rotary")
    model = TwoStage.load(exported(tmp_path, *words))
    theirs, _ = stages_of(tmp_path, *words)
    torch.manual_seed(3)
    z = theirs.draw(theirs.prior, 700)
    torch.manual_seed(3)
    assert torch.equal(model.sample_latents(700), z) and z.unique().numel() > 8
    assert torch.equal(model.decode(z), torch.cat(list(theirs.decode(z))))
    x, _ = next(iter(theirs.parts.batches(theirs.parts.data.test, 32)))
    codes = model.encode(x).sample()
    assert torch.equal(codes, theirs.vae.encode(x).posterior.sample())
    assert torch.equal(model.prior.log_prob(codes), theirs.prior.log_prob(codes))
    assert torch.equal(model.decode(codes.to(torch.uint8)), model.decode(codes)), "in the type that they are stored in"
    assert_one_draw_of_codes_is_decoded(model, x[:20])
    for wrong, reason in ((codes - 16, "has the code -"), (codes + 16, "the codebook has 16"), (codes / 2, "float32")):
        with pytest.raises(ValueError, match=reason):
            model.decode(wrong)


def assert_one_draw_of_codes_is_decoded(model: TwoStage, x: torch.Tensor) -> None:
    """The codes of an image are always the same: more of them are the same bound for more work."""
    decoded: list[int] = []
    decode = model.vae.decode

    def counted(z: torch.Tensor) -> Distribution:
        decoded.append(len(z))
        return decode(z)

    model.vae.decode = counted  # type: ignore[method-assign]
    bound = model.log_prob_bound(x, num_samples=50)
    model.vae.decode = decode  # type: ignore[method-assign]
    assert sum(decoded) == len(x)
    codes = model.encode(x).sample()
    exact = model.vae.decode(codes).log_prob(x).double() + model.prior.log_prob(codes).double()
    torch.testing.assert_close(bound, exact, rtol=1e-5, atol=1e-3)
    with pytest.raises(ValueError, match="num_samples"):
        model.log_prob_bound(x, num_samples=0)


def test_the_first_block_of_stage_sample(made: tuple[str, Path, Path]) -> None:
    name, folder, out = made
    theirs, _ = stages_of(folder, *KINDS[name])
    (block,) = image_blocks(theirs.vae, theirs.prior.sample, 500, False, 9, theirs.parts.data)
    torch.manual_seed(9 * 1_000_003)
    ours = TwoStage.load(out).sample(500)
    assert torch.equal(ours.mul(255).round().to(torch.uint8), block)


def test_the_bound_is_a_lower_one_that_rises(made: tuple[str, Path, Path]) -> None:
    name, folder, out = made
    if name not in WITH_BOUND:
        return
    theirs, _ = stages_of(folder, *KINDS[name])
    model = TwoStage.load(out)
    x, _ = next(iter(theirs.parts.batches(theirs.parts.data.test, 60)))
    torch.manual_seed(0)
    few, many = model.log_prob_bound(x, 1), model.log_prob_bound(x, 300)
    assert few.mean() < many.mean()


def test_what_the_model_was_not_trained_on_is_refused(made: tuple[str, Path, Path]) -> None:
    name, _, out = made
    model = TwoStage.load(out)
    for x in (torch.zeros(2, 5, 5), torch.zeros(2, *model.image_shape, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="expected float32"):
            model.encode(x)
    with pytest.raises(ValueError, match="not finite"):
        model.encode(torch.full((2, *model.image_shape), math.nan))
    with pytest.raises(ValueError, match="expected \\[B"):
        model.decode(torch.zeros(2, 77))
    with pytest.raises(ValueError, match="-1"):
        model.sample(-1)
    assert model.sample(0).shape == (0, *model.image_shape)
    if name != "rings":
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            model.encode(torch.full((2, *model.image_shape), 1.5))
    if name in ("mixture", "autoregressive", "resnet"):
        with pytest.raises(ValueError, match="levels"):
            model.log_prob_bound(torch.full((2, *model.image_shape), 0.3))


def test_three_lines_in_another_place_without_the_store(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    out = exported(tmp_path / "made", *KINDS["mixture"])
    moved = out.rename(tmp_path / "elsewhere")
    code = (
        "import sys, torch; from expost.export.two_stage import TwoStage; model = TwoStage.load('elsewhere');"
        "torch.manual_seed(1); print(model.sample(64).double().sum().item(), 'pytorch_lightning' in sys.modules)"
    )
    surroundings = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=surroundings, encoding="utf-8"
    )
    torch.manual_seed(1)
    assert done.stdout.split() == [str(TwoStage.load(moved).sample(64).double().sum().item()), "False"], done.stderr


def test_loading_leaves_the_callers_random_numbers_alone(made: tuple[str, Path, Path]) -> None:
    torch.manual_seed(2)
    expected = torch.rand(3)
    torch.manual_seed(2)
    TwoStage.load(made[2])
    assert torch.equal(torch.rand(3), expected)


def test_the_command_and_what_it_refuses(tmp_path: Path) -> None:
    words = (*KINDS["mixture"], "stage=export")
    result = run_here(tmp_path, *words, "export.out=model")
    assert (result.code, result.err) == (0, "")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "vae.safetensors", "prior.safetensors", "config.json", "README.md",
    }  # fmt: skip
    assert "not evaluated" not in result.out and "before it was evaluated" in (tmp_path / "model/README.md").read_text(
        encoding="utf-8"
    )
    before = sorted(tmp_path.iterdir())
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    for out, reason in {
        "model": "is not empty", "null": "export.out=FOLDER", "missing/model": "does not exist",
        "link": "a link already", "file": "a file",
    }.items():  # fmt: skip
        refused = run_here(tmp_path, *words, f"export.out={out}")
        assert refused.code == 2 and len(refused.lines) == 1 and reason in refused.err, refused
    required = run_here(tmp_path, *words, "export.out=other", "upstream=require", "seed=1")
    assert required.code == 2 and "stage=vae" in required.err and not (tmp_path / "other").exists()
    (tmp_path / "link").unlink()
    (tmp_path / "file").unlink()
    assert sorted(tmp_path.iterdir()) == before, "nothing half-written is left"
    (tmp_path / "empty").mkdir()
    assert run_here(tmp_path, *words, "export.out=empty").code == 0
    assert TwoStage.load(tmp_path / "empty").sample(1).shape == (1, 1, 8, 8)


def test_the_card_tells_the_figures_of_the_evaluation(tmp_path: Path) -> None:
    words = KINDS["mixture"]
    pipeline.perform(job(tmp_path, *words, "stage=evaluate"))
    card = (exported(tmp_path, *words) / "README.md").read_text(encoding="utf-8")
    (stored,) = tmp_path.glob("store/evaluation/*/figures.json")
    row = json.loads(stored.read_text(encoding="utf-8"))["rows"]["learned"]
    (line,) = [line for line in card.splitlines() if line.startswith("| -IWAE, nats")]
    assert f"{row['iwae_nats']:.2f}" in line
    assert 'TwoStage.load("' in card and "before it was evaluated" not in card


def test_an_interrupted_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("expost.stages.export.model_card", full)
    with pytest.raises(UserError, match="No space left on device"):
        exported(tmp_path, *KINDS["mixture"])
    assert [path.name for path in tmp_path.iterdir() if "model" in path.name] == []


def test_another_version_of_a_class_is_named(made: tuple[str, Path, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made[2], tmp_path / "copy"))
    rewrite(folder, lambda content: content["versions"].update({content["prior"]["_target_"]: 99}))
    with pytest.raises(UnsafeError, match="version 99"):
        TwoStage.load(folder)
