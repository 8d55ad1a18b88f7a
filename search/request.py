"""A study that somebody wants trained: a new one, or one to go on with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from completedp.config import StudyConfig
from completedp.lm.data import SPLITS, Corpus, prepare
from completedp.lm.preset_files import load_preset
from completedp.lm.train import pick_device
from completedp.training.forecast import Forecast
from search import preflight, study_folder
from search.strategies import strategy_named
from search.study import Study, StudySpec
from search.study_folder import StudyFolder, free_name


@dataclass(frozen=True, kw_only=True)
class Request:
    """A study and how it is to be trained. Nothing is written before `begin`.

    `study` has the budget that was asked for; a new one has no data yet. `device`: where its runs train.
    `named`: its user chose the name, and no other will do.
    """

    folder: StudyFolder
    study: Study
    device: str
    new: bool
    named: bool = True

    @property
    def config(self) -> StudyConfig:
        return self.study.spec.config

    @property
    def cache(self) -> Path:
        """Where prepared corpora are, whatever folder a worker runs in."""
        return self.folder.root.resolve() / "data"

    @cached_property
    def corpus(self) -> Corpus | None:
        """The prepared corpus; None if a loop of the user's reads data of its own.

        A study that goes on takes the text that it began with, from the root if the source is gone or has
        changed. Raises `UserError` if neither has it.
        """
        train = self.config.train
        if train.loop is not None:
            return None
        return prepare(
            self.config.data,
            self.config.model.vocab_size,
            train.eval_tokens,
            self.cache,
            self.study.spec.data.get("digest"),
        )

    def forecast(self, workers: int) -> Forecast:
        """What the rest of the budget will cost here."""
        left = self.study.budget - self.study.cost(self.study.ended)
        return preflight.forecast(
            self.config,
            runs=max(0, math.ceil(left)),
            workers=workers,
            train_tokens=None if self.corpus is None else self.corpus.tokens("train"),
            device=self.device,
        )

    def begin(self, say: Callable[[str], object]) -> StudyFolder:
        """Write what makes the study exist, or its raised budget; returns its folder.

        `say` is told if another search has taken the name meanwhile.
        """
        if not self.new:
            study_folder.raise_budget(self.folder, self.study.budget)
            return self.folder
        spec = dataclasses.replace(self.study.spec, data=_provenance(self.corpus))
        folder = study_folder.create(self.folder, spec, rename=not self.named)
        if folder != self.folder:
            say(f"study {folder.name}: another search took {self.folder.name}")
        return folder


def new_study(
    config: StudyConfig | str | Path,
    *,
    budget: int,
    root: Path,
    name: str | None,
    seed: int,
    device: str,
) -> Request:
    """A study that does not exist yet. `config` may be a preset's name or a file's path.

    Raises `UserError` for a budget that is too small, a name that is taken, an unknown strategy, and what
    `load_preset` refuses.
    """
    preflight.check_budget(budget)
    folder = StudyFolder(root=root, name=name or free_name(root))
    if not isinstance(config, StudyConfig):
        config = load_preset(str(config))
    strategy_named(config.search.strategy)
    folder.check_free()
    spec = StudySpec(name=folder.name, config=config, seed=seed, budget=budget, data={})
    study = Study(spec=spec, records=[])
    return Request(folder=folder, study=study, device=device, new=True, named=name is not None)


def going_on(folder: StudyFolder, *, budget: int | None, device: str) -> Request:
    """A study that has begun. `budget`: its new total; None leaves it.

    Raises `UserError` if there is none, if it cannot go on, and for a total that is of no use.
    """
    study = folder.read()
    if budget is not None or not study.done:
        study.check_goes_on()
    if budget is not None and budget != study.budget:
        study.check_raise(budget)
        study = study.raised_to(budget)
    return Request(folder=folder, study=study, device=device, new=False)


def device_for(device: str, *, remote: bool) -> str:
    """Where runs train. A cluster's GPUs need not be seen from here, so a device named for it is taken."""
    return device if remote and device in ("cpu", "cuda") else str(pick_device(device))


def _provenance(corpus: Corpus | None) -> dict[str, Any]:
    """The journal's word on the data. Nothing is known of the data of a user's loop."""
    if corpus is None:
        return {"digest": None, "tokens": {}, "bytes_per_token": dict.fromkeys(SPLITS)}
    return {
        "digest": corpus.digest,
        "tokens": {split: corpus.tokens(split) for split in SPLITS},
        "bytes_per_token": {split: corpus.bytes_per_token(split) for split in SPLITS},
    }
