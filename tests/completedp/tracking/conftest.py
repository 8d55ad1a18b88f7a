"""A root with one database for all these tests (making one takes seconds), and sample studies in it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from completedp import files

Records = list[dict[str, object]]

CONFIG = {
    "model": {"width": 32, "depth": 2},
    "train": {"tokens": 768_000, "batch": 2048},
    "values": {"lr": 0.01, "eps": 1e-8},
    "schema": 1,
}


def sample_records(name: str, budget: int, *, seed: int = 0) -> Records:
    """A study whose trial 3 diverged, whose trial 4 was stopped and whose trial 5 was set aside."""
    records: Records = [
        {
            "event": "study",
            "schema": 1,
            "name": name,
            "config": CONFIG,
            "digest": files.digest(CONFIG),
            "seed": seed,
            "budget": budget,
            "data": {"digest": None, "tokens": {}, "bytes_per_token": {}},
            "versions": {},
        }
    ]
    for trial in range(budget):
        phase = "global" if trial < 6 else "confirm" if trial >= budget - 4 else "module"
        values = {"global.lr": 0.5, "type.lr.q": -1.0, "depth.eps.1": 0.0, "global.beta1": 1.0}
        records.append(
            {"event": "proposed", "trial": trial, "values": values, "phase": phase, "seed": 7}
        )
        end = {"event": "finished", "trial": trial, "seconds": 7.5, "seed": 7, "tokens": 2048}
        if trial == 3:
            end |= {"status": "diverged", "loss": None, "steps": 12, "reason": "loss above ln 256"}
        elif trial == 4:
            end |= {"status": "stopped", "loss": None, "steps": 90}
        elif trial == 5:
            end = {"event": "set_aside", "trial": 5, "reason": "killed by signal 9"}
        else:
            end |= {"status": "completed", "loss": 2.5 - 0.01 * trial, "steps": 100}
        records.append(end)
    return [*records, {"event": "done"}]


def write_study(root: Path, records: Records, *, points: int = 50) -> Path:
    """Write the journal, and a curve for every trial that ran."""
    study = root / "studies" / str(records[0]["name"])
    (study / "curves").mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in records)
    (study / "journal.jsonl").write_text(text, encoding="utf-8")
    for record in records:
        if record["event"] == "finished":
            steps = [round((i + 1) * int(str(record["steps"])) / points) for i in range(points)]
            lines = [json.dumps({"step": s, "loss": 5.5 - s / 40}) for s in dict.fromkeys(steps)]
            (study / "curves" / f"{record['trial']}.jsonl").write_text("\n".join(lines) + "\n")
    return study


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A space, and what a URI or a format string would read as its own.
    return tmp_path_factory.mktemp("a root & more")


@pytest.fixture
def make_study(root: Path) -> Callable[..., Path]:
    def make(name: str, budget: int = 10, **options: int) -> Path:
        return write_study(root, sample_records(name, budget, **options))

    return make
