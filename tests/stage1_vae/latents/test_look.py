"""What a look at latents says is so: each shape is called what it is, and ordinary ones nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import SMALL, report_of, run_here

from benchmarks.latents.shapes import NO_DENSITY, draw
from expost import fit_prior
from stage1_vae.latents import LatentDataset
from stage1_vae.latents.look import look_at

REMARKS = {
    "20 clusters 0.03 wide": [],
    "two columns equal to 1e-5": ["columns that follow from others"],
    "one wild latent (1e4)": ["wild rows"],
    "heavy tails (Student, 2 degrees)": ["heavy tails"],
    "mean 1,000, width 0.01": ["large offsets"],
    "widths 1e-4 to 1e4": [],
    "ring of width 0.05": [],
    "half of the entries exactly 0": ["equal values", "repeats"],
    "whole numbers 0, 1, 2": ["equal values", "repeats"],
    "one dead column": ["dead columns"],
    "correlations of 0.999": [],
    "uniform cube": [],
    "log-normal": ["heavy tails"],
    "three of eight dimensions, 0.01 thick": [],
    "shell 0.02 thick": [],
    "two clusters 1,000 widths apart": [],
    "sums and repeats of columns": ["columns that follow from others"],
    "1 % of rows 1,000 times as wide": ["heavy tails"],
    "0.2 % of rows 10,000 times as wide": ["wild rows"],
    "200 latents over and over": ["repeats"],
    "all of length 1": ["a surface"],
}


@pytest.mark.parametrize("name", REMARKS)
def test_each_shape_is_called_what_it_is(name: str) -> None:
    look = look_at(LatentDataset.of(draw(name, 0, 3000)[0]))
    assert [remark.what for remark in look.remarks] == REMARKS[name]
    assert bool(look.no_density) == (name in NO_DENSITY) and not look.refusal
    assert look.line.startswith("3,000 points without a width of 8 numbers")


def test_figures_are_counted_over_all_rows() -> None:
    loc = torch.from_numpy(np.random.default_rng(0).normal(size=(70_000, 3))).float()
    loc[65_000:65_400] = loc[:400]
    loc[69_999] = 1e5
    said = look_at(LatentDataset.of(loc)).line
    assert "69,600 different" in said and "400 of 70,000 are the same as an earlier one" in said
    assert "1 of 70,000 rows are" in said and "(first: 69,999)" in said


def test_whole_numbers_that_differ_are_not_called_the_same() -> None:
    loc = torch.from_numpy(np.random.default_rng(0).integers(0, 2, size=(100_000, 32))).float()
    distinct = len(np.unique(loc.numpy(), axis=0))
    assert f"{distinct:,} different" in look_at(LatentDataset.of(loc)).line


def test_normal_latents_set_off_no_alarm() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        num, dims = int(rng.integers(20, 201)), int(rng.integers(2, 65))
        loc = torch.from_numpy(rng.normal(size=(num, dims))).float()
        for latents in (LatentDataset.of(loc), LatentDataset.of(loc, torch.full_like(loc, -2.0))):
            look = look_at(latents)
            assert not look.remarks and not look.no_density, look.line


def test_posteriors_with_widths_may_share_a_mean() -> None:
    loc = torch.zeros(500, 4)
    look = look_at(LatentDataset.of(loc, torch.full_like(loc, -1.0)))
    assert not look.remarks and not look.refusal and "500 posteriors of 4 numbers, 1 different" in look.line


def test_codes_are_looked_at_by_their_use() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 40, size=(500, 6))
    codes[400:] = codes[:100]
    look = look_at(LatentDataset.of(codes=codes, num_codes=64))
    assert [remark.what for remark in look.remarks] == ["unused codes", "repeated maps"]
    assert "24 of 64 codes never occur" in look.line and "100 of 500 maps" in look.line
    assert "used like 4" in look.seen or "used like 39" in look.seen


def test_zeros_of_both_signs_are_one_value() -> None:
    loc = np.random.default_rng(0).integers(-1, 2, size=(3000, 3)) * np.float32(0.1)
    signed = np.where(loc == 0, np.copysign(np.float32(0), np.random.default_rng(1).normal(size=loc.shape)), loc)
    assert "27 different" in look_at(LatentDataset.of(signed.astype(np.float32))).seen
    nothing = np.copysign(np.zeros((90, 3), np.float32), np.random.default_rng(2).normal(size=(90, 3)))
    assert "are the same" in look_at(LatentDataset.of(nothing.astype(np.float32))).refusal


@pytest.mark.parametrize("num_wild", [1, 2])
def test_wild_rows_among_few_are_not_called_tails(num_wild: int) -> None:
    loc = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    loc[100 : 100 + num_wild] *= 1e4
    look = look_at(LatentDataset.of(loc))
    assert [remark.what for remark in look.remarks] == ["wild rows"]
    assert f"{num_wild} of 500 rows are" in look.line and "(first: 100)" in look.line


def test_whole_numbers_are_told_how_they_become_codes() -> None:
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 3, size=(2000, 6)).astype(np.float32)
    whole[:, 5] = 7  # never varies
    assert "data.codes=NAME reads them as codes, which have probabilities" in look_at(LatentDataset.of(whole)).line
    assert "once the least of them is made 0" in look_at(LatentDataset.of(whole - 1)).line
    assert "data.codes" not in look_at(LatentDataset.of(whole + np.float32(0.5))).line


def test_columns_that_are_modelled_all_the_same_have_no_density_together() -> None:
    loc = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    loc[:, 3] = loc[:, 0]
    look = look_at(LatentDataset.of(loc), keeps_dependent=True)
    assert "all of them have no density" in look.no_density and "they are modelled all the same" in look.line
    assert not look_at(LatentDataset.of(loc)).no_density
    _, report = fit_prior(LatentDataset.of(loc), "gaussian", dependent="keep")
    assert report.look is not None and "no density" in report.look[0]["done"]
    long = np.random.default_rng(0).normal(size=(50, 1025)).astype(np.float32)
    assert "columns that follow from others: not looked for, in 1,025" in look_at(LatentDataset.of(long)).line


def test_maps_whose_channels_repeat_or_partly_never_vary_have_no_density() -> None:
    loc = np.random.default_rng(0).normal(size=(600, 3, 3, 3)).astype(np.float32)
    assert not look_at(LatentDataset.of(loc)).no_density
    dead = loc.copy()
    dead[:, 2] = 1
    look = look_at(LatentDataset.of(dead))  # a whole channel is left out
    assert not look.no_density and [remark.what for remark in look.remarks] == ["dead columns"]
    dead[:, 1, 0] = 5
    assert "places of channels that vary never do" in look_at(LatentDataset.of(dead)).no_density
    loc[:, 2] = loc[:, 0]
    look = look_at(LatentDataset.of(loc))
    assert "channels repeat others" in look.no_density and "(2 of 0, counted from 0)" in look.line
    many = np.random.default_rng(0).normal(size=(25_000, 2, 1, 30)).astype(np.float32)
    many[:, 1] = many[:, 0]
    many[11, 1] += 1  # of a row that no sample is sure to hold
    assert not look_at(LatentDataset.of(many)).no_density


def test_codes_of_one_value_are_refused() -> None:
    for codes in (np.full((300, 4), 5), np.tile([1, 2, 3, 4], (300, 1))):
        with pytest.raises(ValueError, match="maps of codes for the fit are the same, so that there is nothing to fit"):
            fit_prior(LatentDataset.of(codes=codes, num_codes=16), "unigram")


def test_what_cannot_be_fitted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="all 90 latents for the fit are the same, so that there is nothing to fit"):
        fit_prior(LatentDataset.of(torch.ones(90, 3)), "mixture", val=LatentDataset.of(torch.ones(9, 3)))
    np.savez(tmp_path / "latents.npz", loc=np.ones((300, 3), np.float32))
    words = ["data=latents", f"data.root={tmp_path / 'latents.npz'}", "prior=gaussian"]
    refused = run_here(tmp_path, *words)
    assert refused.code == 2 and len(refused.lines) == 1 and "latents for the fit are the same" in refused.err


def test_a_run_says_it_and_its_report_shows_it(tmp_path: Path) -> None:
    loc = draw("half of the entries exactly 0", 0, 1000)[0]
    np.savez(tmp_path / "latents.npz", loc=loc)
    result = run_here(tmp_path, "data=latents", f"data.root={tmp_path / 'latents.npz'}", "prior=gaussian", "logger=csv")
    assert result.code == 0, result.err
    assert "single values repeat, so that they have no density" in result.out
    (fitting,) = report_of(tmp_path)["fitting"].values()
    assert [row["what"] for row in fitting["look"]] == ["all", "equal values", "repeats"]
    assert "Single values repeat, so that they have no density" in report_of(tmp_path)["verdict"]
    page = next(tmp_path.glob("runs/*/report.html")).read_text(encoding="utf-8")
    assert "Training latents, before the prior was fitted" in page
    images = run_here(tmp_path, *SMALL)
    assert images.code == 0 and "posteriors of 16 numbers" in images.out, images.err
