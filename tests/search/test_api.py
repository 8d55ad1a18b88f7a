"""`search.run` and `search.resume`: what the verb does, from Python."""

from __future__ import annotations

import dataclasses
import doctest
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from studies import job_factory

import search
from completedp.config import StudyConfig
from completedp.errors import UserError
from completedp.lm.preset_files import load_preset
from completedp.runs.job import Event, Finished
from completedp.runs.local import InProcessExecutor
from search import study_run
from search.study import Study
from search.study_folder import StudyFolder

SHORT = 16 * 2048


def test_the_import_is_light() -> None:
    probe = "import search, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], check=True, capture_output=True, text=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert loaded.isdisjoint({"torch", "numpy", "ax", "yaml", "pydantic", "rich", "completedp"})


@pytest.mark.usefixtures("no_view")
def test_the_example_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without workers, whose imports take longer than its runs; README's example has them."""
    monkeypatch.setattr(study_run, "LocalExecutor", lambda *_, **__: InProcessExecutor())
    found = doctest.DocTestFinder(recurse=False).find(search.run, globs={"root": tmp_path})
    assert found[0].examples
    runner = doctest.DocTestRunner()
    for example in found:
        runner.run(example)
    assert (runner.failures, (tmp_path / "studies/study-1/recipe.yaml").exists()) == (0, True)


@pytest.fixture
def on_the_bowl(monkeypatch: pytest.MonkeyPatch, config: StudyConfig, no_view: None) -> StudyConfig:
    def language_model_job(
        _: StudyConfig, cache: Path, device: str, *given: Any, digest: str | None, **more: Any
    ) -> Any:
        assert digest is not None
        return job_factory(config)(*given, **more)

    monkeypatch.setattr(study_run, "language_model_job", language_model_job)
    tiny = load_preset("tiny")
    train = dataclasses.replace(tiny.train, tokens=SHORT, eval_tokens=8192)
    return dataclasses.replace(tiny, train=train)


def test_progress_is_told_and_a_stopped_study_goes_on(
    tmp_path: Path, on_the_bowl: StudyConfig
) -> None:
    told: list[tuple[Event, int]] = []

    def on_progress(event: Event, study: Study) -> None:
        told.append((event, len(study.ended)))

    with pytest.raises(UserError, match=r"search\.resume\('mine', root="):
        search.run(
            on_the_bowl,
            budget=12,
            root=str(tmp_path),
            name="mine",
            device="cpu",
            executor=InProcessExecutor(),
            hours=1e-9,
            on_progress=on_progress,
        )
    begun = StudyFolder(root=tmp_path, name="mine").read()
    assert len(begun.ended) < 12
    recipe = search.resume(
        "mine",
        root=tmp_path,
        device="cpu",
        executor=InProcessExecutor(),
        on_progress=on_progress,
    )
    kinds = Counter(type(event) for event, _ in told)
    assert kinds[Finished] == 12 == told[-1][1], "the study already knows of the event"
    assert recipe.provenance["budget"] == 12
    told.clear()
    again = search.resume("mine", root=tmp_path, device="cpu", on_progress=on_progress)
    assert (again, told) == (recipe, [])
    more = search.resume(
        "mine", root=tmp_path, budget=20, device="cpu", executor=InProcessExecutor()
    )
    assert more.provenance["budget"] == 20
    with pytest.raises(UserError, match="there is a study 'mine' already"):
        search.run(on_the_bowl, budget=12, root=tmp_path, name="mine", device="cpu")


def test_mistakes_are_said_before_anything_is_written(tmp_path: Path) -> None:
    root = tmp_path / "root"
    tiny = load_preset("tiny")
    unknown = dataclasses.replace(tiny, search=dataclasses.replace(tiny.search, strategy="turbo"))
    for config, budget, says in (
        ("tinny", 20, "did you mean 'tiny'"),
        (tmp_path / "nowhere.yaml", 20, r"nowhere\.yaml"),
        (tiny, 11, "budget is 11"),
        (unknown, 20, "unknown strategy 'turbo'"),
    ):
        with pytest.raises(UserError, match=says):
            search.run(config, budget=budget, root=root, device="cpu")
    with pytest.raises(UserError, match="workers is 0; expected 1 or more"):
        search.run(tiny, budget=20, root=root, device="cpu", workers=0)
    with pytest.raises(UserError, match="no study 'nobody'"):
        search.resume("nobody", root=root, device="cpu")
    assert not root.exists()
