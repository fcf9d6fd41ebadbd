"""How processes exchange tensors: NCCL where each has a GPU of its own, gloo through host memory elsewhere."""

import json
import os
import socket
from pathlib import Path
from typing import NamedTuple, Optional, Sequence

import torch
import torch.distributed as dist

from meddlr_greedy.jobs.job import Job

__all__ = ["GLOO", "NCCL", "Gpu", "choose_backend", "connect"]

GLOO = "gloo"
#: What is on a CPU still goes by gloo.
NCCL = "cpu:gloo,cuda:nccl"

# The same in all containers of a machine, and another one on every machine, whatever it is called.
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Gpu(NamedTuple):
    """What tells the GPU of a process from those of all others, however each process numbers them."""

    host: str  #: the machine
    uuid: str  #: of the device
    slot: str  #: PCI address; parts of one GPU (MIG), which NCCL cannot connect, have the same one

    @classmethod
    def of_this_process(cls, device: str) -> Optional["Gpu"]:
        """The current CUDA device of this process; None for a process that computes on the CPU."""
        if not device.startswith("cuda"):
            return None
        index = torch.cuda.current_device()
        found = torch.cuda.get_device_properties(index)
        # Of a torch that tells less: the place among all devices of the machine, of which a process sees some.
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        place = visible[index].strip() if index < len(visible) and visible[index].strip() else str(index)
        names = ("pci_domain_id", "pci_bus_id", "pci_device_id")
        address = ":".join(str(getattr(found, name)) for name in names if hasattr(found, name))
        return cls(_host(), str(getattr(found, "uuid", place)), address or place)


def _host() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return socket.gethostname()


def choose_backend(gpus: Sequence[Optional[Gpu]]) -> str:
    """:data:`NCCL` where each process has a GPU of its own; :data:`GLOO` on CPUs, and where processes share a GPU.

    Args:
        gpus: The GPU of each process of the job; None where it computes on the CPU.
    """
    own = [gpu for gpu in gpus if gpu is not None]
    devices, slots = {(gpu.host, gpu.uuid) for gpu in own}, {(gpu.host, gpu.slot) for gpu in own}
    is_alone = len(own) == len(gpus) == len(devices) == len(slots)
    return NCCL if is_alone and dist.is_nccl_available() else GLOO


def connect(job: Job, device: str) -> str:
    """Connects the processes of a job by the backend that suits their GPUs; all of them call it, and get its name.

    Args:
        job: The job.
        device: ``MODEL.DEVICE``; the current CUDA device is the one of this process.
    """
    found = job.exchange("gpu", json.dumps(Gpu.of_this_process(device)))
    gpus = [None if gpu is None else Gpu(*gpu) for gpu in map(json.loads, found)]
    backend = choose_backend(gpus)
    if backend == NCCL:
        # Threads of a process launch on several communicators; on the GPU these run in the order of their launches.
        os.environ.setdefault("NCCL_LAUNCH_ORDER_IMPLICIT", "1")
    # Without device_id, with which NCCL would connect all processes at once and split that for every group.
    job.init_process_group(backend)
    return backend
