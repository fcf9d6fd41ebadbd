"""The key-value store that the processes of a job share."""

import errno
import json
import socket
import time
import uuid
from datetime import timedelta
from typing import Optional

import torch.distributed as dist

from meddlr_greedy.errors import UserError
from meddlr_greedy.jobs.environment import Environment

__all__ = ["JOIN_S", "KeyValueStore", "connect"]

#: How long to wait for a process that has not come yet: importing torch from a cold disk can take long.
JOIN_S = 300.0
#: How long to wait for a store that is older than this process: a launcher runs it before it starts the processes.
_AGENT_S = 60.0


def connect(environment: Environment, starts_store: bool = False) -> dist.TCPStore:
    """Connects to the job's store at MASTER_ADDR.

    Args:
        environment: Of this process.
        starts_store: Whether this process runs the store, which lasts as long as what this function returns.

    Raises:
        UserError: Nobody answers at MASTER_ADDR and MASTER_PORT, or the port is in use where the store has to start.
    """
    address, port = environment.master_addr, environment.master_port
    # torch prints pages of C++ frames where these fail, and says less.
    if starts_store:
        _check_free(port)
    else:
        _wait_for_answer(address, port, _AGENT_S if environment.launcher_holds_store else JOIN_S)
    try:
        return dist.TCPStore(
            address, port, is_master=starts_store, wait_for_workers=False, timeout=timedelta(seconds=JOIN_S)
        )
    except RuntimeError as error:
        raise UserError(f"MASTER_ADDR: no store of a job answers at {address}:{port}") from error


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            why = "in use by another process (a second one with RANK 0, or another job)" if in_use else str(error)
            raise UserError(f"MASTER_PORT: found {port}, which is {why}; allowed is a free port") from error


def _wait_for_answer(address: str, port: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((address, port), timeout=max(1.0, deadline - time.monotonic())).close()
            return
        except (OSError, UnicodeError) as error:  # Unicode: what no host can be called
            if time.monotonic() >= deadline:
                reason = getattr(error, "strerror", None) or error
                raise UserError(
                    f"MASTER_ADDR: nobody answers at {address}:{port} within {seconds:.0f} s ({reason});"
                    " allowed is the host of rank 0; was it started?"
                ) from error
        time.sleep(0.2)


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

    def claim(self, key: str, value: str) -> bool:
        """Sets the value of a key that has none; False where another one was first. No two values may be equal."""
        return self.connection.compare_set(self.prefix + key, "", value) == value.encode()

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
        """Records why the job failed, and with which exit status; False where another one was first."""
        report = json.dumps({"line": line, "status": status, "by": uuid.uuid4().hex})
        return self.claim("failure", report)

    def failure_status(self) -> Optional[int]:
        """The exit status of the process that failed first, or None."""
        report = self.read("failure")
        return None if report is None else json.loads(report)["status"]
