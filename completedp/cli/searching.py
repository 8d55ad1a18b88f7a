"""The verbs that search and look at a search."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from completedp.cli.options import DEFAULT_ROOT, Device, Json, Root, Seed, data_cache
from completedp.cli.output import print_json, print_table
from completedp.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from completedp.config import StudyConfig
    from completedp.hparams import GlobalValues
    from completedp.lm.data import Corpus
    from completedp.recipe import Recipe


def search(
    budget: Annotated[
        int | None,
        typer.Option(
            help="Training runs in all, confirmation included; with --resume the new total."
        ),
    ] = None,
    preset: Annotated[
        str, typer.Option(help="tiny, small, proxy-50m, cliff, a YAML file, or auto.")
    ] = "auto",
    data: Annotated[
        str | None, typer.Option(help="Text, JSONL, parquet, .bin, a folder, or hf:<name>.")
    ] = None,
    workers: Annotated[
        str, typer.Option(help="Runs at a time, or auto: one a core or GPU.")
    ] = "auto",
    strategy: Annotated[
        str | None, typer.Option(help="trust-region (default) or random.", show_default=False)
    ] = None,
    device: Device = "auto",
    seed: Seed = 0,
    name: Annotated[str | None, typer.Option(help="The study's name; default study-<n>.")] = None,
    resume: Annotated[str | None, typer.Option(help="Go on with this study.")] = None,
    freeze: Annotated[
        str, typer.Option(help="Kinds to leave at the preset's values, as beta1,eps.")
    ] = "",
    start: Annotated[
        Path | None,
        typer.Option("--from", help="Take the global values of this recipe as the start."),
    ] = None,
    hours: Annotated[
        float, typer.Option(min=0, help="Begin nothing new after so many hours (0: no limit).")
    ] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run, and end.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Start even if it is long or repeats its data often.")
    ] = False,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Find per-module hyperparameters on a proxy, and confirm what they gain over global ones."""
    from rich.console import Console

    # One BLAS thread each: the coordinator's own arithmetic must not take the workers' cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    console = Console(stderr=json, highlight=False)
    if resume is not None:
        given = {
            "--preset": preset != "auto", "--data": data, "--strategy": strategy, "--name": name,
            "--freeze": freeze, "--from": start, "--seed": seed,
        }  # fmt: skip
        for option, value in given.items():
            if value:
                raise UserError(
                    f"{option} cannot be given with --resume: the study decides; leave it out"
                )
        _resume(resume, budget, workers, device, hours, root, console, json)
        return
    if budget is None:
        raise UserError("--budget is missing; give the number of training runs, as --budget 200")

    from completedp.lm.train import pick_device
    from search import preflight, session
    from search.ledger import Study
    from search.place import Place, free_name

    preflight.check_budget(budget)
    place = Place(root=root, name=name or free_name(root))
    chosen = str(pick_device(device))
    config, why = _configure(preset, data, strategy, freeze, start, chosen)
    session.check_free(place)
    corpus = _corpus(config, root)
    count = _workers(workers, chosen)
    cost = preflight.forecast(
        config, runs=budget, workers=count, train_tokens=corpus.tokens("train"), device=chosen
    )
    console.print(f"study {place.name}: preset {why}", markup=False, soft_wrap=True)
    for line in (f"data: {_describe(config, corpus)}", *preflight.describe(config, budget, cost)):
        console.print(line, markup=False, soft_wrap=True)
    if dry_run:
        return
    if cost.doubts and not yes:
        raise UserError(f"{'; '.join(cost.doubts)}: add --yes if that is meant")
    study = Study(
        name=place.name, config=config, seed=seed, budget=budget, data=_provenance(corpus)
    )
    session.create(place, study)
    _run(place, config, count, chosen, hours, console, json)


def _configure(
    preset: str,
    data: str | None,
    strategy: str | None,
    freeze: str,
    start: Path | None,
    device: str,
) -> tuple[StudyConfig, str]:
    """The resolved configuration, and a word on the preset."""
    import dataclasses

    from completedp.config import DataConfig
    from completedp.lm.preset_files import load_preset
    from completedp.recipe import Recipe
    from search import preflight
    from search.strategies import strategy_named

    why = preset
    if preset == "auto":
        preset, reason = preflight.choose_preset(device, DataConfig(source=data or "embedded"))
        why = f"{preset} ({reason})"
    config = load_preset(preset)
    changes: dict[str, Any] = {}
    if data is not None:
        changes["data"] = dataclasses.replace(config.data, source=data)
    frozen = tuple(kind.strip() for kind in freeze.split(",") if kind.strip())
    if frozen or strategy is not None:
        changes["search"] = dataclasses.replace(
            config.search,
            frozen=frozen or config.search.frozen,
            strategy=strategy or config.search.strategy,
        )
    if start is not None:
        changes["values"] = _start_values(Recipe.read(start), config, start)
    config = dataclasses.replace(config, **changes)
    strategy_named(config.search.strategy)
    return config, why


def _start_values(recipe: Recipe, config: StudyConfig, path: Path) -> GlobalValues:
    """A recipe's values mean something at its own scale only."""
    if recipe.base != config.scale:
        raise UserError(
            f"--from {path}: the recipe is of {recipe.base}, the preset of {config.scale}; give a "
            "--preset of the recipe's scale"
        )
    return recipe.baseline.global_


