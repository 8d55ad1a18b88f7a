"""Journals of the version that could stop trials early: shown, and gone on with if theirs did not.

They are from before the ladder, too.
"""

import shutil
from pathlib import Path

import pytest
from rich.console import Console
from studies import job_factory

import search
from completedp.config import SearchConfig
from completedp.errors import UserError
from completedp.lm.preset_files import load_preset
from completedp.recipe import Recipe
from completedp.runs.local import InProcessExecutor
from search import request, study_run
from search.display import display_on, status_in_words
from search.study_folder import StudyFolder, raise_budget

pytestmark = pytest.mark.usefixtures("no_view")
OLD = Path(__file__).parents[1] / "golden" / "old"


def old_study(root: Path, stopping: str, lines: int | None = None) -> StudyFolder:
    folder = StudyFolder(root=root, name=stopping)
    folder.path.mkdir(parents=True)
    journal = (OLD / f"journal_stopping_{stopping}.jsonl").read_text()
    folder.journal.write_text("".join(journal.splitlines(keepends=True)[:lines]))
    return folder


def go_on(folder: StudyFolder) -> object:
    return study_run.run(
        folder,
        InProcessExecutor(),
        job_factory(folder.read().spec.config),
        display=display_on(Console(quiet=True)),
    )


def test_a_study_without_stopping_goes_on(tmp_path: Path) -> None:
    """What is left is proposed by this version, which searches otherwise and climbs no ladder there."""
    whole = old_study(tmp_path / "whole", "none").read()
    cut = old_study(tmp_path / "cut", "none", lines=30)
    assert cut.read().spec.config.search == whole.spec.config.search
    kept = cut.journal.read_text()
    assert go_on(cut) is not None
    study = cut.read()
    assert study.done
    assert cut.journal.read_text().startswith(kept)
    assert len(study.trials) == len(whole.trials)
    assert study.judged == []
    raise_budget(cut, 40)
    assert go_on(cut) is not None


def test_a_study_with_rungs_is_shown_but_does_not_go_on(tmp_path: Path) -> None:
    folder = old_study(tmp_path, "rungs")
    assert "36 of 36 done, 4 stopped" in status_in_words(folder.read())["runs"]
    assert study_run.report(folder, warn=print)["outcomes"]["stopped"] == 4
    folder.recipe.unlink()
    assert search.resume("rungs", root=tmp_path).digest == Recipe.read(folder.recipe).digest
    with pytest.raises(UserError, match="no longer stops trials early"):
        request.going_on(folder, budget=60, device="cpu")
    shutil.rmtree(folder.path)
    unfinished = old_study(tmp_path, "rungs", lines=60)
    assert "stopped" in status_in_words(unfinished.read())["runs"]
    with pytest.raises(UserError, match="begin a new study"):
        go_on(unfinished)


def test_new_files_do_not_have_the_key(tmp_path: Path) -> None:
    assert not hasattr(SearchConfig(), "stopping")
    old = tmp_path / "study.yaml"
    text = (OLD / "journal_stopping_none.jsonl").read_text().splitlines()[0]
    old.write_text(text[text.index('"config": ') + 10 : text.index(', "digest"')])
    assert load_preset(str(old)).search.strategy == "trust-region-bo"
    old.write_text(old.read_text().replace('"stopping": "none"', '"stopping": "rungs"'))
    with pytest.raises(UserError, match="take the key out"):
        load_preset(str(old))
