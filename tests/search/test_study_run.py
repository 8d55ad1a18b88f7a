"""A whole study on a bowl: budget, phases, confirmation, resume, interruption, raised budgets."""

import dataclasses
import io
import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from bowl import STEPS
from rich.console import Console
from studies import Killed, KilledAfter, job_factory, study_of
from typer.testing import CliRunner

import completedp
from completedp.cli.app import app
from completedp.config import SearchConfig, StudyConfig
from completedp.errors import UserError
from completedp.kinds import KINDS
from completedp.recipe import Recipe
from completedp.runs.job import Event
from completedp.runs.journal import Journal, read_records, trials
from completedp.runs.local import InProcessExecutor
from completedp.runs.lock import Held, Lock
from completedp.training.forecast import Forecast
from search import preflight, study_folder, study_run
from search.ax_experiment import AxExperiment
from search.display import display_on
from search.figures import draw
from search.phases import SEARCH_SEEDS
from search.study import SMALLEST_BUDGET, confirmation_runs
from search.study_folder import StudyFolder

QUIET = Console(quiet=True)


pytestmark = pytest.mark.usefixtures("no_view")


def begun(tmp_path: Path, config: StudyConfig, **study: Any) -> StudyFolder:
    folder = StudyFolder(root=tmp_path, name="s")
    study_folder.create(folder, study_of(config, **study))
    return folder


def go_on(folder: StudyFolder, config: StudyConfig, executor: Any = None) -> dict[str, Any] | None:
    executor = executor or InProcessExecutor()
    return study_run.run(folder, executor, job_factory(config), display=display_on(QUIET))


@pytest.fixture(scope="module")
def ended(
    tmp_path_factory: pytest.TempPathFactory, config: StudyConfig, no_view: None
) -> tuple[StudyFolder, dict[str, Any]]:
    """A study of 24 runs and its summary."""
    folder = begun(tmp_path_factory.mktemp("whole"), config, budget=24)
    summary = go_on(folder, config)
    assert summary is not None
    return folder, summary


@pytest.fixture
def whole(ended: tuple[StudyFolder, dict[str, Any]]) -> StudyFolder:
    """Its folder, to be read."""
    return ended[0]


@pytest.fixture
def copied(whole: StudyFolder, tmp_path: Path) -> StudyFolder:
    """A copy, to be changed."""
    shutil.copytree(whole.root, tmp_path / "copied")
    return StudyFolder(root=tmp_path / "copied", name=whole.name)


def outcomes(folder: StudyFolder) -> list[dict[str, Any]]:
    kept = ("event", "trial", "status", "loss", "steps", "values", "seed", "phase")
    records = read_records(folder.journal)
    return [{k: r[k] for k in kept if k in r} for r in records]


def test_a_whole_study(tmp_path: Path, config: StudyConfig) -> None:
    folder = begun(tmp_path, config, budget=60)
    summary = go_on(folder, config)
    assert summary is not None
    by_trial = trials(read_records(folder.journal))
    assert len(by_trial) == 60
    assert all(t.status for t in by_trial.values())
    phases = Counter(t.phase for t in by_trial.values())
    assert phases == {"global": 14, "module": 40, "confirm": confirmation_runs(60)}
    assert by_trial[0].values == dict.fromkeys(by_trial[0].values, 0.0)
    searched = {t.seed for t in by_trial.values() if t.phase != "confirm"}
    fresh = Counter(t.seed for t in by_trial.values() if t.phase == "confirm")
    assert len(searched) == SEARCH_SEEDS
    assert not searched & set(fresh)
    assert set(fresh.values()) == {2}
    recipe = Recipe.read(folder.recipe)
    assert recipe.provenance["chosen"] == "module"
    assert recipe.provenance["confirmed"]["difference"]["mean"] < 0
    assert recipe.baseline.types == {}
    assert read_records(folder.journal)[-1]["event"] == "done"
    assert set(recipe.hparams.types) == set(KINDS) - {"beta2", "eps"}
    figures = draw(folder.read(), recipe.hparams, tmp_path / "figures")
    assert {path.stem for path in figures} == {
        "loss_by_trial",
        "confirmed",
        *(f"multipliers_{kind}" for kind in recipe.hparams.types),
    }
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures)
    (tmp_path / "figures" / "mine.png").write_bytes(b"")
    flat = draw(folder.read(), recipe.baseline, tmp_path / "figures")
    assert {path.stem for path in flat} == {"loss_by_trial", "confirmed"}
    left = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert left == {"loss_by_trial", "confirmed", "mine"}, (
        "figures of the user's own stay, an earlier recipe's do not"
    )


