"""An exported model of classes: labels and knobs reach its prior, and what it cannot draw is one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported_model import TINY, exported, reseal, rewrite, stages_of

from expost.export.two_stage import TwoStage
from expost.store.safe import UnsafeError

CODES = ("debug=fast", "trainer.max_steps=20", "vae=vq", "net.channels=[4,8]", "vae.bottleneck.num_codes=16")
SMALLER = ("prior.width=16", "prior.depth=1", "prior.fit.max_epochs=1", "logger=csv", "prior.conditional=true")
KINDS = {
    "mixture": (*TINY, "prior.num_components=3", "prior.conditional=true"),
    "autoregressive": (*TINY, "prior=autoregressive", "prior.hidden=[16]", *SMALLER[2:]),
    "transformer": (*CODES, "prior=transformer", "prior.num_heads=2", *SMALLER),
    "pixelcnn": (*CODES, "prior=pixelcnn", *SMALLER),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "mixture" else pytest.mark.slow) for kind in KINDS]
)
def test_labels_and_knobs_are_those_of_the_pipelines_own_prior(kind: str, tmp_path: Path) -> None:
    out = exported(tmp_path, *KINDS[kind])
    model, (theirs, _) = TwoStage.load(out), stages_of(tmp_path, *KINDS[kind])
    assert model.prior.num_classes == 10 and type(model.prior) is type(theirs.prior)
    labels = torch.arange(1203) % 10

    def both(label: Any, context: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(3)
        latents = model.sample_latents(1203, label)
        torch.manual_seed(3)
        return latents, theirs.draw(theirs.prior, 1203, context)

    assert "`label=3` (one class of 0 to 9)" in (out / "README.md").read_text(encoding="utf-8")
    for label, context in ((None, None), (3, torch.full((1203,), 3)), (labels, labels)):
        ours, expected = both(label, context)
        assert torch.equal(ours, expected)
    assert not torch.equal(*(model.sample_latents(50, y).float().mean(0) for y in (0, 1)))
    assert model.sample(7, label=3).shape == (7, *model.image_shape)
    names = model.class_names
    model._drawing.class_names = tuple(map(str, range(1, 11)))
    for one_to_three in ([1, 2, 3], (1, 2, 3), ["1", "2", "3"], np.array([1, 2, 3]), torch.tensor([1, 2, 3])):
        assert model._drawing._labels(3, one_to_three).tolist() == [0, 1, 2]  # type: ignore[arg-type]
    assert model._drawing._labels(2, np.int64(1)).tolist() == [0, 0]  # type: ignore[arg-type]
    model._drawing.class_names = names
    assert model.sample(0, label=3).shape == (0, *model.image_shape)
    if "top_k" in model.prior.knobs:  # of codes; of a mixture, a mean of a component that is drawn
        torch.manual_seed(0)
        one = model.sample(4, label=5, temperature=0)
        assert torch.equal(one, model.sample(4, label=5, temperature=0.0)), "the likeliest, whatever the seed"


def test_another_meaning_of_labels_is_named(tmp_path: Path) -> None:
    """It changes what the weights of every network of classes are worth."""
    out = exported(tmp_path, *KINDS["autoregressive"])
    rewrite(out, lambda content: content["versions"].update({"stage2_prior.labels": 99}))
    with pytest.raises(UnsafeError, match=r"stage2_prior\.labels was exported as version 99"):
        TwoStage.load(out)


def test_what_it_cannot_draw_is_one_line(tmp_path: Path) -> None:
    model = TwoStage.load(exported(tmp_path, *KINDS["mixture"]))
    refused: list[tuple[dict[str, Any], str]] = [
        ({"label": 10}, "label 10 is out of range; the classes are 0 to 9"),
        ({"label": -1}, "label -1 is out of range"),
        ({"label": 2.5}, "give whole numbers from 0 to 9"),
        ({"label": "three"}, "label three is out of range; the classes are 0 to 9"),
        ({"label": {}}, "give one class, or one for each"),
        ({"label": True}, "give whole numbers from 0 to 9"),
        ({"label": torch.zeros(3, dtype=torch.int64)}, r"give one class, or one for each: \[4\]"),
        ({"label": torch.zeros(4, 1, dtype=torch.int64)}, r"give one class, or one for each: \[4\]"),
        ({"temperature": -1.0}, "temperature=-1.0: give 0 or more"),
        ({"temperature": "hot"}, "temperature='hot': give a number"),
        ({"top_p": 0.0}, "top_p=0.0: give a share above 0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"top_k": 0}, "top_k=0: give a whole number"),
        ({"top_k": 2.5}, "top_k=2.5: give a whole number"),
        ({"guidance": float("nan")}, "guidance=nan: give a number"),
        ({"guidance": 1.0}, "cannot follow sample.guidance"),
        ({"top_k": 3}, "cannot follow sample.top_k"),
    ]
    for words, message in refused:
        with pytest.raises(ValueError, match=message) as caught:
            model.sample(4, **words)
        assert "\n" not in str(caught.value)


def test_a_label_where_the_prior_knows_no_classes(tmp_path: Path) -> None:
    model = TwoStage.load(exported(tmp_path, *TINY, "prior.num_components=3"))
    with pytest.raises(ValueError, match="knows no classes"):
        model.sample(4, label=3)


@pytest.mark.parametrize("num_classes", [0, 10**9])
def test_numbers_of_classes_that_the_files_do_not_hold_are_refused(num_classes: int, tmp_path: Path) -> None:
    """No class would be no prior, and a thousand million would be as many copies of one."""
    out = exported(tmp_path, *KINDS["mixture"])
    rewrite(out, lambda content: content["latent"].update(num_classes=num_classes))
    reseal(out)
    with pytest.raises(UnsafeError, match="needs labels" if num_classes == 0 else "more than its files hold"):
        TwoStage.load(out)
