"""Writes the tables of memory methods, ``docs/methods.md``, by trying to build each combination.

Example::

    python -m docs.write_methods --output docs/methods.md
"""

import itertools
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

from meddlr.config import CfgNode
from meddlr.modeling import build_model

from meddlr_greedy.arguments import CommandParser
from meddlr_greedy.config.schema import schema_keys
from meddlr_greedy.errors import UserError, exit_with_one_line
from meddlr_greedy.files import writing, written_atomically
from meddlr_greedy.modeling.contract import check_keys_of_network
from meddlr_greedy.parallel.limits import check_possible
from meddlr_greedy.parallel.place import Place
from projects.cine.support.measuring import make_cfg

HEAD = """# What can be combined

Memory methods, keys of `MISC.GREEDY`: what they do is told in [Choose a method](memory.md). This page is written by
`python -m docs.write_methods`, which builds a small network for each cell. A cell is "yes", or the number of the error
line below.
"""

#: Networks of the tables, with a step size that each allows.
NETWORKS = {
    "2D, gradient steps": ("GeneralizedUnrolledCNN", -1.0),
    "2D, conjugate gradients": ("CGUnrolledCNN", 0.1),
    "cine, gradient steps": ("CineUnrolledCNN", -1.0),
    "cine, conjugate gradients": ("CGCineUnrolledCNN", 0.1),
    "cine, invertible": ("InvertibleCineUnrolledCNN", -0.4),
    "cine, invertible, conjugate gradients": ("InvertibleCGCineUnrolledCNN", 0.5),
}
#: Ways to spread the work.
PROCESSES = {"one process": Place.of(0, 1, 1), "chain": Place.of(0, 2, 1), "replicas": Place.of(0, 2, 2)}


class Method(NamedTuple):
    """A memory method."""

    key: str  #: of ``MISC.GREEDY``
    value: Any

    @property
    def name(self) -> str:
        """As a config has it."""
        value = list(self.value) if isinstance(self.value, tuple) else self.value
        return f"{self.key}: {value}"


def methods() -> List[Method]:
    """All memory methods, in the order of the schema."""
    return [Method(key.name, value) for key in schema_keys() for value in key.rule.methods]


def config_of(network: str, chosen: Sequence[Method]) -> CfgNode:
    """A small config of a network of :data:`NETWORKS`; modules of two steps where no method says another thing."""
    name, step_size = NETWORKS[network]
    cfg = make_cfg("cpu", name, steps=4, features=4, modules=2).clone().defrost()
    cfg.MODEL.UNROLLED.NUM_RESBLOCKS, cfg.MODEL.UNROLLED.STEP_SIZES = 1, (step_size,)
    cfg.MODEL.RECON_LOSS.NAME = "l1"
    cfg.SOLVER.TRAIN_BATCH_SIZE = 2
    for method in chosen:
        cfg.MISC.GREEDY[method.key] = method.value
    return cfg


def refusal(cfg: CfgNode, place: Place) -> str:
    """The error line of a config; none where it can be trained."""
    cfg = cfg.clone()
    cfg.MISC.GREEDY.PARALLEL.REPLICAS = place.num_replicas
    try:
        if place.num_processes > 1:
            check_possible(cfg, place)
        check_keys_of_network(cfg)
        build_model(cfg)
    except UserError as error:
        return str(error)
    return ""


class _Lines:
    """Error lines, numbered in the order in which they are met."""

    def __init__(self) -> None:
        self.numbers: Dict[str, int] = {}

    def cell(self, line: str) -> str:
        return str(self.numbers.setdefault(line, len(self.numbers) + 1)) if line else "yes"


def reference() -> str:
    """The page, as Markdown."""
    lines = _Lines()
    parts = [HEAD, "## Method and network, in one process\n", *_by_network(lines)]
    parts += ["## Method and processes\n", *_by_processes(lines), "## Method and method\n", *_by_method(lines)]
    parts += ["## Error lines\n", *(f"{number}. `{line}`" for line, number in lines.numbers.items())]
    return "\n".join(parts) + "\n"


def _network_for(*chosen: Method) -> str:
    """The first network that allows each of the methods."""
    for network in NETWORKS:
        if not any(refusal(config_of(network, [method]), PROCESSES["one process"]) for method in chosen):
            return network
    return next(iter(NETWORKS))


def _by_network(lines: _Lines) -> Iterator[str]:
    yield from _table(list(NETWORKS))
    for method in methods():
        found = [refusal(config_of(network, [method]), PROCESSES["one process"]) for network in NETWORKS]
        yield _row(method, map(lines.cell, found))
    yield ""


def _by_processes(lines: _Lines) -> Iterator[str]:
    yield from _table(list(PROCESSES))
    for method in methods():
        cfg = config_of(_network_for(method), [method])
        yield _row(method, (lines.cell(refusal(cfg, place)) for place in PROCESSES.values()))
    yield ""


def _by_method(lines: _Lines) -> Iterator[str]:
    known = methods()
    yield from _table([f"`{method.name}`" for method in known])
    cells = dict(_pairs(known, lines))
    for method in known:
        row = (cells.get((method, other)) or cells.get((other, method)) or "" for other in known)
        yield _row(method, row)
    yield ""


def _pairs(known: Sequence[Method], lines: _Lines) -> Iterator[Any]:
    for one, other in itertools.combinations(known, 2):
        if one.key != other.key:
            cfg = config_of(_network_for(one, other), [one, other])
            yield (one, other), lines.cell(refusal(cfg, PROCESSES["one process"]))


def _table(columns: Sequence[str]) -> Iterator[str]:
    yield f"| | {' | '.join(columns)} |"
    yield "|---" * (len(columns) + 1) + "|"


def _row(method: Method, cells: Any) -> str:
    return f"| `{method.name}` | {' | '.join(cells)} |"


def build_parser() -> CommandParser:
    """The parser of the command."""
    parser = CommandParser("python -m docs.write_methods", __doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the page, replaced")
    return parser


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None) -> None:
    """Writes the page; ``argv`` are the arguments, by default those of the process."""
    path = build_parser().parse_args(argv).output
    with writing(path, "--output"), written_atomically(path) as partial:
        partial.write_text(reference())


if __name__ == "__main__":
    main()
