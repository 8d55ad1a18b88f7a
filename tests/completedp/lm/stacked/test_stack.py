"""Members of a stack against their solo runs; what one of them does never reaches another."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from completedp.config import ModelConfig
from completedp.errors import UserError
from completedp.lm.stacked.stack import Stack
from completedp.lm.train import LanguageModelTask, RunArguments
from completedp.resolved import Resolved
from completedp.runs.job import Diverged, Job, Outcome
from completedp.runs.runner import RunningJob

from ..conftest import resolved_for

Arguments = Callable[..., dict[str, Any]]
Losses = dict[int, list[float]]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def mixed(model: ModelConfig, trial: int, lr: float = 0.01) -> Resolved:
    types = {
        "lr": {"q": 0.5 + trial, "unembedding": 2.0},
        "weight_decay": {"v": 1.0 + trial},
        "beta1": {"attention_out": 1.0 + 0.2 * trial},
        "beta2": {"embedding": 0.5 + trial},
        "eps": {"ffn_norm": 10.0**trial},
        "residual": {"ffn": 1.0 + 0.3 * trial},
    }
    depth = {"lr": [1.0, 0.8 + 0.1 * trial]}
    return resolved_for(model, lr=lr / 2**trial, types=types, depth=depth)


def job_of(arguments: dict[str, Any], trial: int, seed: int | None = None, **values: Any) -> Job:
    model = ModelConfig(**arguments["model"])
    return Job(
        trial=trial,
        task="completedp.lm.train:language_model",
        arguments=arguments,
        resolved=mixed(model, trial, **values),
        seed=trial if seed is None else seed,
    )


def run_of(job: Job) -> RunArguments[ModelConfig]:
    return RunArguments.read(ModelConfig, job.arguments)


def alone(job: Job, dtype: torch.dtype) -> tuple[Outcome, list[float]]:
    task = LanguageModelTask(run_of(job))
    task.model.to(dtype)
    losses: list[float] = []
    running = RunningJob(job, task.limits, lambda progress: losses.append(progress.loss))
    try:
        return running.completed(task(job.resolved, job.seed, running.report)), losses
    except Diverged as error:
        return running.diverged(error), losses


def together(
    jobs: Sequence[Job],
    places: int,
    dtype: torch.dtype = torch.float32,
    between: Callable[[Stack, int], object] = lambda stack, round: None,
) -> tuple[dict[int, Outcome], Losses]:
    """Run jobs in a stack; the next one takes the place of the first that ends. `between` is called before
    each round."""
    stack = Stack(run_of(jobs[0]), places, dtype)
    waiting, outcomes, losses, turn = list(jobs), dict[int, Outcome](), Losses(), 0
    while waiting or stack.members:
        while waiting and stack.members < places:
            job = waiting.pop(0)
            told = losses.setdefault(job.trial, [])
            stack.start(job, run_of(job), lambda progress, told=told: told.append(progress.loss))
        between(stack, turn)
        outcomes |= {outcome.trial: outcome for outcome in stack.advance()}
        turn += 1
    return outcomes, losses


def assert_alike(one: Outcome, other: Outcome, rel: float) -> None:
    """The same outcome, but for the time that it took."""
    timed = ("seconds", "curve", "metrics", "loss")
    left, right = (dataclasses.asdict(outcome) for outcome in (one, other))
    assert {k: v for k, v in left.items() if k not in timed} == {
        k: v for k, v in right.items() if k not in timed
    }
    assert one.loss == (None if other.loss is None else pytest.approx(other.loss, rel=rel))
    assert one.metrics.keys() == other.metrics.keys()
    for name in {"clipped_fraction", "bits_per_byte"} & one.metrics.keys():
        assert one.metrics[name] == pytest.approx(other.metrics[name], rel=rel)


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_members_follow_their_solo_runs(
    arguments: Arguments, dtype: torch.dtype, rel: float
) -> None:
    """200 steps; one member diverges and is replaced, the others end at other times than they began."""
    given = arguments(model={"qk_norm": False}, train={"tokens": 200 * 64, "batch": 64, "clip": 1})
    jobs = [job_of(given, trial) for trial in range(5)]
    jobs[1] = job_of(given, 1, lr=1e30)
    jobs[4] = job_of(given | {"split": "report"}, 4)
    outcomes, losses = together(jobs, 3, dtype)
    assert {trial: o.status for trial, o in outcomes.items()} == {
        0: "completed",
        1: "diverged",
        2: "completed",
        3: "completed",
        4: "completed",
    }
    for job in jobs:
        outcome, expected = alone(job, dtype)
        assert_alike(outcomes[job.trial], outcome, rel)
        if outcome.status == "completed":
            assert losses[job.trial] == pytest.approx(expected, rel=rel)
            assert len(expected) == 200


OPTIONS: dict[str, dict[str, Any]] = {
    "accumulated": {"train": {"microbatch": 64, "clip": 0.5}},
    "wsd": {"train": {"schedule": "wsd", "final_lr": 0.1, "z_loss": 0.01}},
    "gelu, grouped": {"model": {"activation": "gelu", "queries_per_kv": 2}},
    "odd sizes": {"model": {"width": 42, "head_dim": 14, "ffn": 37}},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_that_of_the_solo_run(arguments: Arguments, name: str) -> None:
    jobs = [job_of(arguments(**OPTIONS[name]), trial) for trial in range(2)]
    outcomes, losses = together(jobs, 2, torch.float64)
    for job in jobs:
        outcome, expected = alone(job, torch.float64)
        assert losses[job.trial] == pytest.approx(expected, rel=1e-12)
        assert_alike(outcomes[job.trial], outcome, 1e-12)


def test_bfloat16_trains_nearly_as_alone(arguments: Arguments) -> None:
    jobs = [job_of(arguments(train={"precision": "bfloat16"}), trial) for trial in range(2)]
    outcomes, losses = together(jobs, 2)
    exact, _ = together([job_of(arguments(), 0)], 1)
    for job in jobs:
        outcome, expected = alone(job, torch.float32)
        assert losses[job.trial] == pytest.approx(expected, rel=1e-2)
        assert_alike(outcomes[job.trial], outcome, 1e-2)
    assert outcomes[0].loss != exact[0].loss


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e38])
@pytest.mark.parametrize("place", [0, 1])
def test_a_bad_member_changes_no_bit_of_the_others(
    arguments: Arguments, bad: float, place: int
) -> None:
    """The bad one leaves, and another takes its place."""
    given = arguments(train={"clip": 1.0, "microbatch": 128})
    jobs = [job_of(given, trial) for trial in range(4)]

    def spoil(stack: Stack, turn: int) -> None:
        if turn == 3:
            for parameter in stack._model.solo[place].parameters():
                parameter.data.view(-1)[::7] = bad

    healthy, expected = together(jobs, 3)
    outcomes, losses = together(jobs, 3, between=spoil)
    assert outcomes[place].status == "diverged"
    assert outcomes[place].steps in (4, 5)
    for trial in {0, 1, 2} - {place}:
        assert losses[trial] == expected[trial]
        assert outcomes[trial].loss == healthy[trial].loss
    assert losses[3] == expected[3], "the replacement starts from its own values"


def test_a_members_own_values_decide_alone_what_it_does(arguments: Arguments) -> None:
    """The same bits beside other members, at another place, and after others have left."""
    given = arguments()
    mine = job_of(given, 0)
    _, first = together([mine, job_of(given, 1), job_of(given, 2)], 3)
    _, second = together([job_of(given, 3, lr=1e4), job_of(given, 2), mine], 3)
    assert first[0] == second[0]


def test_members_have_seeds_of_their_own(arguments: Arguments) -> None:
    given = arguments()
    jobs = [
        dataclasses.replace(job_of(given, 0), trial=trial, seed=seed)
        for trial, seed in enumerate([5, 5, 6])
    ]
    outcomes, losses = together(jobs, 3)
    assert losses[0] == losses[1] != losses[2]
    assert [outcomes[trial].seed for trial in range(3)] == [5, 5, 6]


def test_losses_are_read_several_at_once(
    arguments: Arguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU."""
    jobs = [job_of(arguments(), trial) for trial in range(3)]
    outcomes, losses = together(jobs, 2)
    monkeypatch.setattr(LanguageModelTask, "report_steps", 4)
    turns: list[int] = []
    fewer, same = together(jobs, 2, between=lambda stack, turn: turns.append(turn))
    assert same == losses
    assert len(turns) == 6, "10 steps as 4, 4 and 2, twice"
    assert {t: o.loss for t, o in fewer.items()} == {t: o.loss for t, o in outcomes.items()}


