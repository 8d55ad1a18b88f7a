"""A run that was interrupted ends as if it had not been."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from completedp.errors import UserError
from completedp.lm.checkpoint import Checkpoints
from completedp.lm.train import LanguageModelTask
from completedp.optimizer import adamw
from completedp.runs.divergence import Monitor

from .conftest import losses_of, resolved_for


class Stopped(Exception):
    """Ends a run from its report."""


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
    monkeypatch.setattr(LanguageModelTask, "report_steps", 5)
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


def saved(task: Make, folder: Path) -> tuple[Callable[[], LanguageModelTask], Any, Path]:
    """A run interrupted after 8 steps of 10: how to make it again, its values, its checkpoint."""

    def again() -> LanguageModelTask:
        return task(checkpoints=str(folder), checkpoint_steps=4)

    made = again()
    values = resolved_for(made.model_config)

    def interrupt(step: int, _: float) -> None:
        if step == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(values, 0, Monitor(made.limits, on_step=interrupt))
    return again, values, folder / "step-000000008"


def with_state(path: Path, **changes: Any) -> None:
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(state | changes))


def with_tensors(path: Path, name: str, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(path / name)
    change(tensors)
    save_file(tensors, path / name)


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def in_turn(*damages: Callable[[Path], object]) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        for each in damages:
            each(path)

    return damage


EMBEDDING = "embedding.weight"
MOMENT = f"{EMBEDDING}/exp_avg"
DAMAGES: dict[str, Callable[[Path], object]] = {
    "state.json: not JSON": lambda path: (path / "state.json").write_text("{"),
    "state.json: expected an object": lambda path: (path / "state.json").write_text("[]"),
    "state.json: cannot be read": in_turn(
        lambda path: (path / "state.json").unlink(),
        lambda path: (path / "state.json").mkdir(),
    ),
    "state.json: cannot be read .*symbolic links": in_turn(
        lambda path: (path / "state.json").unlink(),
        lambda path: (path / "state.json").symlink_to("state.json"),
    ),
    "step is '8'": lambda path: with_state(path, step="8"),
    "step is 4, of a run of 10": lambda path: with_state(path, step=4),
    "step is 12, of a run of 10": in_turn(
        lambda path: with_state(path, step=12),
        lambda path: path.rename(path.with_name("step-000000012")),
    ),
    "clipped is -1": lambda path: with_state(path, clipped=-1),
    "clipped is 9, of 8 steps": lambda path: with_state(path, clipped=9),
    "run is None": lambda path: with_state(path, run=None),
    "report is 3": lambda path: with_state(path, report=3),
    "what judges the run: step is missing": lambda path: with_state(path, report={"first": 1}),
    "unknown key 'more'": lambda path: with_state(path, more=1),
    "model.safetensors: no such file": lambda path: (path / "model.safetensors").unlink(),
    "model.safetensors: not a whole safetensors file": lambda path: cut(path / "model.safetensors"),
    "optimizer.safetensors: not a whole": lambda path: cut(path / "optimizer.safetensors"),
    "optimizer.safetensors: no such": in_turn(
        lambda path: (path / "optimizer.safetensors").unlink(),
        lambda path: (path / "optimizer.safetensors").mkdir(),
    ),
    "optimizer.safetensors: not a whole .*header": lambda path: (
        path / "optimizer.safetensors"
    ).write_bytes(b"\xff" * 64),
    "no tensor 'embedding.weight'": lambda path: with_tensors(
        path, "model.safetensors", lambda held: held.pop(EMBEDDING)
    ),
    "unknown tensor 'more'": lambda path: with_tensors(
        path, "model.safetensors", lambda held: held.update(more=torch.zeros(1))
    ),
    "'embedding.weight' is float64 of ": lambda path: with_tensors(
        path, "model.safetensors", lambda held: held.update({EMBEDDING: held[EMBEDDING].double()})
    ),
    "'embedding.weight/exp_avg' is float32 of \\[3\\]; expected float32 of": lambda path: (
        with_tensors(
            path, "optimizer.safetensors", lambda held: held.update({MOMENT: torch.ones(3)})
        )
    ),
    "embedding.weight/step is nan, of 8 steps": lambda path: with_tensors(
        path,
        "optimizer.safetensors",
        lambda held: held.update({f"{EMBEDDING}/step": torch.tensor(float("nan"))}),
    ),
}


@pytest.mark.parametrize("said", DAMAGES)
def test_a_damaged_checkpoint_is_refused_before_anything_is_changed(
    task: Make, tmp_path: Path, said: str
) -> None:
    again, values, path = saved(task, tmp_path)
    DAMAGES[said](path)
    made = again()
    optimizer = adamw(made.model, made.set_values(values, 0))
    made.model.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in made.model.state_dict().items()}
    checkpoints = Checkpoints(folder=tmp_path, every=4)
    checkpoints.open_for(made.run_content(values, 0))
    report = Monitor(made.limits)
    with pytest.raises(UserError, match=said) as refused:
        checkpoints.load(made.model, optimizer, report, 10)
    assert "the checkpoint is damaged (" in str(refused.value)
    assert str(refused.value).endswith(f"remove {tmp_path} to start the run anew")
    assert not optimizer.state
    assert report.step == 0
    assert all(torch.equal(before[k], tensor) for k, tensor in made.model.state_dict().items())


def test_a_damaged_checkpoint_removed_the_run_starts_anew(task: Make, tmp_path: Path) -> None:
    again, values, path = saved(task, tmp_path)
    cut(path / "model.safetensors")
    with pytest.raises(UserError, match="the checkpoint is damaged"):
        again()(values, 0, Monitor(again().limits))
    shutil.rmtree(tmp_path)
    assert losses_of(again(), values) == losses_of(task(), values)


def test_what_is_no_checkpoint_in_the_folder_is_left_alone(task: Make, tmp_path: Path) -> None:
    again, values, _ = saved(task, tmp_path)
    (tmp_path / "step-9-by-hand").mkdir()
    (tmp_path / "step-9-by-hand" / "state.json").write_text("[]")
    (tmp_path / "step-000000009").write_text("mine")
    assert len(losses_of(again(), values)) == 3
    names = {"step-000000010", "step-9-by-hand", "step-000000009"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_disk_without_room_is_told(
    task: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the library that writes tensors, which has an error of its own, and by the system."""
    full = os.strerror(errno.ENOSPC)
    errors = (SafetensorError(f"I/O error: {full}"), OSError(errno.ENOSPC, full))
    for error in errors:

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        made = task(checkpoints=str(tmp_path))
        monkeypatch.setattr("completedp.lm.checkpoint.save_file", fail)
        with pytest.raises(
            UserError, match=r"cannot be written .*No space left.*make room, then go on"
        ):
            losses_of(made, resolved_for(made.model_config))
