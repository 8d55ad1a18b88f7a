"""Do coordinates keep their size over width, depth and batch, and does the check name planted faults?

    python benchmarks/coordcheck/full.py --root <folder> --seeds 6

Complete(d)P goes to 16 times each axis, on the reference model and on a Llama of transformers. Other
parameterizations and the planted faults go to 4 times. Printed: for each arm whether it passes, and its
farthest slope; for each fault what the check names first. Drawn: docs/coordcheck.png. Each run (arm, axis,
ratio, seed) is a line of `<root>/coordcheck.jsonl` and is not repeated. `--seeds` and `--largest` (a ratio)
make the check smaller.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import result
from benchmarks.coordcheck.faults import FAULTS, FaultySubject
from completedp import files
from completedp.config import ExternalModel, StudyConfig
from completedp.coordcheck import check
from completedp.coordcheck.figure import draw
from completedp.coordcheck.measure import Key, Sizes
from completedp.coordcheck.slopes import Axis
from completedp.coordcheck.subject import Subject
from completedp.lm.preset_files import load_preset
from completedp.runs.local import default_workers
from completedp.seeds import derive_seed

POWER = {"beta_rule": "power"}
RATIOS = (1, 2, 4, 8, 16)
# A planted fault fails at any ratio.
FEWER = (1, 2, 4)
# This fault needs all ratios: half a power more or less is expected of its gradient early in training.
QK_NORM = "QK norm's ε with the width factor"


@dataclass(frozen=True)
class Arm:
    """A parameterization of a model, or a fault in one, on some axes."""

    name: str
    axes: tuple[Axis, ...]
    parameterization: str = "completed-p"
    options: dict[str, Any] = field(default_factory=dict)
    fault: str | None = None
    llama: bool = False
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
    """The cheapest first. α does nothing while the depth is the base's."""
    return [
        Arm("completed-p, α = 1", ("depth", "batch", "width"), options=POWER),
        Arm("completed-p, α = ½", ("depth",), options={**POWER, "alpha": 0.5}),
        Arm("sp", ("depth", "batch", "width"), "sp", ratios=FEWER),
        *(
            Arm(
                name,
                (fault.axis,),
                options=POWER,
                fault=name,
                ratios=RATIOS if name == QK_NORM else FEWER,
            )
            for name, fault in FAULTS.items()
        ),
        Arm("mup", ("depth", "width"), "mup", ratios=FEWER),
        Arm("completep", ("depth", "width"), "completep", ratios=FEWER),
        Arm("Llama, completed-p, α = 1", ("depth", "width"), options=POWER, llama=True),
        Arm("Llama, completed-p, α = ½", ("depth",), options={**POWER, "alpha": 0.5}, llama=True),
        Arm("Llama, sp", ("depth", "width"), "sp", llama=True, ratios=FEWER),
    ]


def main() -> None:
    parser = result.parser(__doc__, "coordcheck.json")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--preset", default="coordinates")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3, help="for every arm")
    parser.add_argument("--largest", type=float, default=16)
    parser.add_argument("--figure", type=Path, default=result.DOCS / "coordcheck.png")
    arguments = parser.parse_args()
    measure(arguments)
    results = {arm.name: judged(arm, arguments) for arm in arms()}
    draw(
        [
            (f"{name}\n{axis}", axis, results[name])
            for name in (
                "completed-p, α = 1",
                "completed-p, α = ½",
                "sp",
                "Llama, completed-p, α = 1",
            )
            for axis in results[name]["axes"]
        ],
        arguments.figure,
    )
    content = {
        "arms": {name: short(document) for name, document in results.items()},
        "faults": named(results),
    }
    result.write(arguments.out, content)
    print(json.dumps(content["faults"], indent=1, ensure_ascii=False))


@dataclass(frozen=True)
class Run:
    """One run of an arm."""

    arm: Arm
    axis: Axis
    ratio: float
    seed: int

    @property
    def name(self) -> str:
        return json.dumps([self.arm.name, self.axis, self.ratio, self.seed])


