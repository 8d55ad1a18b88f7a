"""Every format that the tool reads: its samples, its damage (`mutations.py`), and the verbs that read it.

A verb that takes long runs on few cases (`every`).

===========  ======================================================================================
format       verbs, each on every case unless n is given: then on every n-th
===========  ======================================================================================
preset       preset; search --dry-run
journal      status; search --resume --dry-run (2); track (10); report (40: it draws for 2 s)
curves       track (4)
recipe       transfer; export; train (10); search --from (10); speedup --dry-run (10)
plan         export, json (2) and the four other formats (5); train (5)
modules      inspect
law          transfer
job          python -m completedp.lm.train (2)
sweep        speedup --dry-run
run          track (4); train (8), which finds the run finished
outcome      train, which finds the run finished
checkpoint   train, which goes on
cache        search --dry-run; train (5)
text … folder  search --dry-run --data
config …     inspect --model hf:; search --model hf: --dry-run (10)
speedup      transfer-fit
exported     export, which refuses it: no verb reads an exported table
===========  ======================================================================================

A journal, a plan or a job that asks for a long training is no fault: `train` is left out there.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from . import programs
from .damage import damaged_bytes
from .mutations import JSON, LINES, PARQUET, TENSORS, TOKENS, YAML, Damage

Files = Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Verb:
    """A command line that is called on every `every`-th case, where `fits` says nothing against it.

    `writes`: patterns of the files that it may change. `out`: what must read back where it succeeds.
    `view`: whether it opens MLflow's database, which a process does once.
    """

    arguments: tuple[str, ...]
    every: int = 1
    program: Callable[..., None] = programs.completedp
    writes: tuple[str, ...] = ()
    out: str | None = None
    fits: Callable[[], bool] = lambda: True
    view: bool = False


@dataclass(frozen=True, kw_only=True)
class Format:
    """Patterns of the samples that are damaged, one or two a case, and of those that must stand beside them.

    `status`: how the verbs end on the undamaged samples.
    """

    name: str
    damaged: Mapping[str, Damage]
    beside: tuple[str, ...] = ()
    verbs: tuple[Verb, ...]
    status: int = 0

    def files(self, samples: Files, number: int) -> tuple[dict[str, bytes], list[str]]:
        """The case's files, and the paths of the damaged ones: none in case 0."""
        wanted = (*self.damaged, *self.beside, *(VIEW if self.opens_view(number) else ()))
        here = {path: content for path, content in samples.items() if _match(path, wanted)}
        if number == 0:
            return here, []
        random = Random(f"{self.name} {number}")
        patterns = list(self.damaged)
        paths = []
        for pattern in random.sample(patterns, k=min(len(patterns), random.choice((1, 1, 1, 2)))):
            paths.append(path := random.choice([p for p in here if _match(p, (pattern,))]))
            here[path] = self.damaged[pattern](random, here[path])
        return here, paths

    def called(self, number: int) -> list[Verb]:
        """The verbs of a case; those of few cases on other cases than each other."""
        shifted = enumerate(self.verbs)
        return [verb for i, verb in shifted if number == 0 or (number + i) % verb.every == 0]

    def opens_view(self, number: int) -> bool:
        return any(verb.view for verb in self.called(number))


def _match(path: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)


# Beyond these a training on the samples' scale takes more than a moment.
MOST_PARAMETERS, MOST_STEPS, MOST_TOKENS_A_STEP = 1_000_000, 40, 4096


def _brief(model: Any, train: Any) -> bool:
    from completedp.config import ModelConfig
    from completedp.models import parameter_count

    return (
        isinstance(model, ModelConfig)
        and parameter_count(model) <= MOST_PARAMETERS
        and model.depth <= 64
        and train.steps <= MOST_STEPS
        and train.batch <= MOST_TOKENS_A_STEP
        and train.eval_tokens <= 100 * MOST_TOKENS_A_STEP
        and train.loop is None
        and not train.compile
    )


def _plan_is_brief(path: str) -> bool:
    """Whether a plan or recipe is refused, or trains in a moment."""
    from transfer.planning.planner import read_plan

    try:
        plan = read_plan(Path(path))
    except Exception:
        return True  # which is for the verb to say
    return _brief(plan.model, plan.train)


def _job_is_brief(path: str) -> bool:
    from completedp.config import ModelConfig, TrainConfig

    try:
        arguments = json.loads(Path(path).read_bytes())["arguments"]
        model, train = ModelConfig(**arguments["model"]), TrainConfig(**arguments["train"])
        return _brief(model, train)
    except Exception:
        return True  # which is for the verb to say


