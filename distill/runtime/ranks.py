"""One run in several processes, as torchrun starts them: the rank of this process, and the collectives between all ranks.

A process by itself is the only rank. Its collectives then return its own values and send nothing. Small host values go over gloo,
so that no process waits for its device. Gradients and other values on a GPU go over NCCL.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from distill.errors import UserError

T = TypeVar("T")

# torchrun sets these variables. A scheduler's own launcher may set them too.
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

# How long the other ranks wait for a rank that downloads, compiles or has more images of a cache to compute. They notice a dead
# process at once, and torchrun notices a dead machine.
PATIENCE = timedelta(hours=2)


class RankGoneError(UserError):
    """Another process of the run ended, and this process cannot go on without it."""


@dataclass(frozen=True)
class Ranks:
    """The rank of this process among all processes of the run, and the collectives between them."""

    rank: int = 0
    count: int = 1
    rank_on_node: int = 0

    @classmethod
    def of_environment(cls) -> Ranks:
        """Reads torchrun's variables. Without them this process is the only rank."""
        if not all(name in os.environ for name in VARIABLES):
            return cls()
        rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        # A launcher other than torchrun may set no LOCAL_RANK. All processes are then taken to be on one machine.
        return cls(rank, count, int(os.environ.get("LOCAL_RANK", rank)))

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes the run folder."""
        return self.rank == 0

    @contextmanager
    def connected(self, device: torch.device) -> Iterator[None]:
        """Joins the process group, and leaves it at the end of the block unless the block raises."""
        if self.count == 1:
            yield
            return
        if device.type == "cuda":
            torch.cuda.set_device(device)
        store, rank, count = next(dist.rendezvous("env://"))
        if os.environ.get("LOCAL_WORLD_SIZE") == str(count):
            # All processes are on this machine. torchrun may keep its store, through which the processes find one another, when
            # it restarts a run. The store then holds addresses of processes that are gone, and a new prefix hides them. Several
            # machines would not agree on the prefix, because each counts its own restarts. docs/scaling-out.md has a remedy for
            # them.
            store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=PATIENCE)
        yield
        # After an error this must not run, as it would in a `finally`: NCCL would wait for ranks that are gone.
        dist.destroy_process_group()

    @contextmanager
    def first_of_node_first(self) -> Iterator[None]:
        """The first process of each machine runs the block alone. The others run it afterwards, and find what the first one
        downloaded."""
        if self.rank_on_node > 0:
            self.barrier()
        yield
        if self.rank_on_node == 0:
            self.barrier()

    def share(self, items: Sequence[T]) -> list[T]:
        """This rank's part of `items`, which are the same on all ranks: every `count`-th item, from the `rank`-th on."""
        return list(items[self.rank :: self.count])

    def turns(self, items: int) -> int:
        """The number of turns that `items` items take if each rank takes one item a turn. In the last turn some ranks may have
        none."""
        return -(-items // self.count)

    def barrier(self) -> None:
        """Returns once every rank has called it. Raises RankGoneError."""
        self.all_reduce_max(None)

    def all_reduce_max(self, signum: int | None) -> int | None:
        """Returns on every rank the highest signal number that any rank has received, or None. Raises RankGoneError."""
        if self.count == 1:
            return signum
        highest = torch.tensor(signum or 0)
        with _gone_rank_named():
            dist.all_reduce(highest, dist.ReduceOp.MAX)
        return int(highest) or None

    def all_gather(self, thing: T) -> list[T]:
        """Returns on every rank the `thing` of each rank, in the order of the ranks. Raises RankGoneError."""
        if self.count == 1:
            return [thing]
        things: list[T | None] = [None] * self.count
        with _gone_rank_named():
            dist.all_gather_object(things, thing)
        return things  # type: ignore[return-value]

    def broadcast(self, make: Callable[[], T]) -> T:
        """Calls `make` on rank 0 and returns its result on every rank. This is for files that only rank 0's machine has, and for
        decisions that depend on its clock. Raises RankGoneError."""
        things: list[T | None] = [make() if self.first else None]
        if self.count > 1:
            with _gone_rank_named():
                dist.broadcast_object_list(things, src=0)
        return things[0]  # type: ignore[return-value]

    def all_reduce_mean(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns the mean of each value over the ranks. The values are 0-dimensional tensors on the device. All go in one
        message, in float32. Raises RankGoneError."""
        if self.count == 1:
            return values
        means = torch.stack([value.float() for value in values.values()])
        with _gone_rank_named():
            dist.all_reduce(means)
        return dict(zip(values, (means / self.count).unbind(), strict=True))

    def all_reduce_mean_(self, tensors: Iterable[Tensor]) -> None:
        """Replaces each floating-point tensor by its mean over the ranks, all in one message. Others, such as counters, stay as
        they are. Raises RankGoneError."""
        floating = [tensor for tensor in tensors if tensor.is_floating_point()]
        if self.count == 1 or not floating:
            return
        flat = torch.cat([tensor.flatten() for tensor in floating])
        with _gone_rank_named():
            dist.all_reduce(flat)
        means = (flat / self.count).split([tensor.numel() for tensor in floating])
        for tensor, mean in zip(floating, means, strict=True):
            tensor.copy_(mean.view_as(tensor))


@contextmanager
def _gone_rank_named() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo raises nothing more specific
        reason = str(error).partition("\n")[0]
        raise RankGoneError(f"another process of this run ended, so this one does, and saves nothing ({reason})") from error
