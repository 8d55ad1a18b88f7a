"""The Python calls behind the verbs of the same names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from completedp.plan import Plan
    from completedp.recipe import Recipe


def plan(
    recipe: Recipe | Path | str,
    *,
    flops: float | None = None,
    parameters: float | None = None,
    width: int | None = None,
    depth: int | None = None,
    batch: int | None = None,
    tokens: int | None = None,
    tokens_per_parameter: float | str | None = None,
    aspect: float | None = None,
    tensor_parallel: int = 1,
    which: Literal["auto", "tuned", "baseline"] = "auto",
    parameterization: str | None = None,
    **rule_options: Any,
) -> Plan:
    """Carry a recipe to a scale: a plan with every tensor's values there.

    At least one size is given; the others are decided. `flops` (of the whole training) and `parameters`
    (embeddings included) are budgets that decide the shape. Without a budget, `width` (features) and
    `depth` (layers) default to the recipe's. `batch` counts tokens per step and defaults to the recipe's
    batch grown with the tokens. `tokens` counts the whole training's. `tokens_per_parameter` is a number,
    `"chinchilla"`, or the path of a YAML file with a law's A, B, alpha and beta; it defaults to the
    recipe's. `aspect` is width / depth. Heads and d_ff divide by `tensor_parallel`. `which` chooses the
    recipe's tuned values or its global baseline; `auto` is the one that the recipe's ladder expects to be
    better there, or the tuned one without a ladder. `parameterization` defaults to the recipe's;
    `rule_options` are the fields of `completedp.rules.RuleOptions`.

    Raises `completedp.UserError` for a file that is no recipe, for sizes that contradict each other or that
    the model cannot have, and for values that no trainer could use.

    >>> large = plan("recipe.yaml", width=128, depth=4, tokens=200_000)
    >>> large.scale
    Scale(width=128, depth=4, batch=960, tokens=199680)
    >>> large.write(Path("plan.yaml"))
    """
    from transfer.planning.planner import carry
    from transfer.planning.target import TargetRequest
    from transfer.planning.token_rules import token_rule

    request = TargetRequest(
        flops=flops,
        parameters=parameters,
        width=width,
        depth=depth,
        batch=batch,
        tokens=tokens,
        token_rule=None if tokens_per_parameter is None else token_rule(tokens_per_parameter),
        aspect=aspect,
        tensor_parallel=tensor_parallel,
    )
    source = _recipe(recipe)
    return carry(
        source, request, parameterization=parameterization, which=which, **rule_options
    ).plan


def export(plan: Plan | Path | str, format: str) -> str:
    """A plan as the text of a file that another trainer reads.

    `plan` is a plan, or the path of a plan file or of a recipe file (then at its own scale). `format` is a
    name in `transfer.exports.FORMATS`: json, torch, hf, nanogpt or torchtitan.

    Raises `completedp.UserError` for an unknown format, for a file that is no plan, and for a model that the
    format's trainer cannot build.

    >>> print(export("recipe.yaml", "torch").splitlines()[2])
    Needs torch alone. In the training loop:
    """
    from completedp.plan import Plan
    from completedp.plan_check import check_plan
    from transfer.exports import format_named
    from transfer.planning.planner import read_plan

    form = format_named(format)
    if isinstance(plan, Plan):
        check_plan(plan)
    else:
        plan = read_plan(Path(plan))
    return form.render(plan)


def speedup(
    recipe: Recipe | Path | str,
    *,
    scales: Sequence[float] = (1, 16),
    fractions: Sequence[float] = (0.25, 0.35, 0.5, 0.7, 1),
    seeds: int = 3,
    against: Path | str | None = None,
    parameterization: str | None = None,
    seed: int = 0,
    device: str = "auto",
    workers: int | None = None,
    root: Path | str = "mlruns",
    dry_run: bool = False,
    yes: bool = False,
    on_line: Callable[[str], object] = print,
    **rule_options: Any,
) -> dict[str, Any] | None:
    """Measure the tokens that a recipe saves against its baseline, at its base and carried.

    `scales` are multiples of the base's training FLOPs, `fractions` shares of each scale's tokens that the
    recipe trains on (1 among them), `seeds` the number of paired seeds, derived from `seed`. `against` is a
    recipe file of the same base whose tuned values replace the baseline. Runs are kept under `root` (in
    `speedups/`), `workers` at a time; a second call goes on. `yes` allows a long measurement. Each
    line of progress goes to `on_line`. `rule_options` are the fields of
    `completedp.rules.RuleOptions`.

    Returns the document that `completedp speedup` writes, with losses in nats per token; None if `dry_run`.
    An interruption leaves runs out, which each row's `runs_missing` counts. Raises `completedp.UserError`
    for a setting that measures nothing, and as `completedp.training.sweeps.train_all` does.
    """
    from completedp.seeds import derive_seed
    from completedp.training.sweeps import train_all
    from transfer.measuring import speedup as measuring
    from transfer.measuring.setting import runs_folder

    source = _recipe(recipe)
    setting = measuring.Setting(
        scales=tuple(map(float, scales)),
        fractions=tuple(map(float, fractions)),
        seeds=tuple(derive_seed(seed, "speedup", i) for i in range(seeds)),
        parameterization=parameterization,
        options=rule_options,
    )
    baseline = source.baseline
    if against is not None:
        baseline = measuring.read_same_base(source, Path(against)).hparams
    wanted = measuring.runs(source, baseline, setting)
    outcomes = train_all(
        wanted,
        source,
        runs_folder(Path(root), measuring.MEASUREMENT, recipe),
        root=Path(root),
        device=device,
        workers=workers,
        dry_run=dry_run,
        yes=yes,
        say=on_line,
    )
    if outcomes is None:
        return None
    return measuring.report(source, baseline, setting, wanted, outcomes)


def transfer_check(
    recipe: Recipe | Path | str,
    axis: str,
    *,
    ratios: Sequence[float] = (1, 2, 4, 8),
    factors: Sequence[float] = (0.25, 0.354, 0.5, 0.707, 1, 1.414, 2, 2.828, 4),
    seeds: int = 3,
    parameterizations: Sequence[str] = ("completed-p", "sp-fan-in"),
    sweep: str = "lr",
    which: str = "baseline",
    schedule: str | None = None,
    seed: int = 0,
    device: str = "auto",
    workers: int | None = None,
    root: Path | str = "mlruns",
    dry_run: bool = False,
    yes: bool = False,
    on_line: Callable[[str], object] = print,
    **rule_options: Any,
) -> dict[str, Any] | None:
    """Measure the loss lost by carrying the base's best learning rate (or weight decay, or ε) along an axis.

    `axis` is width, depth, batch or tokens; `ratios` are target / base along it, 1 among them. `factors`
    multiply the carried `sweep` value (lr, weight_decay or eps) of the recipe's `which` values. The first
    of `parameterizations` is judged. `schedule` replaces the recipe's. Runs are kept under `root` (in
    `transfer-checks/`). The other arguments are those of `speedup`.

    Returns the document that `completedp transfer-check` writes, with losses in nats per token; None if
    `dry_run`. Its `verdict` is None while runs are missing. Raises `completedp.UserError` as `speedup`
    does.
    """
    from completedp.seeds import derive_seed
    from completedp.training.sweeps import train_all
    from transfer.measuring import transfer_check as measuring
    from transfer.measuring.report import report
    from transfer.measuring.setting import runs_folder

    source = _recipe(recipe)
    setting = measuring.Setting(
        axis=axis,
        ratios=tuple(map(float, ratios)),
        factors=tuple(map(float, factors)),
        seeds=tuple(derive_seed(seed, "transfer-check", i) for i in range(seeds)),
        parameterizations=tuple(parameterizations),
        swept=sweep,
        which=which,
        schedule=schedule,
        options=rule_options,
    )
    wanted = measuring.runs(source, setting)
    outcomes = train_all(
        wanted,
        source,
        runs_folder(Path(root), measuring.MEASUREMENT, recipe),
        root=Path(root),
        device=device,
        workers=workers,
        dry_run=dry_run,
        yes=yes,
        say=on_line,
    )
    return None if outcomes is None else report(source, setting, wanted, outcomes)


def _recipe(given: Recipe | Path | str) -> Recipe:
    from completedp.recipe import Recipe

    return given if isinstance(given, Recipe) else Recipe.read(Path(given))
