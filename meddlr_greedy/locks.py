"""One command at a time in an output folder.

A hidden file in the folder says who writes there: host, process, command and since when. A thread renews its time
stamp. The file goes with its command, and so does a folder that was made for nothing. One that a dead command has left
is taken over: on the same machine at once, on another one when it was not renewed for a minute. Whoever runs on for the
same job (restarted by torchrun, requeued by SLURM) does not wait for that.

The file is read and replaced under a lock of the file system, held for that moment. (A lock held all the time would
tell nothing of its holder, and would be inherited by the processes that load data.)
"""

import errno
import json
import os
import platform
import secrets
import shlex
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Iterator, List, Optional, Tuple, Union

import filelock

from meddlr_greedy.errors import UserError, at_end, print_error
from meddlr_greedy.files import printable, remove_partial_files, writing, written_atomically

__all__ = ["LOCK_FILES", "LOG_FILE", "FolderLock", "locked", "lock_until_end"]

#: The log of a folder, which alone is no reason to keep it.
LOG_FILE = "log.txt"
_CLAIM = ".meddlr-greedy.lock"
_GUARD = ".meddlr-greedy.lock.guard"
#: What a lock leaves in a folder while it is held, or after a kill.
LOCK_FILES = (_CLAIM, _GUARD)

# What a file system says that has no locks.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)

_RENEW_S = 10.0
_DEAD_S = 60.0  # a holder on another machine that has not renewed its claim for so long
_GUARD_S = 20.0  # the guard is held for the time of reading and writing a small file


