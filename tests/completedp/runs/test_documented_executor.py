"""The executor that docs/executors.md prints runs real jobs."""

import re
from pathlib import Path
from typing import Any

from completedp.config import DataConfig, ModelConfig, TrainConfig
from completedp.hparams import GlobalValues, HParams
from completedp.resolved import resolve
from completedp.runs.job import Job
from completedp.runs.sweep import run_all
from completedp.scale import Ratios

PAGE = Path(__file__).parents[3] / "docs" / "executors.md"


def test_it_trains_and_tells_a_mistake(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 40
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    model = ModelConfig(width=16, depth=1, head_dim=16, ffn=16, vocab_size=256, context=64)
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{i} and {i * i}\n" for i in range(9000)))
    job = Job(
        trial=0,
        task="completedp.lm.train:language_model",
        arguments={
            "model": vars(model),
            "data": vars(DataConfig(source=str(text))),
            "train": vars(TrainConfig(tokens=1024, batch=256, eval_tokens=256)),
            "split": "select",
            "cache": str(tmp_path / "data"),
            "device": "cpu",
        },
        resolved=resolve(HParams(global_=GlobalValues(lr=0.01)), model.inventory(model), Ratios()),
        seed=0,
    )
    executor = names["CommandExecutor"](tmp_path, 2)
    (outcome,) = run_all([job], executor, tmp_path / "sweep").values()
    assert outcome.status == "completed"
    assert outcome.steps == 4
    assert executor.end(5, 2).mistake
    assert not executor.end(5, 1).mistake
