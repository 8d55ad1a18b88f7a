"""The verb that examines the machine."""

from __future__ import annotations

import typer

from completedp.cli.options import DEFAULT_ROOT, Json, Root
from completedp.cli.output import print_json


def doctor(root: Root = DEFAULT_ROOT, json: Json = False) -> None:
    """Look whether this machine and the root are fit for a search; exit status 1 where something is not."""
    from dataclasses import asdict

    from completedp.doctor import examine

    findings = []
    for finding in examine(root):
        findings.append(finding)
        if not json:
            print(f"{finding.state:5} {finding.what}: {finding.said}", flush=True)
    if json:
        print_json([asdict(finding) for finding in findings])
    if any(finding.state == "fault" for finding in findings):
        raise typer.Exit(1)