def _corpus(config: StudyConfig, root: Path) -> Corpus:
    from completedp.lm.data import prepare

    return prepare(config.data, config.model.vocab_size, config.train.eval_tokens, data_cache(root))


def _describe(config: StudyConfig, corpus: Corpus) -> str:
    from completedp.lm.data import SPLITS

    tokens = ", ".join(f"{split} {corpus.tokens(split):,}" for split in SPLITS)
    return f"{config.data.source}, {config.data.tokenizer} tokenizer; tokens: {tokens}"


def _provenance(corpus: Corpus) -> dict[str, Any]:
    from completedp.lm.data import SPLITS

    return {
        "digest": corpus.digest,
        "tokens": {split: corpus.tokens(split) for split in SPLITS},
        "bytes_per_token": {split: corpus.bytes_per_token(split) for split in SPLITS},
    }


def _workers(workers: str, device: str) -> int:
    from completedp.runs.local import default_workers

    if workers == "auto":
        return default_workers(device)
    if not workers.isdigit() or int(workers) < 1:
        raise UserError(f"--workers is {workers!r}; expected a whole number above 0, or auto")
    return int(workers)


def _run(
    place: Any,
    config: StudyConfig,
    workers: int,
    device: str,
    hours: float,
    console: Console,
    json: bool,
) -> None:
    import functools

    from completedp.runs.local import LocalExecutor, devices_of
    from search import session

    make_job = functools.partial(
        session.language_model_job, config, data_cache(place.root), device.split(":")[0]
    )
    with LocalExecutor(workers, logs=place.folder / "logs", devices=devices_of(device)) as executor:
        summary = session.run(place, executor, make_job, console=console, hours=hours)
    if summary is None:
        console.print(f"stopped; go on with: completedp search --resume {place.name}")
        raise typer.Exit(130)
    if json:
        print_json(summary)
    else:
        _print_summary(summary, place.recipe)


def _resume(
    name: str,
    budget: int | None,
    workers: str,
    device: str,
    hours: float,
    root: Path,
    console: Console,
    json: bool,
) -> None:
    from completedp.lm.train import pick_device
    from search import session
    from search.place import Place

    place = Place(root=root, name=name)
    config = place.read().study.config
    if budget is not None:
        session.raise_budget(place, budget)
    corpus = _corpus(config, root)
    recorded = place.read().study.data.get("digest")
    if corpus.digest != recorded:
        raise UserError(
            f"the text of {config.data.source!r} is not what study {name!r} began with (digest "
            f"{corpus.digest}, the study has {recorded}); restore it, or begin a new study"
        )
    chosen = str(pick_device(device))
    _run(place, config, _workers(workers, chosen), chosen, hours, console, json)


def _print_summary(summary: dict[str, Any], recipe: Path) -> None:
    confirmed = summary["confirmed"]
    rows = [
        [
            {"global": "best global", "module": "best per module"}[arm],
            f"{confirmed[arm]['mean']:.4f}",
            "–" if (s := confirmed[arm]["standard_deviation"]) is None else f"{s:.4f}",
            str(len(confirmed[arm]["losses"])),
            f"{summary['bits_per_byte'][arm]:.4f}" if summary["bits_per_byte"] else "–",
        ]
        for arm in ("global", "module")
        if arm in confirmed
    ]
    print_table(
        f"{summary['study']}: fresh seeds, report split (nats a token)",
        ["configuration", "mean", "sd of a seed", "seeds", "bits a byte"],
        rows,
    )
    difference = confirmed["difference"]
    if difference is None:
        print("no per-module configuration to compare with")
    else:
        print(
            f"paired difference {difference['mean']:+.4f} nats, 95 % interval "
            f"[{difference['low']:+.4f}, {difference['high']:+.4f}]\n{difference['verdict']}"
        )
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
    from search.display import headline
    from search.place import Place, study_names

    names = [name] if name else study_names(root)
    states = {n: headline(Place(root=root, name=n).read()) for n in names}
    if json:
        print_json(states)
        return
    if not states:
        print(f"no study under {root} yet; begin one with: completedp search --budget 200")
    for study, state in states.items():
        print_table(study, ["", ""], [[key, text] for key, text in state.items()])


def report(
    name: Annotated[str, typer.Argument(help="A finished study.")],
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Print a finished study's summary again, and draw its figures again."""
    from search import session
    from search.place import Place

    place = Place(root=root, name=name)
    summary = session.report(place)
    if json:
        print_json(summary)
    else:
        _print_summary(summary, place.recipe)


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
        configs = {n: load_preset(n) for n in preset_names()}
        if json:
            print_json({n: c.to_dict() for n, c in configs.items()})
            return
        from completedp.flops import parameter_count, training_flops

        print_table(
            "presets",
            ["name", "parameters", "tokens a run", "FLOPs a run", "precision"],
            [
                [
                    n,
                    f"{parameter_count(c.model):,}",
                    f"{c.train.tokens:,}",
                    f"{training_flops(c.model, c.train.tokens):.2e}",
                    c.train.precision,
                ]
                for n, c in configs.items()
            ],
        )
        return
    text = preset_path(name).read_text(encoding="utf-8")
    if out is not None:
        files.write_text(out, text)
    elif json:
        print_json(load_preset(name).to_dict())
    else:
        print(text, end="")