ROOT = ("--root", "root")
CPU = ("--device", "cpu", *ROOT)
STUDY = "root/studies/s"
CORPUS = ("corpus.txt", "root/data/*")
VIEW = ("root/mlflow.db", "root/mlflow.lock", "root/artifacts/*")
TRACKED = (*VIEW, "root/*.mlflow.lock", "root/mlflow.db*")
REPORTED = (
    f"{STUDY}/figures/*",
    f"{STUDY}/recipe.yaml",
    f"{STUDY}/summary.json",
    f"{STUDY}/experiment.json",
    f"{STUDY}/lock",
)


def _searched(*arguments: str, **options: Any) -> Verb:
    told = (
        "search",
        "--budget",
        "12",
        "--preset",
        "mine.yaml",
        *arguments,
        "--dry-run",
        "--yes",
        *CPU,
    )
    return Verb(arguments=told, writes=("root/data/*",), **options)


def _trained(source: str, *arguments: str, every: int, writes: str, **options: Any) -> Verb:
    return Verb(
        arguments=("train", source, *CPU, *arguments),
        every=every,
        writes=(writes, "root/data/*", *TRACKED),
        fits=functools.partial(_plan_is_brief, source),
        **options,
    )


def _exported(form: str, out: str | None = None, every: int = 1) -> Verb:
    told = ("export", "plan.yaml", "--format", form, "--out", "out")
    return Verb(arguments=told, every=every, out=out, writes=("out",))


report = Verb(arguments=("report", "s", *ROOT), writes=REPORTED, every=40)
track = Verb(arguments=("track", *ROOT), writes=TRACKED, view=True, every=4)


def _resumed(name: str, budget: int, every: int = 1) -> Verb:
    told = ("search", "--resume", name, "--budget", str(budget), "--dry-run", "--yes", *CPU)
    return Verb(arguments=told, every=every)


_DATA: Mapping[str, tuple[Mapping[str, Damage], str]] = {
    "text": ({"corpus.txt": damaged_bytes}, "corpus.txt"),
    "jsonl": ({"rows.jsonl": LINES}, "rows.jsonl"),
    "parquet": ({"rows.parquet": PARQUET}, "rows.parquet"),
    "binary": ({"tokens.bin": TOKENS}, "tokens.bin"),
    "sidecar": ({"wide.bin.json": JSON, "wide.bin": damaged_bytes}, "wide.bin"),
    "folder": ({"folder/a.txt": damaged_bytes, "folder/b.jsonl": LINES}, "folder"),
}

