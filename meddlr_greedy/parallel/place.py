"""Where a process stands on the mesh (replica, stage)."""

from dataclasses import dataclass

from meddlr_greedy.errors import UserError

__all__ = ["Place"]


@dataclass(frozen=True)
class Place:
    """Where a process stands on the mesh (replica, stage).

    Ranks of a chain are consecutive, so that neighbors are close (on one machine, where it has several devices).
    """

    rank: int
    num_replicas: int
    num_stages: int

    @property
    def replica(self) -> int:
        return self.rank // self.num_stages

    @property
    def stage(self) -> int:
        return self.rank % self.num_stages

    @property
    def num_processes(self) -> int:
        return self.num_replicas * self.num_stages

    @property
    def is_first(self) -> bool:
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        return self.stage == self.num_stages - 1

    @property
    def writer(self) -> int:
        """The rank that writes files and logs: the last of the first chain, where everything arrives in the end."""
        return self.num_stages - 1

    @classmethod
    def of(cls, rank: int, world_size: int, num_replicas: int) -> "Place":
        """Raises:
        UserError: where the processes are no multiple of the replicas.
        """
        if world_size % num_replicas:
            raise UserError(
                f"MISC.GREEDY.PARALLEL.REPLICAS: found {num_replicas}, but {world_size} processes were started;"
                " allowed are the"
                f" divisors of {world_size}"
            )
        return cls(rank, num_replicas, world_size // num_replicas)
