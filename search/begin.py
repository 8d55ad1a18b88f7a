"""How a study begins, and gets more runs. Light: nothing here trains or proposes."""

from __future__ import annotations

import dataclasses
import time

from completedp import files
from completedp.errors import UserError
from completedp.runs.journal import Journal, exists
from completedp.runs.lock import Held, Lock
from search.study import StudySpec
from search.study_folder import StudyFolder, free_name

_MOMENT = 0.05  # s


def check_free(place: StudyFolder) -> None:
    """Raises `UserError` where the place holds a study already."""
    if exists(place.journal):
        raise UserError(
            f"there is a study {place.name!r} already; go on with it by --resume {place.name}, or give "
            "another --name"
        )


def create(place: StudyFolder, spec: StudySpec, *, rename: bool = False) -> StudyFolder:
    """Begin a study: `study.yaml`, then the journal, whose first line makes it exist.

    Returns where it is: with `rename` under the next free name, if another search took this one meanwhile.
    """
    while True:
        if not rename:
            check_free(place)
        elif exists(place.journal):
            place = StudyFolder(root=place.root, name=free_name(place.root))
        try:
            if _begun(place, spec):
                return place
        except Held:
            if not rename:
                raise
            time.sleep(_MOMENT)  # until the other one's journal says that the name is taken


def _begun(place: StudyFolder, spec: StudySpec) -> bool:
    """Whether the study is now there; not where another has come first."""
    try:
        place.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{place.folder}: cannot be made ({error.strerror}); give another --root"
        ) from None
    with Lock(place.lock):
        if exists(place.journal):
            return False
        files.write_yaml(place.folder / "study.yaml", spec.config.to_dict())
        record = dataclasses.replace(spec, name=place.name).to_record()
        Journal.create(place.journal, record).close()
    return True


def raise_budget(place: StudyFolder, budget: int) -> None:
    """Give a study more runs in all. A budget equal to the present one changes nothing."""
    with Lock(place.lock):
        study = place.read()
        if budget == study.budget:
            return
        study.check_raise(budget)
        with Journal.open(place.journal) as journal:
            journal.append({"event": "budget", "budget": budget})
