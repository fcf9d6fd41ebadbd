"""How the memory of the host is asked for, decided before torch makes its first tensor."""

import os

__all__ = ["ask_for_huge_pages"]


def ask_for_huge_pages() -> None:
    """Has torch place tensors of 2 MB and more on huge pages, where Linux gives them (x86, ``madvise``).

    glibc gives such tensors back to the system when they are freed, and each new one faults its pages in again: by
    pages of 4 kB a good part of the time of a large training step on a CPU. A variable that is set already stays as it
    is; one that is set after torch's first tensor does nothing.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
