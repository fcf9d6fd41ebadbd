"""Where a process stands on the mesh (replica, stage)."""

from dataclasses import dataclass

from meddlr_greedy.errors import UserError

__all__ = ["Place"]


@dataclass(frozen=True)
class Place:
    """Where a process stands: each replica of the network is a chain of processes, each process a stage of it.

    Ranks of a chain are consecutive, so that neighbors are close (on one machine, where it has several devices).

    Attributes:
        rank: Of this process, from 0.
        num_replicas: R, the number of chains.
        num_stages: D, the number of processes in a chain.
    """

    rank: int
    num_replicas: int
    num_stages: int

    @property
    def replica(self) -> int:
        """The chain of this process, from 0."""
        return self.rank // self.num_stages

    @property
    def stage(self) -> int:
        """The position of this process in its chain, from 0."""
        return self.rank % self.num_stages

    @property
    def num_processes(self) -> int:
        """The world size, R x D."""
        return self.num_replicas * self.num_stages

    @property
    def is_first(self) -> bool:
        """Whether this process reads the batches of its chain."""
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        """Whether this process runs the last module of the network."""
        return self.stage == self.num_stages - 1

    @property
    def io_rank(self) -> int:
        """The rank that writes files and logs: the last of the first chain, where everything arrives in the end."""
        return self.num_stages - 1

    @property
    def is_io_rank(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == self.io_rank

    @classmethod
    def of(cls, rank: int, world_size: int, num_replicas: int) -> "Place":
        """The place of a process in a job.

        Args:
            rank: Of the process, from 0.
            world_size: The number of processes of the job.
            num_replicas: R, ``MISC.GREEDY.PARALLEL.REPLICAS``.

        Raises:
            UserError: The processes are no multiple of the replicas.
        """
        if world_size % num_replicas:
            raise UserError(
                f"MISC.GREEDY.PARALLEL.REPLICAS: found {num_replicas}, but {world_size} processes were started;"
                f" allowed are the divisors of {world_size}"
            )
        return cls(rank, num_replicas, world_size // num_replicas)
