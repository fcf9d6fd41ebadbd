"""What cannot be spread over processes, refused before the training."""

from meddlr.config import CfgNode
from torch import nn

from meddlr_greedy.config.schema import GreedyConfig, changed_keys, is_greedy
from meddlr_greedy.config.wrappers import CONSISTENCY_SECTIONS, GREEDY_NETWORK, key_of_network, wrappers_of
from meddlr_greedy.data.sampler import ResumableBatchSampler
from meddlr_greedy.errors import UserError
from meddlr_greedy.parallel.partition import check_partition
from meddlr_greedy.parallel.place import Place

__all__ = ["check_last_batches", "check_possible", "check_replicable"]


def check_possible(cfg: CfgNode, place: Place) -> None:
    """Refuses a config that cannot be trained by these processes.

    Args:
        cfg: The config.
        place: Where this process stands, which tells how many stages and replicas there are.

    Raises:
        UserError: names the key, and what would allow it.
    """
    key = key_of_network(cfg)
    if not is_greedy(cfg):
        raise UserError(
            f"{key}: found '{cfg.get_recursive(key)}', but {place.num_processes} processes were"
            f" started; only '{GREEDY_NETWORK}' can be spread (NUM_MODULES 1 with REPLICAS"
            f" {place.num_processes} is backpropagation with data parallelism)"
        )
    _check_keys(GreedyConfig.from_cfg(cfg), place)
    if cfg.MISC.GREEDY.RUN.CUDA_GRAPHS:
        raise UserError(
            f"MISC.GREEDY.RUN.CUDA_GRAPHS: found True, but {place.num_processes} processes were started, which send"
            " images to each other within a step; allowed is False"
        )
    _check_wrappers(cfg, place)
    check_partition(cfg, place.num_stages)
    if cfg.MODEL.UNROLLED.SHARE_WEIGHTS and place.num_stages > 1:
        raise UserError(
            "MODEL.UNROLLED.SHARE_WEIGHTS: found True, but modules of different processes cannot share weights; allowed"
            f" is False, or MISC.GREEDY.PARALLEL.REPLICAS {place.num_processes} (the whole network in each process)"
        )
    if place.num_replicas == 1:
        return
    batch_size, loss = cfg.SOLVER.TRAIN_BATCH_SIZE, cfg.MODEL.RECON_LOSS.NAME
    if batch_size % place.num_replicas:
        raise UserError(
            f"SOLVER.TRAIN_BATCH_SIZE: found {batch_size}, allowed are multiples of {place.num_replicas}"
            " (MISC.GREEDY.PARALLEL.REPLICAS: each replica gets an equal share of a batch)"
        )
    if "sum" in loss:
        raise UserError(
            f"MODEL.RECON_LOSS.NAME: found '{loss}', which is no mean over examples, so that replicas"
            " (MISC.GREEDY.PARALLEL.REPLICAS above 1) cannot average it"
        )


def _check_wrappers(cfg: CfgNode, place: Place) -> None:
    wrappers = wrappers_of(cfg)
    if wrappers and place.num_replicas > 1:
        raise UserError(
            f"MISC.GREEDY.PARALLEL.REPLICAS: found {place.num_replicas}, but {cfg.MODEL.META_ARCHITECTURE} draws for a"
            " batch as a whole, and its losses are no means over the examples of a batch; allowed is 1"
        )
    target = cfg.MISC.GREEDY.CONSISTENCY_TARGET
    if place.num_stages > 1 and target == "network" and set(wrappers) & set(CONSISTENCY_SECTIONS):
        raise UserError(
            f"MISC.GREEDY.CONSISTENCY_TARGET: found '{target}', but a chain has {place.num_stages} processes, and the"
            " image of the last would have to travel back to the first; allowed is 'module'"
        )


def _check_keys(config: GreedyConfig, place: Place) -> None:
    for key, value in changed_keys(config):
        if key.rule.needs_whole_network and place.num_stages > 1:
            raise UserError(
                f"{key.full_name}: found {value}, but a chain has {place.num_stages} processes, and a gradient would"
                f" have to travel back to the process before; allowed is {key.default}, or"
                f" MISC.GREEDY.PARALLEL.REPLICAS {place.num_processes} (the whole network in each process)"
            )


def check_replicable(model: nn.Module, place: Place) -> None:
    """Refuses a network that gives another result for a share of a batch than for the whole.

    Raises:
        UserError: There are several replicas, and the network has BatchNorm.
    """
    norms = [name for name, part in model.named_modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    if place.num_replicas > 1 and norms:
        raise UserError(
            f"MISC.GREEDY.PARALLEL.REPLICAS: found {place.num_replicas}, but '{norms[0]}' normalizes over a"
            " batch, of which a replica sees a share; allowed is 1, or a network without BatchNorm"
        )


def check_last_batches(sampler: ResumableBatchSampler, place: Place) -> None:
    """Refuses an epoch whose last batches cannot be shared equally by the replicas.

    Raises:
        UserError: names ``DATALOADER.DROP_LAST``, which leaves those batches out.
    """
    for rest in sampler.smaller:
        if rest % place.num_replicas:
            raise UserError(
                f"DATALOADER.DROP_LAST: found False, but a last batch of an epoch has {rest} of"
                f" {len(sampler.kinds)} examples, no multiple of {place.num_replicas} (MISC.GREEDY.PARALLEL.REPLICAS);"
                " allowed is True"
            )
