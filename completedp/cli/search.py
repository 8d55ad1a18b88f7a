"""The verb that searches."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from completedp import root_layout, trust
from completedp.cli.inspect import Modules, with_model
from completedp.cli.options import DEFAULT_ROOT, Device, Json, Root, RunCode, Seed
from completedp.cli.output import print_json
from completedp.cli.status import allow_code_of, show_summary
from completedp.errors import UserError, located

if TYPE_CHECKING:
    from rich.console import Console

    from completedp.config import StudyConfig
    from completedp.hparams import GlobalValues
    from completedp.lm.data import Corpus
    from completedp.recipe import Recipe
    from completedp.runs.on_ray import RayExecutor
    from search.study import StudySpec
    from search.study_folder import StudyFolder


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
    model: Annotated[
        str | None,
        typer.Option(
            help="A model of your own in the preset's place: hf:CONFIG.json, or package.module:factory."
        ),
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="With --model: its width here; default its own.", min=1)
    ] = None,
    depth: Annotated[
        int | None, typer.Option(help="With --model: its depth here; default its own.", min=1)
    ] = None,
    modules: Modules = None,
    loop: Annotated[
        str | None,
        typer.Option(
            help="A training function of your own in the built-in loop's place: package.module:factory."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Text, JSON rows, parquet, tokens, a folder, or hf:<name>.")
    ] = None,
    workers: Annotated[
        str, typer.Option(help="Runs at a time, or auto: one a core or GPU, all of a cluster.")
    ] = "auto",
    strategy: Annotated[
        str | None, typer.Option(help="Default trust-region-bo; see docs/method.md.")
    ] = None,
    executor: Annotated[str, typer.Option(help="local, or ray (a cluster).")] = "local",
    gpus: Annotated[
        float, typer.Option(help="With ray: GPUs a run takes; a fraction shares one.")
    ] = 1.0,
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
    run_code: RunCode = False,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Find per-module hyperparameters on a proxy, and confirm what they gain over global ones."""
    from rich.console import Console

    # One BLAS thread each: the coordinator's own arithmetic must not take the workers' cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from completedp.runs.local import default_workers
    from completedp.training.jobs import user_paths

    console = Console(stderr=json, highlight=False, soft_wrap=True, markup=False)
    count = _whole_number("--workers", workers) if workers != "auto" else None
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
            **{"from": start},
        )
        study, place = _existing(resume, root)
        if budget is None and (summary := _done(place, console.print)) is not None:
            show_summary(summary, place.recipe, json)
            return
        chosen = _device(executor, device)
    else:
        chosen = _device(executor, device)
        wanted = _Wanted(
            budget=budget,
            preset=preset,
            model=model,
            width=width,
            depth=depth,
            modules=modules,
            loop=loop,
            data=data,
            strategy=strategy,
            freeze=freeze,
            start=start,
            device=chosen,
            seed=seed,
            name=name,
            root=root,
        )
        study, place, why = wanted.study()
        console.print(f"study {place.name}: preset {why}")
    paths = user_paths(study.config.model, study.config.train)
    cluster = _cluster(chosen, gpus, count, paths) if executor == "ray" else None
    run = _Run(
        place=place,
        study=study,
        named=name is not None,
        device=chosen,
        cluster=cluster,
        workers=cluster.capacity if cluster else count or default_workers(chosen),
        hours=hours,
        console=console,
        json=json,
    )
    corpus = None
    if study.config.train.loop is None:
        corpus = _corpus(study.config, root, expected=study.data.get("digest"))
    cost = run.announce(budget, corpus)
    if dry_run:
        if json:
            print_json(cost)
        return
    if cost["doubts"] and not yes:
        raise UserError(f"{'; '.join(cost['doubts'])}: add --yes if that is meant")
    run.start(budget, corpus, resumed=resume is not None, forecast=cost["seconds_per_run"])


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
    """Where runs train. A cluster's GPUs need not be seen from here, so for Ray a device named is taken."""
    from completedp.lm.train import pick_device

    if executor not in ("local", "ray"):
        raise UserError(f"--executor is {executor!r}; expected local or ray")
    if executor == "ray" and device in ("cpu", "cuda"):
        return device
    return str(pick_device(device))


