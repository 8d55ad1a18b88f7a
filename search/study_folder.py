"""Studies on disk: the list of them, the start of one, and the raise of its budget.

Light: nothing here trains or proposes.
"""

from __future__ import annotations

import dataclasses
import re
import time
from dataclasses import dataclass
from pathlib import Path

from completedp import files, root_layout
from completedp.errors import UserError
from completedp.runs.journal import Journal, exists, read_records, studies
from completedp.runs.lock import Held, Lock
from search.study import Study, StudySpec

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOMENT = 0.05  # seconds between two looks at the journal of another process


@dataclass(frozen=True, kw_only=True)
class StudyFolder:
    """The folder of one study. Raises `UserError` for a name that is no plain folder name."""

    root: Path
    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or ".." in self.name:
            raise UserError(
                f"the study name {self.name!r} cannot be a folder's: use up to 64 letters, digits, "
                "'.', '_' and '-', beginning with a letter or digit"
            )

    @property
    def path(self) -> Path:
        return self.root / root_layout.STUDIES / self.name

    @property
    def journal(self) -> Path:
        return self.path / root_layout.JOURNAL

    @property
    def curves(self) -> Path:
        return self.path / root_layout.CURVES

    @property
    def recipe(self) -> Path:
        return self.path / root_layout.RECIPE

    @property
    def experiment(self) -> Path:
        """The search trials as a file that Ax opens."""
        return self.path / root_layout.EXPERIMENT

    @property
    def lock(self) -> Path:
        return self.path / root_layout.LOCK

    def read(self) -> Study:
        """The study as its journal tells it. Raises `UserError` if there is none, or if it is damaged."""
        if not exists(self.journal):
            known = study_names(self.root)
            there = f"there are: {', '.join(known)}" if known else "there is none yet"
            raise UserError(f"no study {self.name!r} under {self.root}; {there}")
        return Study.from_records(read_records(self.journal), str(self.journal))

    def check_free(self) -> None:
        """Raises `UserError` if the folder holds a study already."""
        if exists(self.journal):
            raise UserError(
                f"there is a study {self.name!r} already; go on with it by --resume {self.name}, or give "
                "another --name"
            )

    def begin(self, spec: StudySpec) -> bool:
        """Write `study.yaml`, then the journal, whose first line makes the study exist.

        Returns False, and writes nothing, if the folder holds a study already. Raises `UserError` if the
        folder cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.path}: cannot be made ({error.strerror}); give another --root"
            ) from None
        with Lock(self.lock):
            if exists(self.journal):
                return False
            files.write_yaml(self.path / root_layout.STUDY, spec.config.to_dict())
            record = dataclasses.replace(spec, name=self.name).to_record()
            Journal.create(self.journal, record).close()
        return True


def study_names(root: Path) -> list[str]:
    """The studies under a root, by name."""
    return [folder.name for folder in studies(root)]


def free_name(root: Path) -> str:
    """`study-1`, or the first such name that is not taken."""
    number = 1
    while exists(StudyFolder(root=root, name=f"study-{number}").journal):
        number += 1
    return f"study-{number}"


def create(folder: StudyFolder, spec: StudySpec, *, rename: bool = False) -> StudyFolder:
    """Begin a study and return its folder.

    If another search has taken the name meanwhile, `rename` allows the next free name. Without `rename`,
    this raises `UserError`.
    """
    while True:
        if not rename:
            folder.check_free()
        elif exists(folder.journal):
            folder = StudyFolder(root=folder.root, name=free_name(folder.root))
        try:
            if folder.begin(spec):
                return folder
        except Held:
            if not rename:
                raise
            time.sleep(_MOMENT)  # until the other search's journal shows that the name is taken


def raise_budget(folder: StudyFolder, budget: int) -> None:
    """Give a study a larger total budget. A budget equal to the present one changes nothing.

    Raises `UserError` if another process writes the study, and if the new total is of no use.
    """
    with Lock(folder.lock):
        study = folder.read()
        if budget == study.budget:
            return
        study.check_raise(budget)
        with Journal.open(folder.journal) as journal:
            journal.append({"event": "budget", "budget": budget})
