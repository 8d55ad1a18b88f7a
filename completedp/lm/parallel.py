"""Several processes that train one model. They compute what one process would, up to the order of float sums.

torchrun starts the processes, ranks 0 … R−1. Each rank takes its slice of the same batch, so the loss stays
the mean over all tokens of the optimizer's batch. All ranks judge the run by the same mean losses. Only rank
0 prints and writes. `ddp` keeps the whole model on every rank. `fsdp` shards parameters, gradients and
AdamW's moments (FSDP2). Weights stay float32; bfloat16 comes from autocast, as in one process.

Shapes: N rows that the ranks share, P steps whose losses are read at once.
"""

from __future__ import annotations

import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
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

# A rank waits while another one writes a checkpoint. A rank that hangs for longer ends the run.
_TIMEOUT = timedelta(minutes=30)
# All models of a process share the code of the loss, and each shape compiles to one to three graphs. Beyond
# torch's default of 8 graphs, torch would silently run the code uncompiled.
_GRAPHS = 128


def compiled_loss(loss: Callable[..., Any]) -> Loss:
    """The same function, compiled at its first call with each shape."""
    torch._dynamo.config.recompile_limit = _GRAPHS
    return cast(Loss, torch.compile(loss))


def join(kind: str | None) -> ProcessGroup:
    """The group of the processes that torchrun started, for `kind` (`ddp` or `fsdp`).

    With None, or with one process, it is a group of one. Raises `UserError` for an unknown kind.
    """
    if kind is None:
        return ProcessGroup()
    group_class = named({"ddp": DDPGroup, "fsdp": FSDPGroup}, kind, "way to train in parallel")
    if processes() == 1:
        return ProcessGroup()
    if not dist.is_initialized():
        gpus = torch.cuda.is_available() and dist.is_nccl_available()
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=_TIMEOUT)
    return group_class()


def leave() -> None:
    """Leave the group, if there is one. Collective: every rank must call it."""
    if dist.is_initialized():
        dist.destroy_process_group()


def caused_by_another_rank(error: Exception) -> bool:
    """Whether a rank failed only because another rank had ended."""
    closed = ("Connection closed by peer", "Connection reset by peer")
    return isinstance(error, dist.DistError) or any(words in str(error) for words in closed)


class ProcessGroup:
    """One process that trains alone. The classes below override what several processes do differently.

    Every rank must call a method marked "Collective".
    """

    rank, world_size = 0, 1
    # Whether somebody pressed Ctrl-C; the same on every rank.
    interrupted = False

    def __init__(self) -> None:
        self._pressed = threading.Event()

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    def device_name(self, name: str) -> str:
        """This process's device, if the user asked for the device `name`."""
        return name

    def set_device(self, device: torch.device) -> None:
        """Make this the current device."""

    def check_batch(self, model: Model, train: TrainConfig) -> None:
        """Raises `UserError` for a batch that the ranks cannot share evenly."""

    def build_model(self, config: ModelConfig, device: torch.device) -> LanguageModel:
        """A model with its usual parameter names. The values are arbitrary."""
        return LanguageModel(config).to(device)

    def training_loss(self, model: LanguageModel, compiled: bool) -> Loss:
        """The model's loss, wrapped for training."""
        return compiled_loss(model.loss) if compiled else model.loss

    def warm_up_buckets(self, backward: Callable[[], object]) -> None:
        """Prepare for the first step. `backward` makes gradients that are thrown away. Collective."""

    def no_sync(self, loss: Loss) -> AbstractContextManager[None]:
        """A context for the forward and backward of every microbatch but the last, by this `loss`."""
        return nullcontext()

    def assign(self, target: Tensor, value: Tensor) -> None:
        """Set a parameter, or a tensor distributed like one, from a full tensor of values."""
        target.copy_(self.distribute_like(target, value))

    def distribute_like(self, parameter: Tensor, value: Tensor) -> Tensor:
        """A full tensor of the parameter's shape, distributed as the optimizer holds its state."""
        return value.to(parameter.device)

    def full_tensor(self, tensor: Tensor) -> Tensor:
        """The full tensor of a parameter, of its state, or of a gradient norm. Collective."""
        return tensor

    def gather_to_main(self, tensor: Tensor) -> Tensor | None:
        """`full_tensor` on the main rank, None on the others. Collective."""
        return self.full_tensor(tensor)

    def local_slice(self, rows_N: Tensor) -> Tensor:
        """This rank's slice of N rows; N is a multiple of the number of ranks."""
        return rows_N

    def mean_losses(self, losses_P: Tensor) -> list[float]:
        """Means over the ranks. Also sets `interrupted` if any rank got Ctrl-C. Collective."""
        self.interrupted = self._pressed.is_set()
        values: list[float] = losses_P.tolist()
        return values

    def sum(self, number: float) -> float:
        """The sum over the ranks. Collective."""
        return number

    def broadcast(self, number: int) -> int:
        """The main rank's number, 0 or more. Collective."""
        return number

    def collective_errors(self) -> AbstractContextManager[None]:
        """A context for work that may fail on one rank alone. If any rank raises `UserError`, all ranks raise
        `SystemExit`, and the lowest failed rank prints the error. Collective."""
        return nullcontext()

    def one_at_a_time(self, folder: Path) -> AbstractContextManager[None]:
        """A context for what the first process of a machine makes in `folder` and the others find there."""
        return nullcontext()

    @contextmanager
    def shared_interrupt(self) -> Iterator[None]:
        """A context for the training loop: all ranks then see the first Ctrl-C at the same step."""
        with interrupts.deferred() as self._pressed:
            yield


