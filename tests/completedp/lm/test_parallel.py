"""Several processes train the function of one: DDP and FSDP2 on CPUs with gloo, and under torchrun."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from completedp.cli.app import main
from completedp.config import DataConfig, ModelConfig, TrainConfig
from completedp.errors import UserError
from completedp.lm import schedule
from completedp.lm.parallel import DDPGroup, ProcessGroup, join
from completedp.lm.train import LanguageModelTask, language_model
from completedp.recipe import Recipe
from completedp.resolved import Resolved

from .conftest import resolved_for

# Processes that wait for each other at every step are slow on a busy machine, which is no failure.
PATIENCE = 250  # s
pytestmark = pytest.mark.timeout(900)

Arguments = Callable[..., dict[str, Any]]
KINDS = ("ddp", "fsdp")
CLIP = 1.4  # acts in some of the steps
PLANNED: dict[str, Any] = {
    "types": {
        "lr": {"q": 4.0, "embedding": 2.0},
        "weight_decay": {"unembedding": 3.0},
        "beta2": {"v": 2.0},
        "eps": {"k": 10.0},
        "residual": {"ffn": 0.5},
    },
    "depth": {"lr": [0.8, 1.5], "residual": [0.5, 1.7]},
}
# 13 windows to evaluate, which two processes cannot share evenly.
CHANGES: dict[str, dict[str, Any]] = {
    "per module": {"train": {"clip": CLIP, "eval_tokens": 13 * 16}},
    "accumulated": {
        "train": {"batch": 192, "microbatch": 64, "clip": CLIP},
        "model": {"queries_per_kv": 2},
    },
    "float64": {"train": {"microbatch": 64, "clip": CLIP}},
    "bfloat16": {"train": {"precision": "bfloat16"}},
}
# Relative, of every loss: float32 sums in another order, the rounding of float64, bfloat16 products.
TOLERANCE = {"per module": 1e-5, "accumulated": 1e-5, "float64": 1e-13, "bfloat16": 2e-3}


def launched(ranks: int, *command: object, cwd: Path) -> subprocess.Popen[str]:
    """torchrun with `ranks` processes, in a session of its own."""
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks]
    return started(*run, *command, cwd=cwd)


def started(*command: object, cwd: Path) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str]) -> str:
    """All that it and its processes have printed; none of them is left behind."""
    try:
        return process.communicate(timeout=PATIENCE)[0]
    except subprocess.TimeoutExpired:
        kill_all(process)
        raise


def forked(ranks: int, *arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """The same processes without torchrun, whose imports take longer than a short training."""
    return started(Path(__file__).with_name("ranks.py"), ranks, *arguments, cwd=cwd)


def results(ranks: int, cases: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Each rank's result of the cases."""
    (folder / "cases.json").write_text(json.dumps(cases))
    process = forked(ranks, "cases.json", "results.json", cwd=folder)
    output = ended(process)
    assert process.returncode == 0, output
    return [json.loads((folder / f"results.json.{rank}").read_text()) for rank in range(ranks)]


def planned(model: dict[str, Any]) -> Resolved:
    return resolved_for(ModelConfig(**model), **PLANNED)


@pytest.fixture(scope="module")
def together(
    tmp_path_factory: pytest.TempPathFactory, build_arguments: Arguments
) -> list[dict[str, Any]]:
    cases = {}
    for kind in KINDS:
        for name, changes in CHANGES.items():
            arguments = build_arguments(**changes, parallel=kind)
            cases[f"{kind}, {name}"] = {
                "arguments": arguments,
                "resolved": planned(arguments["model"]).to_dict(),
                "seed": 3,
                "double": name == "float64",
            }
    return results(2, cases, tmp_path_factory.mktemp("ranks"))


