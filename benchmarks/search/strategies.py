"""Which strategy gains most on real training, with equal budgets and the same start?

    python benchmarks/search/strategies.py --strategies trust-region random --seeds 0 1 2 3 4 --root <folder>

For each search seed the first study (`trust-region`) searches the global values. The studies of the other
strategies begin with a copy of those trials, so that all of them move around the same global configuration.
The point that each would have handed over after some of its per-module trials is then trained on the same
fresh seeds and judged on the report split. Printed: a table of gains with 95 % intervals. Drawn: the figure
docs/search_strategies.png. Interrupt it and start it again, days later or on another machine: what `--out`
and `--records` hold is not repeated. `--quick` is a form for CI.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import shutil
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import result
from benchmarks.reliability.kill_resume import short
from benchmarks.search import records
from completedp import files
from completedp.config import SearchConfig, StudyConfig
from completedp.lm.preset_files import load_preset
from completedp.runs.journal import Journal, TrialRecord, read_records
from completedp.runs.local import LocalExecutor, default_workers
from completedp.runs.sweep import run_all
from completedp.stats import compare
from search.phases import Global, Module
from search.proposer import Proposer
from search.space import Space
from search.study import Study, confirmation_runs, versions_now
from search.study_folder import StudyFolder, create

BASE = "trust-region"
DEFAULT = SearchConfig().strategy
RESAMPLES = 10_000
STYLES = ("-", "--", "-.", ":")


def main() -> None:
    arguments = _arguments()
    root = arguments.root.resolve()
    config = load_preset(arguments.preset)
    if arguments.quick:
        config = dataclasses.replace(config, train=short(config.train))
    rows = rows_before(arguments)
    for seed in arguments.seeds:
        for strategy in dict.fromkeys([BASE, *arguments.strategies]):
            if any(r["strategy"] == strategy and r["search_seed"] == seed for r in rows):
                continue
            place = StudyFolder(root=root, name=f"{strategy}-{seed}")
            searched(place, strategy, seed, config, arguments)
            rows.append(judged(place, strategy, seed, arguments.checkpoints))
            records.keep(place, arguments.records)
            write(arguments, rows)
            print(json.dumps(rows[-1]), flush=True)
    print("\n".join(table(write(arguments, rows))))


def write(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The report and the figure of the rows so far."""
    document = report(arguments, rows)
    result.write(arguments.out, document)
    draw(rows, arguments.figure)
    return document


