"""At a size that takes seconds: Complete(d)P passes, `sp` fails, a planted fault is named first."""

from pathlib import Path

import pytest
import torch

from benchmarks.coordcheck.faults import FAULTS, FaultySubject
from completedp.config import StudyConfig
from completedp.coordcheck import check
from completedp.coordcheck.reference import ReferenceSubject
from completedp.coordcheck.slopes import AXES, Axis, Slope, failures, worst
from completedp.coordcheck.subject import Subject

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
def healthy(small: StudyConfig, cache: Path) -> Healthy:
    return {axis: slopes(ReferenceSubject(small, cache, CPU), axis) for axis in AXES}


@pytest.mark.parametrize("axis", AXES)
def test_complete_d_p_passes(healthy: Healthy, axis: Axis) -> None:
    assert failures(healthy[axis]) == []
    assert any(slope.verdict == "holds" for slope in healthy[axis])


@pytest.mark.parametrize("axis", AXES)
def test_sp_fails(small: StudyConfig, cache: Path, axis: Axis) -> None:
    assert failures(slopes(ReferenceSubject(small, cache, CPU), axis, "sp"))


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named_first(
    small: StudyConfig, cache: Path, healthy: Healthy, name: str
) -> None:
    fault = FAULTS[name]
    found = slopes(FaultySubject(small, cache, CPU, fault), fault.axis)
    first = failures(found)[0]
    assert (first.key.module, first.key.quantity) == (fault.module_type, fault.quantity)
    # Measured: 3.2 to 12.8 times, on another made-up text 2.2 to 8.0; at full size
    # benchmarks/coordcheck/full.py has the figures.
    assert first.distance > 3 * worst(healthy[fault.axis]).distance
