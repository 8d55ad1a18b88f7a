"""What is a search worth at a larger scale, against what else the same compute could have bought?

    python benchmarks/transfer/carried_gain.py --seeds 0 1 2 3 4 --scales 1 16 64 --root <folder>
    python benchmarks/transfer/carried_gain.py --arms search global-4x --seeds 0 --scales 16 --root <folder>
    python benchmarks/transfer/carried_gain.py --summary

Every arm spends the compute of `--budget` runs of the preset on its search:

search      The default search, ladder and confirmation included. Judged: the arm that `transfer` plans.
tuned       The same search's tuned values, whatever its ladder says.
baseline    The same search's global values, which it found with a quarter of its search trials.
random      As `search`, with the paper's trust-region random search.
global      All search trials on the global values, on the same proxy.
global-4x   All search trials on the global values, on a proxy of 4 x the FLOPs, a quarter as many.

At each scale (a multiple of the preset's training FLOPs) an arm's values are carried to the shape that
`completedp transfer` chooses for that budget, and trained on the same fresh seeds, on the report split.
`--text docstrings` takes English prose in place of Python source: the docstrings of installed packages.

Printed: for each scale and arm the mean over searches of the loss less that of `baseline` and of `global-4x`,
with 95 % intervals over searches, and the tokens that `search` saves against `baseline`. Interrupt it and
start it again, days later too: finished searches are kept in records/, runs under the root, and rows in the
result file. `--summary` only prints and draws.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import search
from benchmarks import result
from benchmarks.search import records
from completedp import files
from completedp.config import DataConfig, StudyConfig
from completedp.hparams import HParams
from completedp.lm.preset_files import load_preset
from completedp.models import training_flops
from completedp.recipe import Recipe
from completedp.scale import Ratios
from completedp.seeds import derive_seed
from completedp.stats import mean_interval
from completedp.training.sweeps import Training, train_all
from search.rungs import rungs_of
from search.scales import at_scale
from search.study_folder import StudyFolder
from transfer.expected import better_arm
from transfer.planning.planner import make_plan, values_of
from transfer.planning.target import TargetRequest, target_for

OUT = "carried_gain.json"
SMALLEST_PROSE = 200  # characters of a docstring that is more than a line
PROSE_BYTES = 24_000_000
# Shares of the tokens at which the baseline's own curve is measured, to turn nats into tokens.
SHARES = (0.5, 1.0)
REFERENCES = ("baseline", "global-4x")
# Those of the figure, each with a color that the color-blind tell apart.
DRAWN = {"search": "#0072b2", "random": "#d55e00", "global": "#999999", "global-4x": "#009e73"}

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """`study` names the search that gives the values, and `values` picks them from its recipe at a scale."""

    study: str
    values: Callable[[Recipe, float], HParams]


def _planned(recipe: Recipe, flops: float) -> HParams:
    """The arm that `transfer` plans."""
    return values_of(recipe, better_arm(recipe, flops)[0])


ARMS: Mapping[str, Arm] = {
    "search": Arm(study="search", values=_planned),
    "tuned": Arm(study="search", values=lambda recipe, _: recipe.hparams),
    "baseline": Arm(study="search", values=lambda recipe, _: recipe.baseline),
    "random": Arm(study="random", values=_planned),
    "global": Arm(study="global", values=lambda recipe, _: recipe.baseline),
    "global-4x": Arm(study="global-4x", values=lambda recipe, _: recipe.baseline),
}


def main() -> None:
    parser = result.parser(__doc__, OUT)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="of searches")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 16.0])
    parser.add_argument("--fresh", type=int, default=3, help="training seeds of every measurement")
    parser.add_argument("--budget", type=int, default=200)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--text", choices=("source", "docstrings"), default="source")
    parser.add_argument("--compile", action="store_true", help="compile the runs (faster)")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--root", type=Path)
    parser.add_argument("--summary", action="store_true", help="print and draw the result file")
    parser.add_argument("--figure", type=Path, default=result.DOCS / "carried_gain.png")
    arguments = parser.parse_args()
    rows: list[Row] = (
        json.loads(arguments.out.read_text())["rows"] if arguments.out.exists() else []
    )
    if not arguments.summary:
        if arguments.root is None:
            parser.error("give --root, or --summary")
        rows = measured(arguments, rows)
    print("\n".join(table(rows)))
    draw(rows, arguments.figure)


def measured(arguments: argparse.Namespace, rows: list[Row]) -> list[Row]:
    """Search and train what the rows do not have, the cheapest scale first."""
    config = configured(arguments)
    for seed in arguments.seeds:
        recipes = {
            study: searched(study, seed, config, arguments)
            for study in dict.fromkeys(ARMS[arm].study for arm in arguments.arms)
        }
        for scale in sorted(arguments.scales):
            for arm in arguments.arms:
                key = {"text": arguments.text, "arm": arm, "scale": scale, "search_seed": seed}
                if any(row.items() >= key.items() for row in rows):
                    continue
                losses = trained(arm, recipes[ARMS[arm].study], scale, seed, config, arguments)
                rows.append({**key, "budget": arguments.budget, "losses": losses})
                result.write(arguments.out, {"rows": rows})
                print(json.dumps(rows[-1]), flush=True)
    return rows


def configured(arguments: argparse.Namespace) -> StudyConfig:
    config = load_preset(arguments.preset)
    train = dataclasses.replace(config.train, compile=arguments.compile)
    config = dataclasses.replace(config, train=train)
    if arguments.text == "docstrings":
        source = arguments.root.resolve() / "docstrings.txt"
        if not source.exists():
            files.write_text(source, docstrings())
        config = dataclasses.replace(config, data=DataConfig(source=str(source)))
    return config


def docstrings() -> str:
    """English prose: the docstrings of the packages installed beside this Python, by path."""
    folder = Path(np.__file__).parents[1]
    kept: dict[str, None] = {}
    size = 0
    for path in sorted(folder.rglob("*.py")):
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, RecursionError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                if len(text) >= SMALLEST_PROSE and text not in kept:
                    kept[text] = None
                    size += len(text)
        if size > PROSE_BYTES:
            break
    return "\n\n".join(kept)


def searched(study: str, seed: int, config: StudyConfig, arguments: argparse.Namespace) -> Recipe:
    """The recipe of one search, run or resumed as a user would."""
    budget = arguments.budget
    if study == "random":
        config = dataclasses.replace(
            config, search=dataclasses.replace(config.search, strategy="trust-region")
        )
    if study.startswith("global"):
        config = dataclasses.replace(
            config, search=dataclasses.replace(config.search, global_share=1.0)
        )
    if study == "global-4x":
        (rung,) = (r for r in rungs_of(config) if r.flops == 4)
        config, budget = at_scale(config, rung.ratios), budget // 4
        config = dataclasses.replace(config, values=carried(config, rung.ratios))
    root, name = arguments.root.resolve(), f"{arguments.text}-{study}-{seed}"
    folder, kept = StudyFolder(root=root, name=name), result.RECORDS / f"{name}.jsonl.xz"
    how: dict[str, Any] = {"root": root, "workers": arguments.workers}
    if kept.exists() and not folder.journal.exists():
        records.restore(kept, folder)
    if folder.journal.exists():
        recipe = search.resume(name, **how)
    else:
        recipe = search.run(config, budget=budget, name=name, seed=seed, **how)
    if not kept.exists():
        records.keep(folder, result.RECORDS)
    return recipe


def carried(config: StudyConfig, ratios: Ratios) -> Any:
    """The preset's values for the larger proxy: a global lr can only follow the hidden matrices' rule."""
    values = config.values
    lr = values.lr / ratios.width / math.sqrt(ratios.steps)
    return dataclasses.replace(values, lr=lr)


def trained(
    arm: str,
    recipe: Recipe,
    scale: float,
    seed: int,
    config: StudyConfig,
    arguments: argparse.Namespace,
) -> dict[str, dict[str, float]]:
    """Losses by share of the tokens and fresh seed."""
    flops = scale * training_flops(config.model, config.train.tokens)
    own = training_flops(recipe.model, recipe.train.tokens)
    if flops / own == 1:
        request = TargetRequest(width=recipe.base.width, depth=recipe.base.depth)
    else:
        request = TargetRequest(flops=flops)
    target = target_for(recipe, request)
    chosen = dataclasses.replace(recipe, hparams=ARMS[arm].values(recipe, flops))
    shares = SHARES if arm == "baseline" else (1.0,)
    wanted = [
        Training(
            plan=make_plan(
                chosen,
                dataclasses.replace(
                    target.scale,
                    tokens=round(share * target.scale.tokens / target.scale.batch)
                    * target.scale.batch
                    if share < 1
                    else target.scale.tokens,
                ),
                target.model,
            ),
            seed=derive_seed(0, "carried-gain", i),
            name=f"{arm} of search {seed}, x {scale:g}, {share:g} of the tokens",
        )
        for share in shares
        for i in range(arguments.fresh)
    ]
    outcomes = train_all(
        wanted,
        recipe,
        arguments.root.resolve() / "carried-gain",
        root=arguments.root.resolve(),
        workers=arguments.workers,
        yes=True,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    assert outcomes is not None, "no dry run"
    if len(outcomes) < len(wanted):
        raise SystemExit("interrupted; start again to go on")
    found: dict[str, dict[str, float]] = {}
    for i, training in enumerate(wanted):
        share = shares[i // arguments.fresh]
        loss = outcomes[i].loss
        found.setdefault(f"{share:g}", {})[str(training.seed)] = math.inf if loss is None else loss
    return found


def table(rows: Sequence[Row]) -> list[str]:
    """The lines of the summary, by text and scale."""
    lines = []
    for text, scale in sorted({(row["text"], row["scale"]) for row in rows}):
        here = {
            (r["arm"], r["search_seed"]): r
            for r in rows
            if (r["text"], r["scale"]) == (text, scale)
        }
        lines.append(f"{text}, x {scale:g} the FLOPs of a proxy run:")
        for arm in ARMS:
            seeds = [s for name, s in here if name == arm]
            if not seeds:
                continue
            mean = statistics.fmean(whole(here[arm, s]) for s in seeds)
            against = [f"{other} {less(here, arm, other)}" for other in REFERENCES if other != arm]
            lines.append(
                f"  {arm:10s} {mean:.4f} over {len(seeds)} searches; less {'; less '.join(against)}"
            )
        both = [s for name, s in here if name == "search" and ("baseline", s) in here]
        if both:
            factors = [saved(here["baseline", s], whole(here["search", s])) for s in both]
            octaves = shown([math.log2(x) for x in factors], lambda x: f"{2**x:.2f}")
            lines.append(f"  tokens to the baseline's loss: {octaves} x fewer")
    return lines


def less(here: Mapping[tuple[str, int], Row], arm: str, other: str) -> str:
    """The mean over searches of an arm's loss less that of another."""
    seeds = [s for name, s in here if name == arm and (other, s) in here]
    return shown([whole(here[arm, s]) - whole(here[other, s]) for s in seeds])


