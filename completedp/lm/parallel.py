"""Several processes that train one model: the function of one process, up to the order of float sums.

torchrun starts the processes, ranks 0 … R−1. Each takes its slice of the same batch, so that the loss stays
the mean over all tokens of the optimiser's batch, and each judges the run by the same mean losses. Rank 0
alone prints and writes. `ddp` keeps the whole model on every rank, `fsdp` shards parameters, gradients and
AdamW's moments (FSDP2). Weights stay float32; bfloat16 is autocast's, as in one process.

Shapes: N any rows that the ranks share, P steps whose losses are read at once.
"""

from __future__ import annotations

import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from completedp import interrupts
from completedp.config import Model, ModelConfig, TrainConfig
from completedp.errors import UserError, named
from completedp.launch import processes
from completedp.lm.model import LanguageModel
from completedp.runs.lock import locked

Loss = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]

# A rank may wait as long as another writes a checkpoint; one that hangs for longer ends the run.
_TIMEOUT = timedelta(minutes=30)
# A loss is one piece of code for all models of a process, and each shape is a graph or three of it: beyond
# torch's 8 it would go on uncompiled, without a word.
_GRAPHS = 128


def compiled_loss(loss: Callable[..., Any]) -> Loss:
    """The same function, compiled when it is first called with a shape."""
    torch._dynamo.config.recompile_limit = _GRAPHS
    return cast(Loss, torch.compile(loss))


def join(kind: str | None) -> ProcessGroup:
    """This process's place among those that torchrun started, as `kind` (`ddp`, `fsdp`) trains; alone for
    None and for one process."""
    if kind is None:
        return ProcessGroup()
    team_class = named({"ddp": Replicated, "fsdp": Sharded}, kind, "way to train in parallel")
    if processes() == 1:
        return ProcessGroup()
    if not dist.is_initialized():
        gpus = torch.cuda.is_available() and dist.is_nccl_available()
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=_TIMEOUT)
    return team_class()


def leave() -> None:
    """End this process's part in the group, where it has one; all ranks must come here."""
    if dist.is_initialized():
        dist.destroy_process_group()


def follows_from_another(error: Exception) -> bool:
    """Whether a rank fails only because another has ended."""
    closed = ("Connection closed by peer", "Connection reset by peer")
    return isinstance(error, dist.DistError) or any(words in str(error) for words in closed)


