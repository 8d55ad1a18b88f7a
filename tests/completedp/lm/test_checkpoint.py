"""A run that was interrupted ends as if it had not been."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from completedp.errors import UserError
from completedp.lm.checkpoint import Checkpoints
from completedp.lm.train import LanguageModelTask
from completedp.runs.divergence import Monitor
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


def test_an_incomplete_checkpoint_beside_a_complete_one(task: Make, tmp_path: Path) -> None:
    made = task(checkpoints=str(tmp_path), checkpoint_steps=2)
    values = resolved_for(made.model_config)
    wanted = losses_of(task(), values)
    interrupted_at(made, values, 4)
    for step in (2, 6):
        (tmp_path / f"step-{step:09d}").mkdir()
        (tmp_path / f"step-{step:09d}" / "model.safetensors").write_text("")
    assert losses_of(made, values) == wanted[4:]
    assert [p.name for p in tmp_path.iterdir()] == ["step-000000010"]


def test_a_checkpoint_has_no_unread_loss(
    task: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where losses are read several at once."""
    monkeypatch.setattr(LanguageModelTask, "_report_steps", 5)
    made = task(checkpoints=str(tmp_path), checkpoint_steps=4)
    values = resolved_for(made.model_config)
    wanted = losses_of(task(), values)
    seen: list[float] = []
    save = Checkpoints.save

    def killed(self: Checkpoints, *arguments: Any) -> None:
        save(self, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            made(values, 0, lambda step, loss: seen.append(loss))
    assert seen == wanted[:4]
    assert losses_of(made, values) == wanted[4:]


def test_a_resumed_run_has_the_whole_curve_and_is_judged_by_it(task: Make, tmp_path: Path) -> None:
    made = task(checkpoints=str(tmp_path), checkpoint_steps=4)
    values = resolved_for(made.model_config)
    whole = Monitor(made.limits)
    task()(values, 0, whole)

    def interrupt(step: int, _: float) -> None:
        if step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(values, 0, Monitor(made.limits, on_step=interrupt))
    for _ in range(2):  # the second time nothing is left to train
        resumed = Monitor(made.limits)
        made(values, 0, resumed)
        assert resumed.state() == whole.state()


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
