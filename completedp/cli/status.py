"""The verbs that show studies and presets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from completedp import trust
from completedp.cli.options import DEFAULT_ROOT, Json, Root
from completedp.cli.output import print_json, print_table, print_warnings
from completedp.errors import UserError

if TYPE_CHECKING:
    from completedp.config import StudyConfig


def allow_code_of(config: StudyConfig) -> None:
    """Allow a study of this root the code that it was begun with."""
    from completedp.training.jobs import user_code

    for name in user_code(config.model, config.train).values():
        trust.allow(name)


def show_summary(summary: dict[str, Any], recipe: Path, json: bool) -> None:
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
        print(
            f"paired difference {difference['mean']:+.4f} nats, 95 % interval "
            f"[{difference['low']:+.4f}, {difference['high']:+.4f}], {difference['pairs']} pairs"
        )
    print(confirmed["verdict"])
    for earlier in confirmed.get("earlier_rounds", ()):
        print(f"before the budget was raised: {earlier['verdict']}")
    moved = ", ".join(
        f"{row['type']} {row['kind']} x {row['multiplier']:.3g}"
        for row in summary["largest_multipliers"]
    )
    if moved:
        print(f"moved most: {moved}")
    outcomes = ", ".join(f"{count} {status}" for status, count in summary["outcomes"].items())
    print(f"runs: {outcomes}\nrecipe ({summary['chosen']}): {recipe}")


def status(
    name: Annotated[str | None, typer.Argument(help="A study; default all of them.")] = None,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Say where studies stand, from their journals alone."""
    from search.study_folder import study_names

    names = [name] if name else study_names(root)
    states = {n: _state(root, n, json, alone=name is not None) for n in names}
    if json:
        print_json(states)
        return
    if not states:
        print(f"no study under {root} yet; begin one with: completedp search --budget 200")
    for study, state in states.items():
        print_table(study, ["", ""], [[key, text] for key, text in state.items()])


def _state(root: Path, name: str, json: bool, alone: bool) -> dict[str, Any]:
    """Where a study stands. If it is not `alone`, one that cannot be read must not hide the others."""
    from search.display import status_in_words
    from search.status import status_of
    from search.study_folder import StudyFolder

    try:
        study = StudyFolder(root=root, name=name).read()
        return status_of(study).to_dict() if json else status_in_words(study)
    except UserError as error:
        if alone:
            raise
        return {"unreadable": str(error)}


def report(
    name: Annotated[str, typer.Argument(help="A finished study.")],
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Print a finished study's summary again, and draw its figures again."""
    from search import study_run
    from search.study_folder import StudyFolder

    folder = StudyFolder(root=root, name=name)
    allow_code_of(folder.read().spec.config)
    summary = study_run.report(folder, warn=lambda text: print_warnings([text]))
    show_summary(summary, folder.recipe, json)


def preset(
    name: Annotated[str | None, typer.Argument(help="Print this one; default: list them.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write it here, as a file to edit.")] = None,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """List the presets, or print one: a file that --preset takes."""
    from completedp import files
    from completedp.lm.preset_files import load_preset, preset_names, preset_path

    if name is None:
        if out is not None:
            raise UserError(
                "--out wants the name of a preset; give one, as: preset tiny --out my.yaml"
            )
        _list_presets({n: load_preset(n) for n in preset_names()}, json)
        return
    config = load_preset(name)
    text = preset_path(name).read_text(encoding="utf-8")
    if out is not None:
        files.write_text(out, text)
    if json:
        print_json(config.to_dict())
    elif out is None:
        print(text, end="")


def _list_presets(configs: dict[str, StudyConfig], json: bool) -> None:
    from completedp.models import parameter_count, training_flops

    if json:
        print_json({name: config.to_dict() for name, config in configs.items()})
        return
    print_table(
        "presets",
        ["name", "parameters", "tokens a run", "FLOPs a run", "precision"],
        [
            [
                name,
                f"{parameter_count(config.model):,}",
                f"{config.train.tokens:,}",
                f"{training_flops(config.model, config.train.tokens):.2e}",
                config.train.precision,
            ]
            for name, config in configs.items()
        ],
    )
