"""A display shows every finished trial once, and the lead with its uncertainty."""

import io
from typing import Any

import pytest
from rich.console import Console
from studies import study_of

from completedp.config import StudyConfig
from completedp.runs.job import Died, Progress
from search.display import LiveDisplay, PlainDisplay, display_on, status_in_words
from search.status import status_of
from search.study import Study


def proposed(trial: int, phase: str, **extra: Any) -> dict[str, Any]:
    record = {"event": "proposed", "trial": trial, "values": {}, "phase": phase, "seed": trial // 2}
    return {**record, **extra}


def finished(trial: int, loss: float | None) -> dict[str, Any]:
    status = "diverged" if loss is None else "completed"
    record = {"event": "finished", "trial": trial, "status": status, "loss": loss, "steps": 4}
    reason = {} if loss is not None else {"reason": "the training loss is nan"}
    return {**record, "tokens": 40, "seconds": 1.5, **reason}


@pytest.fixture
def study(config: StudyConfig) -> Study:
    first = {"event": "study", **study_of(config, budget=24).to_record()}
    return Study.from_records([first], "journal")


def add(study: Study, *records: dict[str, Any]) -> None:
    for record in records:
        study.add(record)


def test_a_study_that_has_not_begun(study: Study) -> None:
    state = status_in_words(study)
    assert state["runs"].startswith("0 of 24 done")
    assert state["phase"] == "global values, 0 of 5"
    assert state["lead"] == "not yet known"


def test_the_lead_is_of_one_seed_until_it_is_confirmed(study: Study) -> None:
    for trial in range(5):
        add(study, proposed(trial, "global"), finished(trial, 2.0 + trial / 100))
    add(study, proposed(5, "module"), finished(5, 1.9))
    add(study, proposed(6, "module"), finished(6, None))
    state = status_in_words(study)
    assert "1 diverged" in state["runs"]
    assert state["phase"] == "per-module multipliers, 2 of 15"
    assert state["lead"].startswith("-0.1000 ± 0.0071 nats (as the search sees it")
    for i, arm in enumerate(("global", "module") * 2, 20):
        add(study, proposed(i, "confirm", arm=arm, round=0))
        add(study, finished(i, 2.0 - (0.05 + i / 1000) * (arm == "module")))
    assert "over 2 fresh paired seeds" in status_in_words(study)["lead"]


def test_a_study_whose_global_trials_all_diverged_is_stuck(study: Study) -> None:
    for trial in range(5):
        add(study, proposed(trial, "global"), finished(trial, None))
    assert status_in_words(study)["phase"].startswith("stuck: no global trial completed")
    state = status_of(study).to_dict()
    assert (state["done"], state["diverged"], state["stage"]) == (5, 5, "stuck")
    assert (state["best"], state["lead"], state["confirmed"]) == ({}, None, None)


def test_a_search_of_global_values_alone_is_stuck_too(study: Study) -> None:
    for trial in range(int(study.search_limit)):
        add(study, proposed(trial, "global"), finished(trial, None))
    assert status_of(study).stage == "stuck"


def test_plain_lines_name_every_finished_trial_once(study: Study) -> None:
    out = io.StringIO()
    display = display_on(Console(file=out, force_terminal=False))(study)
    assert isinstance(display, PlainDisplay)
    with display:
        add(study, proposed(0, "global"))
        display.event(Progress(trial=0, step=1, steps=4, loss=3.0))
        assert out.getvalue() == ""
        add(study, finished(0, 1.25), proposed(1, "global"), finished(1, None))
        add(study, proposed(2, "global"))
        display.event(Died(trial=2, reason="killed"))
        add(study, {"event": "set_aside", "trial": 2, "reason": "killed"})
        display.event(Died(trial=2, reason="killed"))
    first, second, retry, aside = out.getvalue().splitlines()
    assert retry == "trial 2 died (killed); it is tried again"
    assert aside.endswith("set aside: killed")
    lines = [first, second]
    assert lines[0].endswith("loss 1.2500")
    assert lines[1].endswith("diverged: the training loss is nan")


def test_the_live_panel_shows_what_runs(study: Study) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    display = display_on(console)(study)
    assert isinstance(display, LiveDisplay)
    with display:
        add(study, proposed(0, "global"), finished(0, 1.25), proposed(1, "global"))
        display.event(Progress(trial=1, step=3, steps=4, loss=3.0))
        display.say("a decision")
    shown = out.getvalue()
    for text in (
        "1 of 24 done, 1 begun and not ended",
        "step 3/4",
        "train loss 3.000",
        "a decision",
    ):
        assert text in shown
