"""Does a search that is killed again and again end as an uninterrupted one?

    python benchmarks/reliability/kill_resume.py --kills 20

A search of short runs with one worker meets kill -9 of its whole process group at random moments, and is
resumed after each. An uninterrupted search with the same seed runs first. Printed: the moments, and whether
each check holds. No finished trial is lost or run twice, the budget is kept, MLflow has one run a trial,
and `recipe.yaml` and the journal's outcomes are byte-identical.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import result
from completedp import files
from completedp.config import TrainConfig
from completedp.lm.preset_files import load_preset
from completedp.runs.journal import read_records, trials

SHORT_TOKENS = 64 * 512  # a run of about a second
# Seconds: from before the journal exists (imports take some) to several trials into a resumed study.
EARLIEST, LATEST = 0.5, 14.0


def main() -> None:
    parser = result.parser(__doc__, "kill_resume.json")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--budget", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = compared(Path(folder), arguments.kills, arguments.budget, arguments.seed)
    result.write(arguments.out, found)
    print(json.dumps(found, indent=1))
    sys.exit(0 if all(found["checks"].values()) else 1)


def compared(root: Path, kills: int, budget: int, seed: int) -> dict[str, Any]:
    begin = ["--preset", str(short_preset(root)), "--budget", str(budget), "--workers", "1"]
    assert search(root, "whole", begin).wait() == 0

    rng = random.Random(seed)
    journal = root / "studies" / "killed" / "journal.jsonl"
    moments: list[dict[str, Any]] = []
    finished: dict[int, Any] = {}
    lost = 0
    while True:
        begun = journal.exists() and bool(read_records(journal))
        process = search(
            root, "killed", ["--resume", "killed", "--workers", "1"] if begun else begin
        )
        if len(moments) == kills:
            assert process.wait() == 0
            break
        wait = rng.uniform(EARLIEST, LATEST)
        try:
            process.wait(timeout=wait)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        else:
            raise SystemExit(f"the search ended after {len(moments)} kills: give a larger --budget")
        done = outcomes(journal)
        lost += sum(done.get(trial) != outcome for trial, outcome in finished.items())
        finished = done
        moments.append({"after_seconds": round(wait, 2), "finished": len(done)})
        print(moments[-1], flush=True)
    time.sleep(1)
    end = trials(read_records(journal))
    whole = root / "studies" / "whole"
    subprocess.run(
        [*result.COMPLETEDP, "track", "--root", str(root)], check=True, capture_output=True
    )
    return {
        "kills": moments,
        "budget": budget,
        "checks": {
            "no finished trial lost or changed": lost == 0,
            "budget kept": len(end) == budget and all(t.status for t in end.values()),
            "outcomes identical": outcomes(journal) == outcomes(whole / "journal.jsonl"),
            "recipe identical": (journal.parent / "recipe.yaml").read_bytes()
            == (whole / "recipe.yaml").read_bytes(),
            "one MLflow run a trial": mlflow_runs(root, "killed") == list(range(budget)),
        },
    }


def short_preset(root: Path) -> Path:
    """`tiny` with short runs."""
    tiny = load_preset("tiny")
    preset = root / "short.yaml"
    files.write_yaml(preset, dataclasses.replace(tiny, train=short(tiny.train)).to_dict())
    return preset


def short(train: TrainConfig) -> TrainConfig:
    """Runs of about a second."""
    return dataclasses.replace(train, tokens=SHORT_TOKENS, eval_tokens=8192)


def search(
    root: Path, name: str, how: list[str], logs: Path | None = None
) -> subprocess.Popen[bytes]:
    named = [] if "--resume" in how else ["--name", name]
    log = ((logs or root) / f"{name}.log").open("ab")
    return subprocess.Popen(
        [*result.COMPLETEDP, "search", *how, *named, "--root", str(root)],
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def outcomes(journal: Path) -> dict[int, Any]:
    """Everything about the trials that interruptions must not change; times may differ."""
    if not journal.exists():
        return {}
    return {
        t.trial: (dict(t.values), t.phase, t.seed, t.status, t.loss, t.steps, t.tokens)
        for t in trials(read_records(journal)).values()
        if t.status is not None
    }


def mlflow_runs(root: Path, study: str) -> list[int]:
    """The trial numbers of the study's nested runs, sorted, with duplicates."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=5000)
    (parent,) = [r.info.run_id for r in runs if r.info.run_name == study]
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent]
    return sorted(int(r.data.tags["completedp.trial"]) for r in children)


if __name__ == "__main__":
    main()