class ProcessGroup:
    """One process that trains alone. What several do otherwise, the classes below override.

    A method marked "together" must be called by every rank.
    """

    rank, ranks = 0, 1
    # Somebody pressed Ctrl-C; the same on every rank.
    interrupted = False

    def __init__(self) -> None:
        self._pressed = threading.Event()

    @property
    def leads(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.rank == 0

    def device_name(self, name: str) -> str:
        """The device of this process where the user gave `name`."""
        return name

    def use(self, device: torch.device) -> None:
        """Train on this device."""

    def check(self, model: Model, train: TrainConfig) -> None:
        """Raises `UserError` for a batch that the ranks cannot share evenly."""

    def build(self, config: ModelConfig, device: torch.device) -> LanguageModel:
        """A model whose parameters have their usual names, with whatever values."""
        return LanguageModel(config).to(device)

    def loss(self, model: LanguageModel, compiled: bool) -> Loss:
        """The model's loss as it is called in training."""
        return compiled_loss(model.loss) if compiled else model.loss

    def settle(self, backward: Callable[[], object]) -> None:
        """Before the first step; `backward` is a pass whose gradients nobody wants. Together."""

    def accumulating(self, loss: Loss) -> AbstractContextManager[None]:
        """Around the forward and backward, by this `loss`, of every part of a batch but its last."""
        return nullcontext()

    def write(self, target: Tensor, value: Tensor) -> None:
        """Set a parameter, or a tensor laid out as one, to a whole tensor of values."""
        target.copy_(value)

    def laid_out_as(self, parameter: Tensor, value: Tensor) -> Tensor:
        """A whole tensor of the parameter's shape, as its optimiser state is held."""
        return value.to(parameter.device)

    def whole(self, tensor: Tensor) -> Tensor:
        """The whole of a parameter, of its state, or of a norm of gradients. Together."""
        return tensor

    def gathered(self, tensor: Tensor) -> Tensor | None:
        """`whole` for the rank that writes, None for the others. Together."""
        return self.whole(tensor)

    def part(self, rows_N: Tensor) -> Tensor:
        """This rank's slice of N rows, which the number of ranks divides."""
        return rows_N

    def means(self, losses_P: Tensor) -> list[float]:
        """The means over the ranks; hears whether any rank is to end (`interrupted`). Together."""
        self.interrupted = self._pressed.is_set()
        values: list[float] = losses_P.tolist()
        return values

    def total(self, number: float) -> float:
        """The sum over the ranks. Together."""
        return number

    def led(self, number: int) -> int:
        """The leading rank's number, which is not negative. Together."""
        return number

    def together(self) -> AbstractContextManager[None]:
        """Around what may fail on one rank alone: where it does with a `UserError`, all end by `SystemExit`,
        and only the lowest such rank says why. Together."""
        return nullcontext()

    def in_turn(self, folder: Path) -> AbstractContextManager[None]:
        """Around what the first process of a machine makes in `folder` and the others find there."""
        return nullcontext()

    @contextmanager
    def attentive(self) -> Iterator[None]:
        """Around the training loop: the first Ctrl-C is then heard by all ranks at the same step."""
        with interrupts.deferred() as self._pressed:
            yield


class _Several(ProcessGroup):
    """What `ddp` and `fsdp` have in common: this process is one rank of a group."""

    def __init__(self) -> None:
        super().__init__()
        self.rank, self.ranks = dist.get_rank(), dist.get_world_size()

    def device_name(self, name: str) -> str:
        if name.startswith("cuda:"):
            raise UserError(
                f"device is {name!r}; each of several processes has the GPU of its own number: give cuda"
            )
        if name not in ("auto", "cuda") or not torch.cuda.is_available():
            return name
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise UserError(
                f"this machine has {gpus} CUDA devices; start at most as many processes on it by "
                "--nproc-per-node, or give --device cpu"
            )
        return f"cuda:{local}"

    def use(self, device: torch.device) -> None:
        if device.type == "cuda":
            torch.cuda.set_device(device)

    def check(self, model: Model, train: TrainConfig) -> None:
        sequences = train.batch // model.context
        if sequences % self.ranks:
            numbers = ", ".join(str(n) for n in range(1, sequences + 1) if sequences % n == 0)
            raise UserError(
                f"train.batch is {train.batch} tokens, {sequences} sequences of {model.context}, which "
                f"{self.ranks} processes cannot share evenly; expected a number of processes among {numbers}"
            )

    def gathered(self, tensor: Tensor) -> Tensor | None:
        whole = self.whole(tensor)
        return whole.cpu() if self.leads else None

    def part(self, rows_N: Tensor) -> Tensor:
        count, left = divmod(len(rows_N), self.ranks)
        assert not left, "rows that the ranks share evenly"
        return rows_N[self.rank * count : (self.rank + 1) * count]

    def means(self, losses_P: Tensor) -> list[float]:
        # In float64, where the sum's order does not show; the last number counts those asked to end.
        sums = torch.cat(
            (losses_P.double(), losses_P.new_tensor([self._pressed.is_set()]).double())
        )
        dist.all_reduce(sums)
        *means, ending = (sums / self.ranks).tolist()
        self.interrupted = ending > 0
        return means

    def total(self, number: float) -> float:
        return _reduced(number, torch.float64, dist.ReduceOp.SUM)

    def led(self, number: int) -> int:
        return int(_reduced(number if self.leads else 0, torch.int64, dist.ReduceOp.MAX))

    @contextmanager
    def together(self) -> Iterator[None]:
        mistake: UserError | None = None
        try:
            yield
        except UserError as error:
            mistake = error
        failed = self.rank if mistake else self.ranks
        lowest = int(_reduced(failed, torch.int64, dist.ReduceOp.MIN))
        if lowest == self.ranks:
            return
        if mistake is not None and lowest == self.rank:
            # Here, because torchrun ends all when the first has ended.
            print(f"error: {mistake}", file=sys.stderr, flush=True)
        self.total(0)
        leave()
        raise SystemExit(2)

    @contextmanager
    def in_turn(self, folder: Path) -> Iterator[None]:
        with ExitStack() as stack:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(folder / ".lock"))
            except (OSError, UserError):
                # Without a lock the processes only do the same work at once.
                pass
            yield