@dataclass(frozen=True)
class _Claim:
    """Who writes in a folder."""

    host: str
    machine: str  # differs where process numbers have another meaning, and after a restart
    pid: int
    started: str  # tells a process from a later one with the same number
    command: str
    since: str
    run: str = ""  # of torchrun
    job: str = ""  # of SLURM
    requeued: int = 0
    token: str = field(default_factory=lambda: secrets.token_hex(8))

    @classmethod
    def of_this_process(cls) -> "_Claim":
        environment = os.environ
        run = environment.get("TORCHELASTIC_RUN_ID", "")
        requeued = environment.get("SLURM_RESTART_COUNT", "")
        return cls(
            host=platform.node(),
            machine=_machine(),
            pid=os.getpid(),
            started=_state_and_start(os.getpid())[1],
            command=printable(shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]]))[:200],
            since=time.strftime("%Y-%m-%d %H:%M:%S"),
            run="" if run == "none" else run,  # torchrun's default for every run
            job=environment.get("SLURM_JOB_ID", ""),
            requeued=int(requeued) if requeued.isdigit() else 0,
        )

    @classmethod
    def read(cls, path: Path) -> Optional["_Claim"]:
        """The claim in a file; ``None`` where there is none that can be read."""
        try:
            return cls(**json.loads(path.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def is_dead(self, mine: "_Claim", age_s: float) -> bool:
        """Whether the process of this claim is gone, as far as another one can tell."""
        if self.machine == mine.machine:
            state, started = _state_and_start(self.pid)
            return state in ("", "Z", "X") or started != self.started
        if mine.run and self.run == mine.run:  # torchrun ends all processes before it starts new ones
            return True
        if mine.job and self.job == mine.job and mine.requeued > self.requeued:
            return True
        return age_s > _DEAD_S


class FolderLock:
    """The right to write in a folder, which one command has at a time.

    Args:
        folder: The folder; it is made where it is missing.
        option: The option or key that named it, for messages.
    """

    def __init__(self, folder: Union[str, "os.PathLike[str]"], option: str):
        self.folder, self._option = Path(folder), option
        self._path = self.folder / _CLAIM
        self._mine = _Claim.of_this_process()
        self._made: List[Path] = []
        self._released = threading.Event()

    def acquire(self) -> None:
        """Takes the lock, and removes what killed commands have left half-written in the folder.

        Raises:
            UserError: Another command has it.
            WriteError: The folder cannot be written to.
        """
        try:
            with writing(self.folder, self._option):
                self._make_folder()
                with self._guarded() as is_guarded:
                    self._check_free()
                    self._write_claim()
                if not is_guarded:
                    print(f"note: {self.folder}: the file system has no locks; a file alone keeps other commands away")
                    time.sleep(0.5)  # of several that have written a claim, the last one has it
                    self._check_free()
        except BaseException:
            self._remove_what_was_made()
            raise
        remove_partial_files(self.folder)
        threading.Thread(target=self._renew, daemon=True).start()

    def release(self) -> None:
        """Gives the lock back; folders that were made for it, and hold nothing else but a log, go, too."""
        if self._released.is_set() or os.getpid() != self._mine.pid:
            return
        self._released.set()
        with suppress(OSError), self._guarded():
            if self._is_mine():
                self._path.unlink()
        self._remove_what_was_made()

    def _make_folder(self) -> None:
        missing = []
        folder = Path(os.path.abspath(self.folder))
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        self.folder.mkdir(parents=True, exist_ok=True)
        self._made = missing

    def _remove_what_was_made(self) -> None:
        with suppress(OSError):
            for folder in self._made:
                if [path.name for path in folder.iterdir()] == [LOG_FILE]:
                    (folder / LOG_FILE).unlink()
                folder.rmdir()

    @contextmanager
    def _guarded(self) -> Iterator[bool]:
        """Inside the block no other command reads or replaces the claim; gives whether the file system can do that."""
        guard = self._acquired_guard()
        try:
            yield guard is not None
        finally:
            # In this order: whoever waits for the file sees that it is gone, and makes a new one.
            (self.folder / _GUARD).unlink(missing_ok=True)
            if guard is not None:
                guard.release()

    def _acquired_guard(self) -> Optional[filelock.BaseFileLock]:
        """The lock of the file system; ``None`` where it has none."""
        guard = filelock.FileLock(str(self.folder / _GUARD), timeout=_GUARD_S)
        deadline = time.monotonic() + _GUARD_S
        while True:
            try:
                guard.acquire()
                return guard
            except FileNotFoundError:  # another command has removed the folder that it had made
                if time.monotonic() > deadline:
                    raise
                self.folder.mkdir(parents=True, exist_ok=True)
            except filelock.Timeout as error:
                raise UserError(f"{self._option}: {self.folder / _GUARD} is held by another process") from error
            except NotImplementedError:
                return None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                return None

    def _check_free(self) -> None:
        claim = _Claim.read(self._path)
        if claim is None or claim.token == self._mine.token:
            return
        age_s = self._age_s()
        if claim.is_dead(self._mine, age_s):
            return
        sign = "" if claim.machine == self._mine.machine else f", last sign of life {max(0.0, age_s):.0f} s ago"
        raise UserError(
            f"{self._option}: {self.folder}: in use by process {claim.pid} on {claim.host} since {claim.since}{sign}"
            f" ({claim.command}); wait for its end, or give another folder"
        )

    def _write_claim(self) -> None:
        with written_atomically(self._path) as partial:
            partial.write_text(json.dumps(asdict(self._mine)))

    def _age_s(self) -> float:
        """How long ago the claim was renewed, by the clock of the file system: those of two hosts may differ."""
        probe = self.folder / f"{_GUARD}-{self._mine.token}"
        try:
            probe.touch()
            return probe.stat().st_mtime - self._path.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def _is_mine(self) -> bool:
        claim = _Claim.read(self._path)
        return claim is not None and claim.token == self._mine.token

    def _renew(self) -> None:
        while not self._released.wait(_RENEW_S):
            claim = _Claim.read(self._path)
            if claim is not None and claim.token != self._mine.token and not self._released.is_set():
                # This process was held up for long, or somebody has removed the claim. Two must not go on.
                print_error(
                    f"{self._option}: {self.folder}: taken over by process {claim.pid} on {claim.host} since"
                    f" {claim.since}; this process ends"
                )
                os._exit(1)
            with suppress(OSError):
                os.utime(self._path)


@contextmanager
def locked(folder: Union[str, "os.PathLike[str]"], option: str) -> Iterator[None]:
    """Inside the block this command alone writes in a folder; see :class:`FolderLock`.

    Args:
        folder: The folder; it is made where it is missing, and goes again where nothing is written in it.
        option: The option or key that named it, for messages.

    Raises:
        UserError: Another command has the lock.
        WriteError: The folder cannot be written to.
    """
    lock = FolderLock(folder, option)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def lock_until_end(folder: Union[str, "os.PathLike[str]"], option: str) -> None:
    """Until the running command ends, it alone writes in a folder; see :func:`locked`."""
    lock = FolderLock(folder, option)
    lock.acquire()
    at_end(lock.release)


def _machine() -> str:
    """Names what process numbers belong to: a machine since it was started, or a container on it."""
    try:
        booted = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{booted} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not on macOS
        return platform.node()


def _state_and_start(pid: int) -> Tuple[str, str]:
    """A process's state, a letter as in ``/proc`` and empty where there is no such process, and when it started."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return fields[0], fields[19]
    except (OSError, IndexError):
        pass
    if os.path.isdir("/proc/self"):
        return "", ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "", ""
    except OSError:  # of another user
        pass
    return "R", ""