class _MultiProcess(ProcessGroup):
    """One rank of several processes: the common part of `ddp` and `fsdp`."""

    def __init__(self) -> None:
        super().__init__()
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()

    def device_name(self, name: str) -> str:
        if name.startswith("cuda:"):
            raise UserError(
                f"device is {name!r}; each of several processes uses the GPU with its own number: give cuda"
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

    def set_device(self, device: torch.device) -> None:
        if device.type == "cuda":
            torch.cuda.set_device(device)

    def check_batch(self, model: Model, train: TrainConfig) -> None:
        sequences = train.batch // model.context
        if sequences % self.world_size:
            numbers = ", ".join(str(n) for n in range(1, sequences + 1) if sequences % n == 0)
            raise UserError(
                f"train.batch is {train.batch} tokens, {sequences} sequences of {model.context}, which "
                f"{self.world_size} processes cannot share evenly; expected a number of processes among "
                f"{numbers}"
            )

    def gather_to_main(self, tensor: Tensor) -> Tensor | None:
        full = self.full_tensor(tensor)
        return full.cpu() if self.is_main else None

    def local_slice(self, rows_N: Tensor) -> Tensor:
        count, left = divmod(len(rows_N), self.world_size)
        assert not left, "rows that the ranks share evenly"
        return rows_N[self.rank * count : (self.rank + 1) * count]

    def mean_losses(self, losses_P: Tensor) -> list[float]:
        # In float64 the order of the sum does not show. The last number counts the interrupted ranks.
        sums = torch.cat(
            (losses_P.double(), losses_P.new_tensor([self._pressed.is_set()]).double())
        )
        dist.all_reduce(sums)
        *means, ending = (sums / self.world_size).tolist()
        self.interrupted = ending > 0
        return means

    def sum(self, number: float) -> float:
        return _reduced(number, torch.float64, dist.ReduceOp.SUM)

    def broadcast(self, number: int) -> int:
        return int(_reduced(number if self.is_main else 0, torch.int64, dist.ReduceOp.MAX))

    @contextmanager
    def collective_errors(self) -> Iterator[None]:
        mistake: UserError | None = None
        try:
            yield
        except UserError as error:
            mistake = error
        failed = self.rank if mistake else self.world_size
        lowest = int(_reduced(failed, torch.int64, dist.ReduceOp.MIN))
        if lowest == self.world_size:
            return
        if mistake is not None and lowest == self.rank:
            # Printed before any rank ends, because torchrun ends all ranks after the first.
            print(f"error: {mistake}", file=sys.stderr, flush=True)
        self.sum(0)
        leave()
        raise SystemExit(2)

    @contextmanager
    def one_at_a_time(self, folder: Path) -> Iterator[None]:
        with ExitStack() as stack:
            # Without a lock, the processes only do the same work at the same time.
            with suppress(OSError, UserError):
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(folder / ".lock"))
            yield


