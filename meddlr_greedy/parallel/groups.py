"""The groups of processes that exchange CUDA tensors by NCCL, connected before any thread uses them.

NCCL connects a group when it is first used. Threads of one process that do so at a time, in another order than those of
another process, wait for one another for ever. So all groups are made, and used once, by the main threads, in an order
that is the same everywhere; and each way from one process to the next has a group of its own.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
import torch.distributed as dist

from meddlr_greedy.errors import UserError, last_line
from meddlr_greedy.jobs.failure import is_lost_connection
from meddlr_greedy.parallel.place import Place

__all__ = ["Groups", "connecting_order"]

Ranks = Tuple[int, ...]


def connecting_order(place: Place) -> List[Ranks]:
    """The ranks of all groups of a job, in the order in which they are connected.

    First the pairs of each chain that begin at an even stage, then those that begin at an odd one, so that half of all
    pairs connect at a time; then, where there are several replicas, the processes of the same stage.
    """
    chains = [range(i * place.num_stages, (i + 1) * place.num_stages) for i in range(place.num_replicas)]
    pairs = [(chain[s], chain[s + 1]) for begin in (0, 1) for chain in chains for s in range(begin, len(chain) - 1, 2)]
    replicas = list(zip(*chains)) if len(chains) > 1 else []
    return [*pairs, *replicas]


class Groups(NamedTuple):
    """The groups that a process is in; None is the group of all, or that there is no such exchange."""

    receiving: Any = None  #: with the process before
    sending: Any = None  #: with the process after
    replicas: Any = None  #: with those that run the same modules in all replicas

    @classmethod
    def make(cls, place: Place, connected_on: Optional[torch.device]) -> "Groups":
        """Makes the groups; all processes of the job call it at the same time, before they start threads.

        Args:
            place: Where this process stands.
            connected_on: The device whose tensors are exchanged, where groups have to be connected beforehand. None:
                the ways between processes need no groups.

        Raises:
            UserError: Processes cannot be connected as they are set up.
        """
        order = connecting_order(place)
        wanted = order if connected_on is not None else [ranks for ranks in order if _are_replicas(ranks, place)]
        groups: Dict[Ranks, Any] = {ranks: dist.new_group(list(ranks)) for ranks in wanted}  # of all, by all
        own = {ranks: group for ranks, group in groups.items() if place.rank in ranks}
        if connected_on is not None:
            for ranks, group in own.items():
                _use_once(ranks, group, place, connected_on)
        replicas = next((group for ranks, group in own.items() if _are_replicas(ranks, place)), None)
        before, after = (place.rank - 1, place.rank), (place.rank, place.rank + 1)
        pairs = {ranks: group for ranks, group in own.items() if not _are_replicas(ranks, place)}
        return cls(pairs.get(before), pairs.get(after), replicas)


def _are_replicas(ranks: Ranks, place: Place) -> bool:
    return len({rank % place.num_stages for rank in ranks}) == 1


def _use_once(ranks: Ranks, group: Any, place: Place, device: torch.device) -> None:
    token = torch.zeros(1, device=device)
    try:
        if _are_replicas(ranks, place):
            dist.all_reduce(token, group=group)
        elif place.rank == ranks[0]:
            dist.send(token, ranks[1], group=group)
        else:
            dist.recv(token, ranks[0], group=group)
        if token.is_cuda:
            torch.cuda.synchronize(device)
    except RuntimeError as error:
        if is_lost_connection(error):
            raise
        raise UserError(
            f"NCCL cannot connect the processes of ranks {', '.join(map(str, ranks))} ({last_line(error)}); each needs"
            " a GPU of its own, and a network interface that reaches the others (NCCL_SOCKET_IFNAME names it;"
            " NCCL_DEBUG=INFO tells more)"
        ) from error
