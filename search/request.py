"""The request to train a study: a new one, or one to go on with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from completedp import root_layout
from completedp.config import StudyConfig
from completedp.lm.data import SPLITS, Corpus, prepare
from completedp.lm.preset_files import load_preset
from completedp.lm.train import pick_device
from completedp.training.forecast import Forecast
from search import preflight, study_folder
from search.rungs import rungs_of
from search.strategies import strategy_named
from search.study import Study, StudySpec
from search.study_folder import StudyFolder, free_name


@dataclass(frozen=True, kw_only=True)
class Request:
    """A study that is to be trained. Nothing is written before `begin`.

    `study` has the requested budget. A new study has no data yet. Its runs train on `device`. `named`: the
    user chose the name, so no other name will do.
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
        """The folder of prepared corpora. It is absolute, because a worker may run in another folder."""
        return root_layout.data_cache(self.folder.root)

    @cached_property
    def corpus(self) -> Corpus | None:
        """The prepared corpus. None if the user's own loop reads its own data.

        A study that goes on keeps the text that it began with. If the source is gone or has changed, that
        text comes from the root. Raises `UserError` if the text is in neither place.
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
        """The cost of the rest of the budget on this machine."""
        left = self.study.budget - self.study.cost(self.study.ended)
        return preflight.forecast(
            self.config,
            runs=max(0, math.ceil(left)),
            workers=workers,
            train_tokens=None if self.corpus is None else self.corpus.tokens("train"),
            device=self.device,
        )

    def begin(self, say: Callable[[str], object]) -> StudyFolder:
        """Write the new study, or the raised budget, and return the study's folder.

        If another search has taken the name meanwhile, `say` gets a line. Raises `UserError` if the study can
        have no other name, and if its folder cannot be written.
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
    remote: bool = False,
    compile: bool | None = None,
) -> Request:
    """The request for a new study. `config` may be the name of a preset or the path of a file.

    Its runs are compiled as `compile` says. With None they are compiled as `config` says, and also where
    that saves time, unless they are trained on `remote` machines.

    Raises `UserError` for a budget that is too small, a name that is taken, an unknown strategy, and a preset
    that `load_preset` refuses.
    """
    preflight.check_budget(budget)
    folder = StudyFolder(root=root, name=name or free_name(root))
    if not isinstance(config, StudyConfig):
        config = load_preset(str(config))
    if compile is not None or not remote:
        config = preflight.with_compilation(config, budget=budget, device=device, wanted=compile)
    strategy_named(config.search.strategy)
    folder.check_free()
    spec = StudySpec(
        name=folder.name, config=config, seed=seed, budget=budget, data={}, rungs=rungs_of(config)
    )
    study = Study(spec=spec, records=[])
    return Request(folder=folder, study=study, device=device, new=True, named=name is not None)


def going_on(folder: StudyFolder, *, budget: int | None, device: str) -> Request:
    """The request to go on with a study. `budget` is its new total, None to keep the present one.

    Raises `UserError` if there is no such study, if it cannot go on, and if the new total is of no use.
    """
    study = folder.read()
    study.check_goes_on()
    if budget is not None and budget != study.budget:
        study.check_raise(budget)
        study = study.raised_to(budget)
    return Request(folder=folder, study=study, device=device, new=False)


def device_for(device: str, *, remote: bool) -> str:
    """The device of the runs. A `remote` device is taken as named: a cluster's GPU need not be here.

    Raises `UserError` for a device that is not here, or that does not exist.
    """
    return device if remote and device in ("cpu", "cuda") else str(pick_device(device))


def _provenance(corpus: Corpus | None) -> dict[str, Any]:
    """The journal's description of the data. The data of the user's own loop is unknown."""
    if corpus is None:
        return {"digest": None, "tokens": {}, "bytes_per_token": dict.fromkeys(SPLITS)}
    return {
        "digest": corpus.digest,
        "tokens": {split: corpus.tokens(split) for split in SPLITS},
        "bytes_per_token": {split: corpus.bytes_per_token(split) for split in SPLITS},
    }
