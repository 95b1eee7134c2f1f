"""`precision=auto` takes bfloat16 where products are faster by it, and not where there are only instructions for it."""

import pytest
import torch
from training_run import settings

from expost.job import decided_settings
from expost.training.devices import precision_words, resolved_precision
from stage1_vae import machine
from stage1_vae.machine import ProductTimes, is_bf16_faster, product_times

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


def test_products_are_timed_once_a_process() -> None:
    times = product_times()
    assert 0 < times.float32 < 10 and 0 < times.bfloat16 < 10
    assert product_times() is times
