"""Rungs come from the trials before, and a study with them spends less and keeps its best."""

import dataclasses
import functools
from pathlib import Path

import pytest
from bowl import STEPS
from rich.console import Console
from studies import job_factory, study_of

from completedp.config import StudyConfig
from completedp.errors import UserError
from completedp.runs.divergence import Monitor
from completedp.runs.job import Limits, Rung, Stopped
from completedp.runs.journal import read_records
from completedp.runs.local import InProcessExecutor
from search import begin, study_run
from search.stopping import FEWEST, STOPPING, KeepShare, forecast, stopping_named
from search.study_folder import StudyFolder


def curve(level: float, steps: int = 100) -> list[tuple[int, float]]:
    return [(step, level) for step in range(1, steps + 1)]


def test_a_bound_is_the_share_kept_of_those_that_came_so_far() -> None:
    whole = [curve(float(i)) for i in range(20)]
    (rung,) = KeepShare([0.2], 0.5).rungs(whole)
    assert rung == Rung(fraction=0.2, bound=9.5)
    early, late = KeepShare([0.2, 0.4], 0.5).rungs([*whole[:12], *(curve(50.0, 20),) * 8])
    assert early.bound > late.bound == 5.5  # the stopped ones were never seen at 40 %


def test_few_trials_give_no_bound() -> None:
    assert KeepShare([0.2], 0.5).rungs([]) == ()
    assert KeepShare([0.2], 0.5).rungs([curve(1.0)] * (FEWEST - 1)) == ()
    assert KeepShare([0.2], 0.5).rungs([curve(1.0)] * FEWEST)


def test_a_forecast_is_the_line_through_the_finished() -> None:
    finished = [(curve(1.0 + i), 0.5 * i) for i in range(FEWEST)]
    assert forecast(curve(3.0, 40), finished) == pytest.approx(1.0)
    assert forecast(curve(31.0, 40), finished) == pytest.approx(15.0)
    assert forecast(curve(3.0, 40), finished[1:]) is None
    assert forecast([], finished) is None


def test_a_forecast_never_takes_worse_for_better() -> None:
    """A chance line that falls is taken for none: the mean of the finished."""
    falling = [(curve(1.0 + i), -0.5 * i) for i in range(FEWEST)]
    mean = -0.5 * (FEWEST - 1) / 2
    assert forecast(curve(31.0, 40), falling) == pytest.approx(mean)
    alike = [(curve(1.0), 2.0)] * FEWEST
    assert forecast(curve(9.0, 40), alike) == pytest.approx(2.0)


@pytest.mark.parametrize("steps", [100, 384, 5000])
def test_a_run_ends_at_the_rung_it_fails_and_says_why(steps: int) -> None:
    rungs = (Rung(fraction=0.2, bound=2.0), Rung(fraction=0.4, bound=1.0))
    monitor = Monitor(Limits(steps=steps), rungs=rungs)
    for step in range(1, -(-4 * steps // 10)):
        monitor(step, 1.5)
    with pytest.raises(Stopped, match=r"1\.5000 at 40% of the run, above 1\.0000"):
        monitor(monitor.step + 1, 1.5)
    assert monitor.step == -(-4 * steps // 10)


def test_a_rung_sees_the_same_loss_in_the_run_and_in_its_curve() -> None:
    losses = [5.0 / step for step in range(1, 1001)]
    whole = Monitor(Limits(steps=1000))
    for step, loss in enumerate(losses, 1):
        whole(step, loss)
    (rung,) = KeepShare([0.3], 0.5).rungs([whole.curve] * FEWEST)
    again = Monitor(Limits(steps=1000), rungs=[rung])
    for step, loss in enumerate(losses, 1):
        again(step, loss)  # equal is not above
    assert again.curve == whole.curve


def test_a_study_with_rungs(
    tmp_path: Path, config: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_run, "draw", lambda *_: [])
    best, steps = {}, {}
    for stopping in STOPPING:
        search = dataclasses.replace(config.search, stopping=stopping, strategy="trust-region")
        place = StudyFolder(root=tmp_path, name=stopping)
        begin.create(place, study_of(dataclasses.replace(config, search=search), budget=80))
        run = functools.partial(study_run.run, place, console=Console(quiet=True))
        summary = run(InProcessExecutor(), job_factory(config))
        assert summary is not None
        study = place.read()
        ended = study.of_phase("module")
        best[stopping] = min(t.loss for t in ended if t.loss is not None)
        steps[stopping] = sum(t.steps for t in ended)
        stopped = [t for t in study.trials.values() if t.status == "stopped"]
        assert len(study.trials) == 80
        assert bool(stopped) == (stopping != "none")
        for t in stopped:
            assert t.phase == "module"
            assert t.loss is None
            assert t.steps in (STEPS // 5, 2 * STEPS // 5, 3 * STEPS // 5)
            assert "above" in (t.reason or "")
    assert steps["rungs"] < 0.9 * steps["none"]
    assert best["rungs"] <= best["none"] + 0.01
    proposed = [r for r in read_records(place.journal) if r["event"] == "proposed"]
    assert all("rungs" not in r for r in proposed if r["phase"] != "module")


def test_unknown_name() -> None:
    with pytest.raises(UserError, match="did you mean 'rungs'"):
        stopping_named("rung")
