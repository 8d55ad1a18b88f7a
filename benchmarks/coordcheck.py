"""The coordinate check in full: Complete(d)P over width, depth and batch × 16; others and planted faults × 4.

    python benchmarks/coordcheck.py --root <folder>

Each run (arm, axis, ratio, seed) is a line of `<root>/coordcheck.jsonl` and is not run again. `--seeds` and
`--largest` (a ratio) make it smaller. Writes benchmarks/results/coordcheck.json and docs/coordcheck.png.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from completedp import files
from completedp.coordcheck import check
from completedp.coordcheck.faults import FAULTS, FaultySubject
from completedp.coordcheck.figure import draw
from completedp.coordcheck.measure import Key, Sizes
from completedp.coordcheck.reference import ReferenceSubject
from completedp.coordcheck.slopes import Axis
from completedp.lm.preset_files import load_preset
from completedp.seeds import derive_seed

HERE = Path(__file__).parent
POWER = {"beta_rule": "power"}
RATIOS = (1, 2, 4, 8, 16)
# What must fail fails at any ratio.
FEWER = (1, 2, 4)


@dataclass(frozen=True)
class Arm:
    """A parameterisation, or a fault in one, on some axes."""

    name: str
    axes: tuple[Axis, ...]
    parameterization: str = "completed-p"
    options: dict[str, Any] = field(default_factory=dict)
    fault: str | None = None
    ratios: tuple[float, ...] = RATIOS

    def setting(self, arguments: argparse.Namespace) -> check.Setting:
        return check.Setting(
            axes=self.axes,
            ratios=tuple(r for r in self.ratios if r <= arguments.largest),
            steps=arguments.steps,
            seeds=tuple(derive_seed(0, "coordcheck", i) for i in range(arguments.seeds)),
            parameterization=self.parameterization,
            options=self.options,
        )


def arms() -> list[Arm]:
    """The cheapest first. α plays no part where the depth is the base's."""
    return [
        Arm("completed-p, α = 1", ("depth", "batch", "width"), options=POWER),
        Arm("completed-p, α = ½", ("depth",), options={**POWER, "alpha": 0.5}),
        Arm("sp", ("depth", "batch", "width"), "sp", ratios=FEWER),
        *(
            Arm(name, (fault.axis,), options=POWER, fault=name, ratios=FEWER)
            for name, fault in FAULTS.items()
        ),
        Arm("mup", ("depth", "width"), "mup", ratios=FEWER),
        Arm("completep", ("depth", "width"), "completep", ratios=FEWER),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--preset", default="coordinates")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3, help="of every arm")
    parser.add_argument("--largest", type=float, default=16)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "coordcheck.json")
    parser.add_argument("--figure", type=Path, default=HERE.parent / "docs" / "coordcheck.png")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {arm.name: measured(arm, arguments) for arm in arms()}
    draw(
        [
            (f"{name}\n{axis}", axis, results[name])
            for name in ("completed-p, α = 1", "completed-p, α = ½", "sp")
            for axis in results[name]["axes"]
        ],
        arguments.figure,
    )
    command = (
        f"python benchmarks/coordcheck.py --root <folder> --preset {arguments.preset} "
        f"--steps {arguments.steps} --seeds {arguments.seeds} --largest {arguments.largest:g}"
    )
    content = {
        "command": command,
        "arms": {name: short(document) for name, document in results.items()},
        "faults": named(results),
    }
    files.write_json(arguments.out, content)
    print(json.dumps(content["faults"], indent=1, ensure_ascii=False))


def measured(arm: Arm, arguments: argparse.Namespace) -> dict[str, Any]:
    """The check's document of an arm, from the runs that are there and those that are missing."""
    config = load_preset(arguments.preset)
    place = (config, arguments.root / "data", torch.device("cpu"))
    subject = FaultySubject(*place, FAULTS[arm.fault]) if arm.fault else ReferenceSubject(*place)
    setting = arm.setting(arguments)
    journal = arguments.root / "coordcheck.jsonl"
    done = finished(journal, arguments)
    runs: check.Measured = {}
    for axis, seed, ratio in setting.runs():
        name = [arm.name, axis, ratio, seed]
        if (sizes := done.get(json.dumps(name))) is None:
            started = time.perf_counter()
            sizes = check.sizes_at(subject, setting, axis, seed, ratio)
            seconds = time.perf_counter() - started
            append(journal, arguments, name, sizes)
            print(f"{arm.name}: {axis} × {ratio:g}, seed {seed}: {seconds:.0f} s", flush=True)
        runs[axis, seed, ratio] = sizes
    document = check.document(setting, runs) | {"axes": list(setting.axes)}
    print(arm.name, "passes" if document["passes"] else "fails", document["farthest"], flush=True)
    return document


def finished(journal: Path, arguments: argparse.Namespace) -> dict[str, Sizes]:
    """By the run's name; of the same preset and steps."""
    if not journal.exists():
        return {}
    lines = [json.loads(line) for line in journal.read_text().splitlines() if line.endswith("}")]
    return {
        json.dumps(line["run"]): {
            Key(**key): math.inf if size is None else size for key, size in line["sizes"]
        }
        for line in lines
        if line["of"] == [arguments.preset, arguments.steps]
    }


def append(journal: Path, arguments: argparse.Namespace, name: list[Any], sizes: Sizes) -> None:
    journal.parent.mkdir(parents=True, exist_ok=True)
    line = {
        "of": [arguments.preset, arguments.steps],
        "run": name,
        "sizes": [
            [asdict(key), size if math.isfinite(size) else None] for key, size in sizes.items()
        ],
    }
    with journal.open("a") as file:
        file.write(json.dumps(line) + "\n")


def short(document: dict[str, Any]) -> dict[str, Any]:
    """By axis and quantity each slope with its interval, to three digits; the first five failures."""
    slopes: dict[str, dict[str, Any]] = {}
    for slope in document["slopes"]:
        place = "" if slope["place"] is None else f" {slope['place']}"
        numbers = [slope[n] and round(slope[n], 3) for n in ("mean", "low", "high")]
        of_quantity = slopes.setdefault(f"{slope['quantity']} over {slope['axis']}", {})
        of_quantity[f"{slope['module']}{place}"] = " ".join(map(str, numbers))
    return document | {"slopes": slopes, "failures": document["failures"][:5]}


def named(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """For every fault the first failure, beside the farthest healthy slope of the same axis and ratios."""
    healthy = [s for s in results["completed-p, α = 1"]["slopes"] if s["verdict"] != "not judged"]
    rows = {}
    for name, fault in FAULTS.items():
        first = next(iter(results[name]["failures"]), None)
        worst = max(s["distance"] for s in healthy if s["axis"] == fault.axis)
        rows[name] = {
            "planted": [fault.module_type, fault.axis, fault.quantity],
            "named": first and [first["module"], first["axis"], first["quantity"]],
            "distance": first and first["distance"],
            "farthest_healthy": worst,
            "times": first and first["distance"] / worst,
        }
    return rows


if __name__ == "__main__":
    main()
