"""Our strategies as Ax nodes: in a study, in anybody's `Client`, and in the saved experiment."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from ax.analysis.plotly.utility_progression import UtilityProgressionAnalysis
from ax.api.client import Client
from ax.api.configs import RangeParameterConfig
from ax.generation_strategy.generation_strategy import GenerationStrategy
from studies import job_factory, recorded, study_of

from completedp.config import SearchConfig, StudyConfig
from completedp.errors import UserError
from completedp.runs.job import Outcome
from completedp.runs.journal import finished_record
from search.ax_experiment import AxExperiment
from search.phases import Module, current_phase
from search.proposer import Proposer
from search.space import Coordinate, Space
from search.strategies import STRATEGIES, History, Observation
from search.strategies.node import StrategyNode
from search.study import Study

REPOSITORY = Path(__file__).parents[2]


class Spy:
    """Proposes like random search and remembers what it was shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[History, Any]] = []

    def propose(self, history: History, rng: np.random.Generator) -> np.ndarray:
        self.seen.append((history, rng.bit_generator.state))
        return rng.uniform(history.lower_D, history.upper_D)


def client_of(strategy: Any, *parameters: Any, objective: str = "-loss", **node: Any) -> Client:
    client = Client()
    client.configure_experiment(parameters=list(parameters))
    client.configure_optimization(objective=objective)
    nodes = [StrategyNode(strategy, **node)]
    client.set_generation_strategy(GenerationStrategy(nodes=nodes))
    return client


def floats(
    name: str, low: float, high: float, scaling: Literal["linear", "log"] = "linear"
) -> RangeParameterConfig:
    return RangeParameterConfig(
        name=name, bounds=(low, high), parameter_type="float", scaling=scaling
    )


def next_trial(client: Client, **fixed: float) -> tuple[int, dict[str, Any]]:
    ((index, parameters),) = client.get_next_trials(1, fixed_parameters=fixed or None).items()
    return index, dict(parameters)


# In anybody's client.


def test_a_node_sees_the_experiments_own_trials() -> None:
    spy = Spy()
    client = client_of(spy, floats("lr", 2**-10, 2**-2, "log"), floats("x", 0, 16), seed=3)
    at = [{"lr": 2**-8, "x": 4.0}, {"lr": 2**-5, "x": 1.0}] * 3
    for parameters in at:
        client.attach_trial(parameters)
    client.complete_trial(0, raw_data={"loss": 1.5, "accuracy": 0.3})
    client.mark_trial_failed(1)
    client.mark_trial_abandoned(2)
    client.attach_data(3, raw_data={"loss": 1.2})
    client.mark_trial_early_stopped(3)
    client.complete_trial(4)  # without data
    next_trial(client)
    history, state = spy.seen[0]
    # A linear range counts as eight octaves: here one is 2.
    assert (history.seed, history.start_D.tolist()) == (3, [-8, 2])
    assert (history.lower_D.tolist(), history.upper_D.tolist()) == ([-10, 0], [-2, 8])
    assert state == np.random.default_rng([3, len(at)]).bit_generator.state
    found = [(o.status, o.loss) for o in history.observations]
    aside = ("set_aside", None)
    expected = [("completed", 1.5), ("diverged", None), aside, aside, aside, ("pending", None)]
    assert found == expected
    assert [o.point_D.tolist() for o in history.observations] == [[-8, 2], [-5, 0.5]] * 3


@pytest.mark.parametrize("name", ["trust-region", "trust-region-bo", "random", "sobol", "cma-es"])
def test_an_empty_experiment_starts_in_the_middle(name: str) -> None:
    client = client_of(STRATEGIES[name], floats("lr", 2**-10, 2**-2, "log"), floats("x", 1, 2))
    assert next_trial(client)[1] == {"lr": 2**-6, "x": 1.5}
    for parameters in client.get_next_trials(max_trials=8).values():
        assert 2**-10 <= parameters["lr"] <= 2**-2
        assert 1 <= parameters["x"] <= 2


