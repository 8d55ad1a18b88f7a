"""A whole search whose workers train a stack of runs each."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from studies import Killed

import search
from completedp.config import DataConfig, ExternalModel, StudyConfig, TrainConfig
from completedp.errors import UserError
from completedp.lm.stacked.executor import StackedExecutor
from completedp.recipe import Recipe
from completedp.runs.job import Event
from completedp.runs.journal import read_records, trials
from search import request, study_run
from search.display import display_on
from search.preflight import check_stack
from search.study import confirmation_runs
from search.study_folder import StudyFolder

pytestmark = pytest.mark.usefixtures("no_view")

BUDGET = 40
# Events of the coordinator's life until it is killed, one life after another.
LIVES = (3, 14, 6)


class KilledAfter(StackedExecutor):
    """Its coordinator dies between two events, and its workers with it."""

    def __init__(self, events: int, **given: Any) -> None:
        super().__init__(1, stack=4, **given)
        self.left = events

    def poll(self, timeout: float) -> list[Event]:
        if self.left <= 0:
            raise Killed
        events = super().poll(timeout)
        self.left -= len(events)
        return events


@pytest.fixture
def short(config: StudyConfig, tmp_path: Path) -> StudyConfig:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{i} and {i * i} make {i * i + i}\n" for i in range(9000)))
    train = TrainConfig(tokens=2560, batch=256, eval_tokens=512)
    return dataclasses.replace(config, data=DataConfig(source=str(text)), train=train)


def assert_whole(folder: StudyFolder) -> None:
    by_trial = trials(read_records(folder.journal))
    assert len(by_trial) == BUDGET
    assert all(trial.status for trial in by_trial.values())
    phases = Counter(trial.phase for trial in by_trial.values())
    assert phases["confirm"] == confirmation_runs(BUDGET)
    recipe = Recipe.read(folder.recipe)
    assert recipe.provenance["confirmed"]["difference"]["mean"] is not None


def test_a_whole_search(tmp_path: Path, short: StudyConfig) -> None:
    recipe = search.run(
        short, budget=BUDGET, root=tmp_path, name="s", workers=1, stack=4, device="cpu"
    )
    folder = StudyFolder(root=tmp_path, name="s")
    assert_whole(folder)
    assert recipe == Recipe.read(folder.recipe)


def test_what_has_finished_is_neither_lost_nor_repeated(tmp_path: Path, short: StudyConfig) -> None:
    quiet = display_on(Console(quiet=True))
    asked = request.new_study(short, budget=BUDGET, root=tmp_path, name="s", seed=0, device="cpu")
    folder = asked.begin(print)
    before: list[dict[str, Any]] = []
    for life in (*LIVES, None):
        more: dict[str, Any] = {"workers": 1, "display": quiet}
        if life is None:
            assert study_run.train(asked, folder, stack=4, executor=None, **more) is not None
        else:
            dying = KilledAfter(life, logs=tmp_path / "logs")
            with pytest.raises(Killed):
                study_run.train(asked, folder, executor=dying, **more)
        records = read_records(folder.journal)
        assert records[: len(before)] == before
        before = records
    assert_whole(folder)
    finished = Counter(r["trial"] for r in before if r["event"] == "finished")
    assert set(finished.values()) == {1}


def test_runs_that_do_not_stack_are_refused(tmp_path: Path, config: StudyConfig) -> None:
    looped = dataclasses.replace(config, train=dataclasses.replace(config.train, loop="a:b"))
    with pytest.raises(UserError, match="stack is 2, but the runs are trained by a:b"):
        check_stack(2, looped)
    external = ExternalModel(source="a:b", width=32, depth=2, vocab_size=256, context=64)
    with pytest.raises(UserError, match="only runs of the reference model stack, not of a:b"):
        check_stack(2, dataclasses.replace(config, model=external))
    check_stack(1, looped)
    for wrong in (0, -1):
        with pytest.raises(UserError, match=f"stack is {wrong}"):
            search.run(config, budget=12, root=tmp_path, stack=wrong, device="cpu")
    with (
        StackedExecutor(1, stack=2, logs=tmp_path) as given,
        pytest.raises(UserError, match="the given executor"),
    ):
        search.run(config, budget=12, root=tmp_path, stack=2, device="cpu", executor=given)
    assert not (tmp_path / "studies").exists(), "refused before a study begins"