FORMATS: Mapping[str, Format] = {
    made.name: made
    for made in (
        Format(
            name="preset",
            damaged={"mine.yaml": YAML},
            beside=CORPUS,
            verbs=(Verb(arguments=("preset", "mine.yaml", *ROOT)), _searched()),
        ),
        Format(
            name="journal",
            damaged={f"{STUDY}/journal.jsonl": LINES, "root/studies/t/journal.jsonl": LINES},
            beside=(*CORPUS, "root/studies/?/*.yaml", "root/studies/?/curves/*"),
            verbs=(
                Verb(arguments=("status", *ROOT)),
                _resumed("s", 17, every=2),
                _resumed("t", 12, every=2),
                report,
                dataclasses.replace(track, every=10),
            ),
        ),
        Format(
            name="curves",
            damaged={"root/studies/t/curves/*.jsonl": LINES},
            beside=("root/studies/t/*.yaml", "root/studies/t/journal.jsonl"),
            verbs=(track,),
        ),
        Format(
            name="recipe",
            damaged={"recipe.yaml": YAML},
            beside=(*CORPUS, "mine.yaml"),
            verbs=(
                Verb(
                    arguments=("transfer", "recipe.yaml", "--width", "64", "--out", "out"),
                    out="plan",
                    writes=("out",),
                ),
                Verb(
                    arguments=("export", "recipe.yaml", "--format", "json", "--out", "out.json"),
                    out="json",
                    writes=("out.json",),
                ),
                _trained("recipe.yaml", "--out", "run", every=10, writes="run/*"),
                _searched("--from", "recipe.yaml", every=10),
                Verb(
                    arguments=("speedup", "recipe.yaml", "--scales", "1,4", "--dry-run", *CPU),
                    every=10,
                    writes=("root/data/*",),
                ),
            ),
        ),
        Format(
            name="plan",
            damaged={"plan.yaml": YAML},
            beside=CORPUS,
            verbs=(
                _exported("json", "json", every=2),
                _exported("torch", "python", every=5),
                _exported("hf", "python", every=5),
                _exported("nanogpt", "python", every=5),
                _exported("torchtitan", "python", every=5),
                _trained("plan.yaml", "--out", "run", every=5, writes="run/*"),
            ),
        ),
        Format(
            name="modules",
            damaged={"modules.yaml": YAML},
            beside=("llama.json",),
            verbs=(
                Verb(
                    arguments=("inspect", "--model", "hf:llama.json", "--modules", "modules.yaml")
                ),
            ),
        ),
        Format(
            name="law",
            damaged={"law.yaml": YAML},
            beside=("recipe.yaml",),
            verbs=(
                Verb(
                    arguments=(
                        *(
                            "transfer",
                            "recipe.yaml",
                            "--flops",
                            "1e12",
                            "--tokens-per-parameter",
                            "law.yaml",
                        ),
                        *("--out", "out"),
                    ),
                    out="plan",
                    writes=("out",),
                ),
            ),
        ),
        Format(
            name="job",
            damaged={"job.json": JSON},
            beside=CORPUS,
            verbs=(
                Verb(
                    arguments=("job.json", "out.json"),
                    program=programs.train_job,
                    every=2,
                    out="json",
                    writes=("out.json", "root/data/*"),
                    fits=functools.partial(_job_is_brief, "job.json"),
                ),
            ),
        ),
        Format(
            name="sweep",
            damaged={"root/speedups/*/journal.jsonl": LINES, "root/speedups/*/curves/*": LINES},
            beside=(*CORPUS, "recipe.yaml"),
            verbs=(
                Verb(
                    arguments=(
                        *(
                            "speedup",
                            "recipe.yaml",
                            "--scales",
                            "1",
                            "--fractions",
                            "1",
                            "--seeds",
                            "2",
                        ),
                        *("--dry-run", *CPU),
                    )
                ),
            ),
        ),
        Format(
            name="run",
            damaged={
                "root/runs/*/run.json": JSON,
                "root/runs/*/plan.yaml": YAML,
                "root/runs/*/curve.jsonl": LINES,
                "root/runs/*/outcome.json": JSON,
            },
            beside=(*CORPUS, "plan.yaml", "root/runs/*"),
            verbs=(
                track,
                _trained("plan.yaml", every=8, writes="root/runs/*", view=True),
            ),
        ),
        Format(
            name="outcome",
            damaged={"finished/outcome.json": JSON},
            beside=(*CORPUS, "plan.yaml", "finished/*"),
            verbs=(_trained("plan.yaml", "--out", "finished", every=1, writes="finished/*"),),
        ),
        Format(
            name="checkpoint",
            damaged={
                "interrupted/checkpoints/*/state.json": JSON,
                "interrupted/checkpoints/*/model.safetensors": TENSORS,
                "interrupted/checkpoints/*/optimizer.safetensors": TENSORS,
                "interrupted/curve.jsonl": LINES,
                "interrupted/run.json": JSON,
            },
            beside=(*CORPUS, "plan.yaml", "interrupted/*"),
            verbs=(_trained("plan.yaml", "--out", "interrupted", every=1, writes="interrupted/*"),),
        ),
        Format(
            name="cache",
            damaged={
                "root/data/*/meta.json": JSON,
                "root/data/*.digest": damaged_bytes,
                "root/data/*.bin": TOKENS,
            },
            beside=(*CORPUS, "mine.yaml", "plan.yaml"),
            verbs=(_searched(), _trained("plan.yaml", "--out", "run", every=5, writes="run/*")),
        ),
        *(
            Format(
                name=name,
                damaged=damaged,
                beside=("mine.yaml", f"{source}*"),
                verbs=(_searched("--data", source),),
            )
            for name, (damaged, source) in _DATA.items()
        ),
        Format(
            name="config",
            damaged={"llama.json": JSON},
            beside=("mine.yaml", "corpus.txt"),
            verbs=(
                Verb(arguments=("inspect", "--model", "hf:llama.json", *ROOT)),
                _searched("--model", "hf:llama.json", every=10),
            ),
        ),
        Format(
            name="config-gpt2",
            damaged={"gpt2.json": JSON},
            verbs=(Verb(arguments=("inspect", "--model", "hf:gpt2.json", *ROOT)),),
        ),
        Format(
            name="speedup",
            damaged={"speedup.json": JSON},
            verbs=(Verb(arguments=("transfer-fit", "speedup.json", "--flops", "1e18", *ROOT)),),
        ),
        Format(
            name="exported",
            damaged={"exported.json": JSON},
            status=2,
            verbs=(
                Verb(
                    arguments=(
                        "export",
                        "exported.json",
                        "--format",
                        "torch",
                        "--out",
                        "out",
                        *ROOT,
                    )
                ),
            ),
        ),
    )
}