def _reduced(number: float, dtype: torch.dtype, how: Any) -> float:
    """Reduce one number of every rank to one, on the CPU."""
    cell = torch.tensor(number, dtype=dtype)
    dist.all_reduce(cell, how)
    return cell.item()


# Every rank has the same buffers from the start. torch before 2.13 knows only the older name.
_BUFFERS_STAY: dict[str, Any] = (
    {"forward_sync_buffers": False}
    if "forward_sync_buffers"
    in inspect.signature(nn.parallel.DistributedDataParallel.__init__).parameters
    else {"broadcast_buffers": False}
)


class DDPGroup(_MultiProcess):
    """Every rank holds the whole model; gradients are averaged (DistributedDataParallel)."""

    def __init__(self) -> None:
        super().__init__()
        self._warm = False

    def training_loss(self, model: LanguageModel, compiled: bool) -> Loss:
        device = next(model.parameters()).device
        replica = nn.parallel.DistributedDataParallel(
            _LossModule(model),
            device_ids=None if device.type == "cpu" else [device],
            gradient_as_bucket_view=True,
            **_BUFFERS_STAY,
        )
        return compiled_loss(replica) if compiled else cast(Loss, replica)

    def warm_up_buckets(self, backward: Callable[[], object]) -> None:
        """DDP regroups its gradient buckets after the first backward. With three or more ranks, the order of
        the sums follows the grouping, so a resumed run would differ in its first step."""
        if not self._warm:
            backward()
            self._warm = True

    def no_sync(self, loss: Loss) -> AbstractContextManager[None]:
        replica = cast(nn.parallel.DistributedDataParallel, loss)
        return cast(AbstractContextManager[None], replica.no_sync())


class _LossModule(nn.Module):
    """The loss as a module's forward, because DDP wraps modules."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens_BT: Tensor, target_BT: Tensor, z_loss: float) -> tuple[Tensor, Tensor]:
        return self.model.loss(tokens_BT, target_BT, z_loss)


class FSDPGroup(_MultiProcess):
    """Every tensor is split over the ranks by its first dimension, and whole only while its layer computes
    (FSDP2).

    When a batch is accumulated, gradients are summed as shards, microbatch by microbatch.
    """

    def build_model(self, config: ModelConfig, device: torch.device) -> LanguageModel:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        with torch.device("meta"):
            model = LanguageModel(config)
        mesh = init_device_mesh(device.type, (self.world_size,))
        for module in (model.embedding, *model.layers):
            fully_shard(module, mesh=mesh)
        # The root keeps the final norm and the unembedding whole from forward to backward. The loss reads
        # the unembedding's weight outside any module's forward, so `loss` must count as a forward.
        fully_shard(model, mesh=mesh)
        register_fsdp_forward_method(model, "loss")
        model.to_empty(device=device)
        model.reset_buffers()
        return model

    def training_loss(self, model: LanguageModel, compiled: bool) -> Loss:
        from torch.distributed.fsdp import FSDPModule

        if compiled:
            for layer in model.layers:
                layer.compile()

        def loss(
            tokens_BT: Tensor, target_BT: Tensor, z_loss: float = 0.0
        ) -> tuple[Tensor, Tensor]:
            both = model.loss(tokens_BT, target_BT, z_loss)
            if not torch.is_grad_enabled():
                # No backward follows that would shard the root again.
                cast(FSDPModule, model).reshard()
            return both

        return loss

    def distribute_like(self, parameter: Tensor, value: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(parameter, DTensor), "a parameter of a sharded model"
        # Every rank has the full tensor and keeps its own slice: nothing is sent.
        return distribute_tensor(
            value.to(parameter.device),
            parameter.device_mesh,
            parameter.placements,
            src_data_rank=None,
        )

    def full_tensor(self, tensor: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor

        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