def test_several_trials_at_once_differ_and_are_those_asked_for_one_by_one() -> None:
    def asked(*counts: int) -> list[Any]:
        client = client_of(STRATEGIES["trust-region"], floats("x", 0, 1), seed=1)
        return [p for n in counts for p in client.get_next_trials(n).values()]

    together = asked(4)
    assert len({p["x"] for p in together}) == 4
    assert together == asked(1, 1, 1, 1)


def test_a_maximized_objective_turns_the_sign() -> None:
    spy = Spy()
    client = client_of(spy, floats("x", 0, 1), objective="accuracy")
    client.complete_trial(client.attach_trial({"x": 0.5}), raw_data={"accuracy": 0.9})
    next_trial(client)
    assert spy.seen[0][0].observations[0].loss == -0.9


def test_fixed_parameters_are_held_and_choose_the_trials_that_count() -> None:
    spy = Spy()
    layers = RangeParameterConfig(name="layers", bounds=(1, 4), parameter_type="int")
    client = client_of(spy, floats("x", 0, 1), layers)
    for number in (2, 3):
        client.attach_trial({"x": 0.25, "layers": number})
    _, parameters = next_trial(client, layers=3)
    assert parameters["layers"] == 3
    assert len(spy.seen[0][0].observations) == 1
    with pytest.raises(UserError, match="'layers' is not a float range"):
        next_trial(client)


def test_what_a_strategy_cannot_see_is_refused() -> None:
    constrained = Client()
    constrained.configure_experiment([floats("x", 0, 1), floats("y", 0, 1)], ["x + y <= 1"])
    constrained.configure_optimization("-loss")
    nodes = [StrategyNode(Spy())]
    constrained.set_generation_strategy(GenerationStrategy(nodes=nodes))
    with pytest.raises(UserError, match="parameter constraints"):
        next_trial(constrained)
    for objective in ("-loss, accuracy", "-loss + 2 * accuracy"):
        with pytest.raises(UserError, match="not one metric"):
            next_trial(client_of(Spy(), floats("x", 0, 1), objective=objective))


@pytest.mark.filterwarnings("ignore:Encountered exception in computing model fit quality")
def test_the_example_of_the_docs_runs_as_printed(capsys: pytest.CaptureFixture[str]) -> None:
    text = (REPOSITORY / "docs" / "ax.md").read_text()
    example, _ = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    found: dict[str, Any] = {}
    exec(compile(example, "docs/ax.md", "exec"), found)
    assert found["outcome"]["loss"][0] < 1.01
    assert "loss" in capsys.readouterr().out


# Against the study's own loop.

ONLY_LR = SearchConfig(frozen=("weight_decay", "beta1", "beta2", "eps", "init_scale", "residual"))
TRIALS = 36


def quadratic(space: Space, seed: int) -> Callable[[Mapping[str, float]], float]:
    """A bowl over the space's coordinates, its lowest point 1.5 octaves off in each."""
    signs = np.random.default_rng(seed).choice([-1.5, 1.5], len(space.coordinates))
    lowest = {c.name: s for c, s in zip(space.coordinates, signs, strict=True)}
    return lambda x: 1.0 + 0.01 * sum((x.get(n, 0.0) - low) ** 2 for n, low in lowest.items())


def study_best(config: StudyConfig, seed: int) -> float:
    """The study's loop over global and per-module trials."""
    loss_of = quadratic(Space.from_config(config), seed)
    study = Study.from_records([first_record(config, budget=TRIALS + 4, seed=seed)], "memory")
    proposer = Proposer(study, lambda _: None, job_factory(config))
    for trial in range(TRIALS):
        job = proposer.next()
        assert job is not None
        assert job.trial == trial
        proposer.finished(outcome(trial, loss_of(study.trials[trial].values)))
    return min(t.loss for t in study.of_phase("global", "module") if t.loss is not None)


def bare_best(config: StudyConfig, seed: int) -> float:
    """The same strategy in a bare client, in other units: multipliers on a log scale."""
    space = Space.from_config(config)
    loss_of = quadratic(space, seed)
    names = {c.name.replace(".", "_"): c.name for c in space.coordinates}
    axes = [
        floats(name, 2**-c.octaves, 2**c.octaves, "log")
        for name, c in zip(names, space.coordinates, strict=True)
    ]
    client = client_of(STRATEGIES[config.search.strategy], *axes, seed=seed)
    losses = []
    for _ in range(TRIALS):
        index, parameters = next_trial(client)
        losses.append(loss_of({names[n]: math.log2(x) for n, x in parameters.items()}))
        client.complete_trial(index, raw_data={"loss": losses[-1]})
    return min(losses)


