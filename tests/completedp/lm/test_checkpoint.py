"""A run that was interrupted ends as if it had not been."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from completedp.errors import UserError
from completedp.lm.train import LanguageModelTask
from completedp.runs.job import Stopped

from .conftest import losses_of, resolved_for

Make = Callable[..., LanguageModelTask]


def interrupted_at(made: LanguageModelTask, values: Any, last: int) -> list[float]:
    losses: list[float] = []

    def report(step: int, loss: float) -> None:
        if step > last:
            raise Stopped
        losses.append(loss)

    with pytest.raises(Stopped):
        made(values, 0, report)
    return losses


@pytest.mark.parametrize("last", [1, 3, 8])
def test_resume_is_exact(task: Make, tmp_path: Path, last: int) -> None:
    clip = {"train": {"clip": 0.5}}
    whole = task(**clip)
    values = resolved_for(whole.model_config)
    metrics: list[float] = []
    result = whole(values, 0, lambda step, loss: metrics.append(loss))
    kept = {"checkpoints": str(tmp_path), "checkpoint_steps": 2, **clip}
    before = interrupted_at(task(**kept), values, last)
    resumed = task(**kept)
    after: list[tuple[int, float]] = []
    end = resumed(values, 0, lambda step, loss: after.append((step, loss)))
    first = last // 2 * 2
    assert [step for step, _ in after] == list(range(first + 1, 11))
    assert before[:first] + [loss for _, loss in after] == metrics
    assert end.loss == result.loss
    assert end.metrics["clipped_fraction"] == result.metrics["clipped_fraction"] > 0
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000010"]
    assert losses_of(task(**kept), values) == [result.loss], "nothing is left to train"


def test_a_torn_checkpoint_is_no_checkpoint(
    task: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = task(checkpoints=str(tmp_path), checkpoint_steps=2)
    values = resolved_for(made.model_config)
    wanted = losses_of(task(), values)
    module = __import__("completedp.lm.checkpoint", fromlist=["files"])
    write = module.files.write_json

    def killed(path: Path, data: Any) -> None:
        if data["step"] == 4:
            raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(module.files, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        losses_of(made, values)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".writing", "step-000000002"]
    monkeypatch.undo()
    assert losses_of(made, values) == wanted[2:]


def test_another_runs_checkpoint_is_refused(task: Make, tmp_path: Path) -> None:
    made = task(checkpoints=str(tmp_path))
    values = resolved_for(made.model_config)
    losses_of(made, values)
    for other in ((values, 1), (resolved_for(made.model_config, lr=0.02), 0)):
        with pytest.raises(UserError, match="belongs to a run with other values"):
            losses_of(made, *other)


def test_a_folder_that_cannot_be_made(task: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    made = task(checkpoints=str(tmp_path / "file" / "folder"))
    with pytest.raises(UserError, match="cannot be written"):
        losses_of(made, resolved_for(made.model_config))
