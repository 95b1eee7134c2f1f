"""The floors that discrete latents are judged against: what they do to the key and to the draws of other rows."""

from dataclasses import replace

import pytest
import torch
from exported_model import exported, stages_of
from torch import Tensor

from expost import pipeline
from expost.job import Job
from expost.measure.image_sets import collect_sets
from expost.measure.subject import COUNTED, ImageSubject, baseline_prior, fit_floors, floor_ingredients
from stage1_vae.latents import LatentSpec, Support

CODES = ("vae=vq", "net.channels=[4,8]", "vae.bottleneck.num_codes=16", "vae.bottleneck.code_dim=4")
WORDS = ("debug=fast", "trainer.max_steps=5", *CODES, "prior=unigram", "logger=csv")


class Pixels:
    """Images as their own features."""

    description = "pixels"

    def extract(self, images: Tensor) -> Tensor:
        return images.flatten(1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImageSubject, Job]:
    folder = tmp_path_factory.mktemp("trained")
    exported(folder, *WORDS)
    model, run = stages_of(folder, *WORDS)
    return replace(model, baseline=baseline_prior(model.vae.spec)), run


def test_rows_that_priors_share_are_drawn_alike_whatever_floors_there_are(trained: tuple[ImageSubject, Job]) -> None:
    """A prior that is a floor itself has one floor fewer."""
    model, run = trained
    sets = []
    for name in ("unigram", "transformer"):
        counted = fit_floors(model.train, model.test, run, name)
        torch.manual_seed(4)
        sets.append(collect_sets(replace(model, floors=counted), Pixels(), 30))
    one, other = sets
    assert other.keys() - one.keys() == {"unigram"} and "bigram" in one
    for row in one.keys() - {*COUNTED, "learned"}:
        assert torch.equal(one[row].features, other[row].features), row


def test_an_evaluation_of_codes_is_another_when_a_floor_is(
    trained: tuple[ImageSubject, Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, run = trained
    before = evaluation_key(model, run)
    assert evaluation_key(model, run) == before
    monkeypatch.setattr(COUNTED["bigram"], "version", 99)
    assert evaluation_key(model, run) != before


def evaluation_key(model: ImageSubject, job: Job) -> str:
    return pipeline.keys("evaluation", job, model.parts)["evaluation"]


def test_only_floors_that_are_counted_have_a_part_in_the_key() -> None:
    assert floor_ingredients(LatentSpec((3,))) == {}
    both = {"floors": {row: cls.version for row, cls in COUNTED.items()}}
    assert floor_ingredients(LatentSpec((3,), Support.BITS)) == both
    many = LatentSpec((4,), Support.CODES, ((2, 2),), (8192,))
    assert floor_ingredients(many) == {"floors": {"unigram": COUNTED["unigram"].version}}
