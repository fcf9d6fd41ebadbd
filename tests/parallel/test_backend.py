"""NCCL or gloo, by the GPUs that the processes of a job have, however they were launched."""

from types import SimpleNamespace

import pytest
import torch

from meddlr_greedy.jobs.environment import Environment
from meddlr_greedy.parallel import backend
from meddlr_greedy.parallel.backend import GLOO, NCCL, Gpu, choose_backend, connect


def process(host, visible, rank=0, size=2, **variables):
    """A process: where it runs, the GPUs of the machine that it sees, and what its launcher tells it."""
    return SimpleNamespace(host=host, visible=visible, variables={"RANK": rank, "WORLD_SIZE": size, **variables})


def torchrun(machines, processes, visible):
    """torchrun on some machines: all processes of one see the same GPUs."""
    size = machines * processes
    return [
        process(f"m{m}", visible, m * processes + k, size, LOCAL_RANK=k, LOCAL_WORLD_SIZE=processes)
        for m in range(machines)
        for k in range(processes)
    ]


def slurm(machines, visible_of_tasks, **variables):
    """A task for each process, with the GPUs that it is bound to; SLURM tells neither LOCAL_WORLD_SIZE nor more."""
    tasks = [(m, k, visible) for m in range(machines) for k, visible in enumerate(visible_of_tasks)]
    return [
        process(f"m{m}", visible, rank, len(tasks), **{name: k for name in variables})
        for rank, (m, k, visible) in enumerate(tasks)
    ]


SITUATIONS = {
    "torchrun, a GPU for each": (torchrun(1, 4, [0, 1, 2, 3]), NCCL),
    "torchrun, more GPUs than processes": (torchrun(1, 2, [0, 1, 2, 3]), NCCL),
    "torchrun, two share one GPU": (torchrun(1, 2, [0]), GLOO),
    "torchrun, four on three": (torchrun(1, 4, [0, 1, 2]), GLOO),
    "torchrun, two machines": (torchrun(2, 2, [0, 1]), NCCL),
    "torchrun, two machines, shared GPUs": (torchrun(2, 2, [0]), GLOO),
    "SLURM, each task sees its own": (slurm(1, [[0], [1], [2]], LOCAL_RANK=1), NCCL),
    "SLURM, each task sees its own, two machines": (slurm(2, [[0], [1]], LOCAL_RANK=1), NCCL),
    "SLURM, each task sees the same one": (slurm(1, [[2], [2]], LOCAL_RANK=1), GLOO),
    "SLURM, all tasks see all, no LOCAL_RANK": (slurm(2, [[0, 1], [0, 1]]), NCCL),
    "SLURM, no LOCAL_RANK, more tasks than GPUs": (slurm(1, [[0, 1]] * 3), GLOO),
    "the same visible number on other machines": (slurm(3, [[0]], LOCAL_RANK=1), NCCL),
}


@pytest.fixture
def as_process(monkeypatch):
    """as_process(process): what this process then finds in the place of its GPUs and its environment."""

    def become(one, identities=("uuid", "pci_domain_id", "pci_bus_id", "pci_device_id")):
        for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_USE_AGENT_STORE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {**one.variables, "MASTER_ADDR": "m0", "MASTER_PORT": 1}.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(map(str, one.visible)))
        current = Environment.read().local_rank % len(one.visible)  # as engine.setup chooses it

        def properties(index):
            number = one.visible[index]
            values = {
                "uuid": f"GPU-{one.host}-{number}",
                "pci_domain_id": 0,
                "pci_bus_id": number,
                "pci_device_id": 0,
            }
            return SimpleNamespace(**{name: values[name] for name in identities})

        monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
        monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
        monkeypatch.setattr(backend, "_host", lambda: one.host)
        monkeypatch.setattr(backend.dist, "is_nccl_available", lambda: True)

    return become


@pytest.mark.parametrize("identities", [("uuid", "pci_domain_id", "pci_bus_id", "pci_device_id"), ("uuid",), ()])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_backend_of_a_launch(as_process, situation, identities):
    processes, expected = SITUATIONS[situation]
    found = []
    for one in processes:
        as_process(one, identities)
        found.append(Gpu.of_this_process("cuda"))
    assert choose_backend(found) == expected


def test_parts_of_one_gpu_and_cpus(monkeypatch):
    monkeypatch.setattr(backend.dist, "is_nccl_available", lambda: True)
    whole = Gpu("m0", "GPU-1", "0:1:0")
    assert choose_backend([whole, Gpu("m0", "GPU-2", "0:2:0")]) == NCCL
    assert choose_backend([Gpu("m0", "MIG-1", "0:1:0"), Gpu("m0", "MIG-2", "0:1:0")]) == GLOO
    assert choose_backend([whole, Gpu("m1", "GPU-2", "0:1:0")]) == NCCL
    assert choose_backend([None, None]) == choose_backend([whole, None]) == GLOO
    assert Gpu.of_this_process("cpu") is None
    monkeypatch.setattr(backend.dist, "is_nccl_available", lambda: False)
    assert choose_backend([whole, Gpu("m0", "GPU-2", "0:2:0")]) == GLOO


@pytest.mark.parametrize("situation", ["torchrun, two machines", "torchrun, two share one GPU"])
def test_all_processes_exchange_what_they_have(as_process, monkeypatch, situation):
    processes, expected = SITUATIONS[situation]
    monkeypatch.delenv("NCCL_LAUNCH_ORDER_IMPLICIT", raising=False)
    told, begun = {}, []
    for last in (False, True):  # the second time each finds what all have told
        for rank, one in enumerate(processes):
            as_process(one)

            def exchange(key, value, rank=rank):
                told[rank] = value
                return [told.get(r, value) for r in range(len(processes))]

            job = SimpleNamespace(exchange=exchange, init_process_group=begun.append)
            chosen = connect(job, "cuda")
            assert not last or chosen == expected
    assert begun[-len(processes) :] == [expected] * len(processes)
    assert ("NCCL_LAUNCH_ORDER_IMPLICIT" in backend.os.environ) == (expected == NCCL)