def first_record(config: StudyConfig, **study: Any) -> dict[str, Any]:
    return {"event": "study", **study_of(config, **study).to_record()}


def outcome(trial: int, loss: float | None, status: Any = "completed", seed: int = 0) -> Outcome:
    reason = "diverged" if status == "diverged" else None
    fields = {"steps": 1, "tokens": 1, "seconds": 1.0, "seed": seed, "reason": reason}
    return Outcome(trial=trial, status=status, loss=loss, **fields)


def test_a_bare_client_gains_what_the_studys_loop_gains(config: StudyConfig) -> None:
    config = dataclasses.replace(config, search=ONLY_LR)
    start = quadratic(Space.from_config(config), 0)({})
    bare, study = (
        [start - best(config, seed) for seed in range(2)] for best in (bare_best, study_best)
    )
    assert sum(bare) > 0.9 * sum(study) > 0


# In a study.


def expected_history(study: Study) -> History:
    """The history that the next proposal's strategy sees, from the journal alone."""
    phase = current_phase(study).name
    free = free_of(study)
    seen = ("global",) if phase == "global" else ("global", "module")
    observations = [
        Observation(
            point_D=np.array([t.values.get(c.name, 0.0) for c in free]),
            status=t.status or "pending",
            loss=t.loss,
            seed=t.seed,
        )
        for t in study.of_phase(*seen)
    ]
    upper_D = np.array([c.octaves for c in free])
    return History(
        seed=study.spec.seed,
        lower_D=-upper_D,
        upper_D=upper_D,
        start_D=observations[0].point_D if observations else np.zeros(len(free)),
        observations=observations,
    )


def free_of(study: Study) -> Sequence[Coordinate]:
    """The coordinates that the next proposal moves."""
    space = Space.from_config(study.spec.config)
    return space.part("global") if current_phase(study).name == "global" else space.coordinates


def plain(history: History) -> Any:
    """Compared bit by bit."""
    seen = [(o.point_D.tolist(), o.status, o.loss, o.seed) for o in history.observations]
    ends = (history.lower_D, history.upper_D, history.start_D)
    return history.seed, [x_D.tolist() for x_D in ends], seen


def check_shown(study: Study, spy: Spy) -> None:
    expected, trial = expected_history(study), len(study.trials)
    free = free_of(study)
    proposer = Proposer(study, lambda _: None, job_factory(study.spec.config))
    for _ in range(len(study.pending) + 1):  # those that were training come first
        proposer.next()
    history, state = spy.seen.pop()
    assert not spy.seen
    assert plain(history) == plain(expected)
    rng = np.random.default_rng([study.spec.seed, trial])
    assert state == rng.bit_generator.state
    point_D = Spy().propose(expected, rng)
    proposed = {c.name: float(x) for c, x in zip(free, point_D, strict=True)}
    space = Space.from_config(study.spec.config)
    assert study.trials[trial].values == space.project(proposed)


def until(records: list[dict[str, Any]], trial: int) -> Study:
    """The study as it was when this trial was proposed."""
    (at,) = [i for i, r in enumerate(records) if r["event"] == "proposed" and r["trial"] == trial]
    return Study.from_records(records[:at], "record")


