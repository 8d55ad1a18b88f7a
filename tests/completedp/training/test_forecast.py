"""A run's forecast by its FLOPs, and on a GPU by its launches if those take longer."""

import dataclasses

import pytest
import torch

from completedp.lm.preset_files import load_preset
from completedp.models import training_flops
from completedp.training import forecast


def test_small_models_wait_for_launches_and_large_ones_for_products(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The preset's own steps on an H100 took 7.6 ms (`small`) and 121 ms (`proxy-50m`)."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(forecast, "_matmul_rate", lambda device, precision: 700e12)
    small, large = load_preset("small"), load_preset("proxy-50m")
    seconds = forecast.mean_seconds([(small.model, small.train)], "cuda")
    assert seconds == pytest.approx(7.6e-3 * small.train.steps, rel=0.1)
    seconds = forecast.mean_seconds([(large.model, large.train)], "cuda:1")
    assert seconds == pytest.approx(121e-3 * large.train.steps, rel=0.2)
    parts = dataclasses.replace(small.train, microbatch=small.train.batch // 4, compile=False)
    whole = dataclasses.replace(small.train, compile=False)
    four, one = (forecast.mean_seconds([(small.model, train)], "cuda") for train in (parts, whole))
    assert one is not None
    assert four == pytest.approx(4 * one)


def test_the_mean_of_runs_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        forecast, "_matmul_rate", lambda device, precision: 1e12 / forecast.UTILIZATION
    )
    config = load_preset("tiny")
    longer = dataclasses.replace(config.train, tokens=3 * config.train.tokens)
    runs = [(config.model, config.train), (config.model, longer)]
    flops = training_flops(config.model, config.train.tokens)
    assert forecast.mean_seconds(runs, "cpu") == pytest.approx(2 * flops / 1e12)
