"""The verb that says where studies stand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from completedp.cli.options import DEFAULT_ROOT, Json, Root
from completedp.cli.output import print_json, print_table
from completedp.errors import UserError


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
    """The state of a study. A study that cannot be read must not hide others, unless it is `alone`."""
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
