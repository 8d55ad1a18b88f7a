"""The verb `proxy` on real training, and what the next search says of it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

from completedp import files
from completedp.lm.preset_files import load_preset

PROGRAM = "from completedp.cli.app import main; main()"
GRID = ("--batches", "0.5,1", "--factors", "0.5,1", "--seeds", "2")


def test_a_proxy_is_measured_once_and_the_search_is_warned(tmp_path: Path) -> None:
    tiny = load_preset("tiny")
    train = dataclasses.replace(tiny.train, tokens=2048, batch=512, eval_tokens=512)
    files.write_yaml(tmp_path / "short.yaml", dataclasses.replace(tiny, train=train).to_dict())

    def completedp(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", PROGRAM, *arguments, "--preset", "short.yaml"]
        return subprocess.run(
            [*command, "--root", "root", "--device", "cpu", "--workers", "1"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "COLUMNS": "200"},
            check=True,
        )

    first = completedp("proxy", *GRID, "--json")
    document = json.loads(first.stdout)
    assert document["kind"] == "proxy"
    assert document["runs_missing"] == 0
    assert [(row["batch"], row["steps"], row["n"]) for row in document["rows"]] == [
        (256, 8, 2),
        (256, 8, 2),
        (512, 4, 2),
        (512, 4, 2),
    ]
    places = re.findall(r"^(\d+)/(\d+) ", first.stderr, flags=re.MULTILINE)
    assert places == [(str(i), "20") for i in range(1, 2 * 2 * 2 + 6 * 2 + 1)]
    (written,) = (tmp_path / "root").glob("proxies/*/proxy.json")
    assert json.loads(written.read_text()) == document
    again = completedp("proxy", *GRID)
    assert "20 runs, 20 of them finished before" in again.stdout
    assert all(line in again.stdout for line in document["verdict"])

    files.write_json(written, {**document, "trials_to_see": {"0.01": 10_000}})
    search = completedp("search", "--budget", "20", "--dry-run")
    assert "warning: a run has 4 steps, fewer than 1,500" in search.stderr
    assert "shows after about 10,000 trials" in search.stderr
