"""Nothing that a file names is run unless an option says so."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from completedp import trust
from completedp.adapters.external import base_inventory, external_inventory
from completedp.cli.app import app
from completedp.config import DataConfig, ExternalModel, TrainConfig
from completedp.errors import UserError
from completedp.hparams import HParams
from completedp.lm.data import prepare
from completedp.lm.preset_files import load_preset
from completedp.lm.train import main as train_main
from completedp.recipe import Recipe
from completedp.resolved import Resolved
from completedp.root_layout import data_cache
from completedp.runs.job import Job
from completedp.runs.runner import run_job

# A module that leaves a mark when it is imported; its model has an architecture that the rules take.
THEIRS = """
from pathlib import Path
from completedp.config import ModelConfig
from completedp.lm.model import LanguageModel

Path("imported").touch()

def make(width, depth):
    return LanguageModel(
        ModelConfig(width=width, depth=depth, head_dim=8, ffn=2 * width, vocab_size=256, context=32)
    )

def loop(**_):
    raise ValueError("the loop was called")
"""
MARK = Path("imported")
NAME = "named_in_a_file"
MODEL = ExternalModel(source=f"{NAME}:make", width=32, depth=2, vocab_size=256, context=32)
TRAIN = TrainConfig(tokens=256 * 8, batch=256, eval_tokens=1024)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / f"{NAME}.py").write_text(THEIRS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    # An inventory that is known already imports nothing again.
    for known in (external_inventory, base_inventory):
        known.cache_clear()
    return tmp_path


def recipe_of(**changes: Any) -> Recipe:
    values = HParams.from_dict({"global": {"lr": 0.01}})
    made = Recipe(
        parameterization="completed-p", model=MODEL, data=DataConfig(), train=TRAIN,
        hparams=values, baseline=values, provenance={},
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [*map(str, words)])


def refusal(key: str, name: str) -> str:
    return f"{key} is '{name}': it is code that this file names"


SIZES = ("--width", 64, "--depth", 4)


@pytest.mark.parametrize(
    "verb",
    [
        ("transfer", "recipe.yaml", *SIZES),
        ("export", "recipe.yaml", "--format", "json"),
        ("train", "recipe.yaml", "--device", "cpu"),
        ("speedup", "recipe.yaml", "--scales", 1, "--dry-run", "--device", "cpu"),
        ("transfer-check", "recipe.yaml", "--axis", "width", "--ratios", "1,2", "--dry-run"),
        ("search", "--preset", "study.yaml", "--budget", 12, "--dry-run", "--device", "cpu"),
        ("coordcheck", "--preset", "study.yaml", "--axis", "width", "--ratios", "1,2"),
    ],
    ids=lambda words: words[0],
)
def test_a_model_that_a_file_names_is_not_imported(verb: tuple[object, ...]) -> None:
    recipe_of().write(Path("recipe.yaml"))
    study = dataclasses.replace(load_preset("tiny"), model=MODEL, train=TRAIN)
    Path("study.yaml").write_text(json.dumps(study.to_dict()))
    refused = call(*verb)
    assert isinstance(refused.exception, UserError)
    assert refusal("model.source", MODEL.source) in str(refused.exception)
    assert "add --run-code if you trust it" in str(refused.exception)
    assert not MARK.exists()
    if verb[0] in ("transfer", "export", "speedup"):
        assert call(*verb, "--run-code").exception is None
        assert MARK.exists()


@pytest.mark.parametrize(
    "verb",
    [
        ("search", "--preset", "study.yaml", "--budget", 12, "--dry-run", "--device", "cpu"),
        ("speedup", "recipe.yaml", "--scales", 1, "--yes", "--device", "cpu", "--workers", 1),
    ],
    ids=lambda words: words[0],
)
def test_a_loop_that_a_file_names_is_not_run(verb: tuple[object, ...], recipe: Recipe) -> None:
    train = dataclasses.replace(recipe.train, loop=f"{NAME}:loop")
    dataclasses.replace(recipe, train=train).write(Path("recipe.yaml"))
    study = load_preset("tiny")
    study = dataclasses.replace(study, train=dataclasses.replace(study.train, loop=f"{NAME}:loop"))
    Path("study.yaml").write_text(json.dumps(study.to_dict()))
    refused = call(*verb)
    assert isinstance(refused.exception, UserError)
    assert refusal("train.loop", f"{NAME}:loop") in str(refused.exception)
    assert not MARK.exists()
    if verb[0] == "search":
        assert call(*verb, "--run-code").exception is None
        assert MARK.exists()


def test_what_an_option_names_is_run_and_nothing_beside_it() -> None:
    model = ("--model", MODEL.source, "--width", 32, "--depth", 2)
    assert call("inspect", *model).exception is None
    study = load_preset("tiny")
    study = dataclasses.replace(study, train=dataclasses.replace(study.train, loop="others:loop"))
    Path("study.yaml").write_text(json.dumps(study.to_dict()))
    words = ("search", "--preset", "study.yaml", "--budget", 12, "--dry-run", "--device", "cpu")
    refused = call(*words, *model)
    assert "study.yaml: " + refusal("train.loop", "others:loop") in str(refused.exception)
    own = call(*words, *model, "--loop", f"{NAME}:loop")
    assert own.exception is None, own.exception


def test_a_study_goes_on_with_the_code_that_it_was_begun_with() -> None:
    from search import study_folder
    from search.study import StudySpec
    from search.study_folder import StudyFolder

    study = dataclasses.replace(load_preset("tiny"), model=MODEL, train=TRAIN)
    folder = StudyFolder(root=Path("runs"), name="own")
    corpus = prepare(study.data, 256, TRAIN.eval_tokens, data_cache(folder.root))
    data = {"digest": corpus.digest, "bytes_per_token": {"select": 1.0, "report": 1.0}}
    study_folder.create(
        folder, StudySpec(name="own", config=study, seed=0, budget=12, data=data), rename=False
    )
    words = ("search", "--resume", "own", "--root", "runs", "--dry-run", "--device", "cpu")
    resumed = call(*words)
    assert resumed.exception is None, resumed.exception


def job_of(task: str, **arguments: Any) -> Job:
    residual = dict.fromkeys(("attention", "ffn"), (1.0, 1.0))
    values = Resolved(tensors=(), residual=residual, output_multiplier=1.0)
    return Job(trial=0, task=task, arguments=arguments, resolved=values, seed=0)


def test_a_job_file_runs_our_own_tasks_alone(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("job.json")
    path.write_text(json.dumps(job_of(f"{NAME}:loop").to_dict()))
    assert train_main([str(path)]) == 2
    assert refusal("task", f"{NAME}:loop") in capsys.readouterr().err
    # What a module of ours has imported is no task either.
    path.write_text(json.dumps(job_of("completedp.files:write_text", path="x").to_dict()))
    assert train_main([str(path)]) == 2
    assert "it is code that this file names" in capsys.readouterr().err
    foreign = {"model": vars(MODEL), "data": vars(DataConfig()), "train": vars(TRAIN)}
    made = job_of(trust.FOREIGN_MODEL, **foreign, split="report", cache="data", device="cpu")
    path.write_text(json.dumps(made.to_dict()))
    assert train_main([str(path)]) == 2
    assert refusal("model.source", MODEL.source) in capsys.readouterr().err
    assert not MARK.exists()
    path.write_text(json.dumps(job_of(f"{NAME}:loop").to_dict()))
    with pytest.raises(ValueError, match="the loop was called"):
        train_main([str(path), "--run-code"])
    assert train_main(["--run-code"]) == 2
    assert "usage: " in capsys.readouterr().err


def test_from_python_everything_is_run() -> None:
    with pytest.raises(ValueError, match="the loop was called"):
        run_job(job_of(f"{NAME}:loop"))
    trust.check("task", "any:thing")
    trust.allow("any:thing")
    trust.allow_everything()


def test_a_command_leaves_nothing_behind() -> None:
    with trust.only_asked():
        trust.allow("one:thing")
        trust.check("task", "one:thing")
    with trust.only_asked():
        with pytest.raises(UserError, match="task is 'one:thing'"):
            trust.check("task", "one:thing")
        found: list[str] = []

        def in_a_thread() -> None:
            try:
                trust.check("task", "one:thing")
            except UserError as error:
                found.append(str(error))

        thread = threading.Thread(target=in_a_thread)
        thread.start()
        thread.join()
        assert found
        trust.allow_everything()
        trust.check("task", "one:thing")
    trust.check("task", "one:thing")