def measure(arguments: argparse.Namespace) -> None:
    """Make all missing runs, the longest first, one process a core."""
    done = finished(arguments)
    missing = [run for arm in arms() for run in runs(arm, arguments) if run.name not in done]
    missing.sort(key=lambda run: -run.ratio * (4 if run.axis == "width" else 1))
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(default_workers("cpu"), mp_context=spawning) as pool:
        waiting = {pool.submit(sizes_of, run, arguments): run for run in missing}
        for future in as_completed(waiting):
            run, (sizes, seconds) = waiting[future], future.result()
            append(arguments, run, sizes)
            print(
                f"{run.arm.name}: {run.axis} × {run.ratio:g}, seed {run.seed}: {seconds:.0f} s",
                flush=True,
            )


def runs(arm: Arm, arguments: argparse.Namespace) -> Iterator[Run]:
    for axis, seed, ratio in arm.setting(arguments).runs():
        yield Run(arm, axis, ratio, seed)


def sizes_of(run: Run, arguments: argparse.Namespace) -> tuple[Sizes, float]:
    """The sizes and the seconds they took, in a process of its own."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    setting = run.arm.setting(arguments)
    sizes = check.sizes_at(subject(run.arm, arguments), setting, run.axis, run.seed, run.ratio)
    return sizes, time.perf_counter() - began


def subject(arm: Arm, arguments: argparse.Namespace) -> Subject:
    config, cache = load_preset(arguments.preset), arguments.root / "data"
    device = torch.device("cpu")
    if arm.fault is not None:
        return FaultySubject(config, cache, device, FAULTS[arm.fault])
    return check.subject_of(
        as_llama(config, arguments.root) if arm.llama else config, cache, device
    )


def as_llama(config: StudyConfig, root: Path) -> StudyConfig:
    """The preset with a Llama of the same shape."""
    from transformers import LlamaConfig

    own = config.model
    assert not isinstance(own, ExternalModel), "a preset has the reference model"
    heads = own.width // own.head_dim
    described = LlamaConfig(
        hidden_size=own.width,
        intermediate_size=own.ffn,
        num_hidden_layers=own.depth,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        vocab_size=own.vocab_size,
        max_position_embeddings=own.context,
        tie_word_embeddings=False,
    )
    path = root / "llama.json"
    files.write_json(path, described.to_diff_dict())
    model = ExternalModel(
        source=f"hf:{path.resolve()}",
        width=own.width,
        depth=own.depth,
        vocab_size=own.vocab_size,
        context=own.context,
    )
    return dataclasses.replace(config, model=model)


def judged(arm: Arm, arguments: argparse.Namespace) -> dict[str, Any]:
    """The check's document for an arm, from its runs."""
    setting, done = arm.setting(arguments), finished(arguments)
    measured = {(run.axis, run.seed, run.ratio): done[run.name] for run in runs(arm, arguments)}
    document = check.document(setting, measured) | {"axes": list(setting.axes)}
    print(arm.name, "passes" if document["passes"] else "fails", document["farthest"], flush=True)
    return document


def journal_of(arguments: argparse.Namespace) -> Path:
    place: Path = arguments.root / "coordcheck.jsonl"
    return place


def finished(arguments: argparse.Namespace) -> dict[str, Sizes]:
    """Sizes by the run's name, with the same preset and steps."""
    journal = journal_of(arguments)
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


def append(arguments: argparse.Namespace, run: Run, sizes: Sizes) -> None:
    journal = journal_of(arguments)
    journal.parent.mkdir(parents=True, exist_ok=True)
    line = {
        "of": [arguments.preset, arguments.steps],
        "run": json.loads(run.name),
        "sizes": [
            [asdict(key), size if math.isfinite(size) else None] for key, size in sizes.items()
        ],
    }
    with journal.open("a") as file:
        file.write(json.dumps(line) + "\n")


def short(document: dict[str, Any]) -> dict[str, Any]:
    """Each slope with its interval to three digits, by quantity and axis; the first five failures."""
    slopes: dict[str, dict[str, Any]] = {}
    for slope in document["slopes"]:
        place = "" if slope["place"] is None else f" {slope['place']}"
        numbers = [slope[n] and round(slope[n], 3) for n in ("mean", "low", "high")]
        of_quantity = slopes.setdefault(f"{slope['quantity']} over {slope['axis']}", {})
        of_quantity[f"{slope['module']}{place}"] = " ".join(map(str, numbers))
    return document | {"slopes": slopes, "failures": document["failures"][:5]}


def named(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """For every fault the first failure, beside the farthest healthy slope of the same axis."""
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