def _reduced(number: float, dtype: torch.dtype, how: Any) -> float:
    """One number of every rank made one, through the processors."""
    cell = torch.tensor(number, dtype=dtype)
    dist.all_reduce(cell, how)
    return cell.item()


# Every rank has the same buffers from the start. Releases before 2.13 know the older name only.
_BUFFERS_STAY: dict[str, Any] = (
    {"forward_sync_buffers": False}
    if "forward_sync_buffers"
    in inspect.signature(nn.parallel.DistributedDataParallel.__init__).parameters
    else {"broadcast_buffers": False}
)


class Replicated(_Several):
    """The whole model on every rank; gradients are averaged (DistributedDataParallel)."""

    def __init__(self) -> None:
        super().__init__()
        self._settled = False

    def loss(self, model: LanguageModel, compiled: bool) -> Loss:
        device = next(model.parameters()).device
        replica = nn.parallel.DistributedDataParallel(
            _LossModule(model),
            device_ids=None if device.type == "cpu" else [device],
            gradient_as_bucket_view=True,
            **_BUFFERS_STAY,
        )
        return compiled_loss(replica) if compiled else cast(Loss, replica)

    def settle(self, backward: Callable[[], object]) -> None:
        """DDP regroups the gradients after its first backward, and the order in which three or more ranks
        add them changes with the grouping: a resumed run would differ in its first step."""
        if not self._settled:
            backward()
            self._settled = True

    def accumulating(self, loss: Loss) -> AbstractContextManager[None]:
        replica = cast(nn.parallel.DistributedDataParallel, loss)
        return cast(AbstractContextManager[None], replica.no_sync())


class _LossModule(nn.Module):
    """The loss as a forward, which is what DDP wraps."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens_BT: Tensor, target_BT: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
        return self.model.loss(tokens_BT, target_BT, z_loss)


class Sharded(_Several):
    """Every tensor split over the ranks by its first dimension, whole only while its layer computes (FSDP2).

    Where a batch is accumulated, gradients are summed as shards, part by part: they are never whole.
    """

    def build(self, config: ModelConfig, device: torch.device) -> LanguageModel:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        with torch.device("meta"):
            model = LanguageModel(config)
        mesh = init_device_mesh(device.type, (self.ranks,))
        for module in (model.embedding, *model.layers):
            fully_shard(module, mesh=mesh)
        # The root keeps the final norm and the unembedding, whose weight the loss reads outside any
        # module's forward, whole from forward to backward; that needs `loss` to count as a forward.
        fully_shard(model, mesh=mesh)
        register_fsdp_forward_method(model, "loss")
        model.to_empty(device=device)
        model.reset_buffers()
        return model

    def loss(self, model: LanguageModel, compiled: bool) -> Loss:
        from torch.distributed.fsdp import FSDPModule

        if compiled:
            for layer in model.layers:
                layer.compile()

        def loss(
            tokens_BT: Tensor, target_BT: Tensor, z_loss: float = 0.0
        ) -> tuple[Tensor, Tensor]:
            both = model.loss(tokens_BT, target_BT, z_loss)
            if not torch.is_grad_enabled():
                # No backward comes to split the root again, and its parameters would stay whole.
                cast(FSDPModule, model).reshard()
            return both

        return loss

    def write(self, target: Tensor, value: Tensor) -> None:
        target.copy_(self.laid_out_as(target, value))

    def laid_out_as(self, parameter: Tensor, value: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(parameter, DTensor), "a parameter of a sharded model"
        # Every rank has the whole tensor and keeps its own part: nothing is sent.
        return distribute_tensor(
            value.to(parameter.device),
            parameter.device_mesh,
            parameter.placements,
            src_data_rank=None,
        )

    def whole(self, tensor: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor

        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
