"""`precision=auto` takes bfloat16 where products are faster by it, and not where there are only instructions for it."""

from pathlib import Path

import pytest
import torch
from training_run import settings

from expost.job import decided_settings
from expost.training.devices import precision_words, resolved_precision
from stage1_vae import machine
from stage1_vae.machine import ProductTimes, is_bf16_faster, product_times, seed_generators

CPU = torch.device("cpu")
SLOWER, FASTER, HARDLY = ProductTimes(0.010, 0.019), ProductTimes(0.010, 0.004), ProductTimes(0.010, 0.009)


def on_a_machine(monkeypatch: pytest.MonkeyPatch, times: ProductTimes, has_it: bool = True) -> None:
    monkeypatch.setattr(machine, "has_native_bf16", lambda device: has_it)
    monkeypatch.setattr(machine, "product_times", lambda: times)
    monkeypatch.setattr("expost.training.devices.has_native_bf16", lambda device: has_it)
    monkeypatch.setattr("expost.training.devices.product_times", lambda: times)


@pytest.mark.parametrize(("times", "precision"), [(SLOWER, "32"), (HARDLY, "32"), (FASTER, "bf16")])
def test_auto_takes_what_is_faster(times: ProductTimes, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_machine(monkeypatch, times)
    assert resolved_precision(settings(precision="auto")) == precision
    fit = decided_settings({"fit": {"precision": "auto"}}, CPU)
    assert fit["precision"] == {"32": "32-true", "bf16": "bf16-mixed"}[precision]
    words = precision_words(CPU)
    assert words.startswith("bfloat16: " if precision == "bf16" else "float32: ")
    assert f"{1000 * times.bfloat16:.3g} ms in bfloat16" in words


def test_without_instructions_nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_machine(monkeypatch, FASTER, has_it=False)
    assert not is_bf16_faster(CPU)
    assert precision_words(CPU) == "float32: there are no instructions for bfloat16 here"


def test_products_are_timed_once_a_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A second process goes by the times of the first, whatever it would have found: keys follow from them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked: list[ProductTimes] = []

    def timed() -> ProductTimes:
        asked.append(FASTER if asked else SLOWER)
        return asked[-1]

    monkeypatch.setattr(machine, "_time_products", timed)
    for _ in range(3):
        product_times.cache_clear()
        assert product_times() == SLOWER
    assert len(asked) == 1
    (kept,) = (tmp_path / "expost").iterdir()  # and nothing beside it
    kept.write_text("{}", encoding="utf-8")
    product_times.cache_clear()
    assert product_times() == FASTER, "what is damaged is timed anew"
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    product_times.cache_clear()
    assert product_times() == FASTER, "where nothing can be kept"
    product_times.cache_clear()


def test_real_products_take_real_times() -> None:
    times = machine._time_products()
    assert 0 < times.float32 < 10 and 0 < times.bfloat16 < 10


def test_generators_are_seeded_as_by_torch() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    seed_generators(7, CPU)
    assert torch.equal(torch.rand(3), expected)
