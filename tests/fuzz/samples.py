"""A small folder of everything that the tool reads, all of it valid: what the damaged inputs are made from.

Equal on every call but for the rounding of floats: times are taken out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
from pathlib import Path
from random import Random
from typing import Any

PRESET = """\
schema: 1
model:
  width: 16
  depth: 2
  head_dim: 8
  ffn: 44
  vocab_size: 256
  context: 16
data:
  source: corpus.txt
  tokenizer: bytes
train:
  tokens: 96
  batch: 32
  schedule: cosine
  warmup: 0.1
  final_lr: 0.0
  clip: 1.0
  z_loss: 1.0e-4
  eval_tokens: 128
values:
  lr: 0.03125
  weight_decay: 0.3
  beta1: 0.9
  beta2: 0.95
  eps: 1.0e-8
search:
  strategy: sobol
  stopping: none
  global_share: 0.25
  module_octaves: {lr: 5, eps: 6}
  frozen: [residual]
"""
MODULES = "mlp.up_proj: ffn_up\n'(lm_head)': unembedding\n^model.norm: final_norm\n"
LAW = "A: 482.01\nB: 2085.43\nalpha: 0.3478\nbeta: 0.3658\n"
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 64,
    "max_position_embeddings": 32,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.02,
}
GPT2 = {
    "model_type": "gpt2",
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 2,
    "n_inner": None,
    "n_positions": 32,
    "vocab_size": 64,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
}
STUDY, BUDGET = "s", 12
SHORT, BEGUN = "t", 3
INTERRUPTED_AT = 2  # of three steps


def build() -> None:
    """Write the samples into the current folder, which must be empty."""
    _write("corpus.txt", words(0, 24_000))
    _write("mine.yaml", PRESET)
    _write("modules.yaml", MODULES)
    _write("law.yaml", LAW)
    _write("llama.json", json.dumps(LLAMA, indent=2))
    _write("gpt2.json", json.dumps(GPT2, indent=2))
    _data_files()
    view = _empty_view()
    _study()
    _plans()
    _runs()
    _measured()
    Path("root/mlflow.db").write_bytes(view)


def words(seed: int, size: int) -> str:
    """Text of a small vocabulary, in paragraphs."""
    random = Random(seed)
    lexicon = ["".join(random.choices("abcdefghij", k=4)) for _ in range(30)] + ["é", "漢字", "🙂"]
    lines: list[str] = []
    while size > 0:
        lines.append(" ".join(random.choices(lexicon, k=8)) + ".\n" * random.choice((1, 2)))
        size -= len(lines[-1])
    return "".join(lines)


def _write(path: str, text: str) -> None:
    Path(path).write_text(text, encoding="utf-8")


def _completedp(*arguments: str) -> None:
    from .programs import completedp

    completedp(*arguments)


def _data_files() -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"id": i, "text": words(i, 240)} for i in range(100)]
    _write(
        "rows.jsonl",
        "".join(json.dumps(row, ensure_ascii=i % 2 == 0) + "\n" for i, row in enumerate(rows)),
    )
    pq.write_table(pa.Table.from_pylist(rows), "rows.parquet", row_group_size=40)
    tokens = np.frombuffer(Path("corpus.txt").read_bytes()[:12_000], dtype=np.uint8)
    tokens.astype("<u2").tofile("tokens.bin")
    tokens.astype("<u4").tofile("wide.bin")
    _write("wide.bin.json", json.dumps({"dtype": "uint32"}) + "\n")
    Path("folder").mkdir()
    _write("folder/a.txt", words(1, 12_000))
    _write("folder/b.jsonl", Path("rows.jsonl").read_text(encoding="utf-8"))


def _empty_view() -> bytes:
    """A database without runs: making one takes seconds, and what it holds already `track` does not read."""
    from completedp.tracking.store import Store

    Store(Path("root"))
    return Path("root/mlflow.db").read_bytes()


def _study() -> None:
    """A finished study, trained in this process."""
    import functools

    from rich.console import Console

    from completedp.lm.data import prepare
    from completedp.lm.preset_files import load_preset
    from completedp.runs.local import InProcessExecutor
    from search import study_folder, study_run
    from search.display import display_on
    from search.study import StudySpec
    from search.study_folder import StudyFolder

    config, cache = load_preset("mine.yaml"), Path("root/data").resolve()
    corpus = prepare(config.data, config.model.vocab_size, config.train.eval_tokens, cache)
    data = {
        "digest": corpus.digest,
        "tokens": {"train": corpus.tokens("train")},
        "bytes_per_token": {"report": corpus.bytes_per_token("report")},
    }
    study = StudySpec(name=STUDY, config=config, seed=0, budget=BUDGET, data=data)
    folder = study_folder.create(StudyFolder(root=Path("root"), name=STUDY), study)
    make_job = functools.partial(study_run.language_model_job, config, cache, "cpu")
    study_run.run(
        folder, InProcessExecutor(), make_job, display=display_on(Console(file=io.StringIO()))
    )
    _without_times(folder.journal)
    Path("recipe.yaml").write_bytes(folder.recipe.read_bytes())
    _begun_study(folder.path)


def _begun_study(whole: Path) -> None:
    """The study after `BEGUN` trials: few enough for MLflow to write them in a moment."""
    folder = whole.parent / SHORT
    (folder / "curves").mkdir(parents=True)
    (folder / "study.yaml").write_bytes((whole / "study.yaml").read_bytes())
    lines = (whole / "journal.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    first = json.dumps({**json.loads(lines[0]), "name": SHORT}) + "\n"
    kept = [line for line in lines[1:] if json.loads(line).get("trial", BUDGET) < BEGUN]
    _write(str(folder / "journal.jsonl"), first + "".join(kept))
    for trial in range(BEGUN):
        curve = whole / "curves" / f"{trial}.jsonl"
        (folder / "curves" / curve.name).write_bytes(curve.read_bytes())


def _plans() -> None:
    import functools

    from completedp.lm.preset_files import load_preset
    from completedp.recipe import Recipe
    from search import study_run

    _completedp("transfer", "recipe.yaml", "--width", "24", "--out", "plan.yaml")
    _completedp("export", "plan.yaml", "--format", "json", "--out", "exported.json")
    job = functools.partial(
        study_run.language_model_job, load_preset("mine.yaml"), Path("root/data"), "cpu"
    )
    made = job(0, Recipe.read(Path("recipe.yaml")).hparams, 7, "report")
    _write("job.json", json.dumps(made.to_dict(), indent=1) + "\n")


def _runs() -> None:
    """A finished run that MLflow follows, one that it does not, and one that was interrupted."""
    from completedp.training import jobs, run_folder
    from transfer.planning.planner import read_plan

    _completedp("train", "plan.yaml", "--root", "root", "--device", "cpu")
    _completedp("train", "plan.yaml", "--root", "root", "--device", "cpu", "--out", "finished")
    plan, folder = read_plan(Path("plan.yaml")), Path("interrupted")
    cache = Path("root/data").resolve()
    job = jobs.plan_job(plan, data=plan.data, seed=0, folder=folder, cache=cache, device="cpu")

    def interrupt(progress: Any) -> None:
        # The checkpoint of a step is written after its report.
        if progress.step > INTERRUPTED_AT:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        run_folder.run(job, folder, interrupt, plan=plan)
    for outcome in (*Path("root/runs").glob("*/outcome.json"), Path("finished/outcome.json")):
        _without_times(outcome)


def _measured() -> None:
    """A speed-up's runs of one scale, and a result of three."""
    from completedp.lm.data import prepare
    from completedp.recipe import Recipe
    from completedp.runs.job import Outcome
    from completedp.runs.local import InProcessExecutor
    from completedp.runs.sweep import run_all
    from completedp.seeds import derive_seed
    from completedp.training.jobs import plan_jobs
    from transfer.measuring import speedup
    from transfer.measuring.setting import runs_folder

    recipe, cache = Recipe.read(Path("recipe.yaml")), Path("root/data").resolve()
    seeds = tuple(derive_seed(0, "speedup", i) for i in range(2))
    one = speedup.Setting(scales=(1.0,), fractions=(1.0,), seeds=seeds)
    corpus = prepare(recipe.data, 256, recipe.train.eval_tokens, cache)
    runs = speedup.runs(recipe, recipe.baseline, one)
    pairs = ((run.plan, run.seed) for run in runs)
    jobs = plan_jobs(pairs, cache=cache, device="cpu", digest=corpus.digest)
    folder = runs_folder(Path("root"), speedup.MEASUREMENT, Path("recipe.yaml"))
    run_all(jobs, InProcessExecutor(), folder)
    _without_times(folder / "journal.jsonl")
    three = dataclasses.replace(one, scales=(1.0, 4.0, 16.0), fractions=(0.5, 1.0))
    runs = speedup.runs(recipe, recipe.baseline, three)
    outcomes = {
        i: Outcome(
            trial=i,
            status="completed",
            loss=round(
                3
                + 2 * run.scale**-0.1
                - 0.1 * (run.arm == "tuned")
                + 0.01 * (i % 4)
                - 0.2 * run.fraction,
                4,
            ),
            steps=1,
            tokens=1,
            seconds=1.0,
            seed=run.seed,
        )
        for i, run in enumerate(runs)
    }
    document = speedup.report(recipe, recipe.baseline, three, runs, outcomes)
    _write("speedup.json", json.dumps(document, indent=1) + "\n")


def _without_times(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    text = re.sub(r'"seconds": [-+.\de]+', '"seconds": 1.0', text)
    path.write_text(
        re.sub(r'"tokens_per_second": [-+.\de]+', '"tokens_per_second": 1.0', text),
        encoding="utf-8",
    )
