"""Trains a network from a config, greedily or end to end.

Example::

    python -m meddlr_greedy.train_net --config-file configs/cine/greedy.yaml OUTPUT_DIR results/cine-greedy
    python -m meddlr_greedy.train_net --config-file configs/cine/greedy.yaml OUTPUT_DIR results/cine-greedy --resume
"""

import sys
from typing import Any, Optional, Sequence

from meddlr_greedy.config import load_config
from meddlr_greedy.data.datasets import check_dataset_names, register_datasets
from meddlr_greedy.engine.build import trainer_class
from meddlr_greedy.engine.launch import argument_parser, end_at_once, handling_signals, save_config, setup_run
from meddlr_greedy.errors import UserError, exit_with_one_line

__all__ = ["main"]


@exit_with_one_line
def main(argv: Optional[Sequence[str]] = None) -> Any:
    args = argument_parser(__doc__).parse_args(argv)
    if args.eval_only:
        raise UserError("--eval-only: use python -m meddlr_greedy.eval_net")
    with handling_signals(end_at_once):
        cfg = load_config(args.config_file, args.opts)
        trainer_type = trainer_class(cfg)
        register_datasets()
        check_dataset_names([*cfg.DATASETS.TRAIN, *cfg.DATASETS.VAL, *cfg.DATASETS.TEST])
        cfg = setup_run(cfg, args, trains=True)
        trainer = trainer_type(cfg)
        trainer.resume_or_load(resume=args.resume, restart_iter=args.restart_iter)
        save_config(cfg)  # only now, when it is known to work
        return trainer.train()


if __name__ == "__main__":
    main(sys.argv[1:])
