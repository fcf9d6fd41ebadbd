"""The modules of an unrolled network: consecutive unrolled steps."""

from typing import Dict, List, NamedTuple, Sequence, Tuple, Union

from meddlr_greedy.errors import UserError

__all__ = ["partition_steps"]


def partition_steps(num_steps: int, num_modules: Union[int, Sequence[int]]) -> List[range]:
    """Cuts ``num_steps`` unrolled steps into modules of consecutive steps.

    Args:
        num_steps: N, the unrolled steps of the network.
        num_modules: K, or the number of steps of each module. An uneven K gives the larger modules first.

    Returns:
        One range of step indices per module.

    Raises:
        UserError: where K is larger than N, or the sizes do not add up to N.
    """
    key = "MISC.GREEDY.NUM_MODULES"
    if isinstance(num_modules, int):
        if not 1 <= num_modules <= num_steps:
            raise UserError(
                f"{key}: found {num_modules}, allowed is 1 to {num_steps} (the number of unrolled steps,"
                " MODEL.UNROLLED.NUM_UNROLLED_STEPS)"
            )
        size, larger = divmod(num_steps, num_modules)
        sizes = [size + 1] * larger + [size] * (num_modules - larger)
    else:
        sizes = list(num_modules)
        if not sizes or min(sizes) < 1 or sum(sizes) != num_steps:
            raise UserError(
                f"{key}: found sizes {sizes}, allowed are positive sizes that add up to {num_steps}"
                " (the number of unrolled steps, MODEL.UNROLLED.NUM_UNROLLED_STEPS)"
            )
    ends = [sum(sizes[: k + 1]) for k in range(len(sizes))]
    return [range(end - size, end) for end, size in zip(ends, sizes)]


class WholeNetwork(NamedTuple):
    """Names in the whole network, of which a process may keep a part."""

    shapes: Dict[str, Tuple[int, ...]]  #: of parameters and buffers
    trainable: List[str]  #: parameters, in the order of the network
