"""The key-value store that the processes of a job share."""

import json
import os
import threading
from datetime import timedelta
from typing import Optional

import torch.distributed as dist

from meddlr_greedy.jobs.environment import Environment

__all__ = ["JOIN_S", "KeyValueStore", "connect"]

#: How long to wait for a process that has not come yet: importing torch from a cold disk can take long.
JOIN_S = 300.0


def connect(environment: Environment, starts_store: bool = False) -> dist.TCPStore:
    """Connects to the job's store at MASTER_ADDR.

    Args:
        environment: Of this process.
        starts_store: Whether this process runs the store, which lasts as long as what this function returns.

    Raises:
        RuntimeError: Nobody answers at MASTER_ADDR within ``JOIN_S``.
    """
    return dist.TCPStore(
        environment.master_addr,
        environment.master_port,
        is_master=starts_store,
        wait_for_workers=False,
        timeout=timedelta(seconds=JOIN_S),
    )


class KeyValueStore:
    """The keys of one attempt in the store of a job.

    An attempt is the time from the start of all processes to their end. When it fails, torchrun starts the processes
    again, and they find the same store with the keys of the earlier attempt.

    Args:
        connection: Connection to the store. Each thread needs its own: one that waits locks it for the others.
        attempt: Name of the attempt; empty for the keys that all attempts share.
    """

    def __init__(self, connection: dist.TCPStore, attempt: str = ""):
        self.connection = connection
        self.attempt = attempt
        self.prefix = f"meddlr_greedy/{attempt}/"

    def write(self, key: str, value: str) -> None:
        """Sets the value of a key."""
        self.connection.set(self.prefix + key, value)

    def read(self, key: str) -> Optional[str]:
        """The value of a key, or None where it has none; does not wait."""
        # This swaps nothing for nothing. torch 2.2 has no other way to read a key without waiting for it.
        return self.connection.compare_set(self.prefix + key, "", "").decode() or None

    def wait_for(self, key: str) -> str:
        """The value of a key; waits until another process sets it."""
        self.connection.wait([self.prefix + key], timedelta(days=1))
        return self.connection.get(self.prefix + key).decode()

    def shared(self) -> "KeyValueStore":
        """The keys that all attempts share."""
        return KeyValueStore(self.connection)

    def current_attempt(self) -> "KeyValueStore":
        """The keys of the attempt that the first process has begun last."""
        return KeyValueStore(self.connection, self.shared().read("attempt") or "none")

    def process_name(self, rank: int) -> str:
        """A process for messages: its rank, and its modules where they are known."""
        modules = self.read(f"modules/{rank}")
        return f"rank {rank} ({modules})" if modules else f"rank {rank}"

    def write_modules(self, rank: int, modules: str) -> None:
        """Sets the modules that a process runs, for :meth:`process_name`."""
        self.write(f"modules/{rank}", modules)

    def heartbeat(self, rank: int) -> Optional[str]:
        """The last heartbeat of a process; None where it has not joined yet."""
        return self.read(f"heartbeat/{rank}")

    def write_heartbeat(self, rank: int, heartbeat: str) -> None:
        """Sets the last heartbeat of a process."""
        self.write(f"heartbeat/{rank}", heartbeat)

    def record_failure(self, line: str, status: int) -> bool:
        """Records why the job failed, and with which exit status; False where another process was first."""
        report = json.dumps({"line": line, "status": status, "by": f"{os.getpid()}/{threading.get_ident()}"})
        return self.connection.compare_set(self.prefix + "failure", "", report) == report.encode()

    def failure_status(self) -> Optional[int]:
        """The exit status of the process that failed first, or None."""
        report = self.read("failure")
        return None if report is None else json.loads(report)["status"]