@pytest.mark.parametrize("trial", [0, 20, 46, 47, 90])
def test_a_study_shows_its_strategy_what_the_journal_says(
    trial: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy()
    monkeypatch.setitem(STRATEGIES, "trust-region-bo", spy)  # type: ignore[arg-type]
    check_shown(until(recorded("trust-region-bo-0"), trial), spy)


def test_what_did_not_complete_and_later_global_trials_are_shown_as_the_journal_says(
    config: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A raised budget: its global trials come after per-module ones."""
    spy = Spy()
    monkeypatch.setitem(STRATEGIES, "trust-region-bo", spy)  # type: ignore[arg-type]
    names = [c.name for c in Space.from_config(config).coordinates]
    phases = ["global"] * 3 + ["module"] * 5 + ["confirm"] * 4 + ["global"] * 2
    ends: list[tuple[str, float | None] | None] = [
        ("completed", 1.5), ("diverged", None), ("completed", 1.4),
        ("completed", 1.3), ("diverged", None), ("completed", 1.6), None, ("set_aside", None),
        *[("completed", 1.3)] * 4,
        ("completed", 1.0), ("completed", 1.2),
    ]  # fmt: skip
    records = [first_record(config, budget=12, seed=5)]
    for trial, (phase, end) in enumerate(zip(phases, ends, strict=True)):
        if trial == 12:
            records.append({"event": "budget", "budget": 24})
        kept = [n for n in names if phase != "global" or n.startswith("global")]
        values = {n: round(0.01 * trial + 0.001 * i, 6) for i, n in enumerate(kept)}
        about = {"arm": "module", "round": 0} if phase == "confirm" else {}
        seed = 1 + trial % 2
        at = {"event": "proposed", "trial": trial, "values": values, "phase": phase, "seed": seed}
        records.append(at | about)
        if end is not None and end[0] == "set_aside":
            records.append({"event": "set_aside", "trial": trial, "reason": "died"})
        elif end is not None:
            records.append(finished_record(outcome(trial, end[1], end[0], seed)))
    study = Study.from_records(records, "memory")
    expected = expected_history(study)
    assert current_phase(study).name == "module"
    assert [o.loss for o in expected.observations][:4] == [1.5, None, 1.4, 1.3]
    assert {o.seed for o in expected.observations} == {1, 2}
    check_shown(study, spy)


def test_what_is_handed_over_is_the_strategys_best_point(
    config: StudyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = until(recorded("trust-region-0"), 90)
    expected = expected_history(study)
    proposer = Proposer(study, lambda _: None, job_factory(study.spec.config))
    best = proposer.best(Module())
    (_, point_D), *_ = expected.completed
    octaves = {c.name: float(x) for c, x in zip(free_of(study), point_D, strict=True)}
    assert best == Space.from_config(study.spec.config).project(octaves)
    assert len(study.trials) == 90


# The saved experiment.


def test_the_saved_experiment_opens_in_ax(tmp_path: Path) -> None:
    records = [
        *until(recorded("trust-region-0"), 60).records,
        {"event": "proposed", "trial": 60, "values": {}, "phase": "module", "seed": 1},
        {"event": "set_aside", "trial": 60, "reason": "died"},
    ]
    study = Study.from_records(records, "record")
    path = tmp_path / "experiment.json"
    AxExperiment(study).save(path)
    client = Client.load_from_json_file(str(path))
    table = client.summarize()
    searched = study.of_phase("global", "module")
    assert len(table) == len(searched)
    status = {"completed": "COMPLETED", "diverged": "FAILED", "set_aside": "ABANDONED"}
    assert list(table["trial_status"]) == [status.get(str(t.status), "RUNNING") for t in searched]
    best = min((t for t in searched if t.loss is not None), key=lambda t: t.loss or 0.0)
    _, found, index, _ = client.get_best_parameterization(use_model_predictions=False)
    assert (found["loss"][0], index) == (pytest.approx(best.loss, abs=1e-9), best.trial)
    assert table["type__lr__q"][best.trial] == best.values.get("type.lr.q", 0.0)
    (card,) = client.compute_analyses([UtilityProgressionAnalysis()], display=False)
    assert card.name == "UtilityProgressionAnalysis"
    assert len(card.df) == sum(t.loss is not None for t in searched)
    assert len(client.get_next_trials(max_trials=1)) == 1  # Ax's default strategy goes on


def test_equal_studies_save_equal_bytes(tmp_path: Path, config: StudyConfig) -> None:
    config = dataclasses.replace(config, search=dataclasses.replace(ONLY_LR, strategy="random"))
    study = Study.from_records([first_record(config, budget=12)], "memory")
    for _ in range(4):
        proposer = Proposer(study, lambda _: None, job_factory(config))
        job = proposer.next()
        assert job is not None
        proposer.finished(outcome(job.trial, 1.0 + 0.1 * job.trial))
    for name in "ab":
        AxExperiment(study).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
