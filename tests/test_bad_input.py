"""A user's mistakes: a clear message with the offending value, status 2, no traceback, nothing written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from completedp.lm.preset_files import load_preset
from completedp.recipe import Recipe
from completedp.runs.lock import Lock
from search.study_folder import StudyFolder

Run = Callable[..., Any]


@pytest.fixture
def run(cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """In this process: an exception that leaves the program fails the test, as a traceback does."""
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments, root=tmp_path / "root": cli(*arguments, "--root", root)


@pytest.fixture
def run_apart(tmp_path: Path) -> Run:
    """In a process of its own, as a person calls it."""

    def completedp(*arguments: str) -> Any:
        program = "from completedp.cli.app import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments, "--root", str(tmp_path / "root")],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "200"},
            check=False,
        )
        return SimpleNamespace(status=done.returncode, out=done.stdout, err=done.stderr)

    return completedp


def refused(run: Run, tmp_path: Path, *arguments: str, says: str, **options: Any) -> str:
    before = sorted(tmp_path.rglob("*"))
    done = run(*arguments, **options)
    assert done.status == 2, done.out + done.err
    assert says in done.err, done.err
    assert "Traceback" not in done.err
    new = [p for p in sorted(tmp_path.rglob("*")) if p not in before]
    assert not new, new
    return str(done.err)


def preset_with(tmp_path: Path, **changes: dict[str, Any]) -> str:
    data = load_preset("tiny").to_dict()
    for section, values in changes.items():
        data[section] |= values
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(data))))
    return str(path)


@pytest.mark.parametrize("way", ["run", "run_apart"])
def test_unknown_preset(request: pytest.FixtureRequest, tmp_path: Path, way: str) -> None:
    arguments = ("search", "--budget", "20", "--preset", "tinny")
    refused(request.getfixturevalue(way), tmp_path, *arguments, says="did you mean 'tiny'")


def test_unknown_key_with_its_path(run: Run, tmp_path: Path) -> None:
    mine = preset_with(tmp_path, train={"bacth": 4096})
    text = refused(run, tmp_path, "search", "--budget", "20", "--preset", mine, says="train.bacth")
    assert "did you mean 'batch'" in text


def test_unknown_kind_to_freeze(run: Run, tmp_path: Path) -> None:
    arguments = ("search", "--budget", "20", "--preset", "tiny", "--freeze", "epsilon")
    refused(run, tmp_path, *arguments, says="unknown kind 'epsilon'")


def test_budget_below_twelve(run: Run, tmp_path: Path) -> None:
    refused(run, tmp_path, "search", "--budget", "11", "--preset", "tiny", says="--budget is 11")


def test_unknown_strategy(run: Run, tmp_path: Path) -> None:
    arguments = ("search", "--budget", "20", "--preset", "tiny", "--strategy", "turbo")
    refused(run, tmp_path, *arguments, says="unknown strategy 'turbo'")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (bytes(range(256)) * 4096, "text"),
        (b"too short a text\n" * 10, "tokens"),
    ],
    ids=["empty", "garbage", "short"],
)
def test_corpora(run: Run, tmp_path: Path, content: bytes, says: str) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_bytes(content)
    before = ("search", "--budget", "20", "--preset", "tiny", "--data", str(corpus))
    done = run(*before)
    assert done.status == 2, done.err
    assert "corpus.txt" in done.err
    assert says in done.err.lower()
    assert "Traceback" not in done.err
    assert not list(tmp_path.rglob("studies"))
    assert not list(tmp_path.rglob("*.bin"))


def test_a_corpus_that_is_not_there(run: Run, tmp_path: Path) -> None:
    arguments = ("search", "--budget", "20", "--preset", "tiny", "--data", "nowhere.txt")
    refused(run, tmp_path, *arguments, says="nowhere.txt")


def test_a_root_whose_parent_is_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    arguments = ("search", "--budget", "20", "--preset", "tiny")
    refused(run, tmp_path, *arguments, says="file", root=tmp_path / "file" / "root")


@pytest.mark.parametrize("workers", ["two", "0", "-1", "²"])
def test_workers(run: Run, tmp_path: Path, workers: str) -> None:
    arguments = ("search", "--budget", "20", "--preset", "tiny", "--workers", workers)
    refused(run, tmp_path, *arguments, says=f"--workers is {workers!r}")


def test_values_and_names_with_their_path_in_the_file(run: Run, tmp_path: Path) -> None:
    arguments = ("search", "--budget", "20", "--dry-run", "--preset")
    path = preset_with(tmp_path, values={"lr": -1.0})
    refused(
        run,
        tmp_path,
        *arguments,
        path,
        says="mine.yaml: values.lr is -1.0; expected a finite number above 0",
    )
    path = preset_with(tmp_path, train={"tokens": 1e6})
    refused(
        run,
        tmp_path,
        *arguments,
        path,
        says="train.tokens is 1000000.0; input should be a valid integer, as",
    )
    path = preset_with(tmp_path, search={"strategy": "foo"})
    refused(
        run, tmp_path, *arguments, path, says="mine.yaml: search.strategy: unknown strategy 'foo'"
    )


def test_presets_that_are_none(run: Run, tmp_path: Path) -> None:
    refused(run, tmp_path, "preset", "nowhere.yaml", says="nowhere.yaml")
    refused(run, tmp_path, "preset", ".", says="cannot be read")
    refused(run, tmp_path, "preset", "--out", "mine.yaml", says="name of a preset")
    (tmp_path / "folder").mkdir()
    refused(run, tmp_path, "preset", "tiny", "--out", "folder", says="cannot be written")


def test_a_refused_resume_leaves_the_study_as_it_was(
    run: Run, tmp_path: Path, small_study: StudyFolder
) -> None:
    before = small_study.journal.read_bytes()
    arguments = ("search", "--resume", "s", "--budget", "300")
    refused(run, tmp_path, *arguments, "--workers", "two", says="--workers")
    refused(run, tmp_path, *arguments, "--device", "cuda:99", says="cuda:99")
    wanted = "study 's' has 12, and the next useful total is 13"
    for dry in ((), ("--dry-run",)):
        arguments = ("search", "--resume", "s", "--budget", "11", *dry)
        told = refused(run, tmp_path, *arguments, says=wanted)
        assert "per module" not in told, "no plan of what is refused"
    done = run("search", "--resume", "s", "--dry-run", "--json")
    assert json.loads(done.out)["runs"] == 12
    assert small_study.journal.read_bytes() == before


@pytest.mark.parametrize("name", ["../x", "a/b", ".."])
def test_study_names_with_path_parts(run: Run, tmp_path: Path, name: str) -> None:
    arguments = ("search", "--budget", "20", "--preset", "tiny", "--name", name)
    refused(run, tmp_path, *arguments, says=repr(name))


def write_journal(tmp_path: Path, **changes: Any) -> Path:
    folder = tmp_path / "root" / "studies" / "old"
    folder.mkdir(parents=True)
    record = {"event": "study", "schema": 1, "name": "old", "config": {}, "digest": "", **changes}
    (folder / "journal.jsonl").write_text(json.dumps(record) + "\n")
    return folder


def test_a_journal_of_another_schema(run: Run, tmp_path: Path) -> None:
    write_journal(tmp_path, schema=7)
    refused(run, tmp_path, "search", "--resume", "old", says="schema is 7")
    refused(run, tmp_path, "status", "old", says="schema is 7")


def test_a_journal_of_another_configuration(run: Run, tmp_path: Path) -> None:
    write_journal(tmp_path, config={"model": {"widht": 3}})
    refused(run, tmp_path, "search", "--resume", "old", says="model.widht")


def test_resume_of_no_study(run: Run, tmp_path: Path) -> None:
    refused(run, tmp_path, "search", "--resume", "nobody", says="no study 'nobody'")


@pytest.fixture
def small_study(tmp_path: Path) -> StudyFolder:
    """A study of 12 runs at `tiny`, none of them begun."""
    config = load_preset("tiny")
    from completedp.lm.data import prepare
    from search.study import StudySpec
    from search.study_folder import create

    root = tmp_path / "root"
    corpus = prepare(config.data, config.model.vocab_size, config.train.eval_tokens, root / "data")
    folder = StudyFolder(root=root, name="s")
    data = {"digest": corpus.digest, "bytes_per_token": {"report": 1.0}}
    create(folder, StudySpec(name="s", config=config, seed=0, budget=12, data=data))
    return folder


def test_two_writers(run_apart: Run, small_study: StudyFolder) -> None:
    with Lock(small_study.lock):
        done = run_apart("search", "--resume", "s", "--workers", "1")
    assert done.status == 2
    assert f"process {os.getpid()}" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda d: d.update(schema=2), "schema is 2"),
        (lambda d: d["hparams"]["global"].update(lr=-1.0), "lr is -1"),
        (lambda d: d["hparams"]["types"].update(lr={"router": 2.0}), "types.lr.router"),
        (lambda d: d["base"].update(width=64), "base"),
        (lambda d: d.pop("model"), "model is missing"),
        (lambda d: d["train"].update(tokens="many"), "train.tokens"),
    ],
)
def test_recipes_edited_into_nonsense(
    run: Run, tmp_path: Path, recipe: Recipe, edit: Callable[[dict[str, Any]], Any], says: str
) -> None:
    data = recipe.to_dict()
    edit(data)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(data))))
    refused(run, tmp_path, "transfer", str(path), "--width", "64", says=says)


def test_resume_refuses_what_the_study_decides(run: Run, tmp_path: Path) -> None:
    arguments = ("search", "--resume", "s", "--preset", "tiny")
    refused(run, tmp_path, *arguments, says="--preset cannot be given with --resume")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("speedup", "nowhere.yaml"), "nowhere.yaml"),
        (("speedup", "recipe.yaml", "--scales", "1,two"), "no list of numbers"),
        (("speedup", "recipe.yaml", "--fractions", "0.5"), "1 among them"),
        (("speedup", "recipe.yaml", "--seeds", "1"), "--seeds"),
        (("speedup", "recipe.yaml", "--parameterization", "mu"), "unknown parameterization"),
        (("speedup", "recipe.yaml", "--against", "recipe.yaml", "--device", "gpu"), "device is"),
        (("transfer-check", "nowhere.yaml", "--axis", "width"), "nowhere.yaml"),
        (("transfer-check", "recipe.yaml"), "--axis"),
        (("transfer-check", "recipe.yaml", "--axis", "widht"), "did you mean 'width'"),
        (("transfer-check", "recipe.yaml", "--axis", "width", "--ratios", "2,4"), "1, the base"),
        (("transfer-check", "recipe.yaml", "--axis", "width", "--ratios", "1,1.3"), "gives 41.6"),
        (("transfer-check", "recipe.yaml", "--axis", "batch", "--ratios", "1,.1"), "batch ratio"),
        (("transfer-check", "recipe.yaml", "--axis", "depth", "--factors", "1,2"), "3 or more"),
        (("transfer-check", "recipe.yaml", "--axis", "depth", "--seeds", "1"), "--seeds"),
        (
            ("transfer-check", "recipe.yaml", "--axis", "depth", "--parameterizations", "sp,mu"),
            "unknown parameterization 'mu'",
        ),
        (
            ("transfer-check", "recipe.yaml", "--axis", "tokens", "--duration-exponent", "-1"),
            "duration_exponent is -1",
        ),
        (("transfer-check", "recipe.yaml", "--axis", "width", "--device", "gpu"), "device is"),
        (("transfer-fit", "recipe.yaml", "--flops", "1e20"), "not JSON"),
        (("transfer-fit", "nowhere.json", "--flops", "1e20"), "nowhere.json"),
        (("transfer", "recipe.yaml", "--tokens-per-parameter", "lots"), "expected a number"),
        (
            ("transfer", "recipe.yaml", "--flops", "1e18", "--tensor-parallel", "0"),
            "tensor-parallel",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_measuring_what_cannot_be(
    run: Run, recipe: Recipe, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    recipe.write(tmp_path / "recipe.yaml")
    refused(run, tmp_path, *arguments, says=says)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--preset", "tinny"), "did you mean 'tiny'"),
        (("--parameterization", "mu"), "unknown parameterization 'mu'"),
        (("--parameterization", "sp", "--beta-rule", "power"), "has no meaning under 'sp'"),
        (("--alpha", "2"), "alpha is 2.0"),
        (("--axis", "tokens"), "--axis"),
        (("--ratios", "1,two"), "no list of numbers"),
        (("--ratios", "4"), "--ratios is 4; expected two or more"),
        (("--ratios", "2,2"), "two or more different"),
        (("--ratios", "1,0.5"), "none below 1"),
        (("--ratios", "1,nan"), "none below 1"),
        (("--ratios", "1,1.25"), "depth ratio 1.25"),
        (("--ratios", "1,1e9"), "expected at most"),
        (("--seeds", "2"), "--seeds"),
        (("--steps", "1"), "--steps"),
        (("--device", "gpu"), "device is 'gpu'"),
        (("--axis", "batch", "--beta-rule", "linear"), "use beta_rule 'power'"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_coordinate_checks_that_cannot_be(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    refused(run, tmp_path, "coordcheck", *arguments, says=says)
