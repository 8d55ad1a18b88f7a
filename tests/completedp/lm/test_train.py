"""The training loop: determinism, folding, accumulation, golden losses, and what leaves it."""

import functools
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from completedp.errors import UserError
from completedp.lm.train import LanguageModelTask, main, pick_device
from completedp.runs.job import Diverged, Job
from completedp.runs.runner import run_job

from .conftest import losses_of, resolved_for

Make = Callable[..., LanguageModelTask]
GOLDEN = Path(__file__).parents[2] / "golden" / "losses.json"
GOLDEN_CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipped, accumulated, wsd": {
        "train": {"clip": 0.5, "microbatch": 64, "schedule": "wsd", "final_lr": 0.1}
    },
    "gelu, grouped, no QK norm": {
        "model": {"activation": "gelu", "qk_norm": False, "queries_per_kv": 2}
    },
    "per module": {"types": {"lr": {"q": 4.0, "embedding": 2.0}, "residual": {"ffn": 0.5}}},
}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_golden_losses(task: Make, name: str) -> None:
    """To write them anew: remove the case from the file, and copy what this test then prints."""
    case = dict(GOLDEN_CASES[name])
    types = case.pop("types", {})
    made = task(**case)
    losses = losses_of(made, resolved_for(made.model_config, types=types))
    print(json.dumps({name: losses}))
    assert losses == pytest.approx(json.loads(GOLDEN.read_text())[name], rel=1e-5)


def test_a_run_is_a_function_of_values_and_seed(task: Make) -> None:
    first, second = task(), task()
    values = resolved_for(first.model_config)
    losses = losses_of(first, values)
    losses_of(first, resolved_for(first.model_config, lr=0.1), seed=5)
    assert losses_of(first, values) == losses, "nothing stays of the run before"
    assert losses_of(second, values) == losses
    assert losses_of(first, values, seed=1) != losses
    assert losses[-2] < losses[0]


def test_folding_the_residual_coefficients_changes_nothing(task: Make) -> None:
    made = task(train={"tokens": 50 * 64, "batch": 64})
    made.model.double()
    types = {"residual": {"attention": 0.3, "ffn": 2.5}}
    values = resolved_for(made.model_config, types=types, depth={"residual": [0.5, 1.7]})
    losses = losses_of(made, values)
    assert losses_of(made, values.folded()) == pytest.approx(losses, rel=1e-9)
    without = losses_of(made, resolved_for(made.model_config))
    assert without != pytest.approx(losses, rel=1e-3), "the coefficients matter"


def test_accumulation_is_the_mean_of_the_whole_batch(task: Make) -> None:
    whole, parts = task(), task(train={"microbatch": 32})
    whole.model.double()
    parts.model.double()
    values = resolved_for(whole.model_config)
    assert losses_of(parts, values) == pytest.approx(losses_of(whole, values), rel=1e-9)


def test_the_result(task: Make) -> None:
    made = task(train={"clip": 1e-3})
    result = made(resolved_for(made.model_config), 0, lambda step, loss: None)
    assert result.tokens == 2560
    assert result.metrics["clipped_fraction"] == 1
    assert result.metrics["tokens_per_second"] > 0
    per_token = made.corpus.bytes_per_token("select")
    assert per_token is not None
    assert result.metrics["bits_per_byte"] == pytest.approx(result.loss / math.log(2) / per_token)
    assert made.limits.steps == 10
    assert made.limits.warmup_steps == 1
    assert made.limits.uniform_loss == math.log(256)
    assert made.limits.tokens_per_step == 256


def test_splits_are_evaluated_apart(task: Make) -> None:
    select, report = task(split="select"), task(split="report")
    values = resolved_for(select.model_config)
    a, b = losses_of(select, values), losses_of(report, values)
    assert a[:-1] == b[:-1]
    assert a[-1] != b[-1]


def test_a_loss_that_is_not_finite_is_reported(task: Make) -> None:
    # Without QK norm nothing bounds the attention logits.
    made = task(model={"qk_norm": False})
    values = resolved_for(made.model_config, lr=1e30)
    assert not all(map(math.isfinite, losses_of(made, values)))

    def report(step: int, loss: float) -> None:
        if not math.isfinite(loss):
            raise Diverged(step, "not finite")

    with pytest.raises(Diverged):
        made(values, 0, report)


def test_bfloat16_trains(task: Make) -> None:
    made = task(train={"precision": "bfloat16"})
    values = resolved_for(made.model_config)
    losses = losses_of(made, values)
    assert {p.dtype for p in made.model.parameters()} == {torch.float32}
    assert losses == pytest.approx(losses_of(task(), values), rel=3e-2)


