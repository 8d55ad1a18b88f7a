"""The verbs name the data that they read, and go on without its source."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from completedp.config import DataConfig
from completedp.lm.data import Corpus, prepare
from completedp.lm.preset_files import load_preset
from completedp.plan import Plan
from completedp.recipe import Recipe
from search.study import StudySpec
from search.study_folder import StudyFolder, create

Run = Callable[..., Any]


@pytest.fixture
def run(cli: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: cli(*arguments, "--root", "root")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"line {i * i}\n" for i in range(60_000)))
    return path


def prepared(recipe: Recipe, root: Path) -> Corpus:
    model, train = recipe.model, recipe.train
    return prepare(recipe.data, model.vocab_size, train.eval_tokens, root / "data")


@pytest.fixture
def tuned(recipe: Recipe, text: Path, tmp_path: Path) -> Recipe:
    """A recipe that was tuned on the text, which the root holds prepared; the text is gone since."""
    own = dataclasses.replace(recipe, data=DataConfig(source=str(text)))
    digest = prepared(own, tmp_path / "root").digest
    own = dataclasses.replace(own, provenance={**own.provenance, "data": {"digest": digest}})
    own.write(tmp_path / "recipe.yaml")
    text.unlink()
    return own


def line(output: str) -> str:
    (found,) = [line for line in output.splitlines() if line.startswith("data: ")]
    return found


def search(run: Run, *arguments: str) -> Any:
    return run("search", "--budget", "12", "--preset", "tiny", "--dry-run", *arguments)


def test_a_search_says_what_it_read_of_a_folder(run: Run, text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / ".ipynb_checkpoints").mkdir(parents=True)
    text.rename(folder / "A.TXT")
    (folder / "b.gz").write_text("x")
    done = search(run, "--data", "folder")
    assert done.status == 0, done.err
    assert line(done.out).startswith(
        "data: folder: read 1 file (.TXT 1); left out: .gz 1, hidden 1; bytes tokenizer; tokens: train "
    )


def test_a_search_says_how_it_read_tokens(run: Run, tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(0, 256, 400_000)
    (tmp_path / "tokens.bin").write_bytes(tokens.astype("<u4").tobytes())
    done = search(run, "--data", "tokens.bin")
    assert done.status == 0, done.err
    assert line(done.out).startswith(
        "data: tokens.bin: uint32 (inferred: every second 16-bit word is 0); tokens: train "
    )


@pytest.mark.parametrize("source", ["", " "])
def test_a_search_without_a_name_of_its_data_is_refused(run: Run, source: str) -> None:
    done = search(run, "--data", source)
    assert done.status == 2
    assert "Traceback" not in done.err
    assert "variable" in done.err


def test_a_name_that_is_not_utf8_is_read(text: Path, tmp_path: Path) -> None:
    """In a process of its own, because its standard output has an encoding."""
    name = os.fsdecode(b"caf\xe9.txt")
    text.rename(tmp_path / name)
    words = ("search", "--budget", "12", "--preset", "tiny", "--dry-run", "--data", name)
    done = subprocess.run(
        [sys.executable, "-m", "completedp", *words, "--root", "root"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "200", "PYTHONUTF8": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert line(done.stdout).startswith("data: caf")


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "changed"])
def test_a_study_goes_on_from_the_corpus_that_its_root_holds(
    run: Run, text: Path, tmp_path: Path, gone: bool
) -> None:
    config = dataclasses.replace(load_preset("tiny"), data=DataConfig(source=str(text)))
    train = dataclasses.replace(config.train, eval_tokens=8192)
    config = dataclasses.replace(config, train=train)
    cache = tmp_path / "root" / "data"
    corpus = prepare(config.data, config.model.vocab_size, train.eval_tokens, cache)
    data = {"digest": corpus.digest, "bytes_per_token": {"report": 1.0}}
    folder = StudyFolder(root=tmp_path / "root", name="s")
    create(folder, StudySpec(name="s", config=config, seed=0, budget=12, data=data))
    if gone:
        text.unlink()
    else:
        text.write_text(text.read_text() + "one more\n")
    done = run("search", "--resume", "s", "--dry-run")
    assert done.status == 0, done.err
    why = ", because its source is gone" if gone else ""
    assert line(done.out).startswith(
        f"data: {text}: as prepared before{why} ({corpus.digest[:19]}); bytes tokenizer; tokens: "
    )
    for path in corpus.folder.iterdir():
        path.unlink()
    corpus.folder.rmdir()
    done = run("search", "--resume", "s", "--dry-run")
    assert done.status == 2
    assert ("no such file" if gone else "has changed: its digest is") in done.err


def test_a_misspelled_name_is_refused_all_the_same(run: Run, tuned: Recipe, tmp_path: Path) -> None:
    done = search(run, "--data", tuned.data.source)
    assert done.status == 2
    assert "no such file or folder" in done.err
    done = run("train", "recipe.yaml", "--device", "cpu", "--data", "txet.txt")
    assert done.status == 2
    assert "txet.txt" in done.err
    assert not (tmp_path / "root" / "runs").exists()


def test_a_plan_is_trained_where_its_text_is_gone(run: Run, tuned: Recipe, tmp_path: Path) -> None:
    done = run("transfer", "recipe.yaml", "--width", "48", "--out", "plan.yaml")
    assert done.status == 0, done.err
    digest = tuned.provenance["data"]["digest"]
    assert Plan.read(tmp_path / "plan.yaml").corpus == digest
    done = run("train", "plan.yaml", "--device", "cpu", "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out)["status"] == "completed"
    said = (
        f"data: {tuned.data.source}: as prepared before, because its source is gone ({digest[:19]})"
    )
    assert line(done.err) == said


def test_a_training_says_how_it_read_tokens(run: Run, recipe: Recipe, tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(60, 66, 100_000)
    (tmp_path / "tokens.bin").write_bytes(tokens.astype("<i8").tobytes())
    recipe.write(tmp_path / "recipe.yaml")
    done = run("train", "recipe.yaml", "--device", "cpu", "--data", "tokens.bin")
    assert done.status == 0, done.err
    assert line(done.out).startswith("data: tokens.bin: int64 (inferred: ")


def test_a_sweep_goes_on_where_the_text_is_gone(run: Run, tuned: Recipe, text: Path) -> None:
    command = ("speedup", "recipe.yaml", "--scales", "1", "--device", "cpu", "--dry-run")
    done = run(*command)
    assert done.status == 0, done.err
    assert line(done.out).startswith(
        f"data: {text}: as prepared before, because its source is gone"
    )
    assert "warning" not in done.err
    text.write_text("".join(f"another {i * i}\n" for i in range(60_000)))
    done = run(*command)
    assert done.status == 0, done.err
    assert line(done.out).startswith(f"data: {text}, bytes tokenizer; tokens: train ")
    assert "is not the one the recipe was tuned on" in done.err
