"""Where studies are on the disk, and which there are. Light: nothing here trains or proposes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from completedp.errors import UserError
from completedp.runs.journal import exists, read_records, studies
from search.study import Study

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class StudyFolder:
    """Where a study's files are. Raises `UserError` for a name that is no plain folder name."""

    root: Path
    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or ".." in self.name:
            raise UserError(
                f"the study name {self.name!r} cannot be a folder's: use up to 64 letters, digits, "
                "'.', '_' and '-', beginning with a letter or digit"
            )

    @property
    def folder(self) -> Path:
        return self.root / "studies" / self.name

    @property
    def journal(self) -> Path:
        return self.folder / "journal.jsonl"

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

    def read(self) -> Study:
        """The study as its journal tells it. Raises `UserError` where there is none."""
        if not exists(self.journal):
            known = study_names(self.root)
            there = f"there are: {', '.join(known)}" if known else "there is none yet"
            raise UserError(f"no study {self.name!r} under {self.root}; {there}")
        return Study.from_records(read_records(self.journal), str(self.journal))


def study_names(root: Path) -> list[str]:
    """The studies under a root, by name."""
    return [folder.name for folder in studies(root)]


def free_name(root: Path) -> str:
    """`study-1`, or the first number not taken."""
    number = 1
    while exists(root / "studies" / f"study-{number}" / "journal.jsonl"):
        number += 1
    return f"study-{number}"
