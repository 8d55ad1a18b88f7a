"""What is in a recorded study? Its journal with short curves, one small file in benchmarks/records/.

    python benchmarks/search/records.py benchmarks/records/trust-region-0.jsonl.xz

Printed: the study's name, its strategy, and how many records of each kind it has. The file has lines of
JSON as the journal has them. A `finished` record also has a `curve`: the mean training loss of each of 24
equal parts of the run, as far as the run went. With these files strategies.py goes on after the studies
themselves are gone. They are also a table of (hyperparameters, curve, loss) to develop strategies on, but
never to claim anything from: a strategy that chooses among recorded trials does not train.
"""

from __future__ import annotations

import json
import lzma
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import result
from completedp import files
from completedp.runs.curves import read_curve
from completedp.runs.journal import read_records
from search.study_folder import StudyFolder

PARTS = 24


def keep(place: StudyFolder, folder: Path) -> None:
    """Write a study's file into `folder`."""
    records = [_with_curve(record, place) for record in read_records(place.journal)]
    steps = max(r.get("steps", 0) for r in records)
    for record in records:
        if "curve" in record:
            record["curve"] = shortened(record["curve"], steps)
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in records)
    path = folder / f"{place.name}.jsonl.xz"
    path.write_bytes(lzma.compress(text.encode(), preset=9))


def _with_curve(record: dict[str, Any], place: StudyFolder) -> dict[str, Any]:
    if record["event"] != "finished":
        return record
    return {**record, "curve": read_curve(place.path / "curves", record["trial"])}


def shortened(curve: tuple[tuple[int, float], ...], steps: int) -> list[float | None]:
    """The mean of each part, up to where the run ended; None for a part without a point."""
    if not curve:
        return []
    part = [min(PARTS - 1, (step - 1) * PARTS // steps) for step, _ in curve]
    losses = np.array([loss for _, loss in curve])
    means = [losses[np.array(part) == p] for p in range(part[-1] + 1)]
    return [round(float(m.mean()), 4) if len(m) else None for m in means]


def read(path: Path) -> list[dict[str, Any]]:
    """The journal's records, each finished one with its `curve`."""
    return [json.loads(line) for line in lzma.decompress(path.read_bytes()).splitlines()]


def restore(path: Path, place: StudyFolder) -> None:
    """The study's journal again, without its curves: its trials can be read, copied and judged."""
    lines = [{k: v for k, v in record.items() if k != "curve"} for record in read(path)]
    place.path.mkdir(parents=True, exist_ok=True)
    files.write_text(place.journal, "".join(json.dumps(line) + "\n" for line in lines))


def main() -> None:
    parser = result.parser(__doc__)
    parser.add_argument("records", type=Path, nargs="+")
    for path in parser.parse_args().records:
        found = read(path)
        study, events = found[0], Counter(r.get("status", r["event"]) for r in found)
        print(path.name, study["name"], study["config"]["search"]["strategy"], dict(events))


if __name__ == "__main__":
    main()
