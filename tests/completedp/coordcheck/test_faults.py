"""At a size that takes seconds: Complete(d)P passes, `sp` fails, a planted fault is named first."""

import dataclasses
from pathlib import Path

import pytest
import torch

from completedp.coordcheck import check
from completedp.coordcheck.faults import FAULTS, FaultySubject
from completedp.coordcheck.reference import ReferenceSubject
from completedp.coordcheck.slopes import AXES, Axis, Slope, failures, worst
from completedp.coordcheck.subject import Subject
from completedp.lm.preset_files import load_preset

PRESET = load_preset("coordinates")
CONFIG = dataclasses.replace(PRESET, train=dataclasses.replace(PRESET.train, batch=256))  # tokens
CPU = torch.device("cpu")
Healthy = dict[Axis, list[Slope]]


def slopes(subject: Subject, axis: Axis, parameterization: str = "completed-p") -> list[Slope]:
    power = {"beta_rule": "power"} if parameterization == "completed-p" else {}
    setting = check.Setting(
        axes=(axis,),
        ratios=(1, 4),
        steps=8,
        seeds=(0, 1, 2),
        parameterization=parameterization,
        options=power,
    )
    return check.slopes(setting, check.measure(subject, setting, lambda *run: None))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def healthy(cache: Path) -> Healthy:
    return {axis: slopes(ReferenceSubject(CONFIG, cache, CPU), axis) for axis in AXES}


@pytest.mark.parametrize("axis", AXES)
def test_complete_d_p_passes(healthy: Healthy, axis: Axis) -> None:
    assert failures(healthy[axis]) == []
    assert any(slope.verdict == "holds" for slope in healthy[axis])


@pytest.mark.parametrize("axis", AXES)
def test_sp_fails(cache: Path, axis: Axis) -> None:
    assert failures(slopes(ReferenceSubject(CONFIG, cache, CPU), axis, "sp"))


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named_first(cache: Path, healthy: Healthy, name: str) -> None:
    fault = FAULTS[name]
    found = slopes(FaultySubject(CONFIG, cache, CPU, fault), fault.axis)
    first = failures(found)[0]
    assert (first.key.module, first.key.quantity) == (fault.module_type, fault.quantity)
    # Measured: 3.4 to 7.3 times; at full size benchmarks/coordcheck.py has the figures.
    assert first.distance > 3 * worst(healthy[fault.axis]).distance
