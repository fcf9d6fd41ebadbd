"""Annotations of a data set: which files are in which split."""

import json
from dataclasses import dataclass
from typing import Any, Dict, Sequence, Tuple

from meddlr_greedy.preparation.splits import SPLITS

__all__ = ["ScanEntry", "annotations"]


@dataclass(frozen=True)
class ScanEntry:
    """One file of a data set, as its annotation lists it."""

    split: str
    file_name: str
    subject_id: str
    slices: Sequence[int]
    example_size: Tuple[int, ...]  # (H, W, T, C), or (H, W, C) in 2D


def annotations(entries: Sequence[ScanEntry], description: str, split_by: str, parameters: Any) -> Dict[str, str]:
    """File name -> content, of the splits that are not empty."""
    contents = {}
    for split in SPLITS:
        images = [
            {
                "file_name": entry.file_name,
                "subject_id": entry.subject_id,
                "slices": list(entry.slices),
                "kspace_size": [len(entry.slices), *entry.example_size],
            }
            for entry in entries
            if entry.split == split
        ]
        info = {"description": description, "split_by": split_by, "parameters": parameters}
        if images:
            contents[f"{split}.json"] = json.dumps({"info": info, "images": images}, indent=1) + "\n"
    return contents