def test_a_stack_refuses_by_name(arguments: Arguments) -> None:
    plain = job_of(arguments(), 0)
    stack = Stack(run_of(plain), 1)
    run = run_of(plain)
    with pytest.raises(UserError, match="checkpoints is '/there'"):
        stack.start(plain, dataclasses.replace(run, checkpoints="/there"))
    with pytest.raises(UserError, match="parallel is 'ddp'"):
        stack.start(plain, dataclasses.replace(run, parallel="ddp"))
    resolved = dataclasses.replace(plain.resolved, residual={})
    with pytest.raises(UserError, match="residual has"):
        stack.start(dataclasses.replace(plain, resolved=resolved), run)
    few = dataclasses.replace(plain.resolved, tensors=plain.resolved.tensors[1:])
    with pytest.raises(UserError, match="without a row: embedding"):
        stack.start(dataclasses.replace(plain, resolved=few), run)
    assert stack.members == 0
    assert stack.advance() == []


# Dynamo instantiates autograd functions while it traces them.
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function:DeprecationWarning")
def test_replacements_compile_nothing(
    arguments: Arguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced only: what is compiled from a trace does not matter here, and takes a minute."""
    from torch._dynamo.utils import counters

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    jobs = [job_of(arguments(train={"compile": True}), trial) for trial in range(4)]
    graphs: list[int] = []
    outcomes, _ = together(
        jobs, 2, between=lambda stack, turn: graphs.append(counters["stats"]["unique_graphs"])
    )
    assert graphs[1] > graphs[0]
    assert set(graphs[1:]) == {graphs[1]}
    plain, _ = together([job_of(arguments(), trial) for trial in range(4)], 2)
    for trial, outcome in plain.items():
        assert outcomes[trial].loss == pytest.approx(outcome.loss, rel=1e-4)
