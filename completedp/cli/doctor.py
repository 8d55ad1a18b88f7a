"""The verb that examines the machine, and mends what is safe to mend."""

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
    """Look whether this machine and the root are fit for a search; exit status 1 where something is not."""
    import itertools
    from dataclasses import asdict

    from completedp.doctor import examine, mended

    findings = []
    looked_at = itertools.chain(mended(root) if repair else (), examine(root))
    for finding in looked_at:
        findings.append(finding)
        if not json:
            print(f"{finding.state:6} {finding.what}: {finding.said}", flush=True)
    if json:
        print_json([asdict(finding) for finding in findings])
    if any(finding.state == "fault" for finding in findings):
        raise typer.Exit(1)
