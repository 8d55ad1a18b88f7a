"""The verb that examines the machine and the root, and repairs what is safe to repair."""

from __future__ import annotations

from typing import Annotated

import typer

from completedp.cli.options import DEFAULT_ROOT, Json, Root
from completedp.cli.output import print_json


def doctor(
    repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="First mend what is safe: torn and blank journal lines, left-over files, the MLflow view.",
        ),
    ] = False,
    root: Root = DEFAULT_ROOT,
    json: Json = False,
) -> None:
    """Look whether this machine and the root are fit for a search; exit status 1 if something is not."""
    import itertools

    from completedp import repair as repairs
    from completedp.doctor import examine

    findings = []
    for finding in itertools.chain(repairs.repair(root) if repair else (), examine(root)):
        findings.append(finding)
        if not json:
            print(f"{finding.state:6} {finding.subject}: {finding.message}", flush=True)
    if json:
        print_json([{"what": f.subject, "state": f.state, "said": f.message} for f in findings])
    if any(finding.state == "fault" for finding in findings):
        raise typer.Exit(1)
