"""One run in several processes, as torchrun starts them: which of them this one is, and what they tell each other.

A process by itself is the only rank, and everything here then gives back what it was given. Small things are said over gloo,
between hosts, so that none of them waits for its device; gradients, and what else is computed there, go over NCCL.
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

# What torchrun sets, and a scheduler's own launcher may.
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

# How long the others wait for one that downloads, compiles or has the larger share of a cache. A process that dies is noticed at
# once, and torchrun notices a machine that does.
PATIENCE = timedelta(hours=2)


class LostRankError(UserError):
    """Another process of the run ended: what this one would have done next needs it."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int = 0
    count: int = 1
    rank_on_node: int = 0

    @classmethod
    def of_environment(cls) -> Ranks:
        """As torchrun's variables say; alone without them."""
        if not all(name in os.environ for name in VARIABLES):
            return cls()
        rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        return cls(rank, count, int(os.environ.get("LOCAL_RANK", rank)))

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    @contextmanager
    def connected(self, device: torch.device) -> Iterator[None]:
        """Joins the others, and leaves them at the end."""
        if self.count == 1:
            yield
            return
        if device.type == "cuda":
            torch.cuda.set_device(device)
        store, rank, count = next(dist.rendezvous("env://"))
        if os.environ.get("LOCAL_WORLD_SIZE") == str(count):
            # torchrun may keep its store when it restarts a run, and the addresses in it are of processes that are gone. Several
            # machines count their restarts each for itself; for them docs/scaling-out.md has another remedy.
            store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=PATIENCE)
        yield
        # Not after an error: NCCL would wait for those that are gone.
        dist.destroy_process_group()

    @contextmanager
    def first_of_node_first(self) -> Iterator[None]:
        """The first process of each machine goes through the block alone, then the others: what it downloads, they find."""
        if self.rank_on_node > 0:
            self.barrier()
        yield
        if self.rank_on_node == 0:
            self.barrier()

    def share(self, items: Sequence[T]) -> list[T]:
        """This rank's part of what all ranks have alike, every `count`-th."""
        return list(items[self.rank :: self.count])

    def turns(self, items: int) -> int:
        """How many of so many items the rank with the most of them has."""
        return -(-items // self.count)

    def barrier(self) -> None:
        """Returns once every rank has come here. Raises LostRankError."""
        self.all_reduce_max(None)

    def all_reduce_max(self, signum: int | None) -> int | None:
        """The highest signal that any rank has received, on every rank; None where none has. Raises LostRankError."""
        if self.count == 1:
            return signum
        highest = torch.tensor(signum or 0)
        with _lost_rank_named():
            dist.all_reduce(highest, dist.ReduceOp.MAX)
        return int(highest) or None

    def all_gather(self, thing: T) -> list[T]:
        """Every rank's, in their order, on every rank. Raises LostRankError."""
        if self.count == 1:
            return [thing]
        things: list[T | None] = [None] * self.count
        with _lost_rank_named():
            dist.all_gather_object(things, thing)
        return things  # type: ignore[return-value]

    def broadcast(self, make: Callable[[], T]) -> T:
        """What the first rank makes, on every rank: files that only its machine has, decisions by its clock. Raises
        LostRankError."""
        things: list[T | None] = [make() if self.first else None]
        if self.count > 1:
            with _lost_rank_named():
                dist.broadcast_object_list(things, src=0)
        return things[0]  # type: ignore[return-value]

    def all_reduce_mean(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Over the ranks, each a 0-dimensional tensor on the device, all in one message. Raises LostRankError."""
        if self.count == 1:
            return values
        means = torch.stack([value.float() for value in values.values()])
        with _lost_rank_named():
            dist.all_reduce(means)
        return dict(zip(values, (means / self.count).unbind(), strict=True))

    def all_reduce_mean_(self, tensors: Iterable[Tensor]) -> None:
        """Replaces floating tensors by their means over the ranks, all in one message. Raises LostRankError."""
        floating = [tensor for tensor in tensors if tensor.is_floating_point()]
        if self.count == 1 or not floating:
            return
        flat = torch.cat([tensor.flatten() for tensor in floating])
        with _lost_rank_named():
            dist.all_reduce(flat)
        means = (flat / self.count).split([tensor.numel() for tensor in floating])
        for tensor, mean in zip(floating, means, strict=True):
            tensor.copy_(mean.view_as(tensor))


@contextmanager
def _lost_rank_named() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo raises nothing more special
        reason = str(error).partition("\n")[0]
        raise LostRankError(f"another process of this run ended, so this one does, and saves nothing ({reason})") from error
