"""A search with the training loop that docs/training_function.md prints."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import completedp
from completedp.adapters.external import build_model
from completedp.config import ExternalModel, TrainConfig
from completedp.errors import UserError
from completedp.lm.preset_files import load_preset
from completedp.recipe import Recipe
from completedp.runs.journal import read_records
from completedp.training.jobs import plan_job, plan_jobs
from transfer.planning.planner import base_plan

PAGE = Path(__file__).parents[3] / "docs" / "training_function.md"
PROGRAM = "from completedp.cli.app import main; main()"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The page's module, and a preset of six steps."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    preset = load_preset("tiny")
    train = dataclasses.replace(preset.train, tokens=512 * 6, batch=512)
    small = dataclasses.replace(preset, train=train)
    (tmp_path / "small.yaml").write_text(json.dumps(small.to_dict()))
    return tmp_path


@pytest.fixture
def call(
    folder: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Any]]:
    """The program in this process, which forgets the page's module in the end."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield lambda *words: cli(*words, "--root", "runs")
    sys.modules.pop("mine", None)


MODEL = ("--model", "mine:Decoder", "--width", "32", "--depth", "2")
NEW = ("--preset", "small.yaml", *MODEL, "--name", "own")


def test_the_page_is_searched_resumed_and_carried(folder: Path, call: Callable[..., Any]) -> None:
    """The search in a process of its own, as a person starts it."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "search", "--budget", "12", *NEW, "--loop", "mine:loop",
         "--workers", "1", "--root", "runs"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    assert "data: what mine:loop reads" in done.stdout
    study = folder / "runs" / "studies" / "own"
    recipe = Recipe.read(study / "recipe.yaml")
    assert recipe.train.loop == "mine:loop"
    assert recipe.provenance["data"]["digest"] is None
    again = call("search", "--resume", "own", "--budget", "18", "--workers", "1")
    assert again.status == 0, again.err + again.out
    shown = call("report", "own")
    assert shown.status == 0, shown.err + shown.out
    carried = ("transfer", str(study / "recipe.yaml"), "--width", "64", "--depth", "4")
    assert "add --run-code if you trust it" in call(*carried).err
    assert call(*carried, "--run-code").status == 0
    ended = [r for r in read_records(study / "journal.jsonl") if r["event"] == "finished"]
    assert len(ended) == 18
    assert {r["status"] for r in ended} <= {"completed", "diverged"}
    losses = {r["trial"]: r["loss"] for r in ended}
    assert len(set(losses.values())) > 9  # the values reach the loop
    model = dataclasses.replace(recipe.model, width=64, depth=4)
    values = completedp.parametrize(build_model(model), recipe, batch=1024, tokens=10_240)  # type: ignore[arg-type]
    assert values.ratios.width == 2


@pytest.mark.parametrize(
    ("loop", "said"),
    [
        ("mine", "train.loop is 'mine'; expected package.module:factory"),
        ("mine:nothing", "--loop mine:nothing: module 'mine' has no attribute 'nothing'"),
        ("nobody:loop", "--loop nobody:loop: No module named 'nobody'"),
    ],
)
def test_a_missing_loop_is_refused_before_the_search(
    folder: Path, call: Callable[..., Any], loop: str, said: str
) -> None:
    done = call("search", "--budget", "12", *NEW, "--loop", loop)
    assert done.status == 2
    assert said in done.err
    assert not (folder / "runs" / "studies").exists()


def test_a_plan_of_a_users_loop_is_swept_with_it_and_trained_by_no_other(
    recipe: Recipe, tmp_path: Path
) -> None:
    own = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, loop="mine:loop"))
    plan = base_plan(own)
    (job,) = plan_jobs([(plan, 3)], cache=tmp_path, device="cpu")
    assert job.task == "mine:loop"
    assert set(job.arguments) == {"model", "data", "train", "split", "cache", "device"}
    assert TrainConfig(**job.arguments["train"]) == own.train
    with pytest.raises(UserError, match="this verb has the built-in loop"):
        plan_job(plan, data=plan.data, seed=0, folder=tmp_path, cache=tmp_path, device="cpu")
    model = ExternalModel(
        source="external_models:Plain", width=32, depth=2, vocab_size=61, context=32
    )
    external = dataclasses.replace(plan, model=model)
    with pytest.raises(UserError, match=r"or completedp\.parametrize"):
        plan_jobs([(external, 3)], cache=tmp_path, device="cpu")
