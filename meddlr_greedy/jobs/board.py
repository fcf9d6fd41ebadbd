"""The key-value store that the processes of a job share."""

import json
import os
import threading
from datetime import timedelta
from typing import Any, Optional

import torch
import torch.distributed as dist

__all__ = ["Board", "PeerLost", "is_lost_connection"]


class PeerLost(ConnectionError):
    """The connection to a neighboring process broke."""

    def __init__(self, rank: int, cause: Any):
        super().__init__(str(cause))
        self.rank = rank


class Board:
    """Where the processes of a job leave word for each other.

    Args:
        store: A store of torch.distributed; not for several threads at a time.
        attempt: Keeps the words of an earlier attempt, which failed and was restarted, apart.
    """

    def __init__(self, store: dist.TCPStore, attempt: str = ""):
        self.store = store
        self.attempt_name = attempt
        self.prefix = f"meddlr_greedy/{attempt}/"

    def write(self, key: str, value: str) -> None:
        self.store.set(self.prefix + key, value)

    def read(self, key: str) -> Optional[str]:
        """What stands there, or None."""
        # Swaps nothing for nothing: the one way to look without waiting that torch 2.2 has, too.
        return self.store.compare_set(self.prefix + key, "", "").decode() or None

    def wait_for(self, key: str) -> str:
        self.store.wait([self.prefix + key], timedelta(days=1))
        return self.store.get(self.prefix + key).decode()

    def attempt(self) -> "Board":
        """The part of the board for the present attempt, where the first process has begun one."""
        return Board(self.store, self.read("attempt") or "none")

    def name(self, rank: int) -> str:
        """A process with its modules, for messages."""
        modules = self.read(f"modules/{rank}")
        return f"rank {rank} ({modules})" if modules else f"rank {rank}"

    def report_failure(self, line: str, status: int) -> bool:
        """Leaves word of a failure; False where another process was first."""
        report = json.dumps({"line": line, "status": status, "by": f"{os.getpid()}/{threading.get_ident()}"})
        return self.store.compare_set(self.prefix + "failure", "", report) == report.encode()

    def failure_status(self) -> Optional[int]:
        """The exit status of the process that failed first, or None."""
        report = self.read("failure")
        return None if report is None else json.loads(report)["status"]


def is_lost_connection(error: BaseException) -> bool:
    """Whether torch.distributed says that the other side is gone."""
    if not isinstance(error, RuntimeError) or isinstance(error, torch.cuda.OutOfMemoryError):
        return False
    return any(word in str(error) for word in ("onnection closed", "onnection reset", "Broken pipe", "gloo", "NCCL"))