def alone(name: str, build_arguments: Arguments) -> tuple[LanguageModelTask, list[float], Any]:
    torch.set_num_threads(1)
    made = language_model(**build_arguments(**CHANGES[name]))
    if name == "float64":
        made.model.double()
    losses: list[float] = []
    result = made(planned(vars(made.model_config)), 3, lambda _, loss: losses.append(loss))
    return made, [*losses, result.loss], result.metrics


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_the_function_of_one(
    together: list[dict[str, Any]], build_arguments: Arguments, kind: str, name: str
) -> None:
    task, losses, metrics = alone(name, build_arguments)
    first, second = (of_rank[f"{kind}, {name}"] for of_rank in together)
    tolerance = TOLERANCE[name]
    assert first["losses"] == second["losses"], "every rank judges by the same losses"
    assert first["losses"] == pytest.approx(losses, rel=tolerance)
    assert first["metrics"]["clipped_fraction"] == metrics["clipped_fraction"]
    if "clip" in CHANGES[name]["train"]:
        assert 0 < metrics["clipped_fraction"] < 1, "clipped in some steps, or nothing is tested"
    assert first["weights"] == second["weights"]
    if name == "bfloat16":  # AdamW makes whole steps of the rounding of small gradients
        return
    for tensor, parameter in task.model.named_parameters():
        wanted = parameter.detach().double().flatten().tolist()
        assert first["weights"][tensor] == pytest.approx(wanted, rel=100 * tolerance, abs=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_the_groups_hold_the_planned_values_of_their_tensors(
    together: list[dict[str, Any]], build_arguments: Arguments, kind: str
) -> None:
    arguments = build_arguments(**CHANGES["per module"])
    rows = {row.name: row for row in planned(arguments["model"]).tensors}
    run = TrainConfig(**arguments["train"])
    last = schedule.multiplier(run, run.steps - 1)
    for of_rank in together:
        found = of_rank[f"{kind}, per module"]
        seen = []
        for group in found["groups"]:
            assert group["params"] == group["param_names"]
            for name in group["params"]:
                row = rows[name]
                values = (row.weight_decay, [row.beta1, row.beta2], row.eps)
                assert (group["weight_decay"], group["betas"], group["eps"]) == values
                assert group["lr"] == pytest.approx(row.lr * last)
                seen.append(name)
        assert sorted(seen) == sorted(rows)
        whole = sum(map(len, found["weights"].values()))
        assert found["elements"] == (whole if kind == "ddp" else whole / 2)


def test_three_processes_resume_exactly(tmp_path: Path, build_arguments: Arguments) -> None:
    """Three ranks add the same gradients in an order that depends on how they are grouped."""

    def arguments(kept: str = "", kind: str | None = None) -> dict[str, Any]:
        folder = {"checkpoints": str(tmp_path / kept), "checkpoint_steps": 4} if kept else {}
        train = {"batch": 192, "tokens": 1920, "clip": CLIP}
        return build_arguments(train=train, parallel=kind, **folder)

    values = planned(build_arguments()["model"])
    cases = {}
    for kind in KINDS:
        for name, kept, more in (
            ("whole", "", {}),
            ("stopped", kind, {"stop": 5}),
            ("resumed", kind, {}),
            ("ctrl-c", f"{kind}-left", {"ctrl_c": 5}),
        ):
            case = {"arguments": arguments(kept, kind), "resolved": values.to_dict(), "seed": 0}
            cases[f"{kind} {name}"] = case | more
    ranks = results(3, cases, tmp_path)
    for kind in KINDS:
        whole, stopped, resumed = (ranks[0][f"{kind} {n}"] for n in ("whole", "stopped", "resumed"))
        assert stopped["losses"] == whole["losses"][:5]
        assert resumed["losses"] == whole["losses"][4:]
        assert resumed["weights"] == whole["weights"]
        for of_rank in ranks:  # one is interrupted, all stop after the next step, which is saved
            assert of_rank[f"{kind} ctrl-c"]["losses"] == whole["losses"][:6]
        # Files hold full tensors, so one process can resume what three began.
        seen: dict[int, float] = {}
        end = language_model(**arguments(f"{kind}-left"))(values, 0, seen.__setitem__)
        assert list(seen) == [7, 8, 9, 10]
        assert [*seen.values(), end.loss] == pytest.approx(whole["losses"][6:], rel=1e-5)


STEPS = 20


def train_command(recipe: Recipe, folder: Path) -> list[object]:
    """A plan of a few seconds that saves after every step."""
    shape = dataclasses.replace(recipe.model, context=16, depth=1)
    values = dataclasses.replace(recipe.hparams, depth={})
    run = TrainConfig(tokens=64 * STEPS, batch=64, eval_tokens=256)
    data = DataConfig(source=str(folder / "text.txt"))
    (folder / "text.txt").write_text("".join(f"line {i * i}\n" for i in range(12_000)))
    small = dataclasses.replace(recipe, model=shape, train=run, data=data, hparams=values)
    small.write(folder / "recipe.yaml")
    return ["train", "recipe.yaml", "--parallel", "fsdp", "--device", "cpu"]


def wait_for_checkpoint(process: subprocess.Popen[str], run: Path, beyond: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while not any(int(p.name[5:]) > beyond for p in run.glob("checkpoints/step-*")):
        assert process.poll() is None, process.communicate()[0]
        if time.monotonic() > deadline:
            kill_all(process)
            pytest.fail("no checkpoint")
        time.sleep(0.01)


def kill_all(process: subprocess.Popen[str]) -> None:
    """Kill -9 torchrun and the processes it started, which have sessions of their own."""
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    children = [int(pid) for path in tasks for pid in path.read_text().split()]
    for pid in (process.pid, *children):
        os.kill(pid, signal.SIGKILL)
    process.communicate()


def test_a_run_goes_on_exactly_after_kill_9(recipe: Recipe, tmp_path: Path) -> None:
    command = train_command(recipe, tmp_path)
    whole, run = tmp_path / "whole", tmp_path / "run"
    process = forked(2, *command, "--out", whole, cwd=tmp_path)
    output = ended(process)
    assert process.returncode == 0, output
    assert output.count(f"step {STEPS} of {STEPS}: loss") == 1, "one process prints"
    assert "tokens/s" in output

    process = launched(2, "-m", "completedp", *command, "--out", run, cwd=tmp_path)
    wait_for_checkpoint(process, run, 4)
    kill_all(process)
    assert not (run / "outcome.json").exists()

    state = max(run.glob("checkpoints/step-*/state.json"))
    whole_state = state.read_text()
    state.write_text("{}")
    process = forked(2, *command, "--out", run, cwd=tmp_path)
    output = ended(process)
    assert output.count("the checkpoint is damaged") == 1, output
    state.write_text(whole_state)

    process = launched(2, "-m", "completedp", *command, "--out", run, cwd=tmp_path)
    output = ended(process)
    assert process.returncode == 0, output
    for name in ("curve.jsonl", "model.safetensors"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    outcomes = [json.loads((folder / "outcome.json").read_text()) for folder in (run, whole)]
    assert outcomes[0]["loss"] == outcomes[1]["loss"]


def test_a_mistake_ends_all_processes_and_is_told_once(tmp_path: Path) -> None:
    process = launched(2, "-m", "completedp", "train", "missing.yaml", cwd=tmp_path)
    output = ended(process)
    assert process.returncode != 0
    assert output.count("error: missing.yaml: no such file") == 1, output
    assert "exitcode  : 2" in output


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    group = object.__new__(DDPGroup)
    group.world_size = 3
    model = ModelConfig(width=32, depth=2, head_dim=16, ffn=48, vocab_size=256, context=16)
    with pytest.raises(
        UserError, match=r"3 processes cannot share evenly; .* among 1, 2, 4, 8, 16"
    ):
        group.check_batch(model, TrainConfig(tokens=2560, batch=256))
    group.check_batch(model, TrainConfig(tokens=2560, batch=240))


def test_one_process_needs_no_group() -> None:
    assert type(join(None)) is type(join("fsdp")) is ProcessGroup
    with pytest.raises(UserError, match="unknown way to train in parallel 'fsdp2'; did you mean"):
        join("fsdp2")


def test_parallel_without_torchrun_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["completedp", "train", "plan.yaml", "--parallel", "ddp"])
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 2
    assert "torchrun --nproc-per-node N -m completedp train" in capsys.readouterr().err