def _cluster(device: str, gpus: float, workers: int | None, paths: list[Path]) -> RayExecutor:
    from completedp.runs.on_ray import RayExecutor

    if not 0 < gpus <= 1:
        raise UserError(f"--gpus is {gpus}; expected a number above 0, at most 1")
    return RayExecutor(device=device.split(":")[0], gpus=gpus, workers=workers or 0, paths=paths)


def _existing(name: str, root: Path) -> tuple[StudySpec, StudyFolder]:
    from search.study_folder import StudyFolder

    place = StudyFolder(root=root, name=name)
    spec = place.read().spec
    allow_code_of(spec.config)  # an option said so when it was begun
    return spec, place


def _done(place: StudyFolder, warn: Callable[[str], object]) -> dict[str, Any] | None:
    """The summary of a study that is done."""
    if not place.read().done:
        return None
    from search import study_run

    return study_run.report(place, warn=warn)


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """What the options ask of a study that does not exist yet."""

    budget: int | None
    preset: str
    model: str | None
    width: int | None
    depth: int | None
    modules: Path | None
    loop: str | None
    data: str | None
    strategy: str | None
    freeze: str
    start: Path | None
    device: str
    seed: int
    name: str | None
    root: Path

    def study(self) -> tuple[StudySpec, StudyFolder, str]:
        """The study, its place, and a word on its preset; its data comes later."""
        from search.begin import check_free
        from search.preflight import check_budget
        from search.study import StudySpec
        from search.study_folder import StudyFolder, free_name

        if self.budget is None:
            raise UserError(
                "--budget is missing; give the number of training runs, as --budget 200"
            )
        check_budget(self.budget)
        place = StudyFolder(root=self.root, name=self.name or free_name(self.root))
        config, why = self._config()
        check_free(place)
        study = StudySpec(
            name=place.name, config=config, seed=self.seed, budget=self.budget, data={}
        )
        return study, place, why

    def _config(self) -> tuple[StudyConfig, str]:
        """The resolved configuration, and a word on the preset."""
        import dataclasses

        from completedp.adapters.source import imported
        from completedp.config import DataConfig
        from completedp.lm.preset_files import load_preset
        from completedp.recipe import Recipe
        from completedp.training.jobs import user_code
        from search import preflight
        from search.stopping import stopping_named
        from search.strategies import strategy_named

        preset = why = self.preset
        if preset == "auto":
            source = DataConfig() if self.data is None else DataConfig(source=self.data)
            preset, reason = preflight.choose_preset(self.device, source)
            why = f"{preset} ({reason})"
        config = load_preset(preset)
        if self.loop is not None:
            trust.allow(self.loop)
            train = dataclasses.replace(config.train, loop=self.loop)
            config = dataclasses.replace(config, train=train)
        config = with_model(config, self.model, self.width, self.depth, self.modules)
        with located(preset):
            for key, code in user_code(config.model, config.train).items():
                trust.check(key, code)
        changes: dict[str, Any] = {}
        if self.model is not None:
            why = f"{why}, but for the model {self.model}"
        if config.train.loop is not None:
            imported("--loop", config.train.loop)
        if self.data is not None:
            changes["data"] = dataclasses.replace(config.data, source=self.data)
        frozen = tuple(kind.strip() for kind in self.freeze.split(",") if kind.strip())
        if frozen or self.strategy is not None:
            changes["search"] = dataclasses.replace(
                config.search,
                frozen=frozen or config.search.frozen,
                strategy=self.strategy or config.search.strategy,
            )
        config = dataclasses.replace(config, **changes)
        if self.start is not None:
            values = _start_values(Recipe.read(self.start), config, self.start)
            config = dataclasses.replace(config, values=values)
        with located("--strategy" if self.strategy else f"{preset}: search.strategy"):
            strategy_named(config.search.strategy)
        with located(preset):
            stopping_named(config.search.stopping)
        return config, why


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A study about to run, and how."""

    place: StudyFolder
    study: StudySpec
    named: bool
    device: str
    cluster: RayExecutor | None
    workers: int
    hours: float
    console: Console
    json: bool

    def announce(self, budget: int | None, corpus: Corpus | None) -> dict[str, Any]:
        """Say what will run and what it costs; returns the same for a program."""
        from search import preflight
        from search.study import Study

        ledger = self.place.read() if self.study.data else Study(spec=self.study, records=[])
        if budget is not None and budget != ledger.budget:
            ledger.check_raise(budget)
            ledger = ledger.raised_to(budget)
        done = len(ledger.trials) - len(ledger.pending)
        config = self.study.config
        cost = preflight.forecast(
            config,
            runs=max(0, ledger.budget - done),
            workers=self.workers,
            train_tokens=None if corpus is None else corpus.tokens("train"),
            device=self.device,
        )
        self.console.print(f"data: {_describe(config, corpus)}")
        for line in preflight.describe(ledger, cost):
            self.console.print(line)
        return {"study": self.place.name, "budget": ledger.budget, **cost.to_dict()}

    def start(
        self, budget: int | None, corpus: Corpus | None, *, resumed: bool, forecast: float | None
    ) -> None:
        """Run it, and show how it ended; a run should take `forecast` seconds."""
        import contextlib
        import dataclasses
        import functools

        from completedp.runs.local import LocalExecutor, devices_of
        from completedp.training.jobs import user_paths
        from search import begin, study_run

        place, study = self.place, self.study
        if not resumed:
            study = dataclasses.replace(study, data=_provenance(corpus))
            place = begin.create(place, study, rename=not self.named)
            if place != self.place:
                self.console.print(f"study {place.name}: another search took {self.place.name}")
        elif budget is not None:
            begin.raise_budget(place, budget)
        make_job = functools.partial(
            study_run.language_model_job,
            self.study.config,
            root_layout.data_cache(place.root),
            self.device.split(":")[0],
            digest=study.data.get("digest"),
        )
        executor = self.cluster or LocalExecutor(
            self.workers,
            logs=place.folder / "logs",
            paths=user_paths(self.study.config.model, self.study.config.train),
            devices=devices_of(self.device),
        )
        summary = None
        # Stopped at once: what ran is begun, and its runs are made again.
        with executor, contextlib.suppress(KeyboardInterrupt):
            summary = study_run.run(
                place,
                executor,
                make_job,
                console=self.console,
                hours=self.hours,
                # Of a loop of the user's nothing is known beforehand.
                forecast=None if study.config.train.loop else forecast,
            )
        if summary is not None:
            show_summary(summary, place.recipe, self.json)
            return
        from search.status import standing

        again = f"completedp search --resume {place.name} --root {place.root}"
        self.console.print(f"stopped; go on with: {again}")
        if self.json:
            state = standing(place.read()).to_dict()
            print_json({"study": place.name, "interrupted": True, **state})
        raise typer.Exit(130)


def _start_values(recipe: Recipe, config: StudyConfig, path: Path) -> GlobalValues:
    """A recipe's values mean something at its own scale only."""
    if recipe.base != config.scale:
        raise UserError(
            f"--from {path}: the recipe is of {recipe.base}, the preset of {config.scale}; give a "
            "--preset of the recipe's scale"
        )
    return recipe.baseline.global_


def _corpus(config: StudyConfig, root: Path, expected: str | None) -> Corpus:
    """The study's corpus; of an older study the one that it began with, from the root where the text is gone
    or has changed. Raises `UserError` where neither has it."""
    from completedp.lm.data import prepare

    train = config.train
    cache = root_layout.data_cache(root)
    return prepare(config.data, config.model.vocab_size, train.eval_tokens, cache, expected)


def _describe(config: StudyConfig, corpus: Corpus | None) -> str:
    if corpus is None:
        return f"what {config.train.loop} reads"
    return corpus.summary(config.data.source)


def _provenance(corpus: Corpus | None) -> dict[str, Any]:
    """What is known of the data; of what a user's loop reads nothing is."""
    from completedp.lm.data import SPLITS

    if corpus is None:
        return {"digest": None, "tokens": {}, "bytes_per_token": dict.fromkeys(SPLITS)}
    return {
        "digest": corpus.digest,
        "tokens": {split: corpus.tokens(split) for split in SPLITS},
        "bytes_per_token": {split: corpus.bytes_per_token(split) for split in SPLITS},
    }
