"""The verb that searches."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from completedp import trust
from completedp.cli import options
from completedp.cli.inspect import Modules, with_model
from completedp.cli.output import print_json, print_warnings
from completedp.cli.report import allow_code_of, show_summary
from completedp.errors import UserError, located

if TYPE_CHECKING:
    from completedp.config import StudyConfig
    from completedp.hparams import GlobalValues
    from completedp.recipe import Recipe
    from completedp.runs.on_ray import RayExecutor
    from search.request import Request

_COMPILE = "compile/--no-compile"


def search(
    budget: Annotated[
        int | None,
        typer.Option(
            help="Training runs in all, confirmation included; with --resume the new total."
        ),
    ] = None,
    preset: options.Preset = "auto",
    model: options.OwnModel = None,
    width: options.Width = None,
    depth: options.Depth = None,
    modules: Modules = None,
    loop: options.OwnLoop = None,
    data: options.Data = None,
    workers: Annotated[
        str, typer.Option(help="Runs at a time, or auto: one a core or GPU, all of a cluster.")
    ] = "auto",
    stack: Annotated[
        int, typer.Option(help="Runs that each worker trains at a time, as one program.", min=1)
    ] = 1,
    compiled: Annotated[
        bool | None,
        typer.Option(
            f"--{_COMPILE}",
            help="Compile the runs. Default: as the preset says, and where it saves time.",
            show_default=False,
        ),
    ] = None,
    strategy: Annotated[
        str | None, typer.Option(help="Default trust-region-bo; see docs/method.md.")
    ] = None,
    executor: Annotated[str, typer.Option(help="local, or ray (a cluster).")] = "local",
    gpus: Annotated[
        float, typer.Option(help="With ray: GPUs a run takes; a fraction shares one.")
    ] = 1.0,
    device: options.Device = "auto",
    seed: options.Seed = 0,
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
    run_code: options.RunCode = False,
    root: options.Root = options.DEFAULT_ROOT,
    json: options.Json = False,
) -> None:
    """Find per-module hyperparameters on a proxy, and confirm what they gain over global ones."""
    from rich.console import Console

    # One BLAS thread each: the coordinator's own arithmetic must not take the workers' cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from completedp.runs.local import default_workers
    from search import preflight, proxy
    from search.display import display_on
    from search.status import status_of
    from search.study_folder import StudyFolder

    console = Console(stderr=json, highlight=False, soft_wrap=True, markup=False)
    count = _whole_number("--workers", workers) if workers != "auto" else None
    if stack > 1 and executor == "ray":
        raise UserError(
            f"--stack is {stack}; a Ray cluster trains one run in a process: leave it out"
        )
    if resume is not None:
        _refuse_beside_resume(
            preset=None if preset == "auto" else preset,
            model=model,
            width=width,
            depth=depth,
            modules=modules,
            loop=loop,
            data=data,
            strategy=strategy,
            name=name,
            freeze=freeze,
            seed=seed,
            **{_COMPILE: compiled is not None, "from": start},
        )
        folder = StudyFolder(root=root, name=resume)
        study = folder.read()
        allow_code_of(study.spec.config)
        if study.done and budget in (None, study.budget):
            from search import study_run

            show_summary(study_run.report(folder, warn=console.print), folder.recipe, json)
            return
        from search import request  # seconds of torch, which the refusals above need not wait for

        asked = request.going_on(folder, budget=budget, device=_device(executor, device))
    else:
        if budget is None:
            raise UserError(
                "--budget is missing; give the number of training runs, as --budget 200"
            )
        preflight.check_budget(budget)
        chosen = _device(executor, device)
        from search import request

        config, why = configured(preset, chosen, loop, model, width, depth, modules, data)
        config = _changed(config, preset, strategy, freeze, start)
        asked = request.new_study(
            config,
            budget=budget,
            root=root,
            name=name,
            seed=seed,
            device=chosen,
            remote=executor != "local",
            compile=compiled,
        )
        console.print(f"study {asked.folder.name}: preset {why}")
    preflight.check_stack(stack, asked.config)
    cluster = _cluster(asked, gpus, count) if executor == "ray" else None
    cost = asked.forecast(cluster.capacity if cluster else count or default_workers(asked.device))
    for line in preflight.describe(asked.study, asked.corpus, cost):
        console.print(line)
    if stack > 1:
        console.print(f"stack: {stack} runs at a time in each of {cost.workers} workers")
    print_warnings(proxy.warnings_for(asked.study, asked.corpus, asked.folder.root))
    if dry_run:
        if json:
            print_json({"study": asked.folder.name, "budget": asked.study.budget, **cost.to_dict()})
        return
    if cost.doubts and not yes:
        raise UserError(f"{'; '.join(cost.doubts)}: add --yes if that is meant")
    from search import study_run  # seconds of Ax and MLflow, which a refusal need not wait for

    folder, summary = asked.begin(console.print), None
    # A second Ctrl-C stops at once. The runs that it ended are made again later.
    with contextlib.suppress(KeyboardInterrupt):
        summary = study_run.train(
            asked,
            folder,
            executor=cluster,
            workers=count,
            stack=stack,
            display=display_on(console),
            hours=hours,
            forecast=cost.seconds_per_run,
        )
    if summary is not None:
        show_summary(summary, folder.recipe, json)
        return
    again = f"completedp search --resume {folder.name} --root {folder.root}"
    console.print(f"stopped; go on with: {again}")
    if json:
        state = status_of(folder.read()).to_dict()
        print_json({"study": folder.name, "interrupted": True, **state})
    raise typer.Exit(130)


def _refuse_beside_resume(**given: Any) -> None:
    for option, value in given.items():
        if value:
            raise UserError(
                f"--{option} cannot be given with --resume: the study decides; leave it out"
            )


def _whole_number(option: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise UserError(f"{option} is {text!r}; expected a whole number above 0, or auto")
    return int(text)


def _device(executor: str, device: str) -> str:
    if executor not in ("local", "ray"):
        raise UserError(f"--executor is {executor!r}; expected local or ray")
    from search.request import device_for

    return device_for(device, remote=executor == "ray")


def _cluster(asked: Request, gpus: float, workers: int | None) -> RayExecutor:
    from completedp.runs.on_ray import RayExecutor
    from completedp.training.jobs import user_paths

    if not 0 < gpus <= 1:
        raise UserError(f"--gpus is {gpus}; expected a number above 0, at most 1")
    paths = user_paths(asked.config.model, asked.config.train)
    device = asked.device.split(":")[0]
    return RayExecutor(device=device, gpus=gpus, workers=workers or 0, paths=paths)


def configured(
    preset: str,
    device: str,
    loop: str | None,
    model: str | None,
    width: int | None,
    depth: int | None,
    modules: Path | None,
    data: str | None,
) -> tuple[StudyConfig, str]:
    """The preset with the user's model, loop and data, and a few words on it."""
    from dataclasses import replace

    from completedp.adapters.source import imported
    from completedp.config import DataConfig
    from completedp.lm.preset_files import load_preset
    from completedp.training.jobs import user_code
    from search.preflight import choose_preset

    why = preset
    if preset == "auto":
        source = DataConfig() if data is None else DataConfig(source=data)
        preset, reason = choose_preset(device, source)
        why = f"{preset} ({reason})"
    config = load_preset(preset)
    if loop is not None:
        trust.allow(loop)
        config = replace(config, train=replace(config.train, loop=loop))
    config = with_model(config, model, width, depth, modules)
    if model is not None:
        why = f"{why}, but for the model {model}"
    with located(preset):
        for key, code in user_code(config.model, config.train).items():
            trust.check(key, code)
    if config.train.loop is not None:
        imported("--loop", config.train.loop)
    if data is not None:
        config = replace(config, data=replace(config.data, source=data))
    return config, why


def _changed(
    config: StudyConfig, preset: str, strategy: str | None, freeze: str, start: Path | None
) -> StudyConfig:
    """The configuration with the options of the search itself."""
    from dataclasses import replace

    from completedp.recipe import Recipe
    from search.strategies import strategy_named

    if frozen := tuple(kind.strip() for kind in freeze.split(",") if kind.strip()):
        config = replace(config, search=replace(config.search, frozen=frozen))
    if strategy is not None:
        config = replace(config, search=replace(config.search, strategy=strategy))
    if start is not None:
        config = replace(config, values=_start_values(Recipe.read(start), config, start))
    with located("--strategy" if strategy else f"{preset}: search.strategy"):
        strategy_named(config.search.strategy)
    return config


def _start_values(recipe: Recipe, config: StudyConfig, path: Path) -> GlobalValues:
    """The recipe's global values. They have a meaning only at the recipe's own scale."""
    if recipe.base != config.scale:
        raise UserError(
            f"--from {path}: the recipe is of {recipe.base}, the preset of {config.scale}; give a "
            "--preset of the recipe's scale"
        )
    return recipe.baseline.global_
