"""`completedp train`: what it writes, how it fails, and that an interrupted run goes on."""

import dataclasses
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from completedp.cli.app import main
from completedp.config import DataConfig
from completedp.flops import shapes
from completedp.plan import Plan
from completedp.recipe import Recipe
from completedp.runs.job import Job, Progress
from completedp.runs.lock import Lock
from completedp.tracking.store import Store
from completedp.training import jobs, one_run, run_folder
from transfer.planning.planner import base_plan

Train = Callable[..., tuple[int, str, str]]


@pytest.fixture
def train(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Train:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("".join(f"line {i * i}\n" for i in range(12_000)))

    def run(*arguments: object) -> tuple[int, str, str]:
        words = ["completedp", "train", *map(str, arguments), "--data", "text.txt"]
        monkeypatch.setattr("sys.argv", [*words, "--device", "cpu"])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def curve(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


def test_a_run_leaves_outcome_curve_and_weights(
    train: Train, recipe: Recipe, tmp_path: Path
) -> None:
    recipe.write(tmp_path / "recipe.yaml")
    status, out, _ = train("recipe.yaml", "--seed", 1)
    assert status == 0
    (folder,) = (tmp_path / "mlruns" / "runs").iterdir()
    assert folder.name.startswith("recipe-seed1-")
    assert {p.name for p in folder.iterdir()} == {
        "plan.yaml",
        "run.json",
        "outcome.json",
        "curve.jsonl",
        "model.safetensors",
        "lock",
        ".mlflow.lock",
    }
    assert Plan.read(folder / "plan.yaml") == base_plan(recipe)
    outcome = json.loads((folder / "outcome.json").read_text())
    assert outcome["status"] == "completed"
    assert outcome["metrics"]["flops_per_second"] > outcome["metrics"]["tokens_per_second"] > 0
    assert "mfu" not in outcome["metrics"], "a CPU's peak is not known"
    assert out.count(" tokens/s, ") == 24, "on every line but the first, and of the whole run"
    (tracked,) = Store(tmp_path / "mlruns").runs("completedp.run", folder.name)
    assert tracked.info.status == "FINISHED"
    assert tracked.data.metrics["loss"] == outcome["loss"]
    assert [point["step"] for point in curve(folder)] == list(range(1, 25))
    weights = {name: tuple(t.shape) for name, t in load_file(folder / "model.safetensors").items()}
    assert weights == shapes(recipe.model)
    assert f"loss {outcome['loss']:.4f} nats a token" in out
    assert f"{outcome['metrics']['bits_per_byte']:.4f} bits a byte" in out
    assert "step 24 of 24" in out
    share = outcome["metrics"]["clipped_fraction"]
    assert f"gradients clipped at norm 1 in {share:.1%} of the steps" in out


def test_json_is_one_document(train: Train, recipe: Recipe, tmp_path: Path) -> None:
    recipe.write(tmp_path / "recipe.yaml")
    _, out, err = train("recipe.yaml", "--json", "--out", "run")
    assert json.loads(out)["folder"] == "run"
    assert "step 24 of 24" in err


def test_text_for_a_recipe_of_tokens_is_refused(
    train: Train, recipe: Recipe, tmp_path: Path
) -> None:
    """Bytes are no tokens of another vocabulary."""
    wide = dataclasses.replace(recipe.model, vocab_size=512)
    of_tokens = dataclasses.replace(recipe, model=wide, data=DataConfig(source="tokens.bin"))
    of_tokens.write(tmp_path / "recipe.yaml")
    status, _, err = train("recipe.yaml")
    assert status == 2
    assert "vocab_size is 512" in err


def test_a_diverged_run_says_when_and_why(train: Train, recipe: Recipe, tmp_path: Path) -> None:
    values = dataclasses.replace(recipe.hparams.global_, lr=1e30)
    hot = dataclasses.replace(recipe.hparams, global_=values)
    dataclasses.replace(recipe, hparams=hot).write(tmp_path / "recipe.yaml")
    status, _, err = train("recipe.yaml", "--out", "run")
    assert status == 1
    assert "diverged at step" in err
    assert json.loads((tmp_path / "run" / "outcome.json").read_text())["loss"] is None
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_folder_that_cannot_be_is_refused(train: Train, recipe: Recipe, tmp_path: Path) -> None:
    recipe.write(tmp_path / "recipe.yaml")
    status, out, err = train("recipe.yaml", "--out", "recipe.yaml/run")
    assert (status, out) == (2, "")
    assert "recipe.yaml/run: cannot be written" in err
    assert train("recipe.yaml", "--root", "recipe.yaml")[0] == 2


def test_missing_data_leaves_nothing(train: Train, recipe: Recipe, tmp_path: Path) -> None:
    recipe.write(tmp_path / "recipe.yaml")
    (tmp_path / "text.txt").unlink()
    status, out, err = train("recipe.yaml")
    assert (status, out) == (2, "")
    assert "text.txt" in err
    assert {p.name for p in tmp_path.iterdir()} == {"recipe.yaml"}


def test_an_interrupted_run_goes_on_to_the_same_weights(
    train: Train, recipe: Recipe, tmp_path: Path
) -> None:
    plan = base_plan(recipe)

    def job(folder: Path) -> Job:
        return jobs.plan_job(
            plan,
            data=DataConfig(source="text.txt"),
            seed=0,
            folder=folder,
            cache=tmp_path / "cache",
            device="cpu",
        )

    def interrupt(progress: Progress) -> None:
        if progress.step == 13:
            raise KeyboardInterrupt

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_folder.run(job(whole), whole, lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        run_folder.run(job(broken), broken, interrupt)
    assert not (broken / "outcome.json").exists()
    with (broken / "curve.jsonl").open("a") as file:
        file.write('{"step": 14, "lo')  # torn by a kill
    seen: list[int] = []
    run_folder.run(job(broken), broken, lambda progress: seen.append(progress.step))
    assert seen[0] == 13
    assert (broken / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert curve(broken) == curve(whole)
    outcomes = [json.loads((f / "outcome.json").read_text()) for f in (broken, whole)]
    assert outcomes[0]["curve"] == outcomes[1]["curve"]
    assert len(outcomes[0]["curve"]) == 24


@pytest.mark.parametrize(
    "killed_in", ["_keep_weights", "sync", "files.write_json", "shutil.rmtree"]
)
@pytest.mark.parametrize("after", [True, False])
def test_a_kill_at_the_end_loses_nothing(
    recipe: Recipe,
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    killed_in: str,
    after: bool,
) -> None:
    recipe.write(tmp_path / "recipe.yaml")
    train("recipe.yaml", "--out", "whole")
    *owner, name = killed_in.split(".")
    place = getattr(run_folder, owner[0]) if owner else run_folder
    original = getattr(place, name)

    def killed(first: object, *arguments: object, **options: object) -> None:
        if "run" not in str(first) or "step-" in str(first) or ".writing" in str(first):
            original(first, *arguments, **options)
            return
        if after:
            original(first, *arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(place, name, killed)
        assert train("recipe.yaml", "--out", "run")[0] == 130
    status, out, _ = train("recipe.yaml", "--out", "run")
    assert status == 0
    assert "loss" in out
    whole, run = (tmp_path / name for name in ("whole", "run"))
    assert {p.name for p in run.iterdir()} == {p.name for p in whole.iterdir()}
    for name in ("curve.jsonl", "model.safetensors"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()


def test_a_finished_run_is_printed_again(train: Train, recipe: Recipe, tmp_path: Path) -> None:
    recipe.write(tmp_path / "recipe.yaml")
    first = train("recipe.yaml", "--out", "run")
    again = train("recipe.yaml", "--out", "run")
    assert again[0] == 0
    assert "step " not in again[1]
    assert again[1].startswith("finished before")
    assert first[1].splitlines()[-2:] == again[1].splitlines()[-2:]
    status, _, err = train("recipe.yaml", "--out", "run", "--seed", 1)
    assert status == 2
    assert "run: holds the finished run of other values, data or seed" in err
    (tmp_path / "run" / "outcome.json").write_text("[]")
    assert "not the outcome of a run" in train("recipe.yaml", "--out", "run")[2]


def test_one_writer_a_run(train: Train, recipe: Recipe, tmp_path: Path) -> None:
    recipe.write(tmp_path / "recipe.yaml")
    (tmp_path / "one").mkdir()
    with Lock(tmp_path / "one" / "lock", "run"):
        status, _, err = train("recipe.yaml", "--out", "one")
    assert status == 2
    assert "run one is being written by process" in err


def test_a_run_has_a_name_of_its_own(recipe: Recipe) -> None:
    names = {
        one_run.run_name(base_plan(recipe), DataConfig(source=source), seed, "x")
        for source in ("a", "b")
        for seed in (0, 1)
    }
    assert len(names) == 4


def replaced(path: Path, by: str) -> None:
    """Another thing in a file's place."""
    path.unlink()
    if by == "a folder":
        path.mkdir()
    elif by == "a link to itself":
        path.symlink_to(path.name)
    else:
        path.write_text(by)


ODD = ["a folder", "a link to itself", "", "{", "[" * 20_000, "[]", "3", '{"run": 1}', "\0"]


def test_a_damaged_outcome_is_one_error(train: Train, recipe: Recipe, tmp_path: Path) -> None:
    recipe.write(tmp_path / "recipe.yaml")
    train("recipe.yaml", "--out", "run")
    path = tmp_path / "run" / "outcome.json"
    whole = path.read_text()
    for by in (*ODD, whole.replace('"loss": ', '"loss": [', 1), whole.replace('"completed"', "3")):
        path.unlink()
        path.write_text(whole)
        replaced(path, by)
        status, out, err = train("recipe.yaml", "--out", "run")
        assert (status, out) == (2, "")
        assert err.count("error: run/outcome.json: not the outcome of a run (run/outcome.json") == 1
        assert err.endswith("); remove it, or give another place\n")
        path.rmdir() if by == "a folder" else path.unlink()
        path.touch()


def test_a_damaged_run_json_is_written_anew(train: Train, recipe: Recipe, tmp_path: Path) -> None:
    recipe.write(tmp_path / "recipe.yaml")
    train("recipe.yaml", "--out", "run")
    path = tmp_path / "run" / "run.json"
    said = path.read_text()
    for by in ("a link to itself", "[]", "a folder"):
        (tmp_path / "run" / "outcome.json").unlink()
        replaced(path, by)
        status, _, err = train("recipe.yaml", "--out", "run")
        if by == "a folder":
            assert (status, err.count("run/run.json: cannot be written")) == (2, 1)
        else:
            assert (status, path.read_text()) == (0, said)


def interrupted(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of `recipe.yaml` in `run`, stopped after step 13 of 24."""

    def stop(_: object, progress: Progress) -> None:
        if progress.step == 13:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("completedp.cli.train._View.on_progress", stop)
        assert train("recipe.yaml", "--out", "run")[0] == 130


def test_a_damaged_curve_is_one_error_and_is_no_need(
    train: Train, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe.write(tmp_path / "recipe.yaml")
    interrupted(train, monkeypatch)
    path = tmp_path / "run" / "curve.jsonl"
    for by in ('{"step": 1}\n', '{"step": 1, "loss": "x"}\n', "a folder"):
        replaced(path, by)
        status, _, err = train("recipe.yaml", "--out", "run")
        assert (status, err.count("error: run/curve.jsonl")) == (2, 1)
        assert err.endswith("; remove the file: with it only this curve is lost\n")
    path.rmdir()
    assert train("recipe.yaml", "--out", "run")[0] == 0
    assert [point["step"] for point in curve(tmp_path / "run")] == list(range(13, 25))
    outcome = json.loads((tmp_path / "run" / "outcome.json").read_text())
    assert len(outcome["curve"]) == 24


def test_a_damaged_checkpoint_is_one_error(
    train: Train, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe.write(tmp_path / "recipe.yaml")
    interrupted(train, monkeypatch)
    (state,) = (tmp_path / "run" / "checkpoints").glob("step-*/state.json")
    state.write_text("{}")
    status, _, err = train("recipe.yaml", "--out", "run")
    assert status == 2
    assert "state.json: run is missing; expected text); remove run/checkpoints to start" in err


def test_weights_are_kept_where_there_are_no_hard_links(
    train: Train, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe.write(tmp_path / "recipe.yaml")
    train("recipe.yaml", "--out", "whole")

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    train("recipe.yaml", "--out", "run")
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        p.name for p in (tmp_path / "whole").iterdir()
    }
    kept = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "run")]
    assert kept[0] == kept[1]


def test_a_full_disk_is_told_and_gone_on_with(
    train: Train, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe.write(tmp_path / "recipe.yaml")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for place in ("shutil.copyfile", "os.fsync"):
        with monkeypatch.context() as patched:
            patched.setattr(os, "link", full)
            patched.setattr(place, full)
            status, _, err = train("recipe.yaml", "--out", "run")
        assert status == 2
        assert "cannot be written (No space left on device); make room, then go on" in err
        assert not list((tmp_path / "run").glob(".*safetensors"))
    assert train("recipe.yaml", "--out", "run")[0] == 0


def test_a_folder_in_the_place_of_the_weights_is_told(
    train: Train, recipe: Recipe, tmp_path: Path
) -> None:
    recipe.write(tmp_path / "recipe.yaml")
    (tmp_path / "run" / "model.safetensors").mkdir(parents=True)
    status, _, err = train("recipe.yaml", "--out", "run")
    assert (status, err.count("run/model.safetensors: cannot be written")) == (2, 1)