def test_identical_searches_give_identical_bytes(
    tmp_path: Path, whole: StudyFolder, config: StudyConfig
) -> None:
    again = begun(tmp_path / "again", config, budget=24)
    go_on(again, config)
    first = whole.recipe.read_bytes()
    assert again.recipe.read_bytes() == first
    assert outcomes(again) == outcomes(whole)
    other = begun(tmp_path / "other", config, budget=24, seed=1)
    go_on(other, config)
    assert other.recipe.read_bytes() != first


@pytest.mark.parametrize("events", [0, 1, 5, 13, 19, 22])
def test_a_killed_study_resumes_to_the_same_bytes(
    tmp_path: Path, whole: StudyFolder, config: StudyConfig, events: int
) -> None:
    folder = begun(tmp_path, config, budget=24)
    with pytest.raises(Killed):
        go_on(folder, config, KilledAfter(events))
    assert go_on(folder, config) is not None
    assert outcomes(folder) == outcomes(whole)
    assert folder.recipe.read_bytes() == whole.recipe.read_bytes()


def test_a_done_study_prints_its_summary_again(
    tmp_path: Path, config: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begun(tmp_path, config, budget=12)
    first = go_on(folder, config)
    journal = folder.journal.read_bytes()
    recipe = folder.recipe.read_bytes()
    monkeypatch.setattr(completedp, "__version__", "9.9")  # later than the study
    assert go_on(folder, config, KilledAfter(0)) == first == study_run.report(folder, warn=print)
    assert folder.journal.read_bytes() == journal
    assert folder.recipe.read_bytes() == recipe


def test_without_matplotlib_only_the_figures_are_missing(
    copied: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, said = list[Path](), list[str]()
    monkeypatch.setattr(study_run, "draw", lambda *given: drawn.append(given[-1]))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        study_run.report(copied, warn=said.append)
    (warning,) = said
    assert warning.startswith("no figures: Matplotlib is not installed")
    assert not drawn
    study_run.report(copied, warn=said.append)
    assert drawn == [copied.path / "figures"]


def test_diverged_trials_are_counted_and_named(tmp_path: Path, config: StudyConfig) -> None:
    steep = dataclasses.replace(config, values=dataclasses.replace(config.values, lr=2**-4))
    folder = begun(tmp_path, steep, budget=40)
    summary = go_on(folder, steep)
    assert summary is not None
    assert summary["outcomes"]["diverged"] == len(summary["diverged"]) > 0
    assert all(d["step"] == STEPS and d["reason"] for d in summary["diverged"])
    text = folder.journal.read_text()
    assert "NaN" not in text
    assert "Infinity" not in text


def test_nothing_completed_is_said(tmp_path: Path, config: StudyConfig) -> None:
    search = SearchConfig(global_octaves={"lr": 0.1})
    values = dataclasses.replace(config.values, lr=1.0)
    hopeless = dataclasses.replace(config, values=values, search=search)
    folder = begun(tmp_path, hopeless, budget=12)
    with pytest.raises(UserError, match=r"none of the \d global trials completed.*lower values.lr"):
        go_on(folder, hopeless)
    # Said before the rest of the budget is spent around an untried point.
    assert {t.phase for t in trials(read_records(folder.journal)).values()} == {"global"}


def test_workers_that_all_died_are_no_cliff(tmp_path: Path, config: StudyConfig) -> None:
    folder = begun(tmp_path, config, budget=12)
    with Journal.open(folder.journal) as journal:
        for trial in range(folder.read().global_limit):
            proposed = {"event": "proposed", "trial": trial, "values": {}, "seed": 0}
            journal.append(proposed | {"phase": "global"})
            journal.append({"event": "set_aside", "trial": trial, "reason": "killed by signal 9"})
    with pytest.raises(
        UserError, match=r"completed \(the first: killed by signal 9\); their workers"
    ):
        go_on(folder, config)


def test_a_global_only_study_confirms_one_arm(tmp_path: Path, config: StudyConfig) -> None:
    search = SearchConfig(global_share=1.0)
    only = dataclasses.replace(config, search=search)
    folder = begun(tmp_path, only, budget=40)
    summary = go_on(folder, only)
    assert summary is not None
    confirmed = summary["confirmed"]
    assert set(confirmed) == {"global", "difference", "diverged", "verdict", "unit"}
    assert confirmed["verdict"].startswith("nothing to compare")
    assert len(confirmed["global"]["losses"]) == confirmation_runs(40)


def test_raising_the_budget_searches_on_and_confirms_again(
    copied: StudyFolder, config: StudyConfig
) -> None:
    folder = copied
    with pytest.raises(UserError, match="next useful total is"):
        study_folder.raise_budget(folder, 25)
    study_folder.raise_budget(folder, 40)
    study_folder.raise_budget(folder, 40)
    summary = go_on(folder, config)
    assert summary is not None
    by_trial = trials(read_records(folder.journal))
    assert len(by_trial) == 40
    confirm = [t for t in by_trial.values() if t.phase == "confirm"]
    rounds = Counter(t.extra["round"] for t in confirm)
    assert rounds == {0: confirmation_runs(24), 1: confirmation_runs(40)}
    seeds = [{t.seed for t in confirm if t.extra["round"] == r} for r in (0, 1)]
    assert not seeds[0] & seeds[1]
    # Both arms are searched on.
    last = {t.phase: t.trial for t in by_trial.values()}
    first_confirmed = min(t.trial for t in confirm)
    assert last["global"] > first_confirmed
    assert last["module"] > first_confirmed


class Waiting(InProcessExecutor):
    """Two jobs at a time; the older one finishes."""

    capacity = 2

    def __init__(self) -> None:
        super().__init__()
        self.queue: list[Any] = []

    def submit(self, job: Any) -> None:
        self.queue.append(job)

    def poll(self, timeout: float) -> list[Event]:
        super().submit(self.queue.pop(0))
        return super().poll(timeout)


def test_the_module_phase_does_not_wait_for_the_last_global_trials(
    tmp_path: Path, config: StudyConfig
) -> None:
    """A worker would be idle meanwhile, and the model has what the other trials have told."""
    folder = begun(tmp_path, config, budget=24)
    go_on(folder, config, Waiting())
    records = read_records(folder.journal)
    first = next(i for i, r in enumerate(records) if r.get("phase") == "module")
    ended = {r["trial"] for r in records[:first] if r["event"] == "finished"}
    assert ended < set(range(folder.read().global_limit))


def test_an_arm_that_diverges_on_fresh_seeds_is_not_chosen(copied: StudyFolder) -> None:
    folder = copied
    lines = [json.loads(line) for line in folder.journal.read_text().splitlines()]
    arm_of = {r["trial"]: r["arm"] for r in lines if r.get("phase") == "confirm"}
    for record in lines:
        if record["event"] == "finished" and arm_of.get(record["trial"]) == "module":
            record |= {"status": "diverged", "loss": None, "reason": "the training loss is nan"}
    folder.journal.write_text("".join(json.dumps(r) + "\n" for r in lines))
    summary = study_run.report(folder, warn=print)
    assert summary["chosen"] == "global"
    assert "diverged on 2 fresh seeds" in summary["confirmed"]["verdict"]


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a..b", "x" * 65, "a b", "-x"])
def test_names_with_path_parts_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="study name"):
        StudyFolder(root=tmp_path, name=name)


def test_a_study_in_the_way(tmp_path: Path, config: StudyConfig) -> None:
    folder = begun(tmp_path, config)
    with pytest.raises(UserError, match="--resume s"):
        study_folder.create(folder, study_of(config))


def test_an_edited_first_line_is_refused(tmp_path: Path, config: StudyConfig) -> None:
    folder = begun(tmp_path, config)
    record = json.loads(folder.journal.read_text())
    record["config"]["train"]["batch"] = 2048
    folder.journal.write_text(json.dumps(record) + "\n")
    with pytest.raises(UserError, match="does not match its digest"):
        folder.read()


def test_a_journal_of_another_space_is_refused(tmp_path: Path, config: StudyConfig) -> None:
    folder = begun(tmp_path, config)
    with folder.journal.open("a") as file:
        values = {"type.lr.router": 1.0}
        record = {"event": "proposed", "trial": 0, "values": values, "phase": "module", "seed": 1}
        file.write(json.dumps(record) + "\n")
    with pytest.raises(UserError, match=r"type\.lr\.router"):
        go_on(folder, config)


def test_smallest_budget_leaves_something_to_search_with() -> None:
    assert SMALLEST_BUDGET - confirmation_runs(SMALLEST_BUDGET) == 8
    assert [confirmation_runs(n) for n in (12, 60, 120, 200, 1000)] == [4, 6, 12, 16, 16]


def test_a_study_that_cannot_be_read_hides_no_other(
    tmp_path: Path, config: StudyConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(tmp_path, config, budget=12)
    broken = tmp_path / "studies" / "a-broken-one" / "journal.jsonl"
    broken.parent.mkdir()
    broken.write_text('{"event": "study", "schema": 7}\n')
    runner = CliRunner()
    listed = runner.invoke(app, ["status", "--root", str(tmp_path), "--json"])
    assert listed.exit_code == 0
    states = json.loads(listed.stdout)
    assert "schema is 7" in states["a-broken-one"]["unreadable"]
    assert len(states) == 2
    tracked = runner.invoke(app, ["track", "--root", str(tmp_path), "--json"])
    assert tracked.exit_code == 2
    faults = {one["study"]: one["fault"] for one in json.loads(tracked.stdout)}
    assert "schema is 7" in faults.pop("a-broken-one")
    assert list(faults.values()) == [""]


def test_a_raised_budget_hides_no_earlier_confirmation(tmp_path: Path, config: StudyConfig) -> None:
    folder = begun(tmp_path, config, budget=12)
    go_on(folder, config)
    study_folder.raise_budget(folder, 24)
    cost = Forecast(runs=12, workers=1, epochs=None, seconds_per_run=None)
    announced = preflight.describe(folder.read(), None, cost)[2]
    assert "24 runs = 4 global + 12 per module + 4 to confirm on fresh seeds + 4 that" in announced
    summary = go_on(folder, config)
    assert summary is not None
    (earlier,) = summary["confirmed"]["earlier_rounds"]
    assert earlier["difference"]["pairs"] == 2
    assert earlier["verdict"].startswith("too few seeds")


def test_a_study_that_cannot_be_written_is_still_shown(
    ended: tuple[StudyFolder, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, summary = ended
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(Recipe, "write", lambda *_: pytest.fail("written"))
    warned: list[str] = []
    assert study_run.report(folder, warn=warned.append) == summary
    assert "cannot be written; recipe and figures are left" in warned[0]


def test_ax_may_fail_and_no_result_is_lost(
    tmp_path: Path, config: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = begun(tmp_path / "whole", config, budget=12)
    expected = go_on(whole, config)
    folder = begun(tmp_path / "broken", config, budget=12)

    def broken(*_: object) -> None:
        raise KeyError("generation_strategy")

    monkeypatch.setattr(AxExperiment, "save", broken)
    said = io.StringIO()
    display = display_on(Console(file=said))
    assert study_run.run(folder, InProcessExecutor(), job_factory(config), display=display) == (
        expected
    )
    assert "experiment.json: Ax could not write it" in said.getvalue().replace("\n", "")
    assert folder.read().done
    assert folder.recipe.read_bytes() == whole.recipe.read_bytes()
    assert {path.name for path in whole.path.iterdir()} - {
        path.name for path in folder.path.iterdir()
    } == {"experiment.json"}
    monkeypatch.undo()
    study_run.report(folder, warn=pytest.fail)
    written = [(f.path / "experiment.json").read_bytes() for f in (folder, whole)]
    assert written[0] == written[1]


def test_two_searches_that_begin_at_once_have_a_name_each(
    tmp_path: Path, config: StudyConfig
) -> None:
    folders = [
        study_folder.create(
            StudyFolder(root=tmp_path, name="study-1"), study_of(config), rename=True
        )
        for _ in range(2)
    ]
    assert [folder.name for folder in folders] == ["study-1", "study-2"]
    assert folders[1].read().spec.name == "study-2"


def test_a_search_that_begins_while_another_takes_its_name(
    tmp_path: Path, config: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = StudyFolder(root=tmp_path, name="study-1")
    folder.path.mkdir(parents=True)
    with Lock(folder.lock):
        with pytest.raises(Held, match="study study-1 is being written by process"):
            study_folder.create(folder, study_of(config))

        def taken(_: float) -> None:
            Journal.create(folder.journal, study_of(config).to_record()).close()

        monkeypatch.setattr("time.sleep", taken)
        assert study_folder.create(folder, study_of(config), rename=True).name == "study-2"
