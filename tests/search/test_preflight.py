"""The lines before a search starts, and the cases that want a --yes."""

import dataclasses
import sysconfig
from pathlib import Path

import pytest
import torch
from studies import study_of

from completedp.config import DataConfig, StudyConfig
from completedp.errors import UserError
from completedp.lm.preset_files import load_preset
from completedp.training.forecast import Forecast
from search import preflight
from search.request import new_study
from search.study import SMALLEST_BUDGET, Study, confirmation_runs


def test_a_cpu_gets_tiny_whatever_the_data() -> None:
    assert preflight.choose_preset("cpu", DataConfig())[0] == "tiny"


def test_a_gpu_gets_as_much_as_its_text_allows(tmp_path: Path) -> None:
    assert preflight.choose_preset("cuda", DataConfig())[0] == "small"
    corpus = tmp_path / "corpus.txt"
    with corpus.open("wb") as file:
        file.truncate(2_000_000_000)  # sparse: takes no room
    assert preflight.choose_preset("cuda", DataConfig(source=str(corpus)))[0] == "proxy-50m"
    assert preflight.choose_preset("cuda", DataConfig(source=str(tmp_path)))[0] == "proxy-50m"


@pytest.mark.parametrize(
    ("epochs", "seconds", "doubts"), [(1.0, 5.0, 0), (4.1, 5.0, 1), (1.0, 60.0, 1), (9.0, 60.0, 2)]
)
def test_doubts(epochs: float, seconds: float, doubts: int) -> None:
    cost = Forecast(runs=200, workers=2, epochs=epochs, seconds_per_run=seconds)
    assert len(cost.doubts) == doubts
    assert cost.to_dict()["doubts"] == cost.doubts


def test_the_announced_parts_of_the_budget_sum_to_it(config: StudyConfig) -> None:
    cost = Forecast(runs=200, workers=2, epochs=0.1, seconds_per_run=5.0)
    line = preflight.describe(Study(spec=study_of(config, budget=200), records=[]), None, cost)[2]
    numbers = [
        int(word) for word in line.replace("=", " ").replace("+", " ").split() if word.isdigit()
    ]
    assert numbers[0] == sum(numbers[1:4]) == 200
    assert numbers[3] == confirmation_runs(200)


def test_the_forecast_is_of_the_right_size() -> None:
    """A run of `tiny` takes 5 to 20 s on one core of any machine of the last decade."""
    tiny = load_preset("tiny")
    cost = preflight.forecast(tiny, runs=200, workers=2, train_tokens=10**7, device="cpu")
    assert cost.seconds_per_run is not None
    assert 0.5 < cost.seconds_per_run < 120
    assert cost.epochs == tiny.train.tokens / 10**7


class TestCompilation:
    @pytest.fixture(autouse=True)
    def compiler(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(preflight, "can_compile", lambda: True)

    @staticmethod
    def compiled(config: StudyConfig, wanted: bool | None, budget: int, device: str) -> bool:
        made = preflight.with_compilation(config, budget=budget, device=device, wanted=wanted)
        assert made == dataclasses.replace(config, train=made.train)
        return made.train.compile

    def test_where_it_saves_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tiny = load_preset("tiny")
        assert self.compiled(tiny, None, 200, "cpu")
        assert not self.compiled(tiny, None, 60, "cpu")
        assert not self.compiled(tiny, None, 200, "cuda")
        own = dataclasses.replace(tiny.train, loop="mine:factory")
        assert not self.compiled(dataclasses.replace(tiny, train=own), None, 200, "cpu")
        monkeypatch.setattr(preflight, "can_compile", lambda: False)
        assert not self.compiled(tiny, None, 200, "cpu")

    def test_as_the_preset_or_the_user_says(self) -> None:
        small = load_preset("small")
        assert small.train.compile
        assert self.compiled(small, None, 12, "cuda")
        assert not self.compiled(small, False, 12, "cuda")
        assert not self.compiled(load_preset("tiny"), False, 200, "cpu")
        assert self.compiled(load_preset("tiny"), True, 12, "cpu")

    def test_other_machines_compilers_are_not_known(self, tmp_path: Path) -> None:
        for remote in (False, True):
            asked = new_study(
                "tiny", budget=200, root=tmp_path, name="s", seed=0, device="cpu", remote=remote
            )
            assert asked.config.train.compile is not remote


def test_what_compiling_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    headers = tmp_path / "include"
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / name))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    headers.mkdir()
    (headers / "Python.h").touch()
    assert not preflight.can_compile()
    compiler = tmp_path / "g++"
    compiler.touch(mode=0o755)
    assert preflight.can_compile()
    (headers / "Python.h").unlink()
    assert not preflight.can_compile()


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
def test_the_time_on_another_machines_gpu_is_not_known(config: StudyConfig) -> None:
    cost = preflight.forecast(config, runs=200, workers=2, train_tokens=10**7, device="cuda")
    assert cost.seconds is None
    assert cost.doubts == []
    study = Study(spec=study_of(config, budget=200), records=[])
    assert "unknown time" in preflight.describe(study, None, cost)[-1]


def test_budget() -> None:
    preflight.check_budget(SMALLEST_BUDGET)
    with pytest.raises(UserError, match="--budget is 11"):
        preflight.check_budget(11)
