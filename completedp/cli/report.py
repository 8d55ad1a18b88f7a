"""The verb that shows a finished study again, and the summary that `search` ends with."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from completedp import root_layout, trust
from completedp.cli.options import DEFAULT_ROOT, Json, Root
from completedp.cli.output import print_json, print_table, print_warnings
from completedp.kinds import KINDS

if TYPE_CHECKING:
    from completedp.config import StudyConfig


def report(
    name: Annotated[str, typer.Argument(help="A finished study.")],
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Print a finished study's summary again, and draw its figures again."""
    from search.study_folder import StudyFolder

    folder = StudyFolder(root=root, name=name)
    allow_code_of(folder.read().spec.config)
    from search import study_run  # seconds of torch, which the refusals above need not wait for

    summary = study_run.report(folder, warn=lambda text: print_warnings([text]))
    show_summary(summary, folder.recipe, json)


def allow_code_of(config: StudyConfig) -> None:
    """Allow the user's code of a study under this root: an option allowed it when the study began."""
    from completedp.training.jobs import user_code

    for name in user_code(config.model, config.train).values():
        trust.allow(name)


def show_summary(summary: dict[str, Any], recipe: Path, json: bool) -> None:
    """Print a finished study's summary, as a document or as lines for people."""
    if json:
        print_json(summary)
    else:
        _print_summary(summary, recipe)


def _print_summary(summary: dict[str, Any], recipe: Path) -> None:
    confirmed = summary["confirmed"]
    rows = [
        [
            {"global": "best global", "module": "best per module"}[arm],
            f"{confirmed[arm]['mean']:.4f}",
            "–" if (s := confirmed[arm]["standard_deviation"]) is None else f"{s:.4f}",
            str(len(confirmed[arm]["losses"])),
            str(confirmed["diverged"][arm]),
            f"{summary['bits_per_byte'][arm]:.4f}" if summary["bits_per_byte"] else "–",
        ]
        for arm in ("global", "module")
        if arm in confirmed
    ]
    print_table(
        f"{summary['study']}: fresh seeds, report split (nats a token)",
        ["configuration", "mean", "sd of a seed", "seeds", "diverged", "bits a byte"],
        rows,
    )
    if (difference := confirmed["difference"]) is not None:
        percent = 100 * difference["mean"] / confirmed["global"]["mean"]
        print(
            f"paired difference {difference['mean']:+.4f} nats ({percent:+.1f} %), 95 % interval "
            f"[{difference['low']:+.4f}, {difference['high']:+.4f}], {difference['pairs']} pairs"
        )
    print(confirmed["verdict"])
    print(_ladder(summary))
    for earlier in confirmed.get("earlier_rounds", ()):
        print(f"before the budget was raised: {earlier['verdict']}")
    moved = ", ".join(
        f"{row['type']} {KINDS[row['kind']].label} x {row['multiplier']:.3g}"
        for row in summary["largest_multipliers"]
    )
    if moved and confirmed["verdict"].startswith(
        "gain"
    ):  # otherwise it may be the last step of a strategy
        print(f"moved most: {moved}")
    outcomes = ", ".join(f"{count} {status}" for status, count in summary["outcomes"].items())
    print(f"runs: {outcomes}\nrecipe ({summary['chosen']}): {recipe}")
    if (figures := recipe.parent / root_layout.FIGURES).exists():
        print(f"figures: {figures}")
    print(f"next: completedp transfer {shlex.quote(str(recipe))} --flops 1e21 --out plan.yaml")


def _ladder(summary: dict[str, Any]) -> str:
    """What the ladder measured, in one line."""
    rows = [(row["scale"], d) for row in summary["ladder"] if (d := row["difference"])]
    if not rows:
        return "no ladder: what is left of this at larger scales is not known (a larger budget climbs one)"
    gains = ", ".join(
        f"x {scale} {d['mean']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}]" for scale, d in rows
    )
    return f"at multiples of the FLOPs (select split, finalist {summary['finalist']}): {gains}"