def rows_before(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows that an earlier call has measured in the same setting."""
    if not arguments.out.exists():
        return []
    before = json.loads(arguments.out.read_text())
    if before["setting"] != setting(arguments):
        raise SystemExit(
            f"{arguments.out} was measured with {before['setting']}: give another --out"
        )
    rows: list[dict[str, Any]] = before["rows"]
    return rows


def setting(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that rows must share to be compared."""
    names = ("preset", "quick", "trials", "global_trials", "checkpoints")
    return {name: getattr(arguments, name) for name in names}


def _arguments() -> argparse.Namespace:
    parser = result.parser(__doc__, "search_strategies.json")
    parser.add_argument("--strategies", nargs="+", default=[BASE])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--trials", type=int, default=150, help="per-module trials")
    # As many as a study of 200 runs has.
    parser.add_argument("--global-trials", type=int, default=46, help="that all begin from")
    parser.add_argument("--checkpoints", type=int, nargs="+", default=[30, 60, 100, 150])
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--quick", action="store_true", help="14 trials of a second, one seed")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--figure", type=Path, default=result.DOCS / "search_strategies.png")
    parser.add_argument("--records", type=Path, default=result.RECORDS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.trials, arguments.checkpoints = [0], 14, [7, 14]
        arguments.global_trials = 3
    return arguments


def searched(
    place: StudyFolder, strategy: str, seed: int, config: StudyConfig, arguments: argparse.Namespace
) -> None:
    """Run or finish one strategy's study by the command line."""
    if (place.path / "summary.json").exists():
        return
    if strategy != BASE:
        base = StudyFolder(root=place.root, name=f"{BASE}-{seed}")
        if not base.journal.exists():
            records.restore(arguments.records / f"{base.name}.jsonl.xz", base)
        _begin_from(base, place, strategy)
    elif not place.journal.exists():
        searching = arguments.global_trials + arguments.trials
        budget = next(b for b in count(searching) if b - confirmation_runs(b) == searching)
        search = dataclasses.replace(
            config.search, strategy=BASE, global_share=arguments.global_trials / searching
        )
        preset = place.root / f"{place.name}.yaml"
        files.write_yaml(preset, dataclasses.replace(config, search=search).to_dict())
        begun = ["--budget", str(budget), "--preset", str(preset), "--seed", str(seed)]
        _search([*begun, "--name", place.name, "--root", str(place.root)])
        return
    _search(["--resume", place.name, "--root", str(place.root)])


def _search(how: list[str]) -> None:
    subprocess.run([*result.COMPLETEDP, "search", *how, "--yes"], check=True)


def _begin_from(base: StudyFolder, place: StudyFolder, strategy: str) -> None:
    """A study with the global trials of another one, and its own strategy after them.

    An interrupted copy goes on.
    """
    study = base.read()
    config = study.spec.config
    search = dataclasses.replace(config.search, strategy=strategy)
    spec = dataclasses.replace(
        study.spec,
        name=place.name,
        config=dataclasses.replace(config, search=search),
        versions=versions_now(),
    )
    shared = {t.trial for t in study.of_phase("global")}
    for trial in shared:
        curve = base.path / "curves" / f"{trial}.jsonl"
        if curve.exists():
            (place.path / "curves").mkdir(parents=True, exist_ok=True)
            shutil.copy(curve, place.path / "curves" / curve.name)
    begun = [r for r in read_records(base.journal) if r.get("trial") in shared]
    if not place.journal.exists():
        create(place, spec)
    copied = len(read_records(place.journal)) - 1
    with Journal.open(place.journal) as journal:
        for record in begun[copied:]:
            journal.append(record)


def judged(place: StudyFolder, strategy: str, seed: int, checkpoints: list[int]) -> dict[str, Any]:
    """Losses on fresh seeds of the points that the study would have handed over after so many trials."""
    from search.study_run import language_model_job

    study = place.read()
    config = study.spec.config
    space = Space.from_config(config)
    modules = study.of_phase("module")
    points = {number: handed_over(study, modules[:number]) for number in (0, *checkpoints)}
    seeds = list(dict.fromkeys(t.seed for t in study.confirmations))
    wanted = [(number, s) for number in points for s in seeds]
    folder = place.root / "judged" / place.name
    make_job = functools.partial(language_model_job, config, place.root / "data", "cpu")
    jobs = [
        make_job(i, space.to_hparams(points[number]), s, "report")
        for i, (number, s) in enumerate(wanted)
    ]
    with LocalExecutor(default_workers("cpu"), logs=folder / "logs") as executor:
        outcomes = run_all(jobs, executor, folder)
    if len(outcomes) < len(jobs):
        raise SystemExit(f"{place.name}: judged in part; start again to go on")
    found = {key: outcomes[i].loss for i, key in enumerate(wanted)}
    return {
        "strategy": strategy,
        "search_seed": seed,
        "losses": {str(number): [found[number, s] for s in seeds] for number in points},
        "uniform_loss": math.log(config.model.vocab_size),
        "diverged": sum(t.status == "diverged" for t in modules),
        "tokens": sum(t.tokens for t in modules) / len(modules) / config.train.tokens,
        "seeds": seeds,
    }


def handed_over(study: Study, modules: Sequence[TrialRecord]) -> Mapping[str, float]:
    """The point that the strategy hands over after the global trials and those per-module trials."""
    kept = {t.trial for t in (*study.of_phase("global"), *modules)}
    records = [r for r in study.records if r["event"] == "study" or r.get("trial") in kept]
    then = Proposer(Study.from_records(records, study.spec.name), lambda _: None, _no_job)
    return then.best(Module() if modules else Global())


def _no_job(*_: Any, **__: Any) -> Any:
    raise AssertionError("nothing is trained here")


def report(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """All rows, and each strategy's mean with its paired difference from trust-region random search."""
    strategies = list(dict.fromkeys(row["strategy"] for row in rows))
    means = {(r["strategy"], r["search_seed"]): mean_by_checkpoint(r) for r in rows}
    summary: dict[str, Any] = {}
    reached: dict[str, Any] = {}
    ahead: dict[str, Any] = {}
    for strategy in strategies:
        seeds = [s for (name, s) in means if name == strategy and (BASE, s) in means]
        summary[strategy] = {
            number: {
                "mean": statistics.fmean(means[strategy, s][number] for s in seeds),
                "minus_trust_region": interval(
                    [means[strategy, s][number] - means[BASE, s][number] for s in seeds]
                ),
                "minus_start": interval(
                    [means[strategy, s][number] - means[strategy, s]["0"] for s in seeds]
                ),
                "seeds": len(seeds),
            }
            for number in map(str, arguments.checkpoints)
        }
        reached[strategy] = trials_to_reach(means, strategy, arguments.checkpoints)
        if strategy != DEFAULT:
            ahead[strategy] = default_minus(means, strategy, arguments.checkpoints)
    return {
        "command": "python benchmarks/search/strategies.py --strategies "
        f"{' '.join(strategies)} --seeds {' '.join(map(str, sorted({r['search_seed'] for r in rows})))}",
        "setting": setting(arguments),
        "summary": summary,
        "trials_to_reach_trust_region": reached,
        "default_minus": ahead,
        "rows": rows,
    }


def default_minus(
    means: dict[tuple[str, int], dict[str, float]], strategy: str, numbers: list[int]
) -> dict[str, Any]:
    """The default strategy's confirmed loss less another's, on the search seeds of both."""
    seeds = [s for (name, s) in means if name == strategy and (DEFAULT, s) in means]
    return {
        str(n): {
            "seeds": len(seeds),
            **interval([means[DEFAULT, s][str(n)] - means[strategy, s][str(n)] for s in seeds]),
        }
        for n in numbers
        if seeds
    }


def table(document: dict[str, Any]) -> list[str]:
    """For the log: each strategy's gain, and the default's loss less its own, with 95 % t intervals."""

    def said(found: dict[str, float]) -> str:
        reach = f" [{found['t_low']:+.4f}, {found['t_high']:+.4f}]" if "t_low" in found else ""
        return f"{found['mean']:+.4f}{reach}"

    diverged: dict[str, list[int]] = {}
    for row in document["rows"]:
        diverged.setdefault(row["strategy"], []).append(row["diverged"])
    lines = []
    for strategy, by_number in document["summary"].items():
        ahead = document["default_minus"].get(strategy, {})
        cells = [
            f"{said(by_number[n]['minus_start'])} | {said(ahead[n]) if n in ahead else '–'}"
            for n in by_number
        ]
        seeds = len(diverged[strategy])
        lost = statistics.fmean(diverged[strategy])
        lines.append(f"| {strategy} | {seeds} | {' | '.join(cells)} | {lost:.0f} |")
    columns = " | ".join(
        f"gain at {n} | {DEFAULT} less it" for n in document["setting"]["checkpoints"]
    )
    return [f"| strategy | seeds | {columns} | diverged |", *lines]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Confirmed loss less the global configuration's, by per-module trials. A thin line is a search seed, a
    thick one their mean. Search seeds begin apart, and not every strategy has all of them."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 4.2), layout="constrained")
    for i, strategy in enumerate(dict.fromkeys(row["strategy"] for row in rows)):
        means = [mean_by_checkpoint(row) for row in rows if row["strategy"] == strategy]
        trials = sorted(int(number) for number in means[0])
        losses_ST = np.array([[mean[str(number)] for number in trials] for mean in means])
        gains_ST = losses_ST - losses_ST[:, :1]
        axes.plot(trials, gains_ST.T, color=f"C{i}", alpha=0.35, linewidth=0.9)
        label = f"{strategy} ({len(means)} search seeds)"
        # Strategies that never beat the start lie on one line, so each is thinner than the one before.
        style: dict[str, Any] = {"linewidth": 3.4 - 0.3 * i, "linestyle": STYLES[i % len(STYLES)]}
        axes.plot(trials, gains_ST.mean(0), color=f"C{i}", marker="o", label=label, **style)
    axes.set_xlabel("per-module trials")
    axes.set_ylabel("loss on fresh seeds less the start's (nats a token)")
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)


def mean_by_checkpoint(row: dict[str, Any]) -> dict[str, float]:
    """A fresh seed on which a recipe diverged counts as the loss of a uniform guess."""
    return {
        number: statistics.fmean(row["uniform_loss"] if x is None else x for x in losses)
        for number, losses in row["losses"].items()
    }


def interval(differences: list[float]) -> dict[str, float]:
    """Mean of paired differences over search seeds, with 95 % intervals by the bootstrap (too narrow for so
    few seeds) and by Student's t."""
    found = np.array(differences)
    rng = np.random.default_rng(0)
    means = rng.choice(found, size=(RESAMPLES, len(found))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    both = {"mean": float(found.mean()), "low": float(low), "high": float(high)}
    t = compare(dict.fromkeys(range(len(found)), 0.0), dict(enumerate(differences)))
    return both if t is None else both | {"t_low": t.low, "t_high": t.high}


def trials_to_reach(
    means: dict[tuple[str, int], dict[str, float]], strategy: str, numbers: list[int]
) -> dict[str, Any]:
    """Trials until a strategy's confirmed loss is the base's median one after the last checkpoint.

    Losses between checkpoints are interpolated. A seed that does not reach it is None, and counts as the last
    checkpoint.
    """
    target = statistics.median(
        r[str(numbers[-1])] for (name, _), r in means.items() if name == BASE
    )
    places = [0, *numbers]
    reached = {
        seed: crossing(places, [row[str(n)] for n in places], target)
        for (name, seed), row in means.items()
        if name == strategy
    }
    counted = [numbers[-1] if number is None else number for number in reached.values()]
    return {
        "loss": target,
        "trials": reached,
        "ratio": interval([number / numbers[-1] for number in counted]),
    }


def crossing(places: list[int], losses: list[float], target: float) -> float | None:
    """The number of trials at which the piecewise line through the losses first reaches the target."""
    if losses[0] <= target:
        return places[0]
    for i in range(1, len(places)):
        if losses[i] <= target:
            share = (losses[i - 1] - target) / (losses[i - 1] - losses[i])
            return places[i - 1] + share * (places[i] - places[i - 1])
    return None


if __name__ == "__main__":
    main()
