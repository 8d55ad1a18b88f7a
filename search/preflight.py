"""Before anything runs: which preset, what one run costs, and whether that was meant."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from completedp.config import DataConfig, StudyConfig
from completedp.errors import UserError
from completedp.flops import training_flops
from search.ledger import SMALLEST_BUDGET, confirmation_runs, global_runs
from search.space import Space

MOST_EPOCHS = 4  # repeated data is nearly as good as new up to about four times (arXiv 2305.16264)
LONG_SEARCH_HOURS = 1.0
BYTES_PER_BPE_TOKEN = 4  # of English text with a 32k vocabulary, roughly
PROXY_50M_TOKENS = 1.6e9


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a search will cost. `seconds` is for all runs on all workers together, in wall-clock time."""

    runs: int
    workers: int
    epochs: float
    seconds_per_run: float

    @property
    def seconds(self) -> float:
        return self.seconds_per_run * self.runs / self.workers

    @property
    def doubts(self) -> list[str]:
        """Why somebody should say --yes first."""
        doubts = []
        if self.epochs > MOST_EPOCHS:
            doubts.append(
                f"each run reads its training text {self.epochs:.1f} times (more than {MOST_EPOCHS})"
            )
        if self.seconds > LONG_SEARCH_HOURS * 3600:
            doubts.append(f"the search will take about {self.seconds / 3600:.1f} hours")
        return doubts

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, the doubts and the total included."""
        return {**dataclasses.asdict(self), "seconds": self.seconds, "doubts": self.doubts}


def check_budget(budget: int) -> None:
    """Raises `UserError` under the smallest budget."""
    if budget < SMALLEST_BUDGET:
        raise UserError(
            f"--budget is {budget}; expected at least {SMALLEST_BUDGET} runs: 4 confirm the result on "
            "fresh seeds and 8 search"
        )


def choose_preset(device: str, data: DataConfig) -> tuple[str, str]:
    """The preset for `--preset auto`, and why."""
    if device == "cpu":
        return "tiny", "there is no GPU: a run must take seconds on one core"
    size = _text_bytes(data.source)
    enough = PROXY_50M_TOKENS * BYTES_PER_BPE_TOKEN / MOST_EPOCHS
    if size >= enough:
        return (
            "proxy-50m",
            f"a GPU, and {size / 1e9:.1f} GB of text (enough for {MOST_EPOCHS} epochs)",
        )
    return "small", (
        f"a GPU, but {size / 1e9:.2f} GB of text: proxy-50m needs {enough / 1e9:.1f} GB "
        f"for at most {MOST_EPOCHS} epochs"
    )


def _text_bytes(source: str) -> int:
    path = Path(source).expanduser()
    if path.is_dir():
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return path.stat().st_size if path.is_file() else 0


def forecast(
    config: StudyConfig, *, runs: int, workers: int, train_tokens: int, device: str
) -> Forecast:
    """Estimated from the run's exact FLOPs and a matmul rate measured now."""
    from completedp.lm.cost import training_seconds

    flops = training_flops(config.model, config.train.tokens)
    return Forecast(
        runs=runs,
        workers=workers,
        epochs=config.train.tokens / train_tokens,
        seconds_per_run=training_seconds(flops, device, config.train.precision),
    )


def describe(config: StudyConfig, budget: int, cost: Forecast) -> list[str]:
    """The lines printed before a search starts."""
    space = Space.from_config(config)
    confirming = confirmation_runs(budget)
    searching = budget - confirming
    on_global = global_runs(config.search.global_share, searching)
    minutes = cost.seconds / 60
    total = f"{minutes / 60:.1f} h" if minutes > 90 else f"{minutes:.0f} min"
    frozen = f" (frozen: {', '.join(config.search.frozen)})" if config.search.frozen else ""
    return [
        f"space: {len(space.part('global'))} global values, {len(space.part('type'))} module-type and "
        f"{len(space.part('depth'))} depth multipliers{frozen}",
        f"budget: {budget} runs = {on_global} global + {searching - on_global} per module + "
        f"{confirming} to confirm on fresh seeds; strategy {config.search.strategy}",
        f"a run: {config.train.tokens:,} tokens, {cost.epochs:.2f} epochs, about "
        f"{cost.seconds_per_run:.0f} s; {cost.runs} runs, {cost.workers} at a time, about {total}",
    ]
