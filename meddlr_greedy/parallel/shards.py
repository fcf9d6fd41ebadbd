"""Between the state of one process of a chain, which knows its own parameters alone, and that of the whole network.

Checkpoints have the format of a single process. meddlr's optimizers have one parameter group for each trainable
parameter, in the order of the network, so that everything below is a list with one entry for each parameter.
"""

from typing import Any, Dict, List, Sequence

__all__ = ["merge_optimizers", "merge_schedulers", "select_optimizer", "select_scheduler"]

State = Dict[str, Any]

# What a scheduler keeps for each parameter group.
_PER_GROUP = ("base_lrs", "_last_lr")


def select_optimizer(whole: State, positions: Sequence[int]) -> State:
    """Of an optimizer's state, the part of the parameters at ``positions`` in the whole network.

    Also of an accumulating optimizer (which holds another one under the key "optimizer").
    """
    if "optimizer" in whole:
        part = {**whole, "optimizer": select_optimizer(whole["optimizer"], positions)}
        if whole.get("gradients"):
            part["gradients"] = [whole["gradients"][i] for i in positions]
        return part
    groups = [{**whole["param_groups"][i], "params": [own]} for own, i in enumerate(positions)]
    state = {own: whole["state"][i] for own, i in enumerate(positions) if i in whole["state"]}
    return {"state": state, "param_groups": groups}


def merge_optimizers(parts: Sequence[State], positions: Sequence[Sequence[int]]) -> State:
    """Joins the states of an optimizer in the processes to that of the whole network.

    Args:
        parts: The state in each process.
        positions: Where the parameters of each process stand in the whole network.
    """
    first = parts[0]
    if "optimizer" in first:
        whole = {**first, "optimizer": merge_optimizers([part["optimizer"] for part in parts], positions)}
        if first.get("gradients"):
            whole["gradients"] = _merged([part["gradients"] for part in parts], positions)
        return whole
    groups = _merged([part["param_groups"] for part in parts], positions)
    state = {
        i: part["state"][own]
        for part, part_positions in zip(parts, positions)
        for own, i in enumerate(part_positions)
        if own in part["state"]
    }
    return {
        "state": {i: state[i] for i in sorted(state)},
        "param_groups": [{**group, "params": [i]} for i, group in enumerate(groups)],
    }


def select_scheduler(whole: State, positions: Sequence[int]) -> State:
    """Of a scheduler's state, the part of the parameters at ``positions``."""
    return {key: [value[i] for i in positions] if key in _PER_GROUP else value for key, value in whole.items()}


def merge_schedulers(parts: Sequence[State], positions: Sequence[Sequence[int]]) -> State:
    """Joins the states of a scheduler in the processes to that of the whole network; see :func:`merge_optimizers`."""
    return {
        key: _merged([part[key] for part in parts], positions) if key in _PER_GROUP else value
        for key, value in parts[0].items()
    }


def _merged(lists: Sequence[Sequence[Any]], positions: Sequence[Sequence[int]]) -> List[Any]:
    by_position = {i: value for values, own in zip(lists, positions) for value, i in zip(values, own)}
    return [by_position[i] for i in range(len(by_position))]