# Dynamo instantiates autograd functions while it traces them.
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function:DeprecationWarning")
def test_trials_of_other_values_compile_nothing(
    task: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced only: what is compiled from a trace does not matter here, and takes a minute."""
    from torch._dynamo.utils import counters

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    built = task(train={"compile": True, "tokens": 256})
    graphs = []
    for trial in range(1, 4):
        values = resolved_for(
            built.model_config,
            lr=0.01 / trial,
            types={"residual": {"ffn": trial}, "beta1": {"q": trial}, "eps": {"k": trial}},
        )
        built(values, trial, lambda step, loss: None)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0
    assert graphs == [graphs[0]] * 3


def test_devices() -> None:
    assert pick_device("cpu").type == "cpu"
    for bad in ("gpu", "cuda:x", "tpu:0"):
        with pytest.raises(UserError, match="expected auto, cpu, cuda"):
            pick_device(bad)
    with pytest.raises(UserError, match="CUDA devices"):
        pick_device("cuda:99")


def a_job(task: Make, arguments: dict[str, Any]) -> Job:
    values = resolved_for(task().model_config)
    return Job(
        trial=3,
        task="completedp.lm.train:language_model",
        arguments=arguments,
        resolved=values,
        seed=1,
    )


def test_a_job_file_trains_from_an_uninstalled_checkout(
    task: Make, arguments: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    job = a_job(task, arguments())
    (tmp_path / "job.json").write_text(json.dumps(job.to_dict()))
    blocked = ("yaml", "pydantic", "typer", "rich", "ax", "mlflow", "safetensors", "tokenizers")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({blocked!r})); sys.path.insert(0, '.')\n"
        "import runpy; sys.argv[1:] = sys.argv[1:]\n"
        "runpy.run_module('completedp.lm.train', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "job.json")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        env={"OMP_NUM_THREADS": "1", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    here = run_job(job)
    assert outcome["status"] == "completed"
    assert outcome["loss"] == here.loss
    assert outcome["curve"] == [list(point) for point in here.curve]


def test_the_command_writes_a_file_and_refuses_what_is_no_job(
    task: Make,
    arguments: Callable[..., dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job, out = tmp_path / "job.json", tmp_path / "out.json"
    job.write_text(json.dumps(a_job(task, arguments()).to_dict()))
    assert main([str(job), str(out)]) == 0
    assert json.loads(out.read_text())["trial"] == 3
    for nowhere in (tmp_path / "none" / "out.json", tmp_path):
        assert main([str(job), str(nowhere)]) == 2
        assert "cannot be written" in capsys.readouterr().err
    out.unlink()

    def trained(_: Job) -> Any:
        out.mkdir()  # the place is lost meanwhile
        return run_job(a_job(task, arguments()))

    monkeypatch.setattr("completedp.lm.train.run_job", trained)
    assert main([str(job), str(out)]) == 2
    assert json.loads(capsys.readouterr().out)["trial"] == 3
    assert main([]) == 2
    assert main([str(tmp_path / "gone.json")]) == 2
    assert "gone.json: no such file" in capsys.readouterr().err
    job.write_text('{"trial": 1}')
    assert main([str(job)]) == 2
    assert "job.json: task is missing; expected text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("arguments.model", [], r"arguments: model is \[\]; expected an object"),
        (
            "arguments.model.width",
            "32",
            r"arguments\.model: width is '32'; expected a whole number",
        ),
        ("arguments.model.width", -1, r"arguments\.model: width is -1"),
        ("arguments.model.size", 3, r"arguments\.model: unknown key 'size'"),
        ("arguments.model.rope_base", None, "rope_base is None"),
        ("arguments.data.tokenizer", "words", "tokenizer is 'words'; expected 'bytes' or 'bpe'"),
        ("arguments.train.batch", 100, "train.batch is 100; expected a multiple of"),
        ("arguments.train.batch", [256], r"arguments\.train: batch is \[256\]"),
        ("arguments.train.compile", "no", "compile is 'no'; expected true or false"),
        ("arguments.train.schedule", {}, r"schedule is \{\}"),
        ("arguments.split", "train", "split is 'train'; expected 'select' or 'report'"),
        ("arguments.cache", 3, "cache is 3; expected a path"),
        ("arguments.cache", "a\0b", "cache is 'a.x00b'; expected a path"),
        ("arguments.device", 3, "device is 3; expected text"),
        ("arguments.checkpoints", ["x"], r"checkpoints is \['x'\]; expected a path, or null"),
        ("arguments.checkpoint_steps", -1, "checkpoint_steps is -1"),
        ("arguments.parallel", 3, "parallel is 3"),
        ("arguments.size", 3, "arguments: unknown key 'size'"),
        ("task", 3, "task is 3; expected text"),
        ("seed", None, "seed is None"),
        ("resolved.residual", {}, r"residual has \[\]; expected"),
        ("resolved.residual.ffn", [1.0], "residual.ffn has 1 numbers; expected 2, one per layer"),
        ("resolved.tensors", [], "trainable parameters without a row"),
        ("resolved.tensors.0.name", "more", "without a row"),
        ("resolved.tensors.0.lr", "high", r"resolved\.tensors\.0: lr is 'high'"),
        ("resolved.tensors.0.beta1", 2, r"resolved\.tensors\.0: beta1 is 2"),
        ("resolved.output_multiplier", 1e300, "output_multiplier is 1e.300"),
    ],
)
def test_a_job_that_does_not_fit_is_one_error(
    task: Make,
    arguments: Callable[..., dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    place: str,
    value: Any,
    said: str,
) -> None:
    job = a_job(task, arguments()).to_dict()
    *path, last = place.split(".")
    holder: Any = job
    for name in path:
        holder = holder[int(name)] if name.isdecimal() else holder[name]
    holder[last] = value
    (tmp_path / "job.json").write_text(json.dumps(job))
    assert main([str(tmp_path / "job.json")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {tmp_path}/job.json: ")
    assert re.search(said, captured.err)


def test_whole_numbers_are_numbers_in_a_job(
    task: Make,
    arguments: Callable[..., dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = a_job(task, arguments(train={"clip": 1, "z_loss": 0})).to_dict()
    for row in job["resolved"]["tensors"]:
        row.update(beta1=0, weight_decay=0)
    (tmp_path / "job.json").write_text(json.dumps(job))
    assert main([str(tmp_path / "job.json")]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "completed"