def whole(row: Row) -> float:
    """The mean loss over fresh seeds, with all the tokens."""
    return statistics.fmean(row["losses"]["1"].values())


def saved(baseline: Row, loss: float) -> float:
    """Times fewer tokens: the baseline's loss is taken as a line over the logarithm of its tokens."""
    half, full = (statistics.fmean(baseline["losses"][f"{s:g}"].values()) for s in SHARES)
    slope = (half - full) / math.log2(SHARES[1] / SHARES[0])
    return 2 ** ((full - loss) / slope)


def draw(rows: Sequence[Row], path: Path) -> None:
    """The gain over the baseline by scale: dots are searches, a line is their mean with its interval."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FixedLocator, NullLocator

    texts = sorted({row["text"] for row in rows}, reverse=True)
    figure, panels = plt.subplots(
        1,
        len(texts),
        figsize=(1.5 + 4.5 * len(texts), 3.6),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, text in zip(panels[0], texts, strict=True):
        losses = {
            (r["arm"], r["scale"], r["search_seed"]): whole(r) for r in rows if r["text"] == text
        }
        axes.axhline(0, color="black", linewidth=0.8)
        for arm, color in DRAWN.items():
            gains: dict[float, list[float]] = {}
            for (name, scale, seed), loss in losses.items():
                if name == arm and (base := losses.get(("baseline", scale, seed))) is not None:
                    gains.setdefault(scale, []).append(base - loss)
            if not gains:
                continue
            scales = sorted(gains)
            for scale in scales:
                axes.plot([scale] * len(gains[scale]), gains[scale], ".", color=color, alpha=0.5)
            means = [statistics.fmean(gains[scale]) for scale in scales]
            axes.plot(scales, means, "o-", color=color, label=f"{arm} ({len(gains[scales[0]])})")
            # Two searches have an interval of 12.7 standard errors, which would hide all else.
            several = [scale for scale in scales if len(gains[scale]) > 2]
            ends = np.array([mean_interval(gains[scale])[1:] for scale in several]).reshape(-1, 2)
            axes.fill_between(several, *ends.T, color=color, alpha=0.15, linewidth=0)
        axes.set_xscale("log", base=2)
        shown_scales = sorted({scale for _, scale, _ in losses})
        axes.xaxis.set_major_locator(FixedLocator(shown_scales))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticklabels([f"× {scale:g}" for scale in shown_scales])
        axes.set(title=text, xlabel="training FLOPs, of a proxy run")
        axes.legend(title="arm (searches)", fontsize=8)
    panels[0][0].set_ylabel("nats below the carried baseline")
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)


def shown(samples: Sequence[float], form: Callable[[float], str] = "{:+.4f}".format) -> str:
    if len(samples) < 2:
        return "–" if not samples else f"{form(samples[0])} (one search)"
    mean, low, high = map(form, mean_interval(samples))
    return f"{mean} [{low}, {high}]"


if __name__ == "__main__":
    main()
