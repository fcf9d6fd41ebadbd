"""Checkpoints of a chain of processes: those of one process, whatever their number."""

from meddlr_greedy.train_net import main as train_main
from tests.helpers.jobs import CINE, OPTS, ended_well
from tests.helpers.runs import assert_same_training, metrics


def test_resuming_on_other_numbers_of_processes(write_config, tmp_path, start):
    opts = [*OPTS, "MODEL.UNROLLED.DROPOUT", "0.2", "SOLVER.GRAD_ACCUM_ITERS", "2", "MISC.GREEDY.EMA", "0.3"]
    config = write_config(**CINE, out=tmp_path / "whole")
    train_main(["--config-file", str(config), *opts])
    parts = write_config(**CINE, out=tmp_path / "parts")
    run = tmp_path / "parts"
    # Each part ends in the middle of an accumulation window.
    for num, last in ((4, 2), (1, 4), (2, 6)):
        every = ["SOLVER.CHECKPOINT_PERIOD", "1", "MISC.GREEDY.RUN.KEEP_CHECKPOINTS", "0"]
        ended_well(start(num, parts, "--resume", *opts, *every))
        if last < 6:
            (run / "model_final.pth").unlink()
            (run / "last_checkpoint").write_text(f"model_000000{last}.pth")
            for later in range(last + 1, 7):
                (run / f"model_000000{later}.pth").unlink()
    for name in ("model_final.pth", "model_final_ema.pth", "model_best_ema.pth"):
        assert_same_training(tmp_path / "whole" / name, run / name)
    assert [line["iteration"] for line in metrics(run)] == [line["iteration"] for line in metrics(tmp_path / "whole")]


def test_resuming_a_finished_run_evaluates(write_config, tmp_path, start):
    config = write_config(modules=4)
    ended_well(start(2, config))
    (tmp_path / "run" / "model_best.pth").unlink()
    ended_well(start(2, config, "--resume"))
    assert (tmp_path / "run" / "model_best.pth").exists()
    assert "after iteration" not in (tmp_path / "run" / "log.rank0.txt").read_text()  # it does not know the values


def test_without_validation_data_there_is_no_best_checkpoint(write_config, tmp_path, start):
    job = start(2, write_config(modules=4), "DATASETS.VAL", "()", "TEST.EVAL_PERIOD", "2", "MISC.GREEDY.EMA", "0.9")
    ended_well(job)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"model_final.pth", "model_final_ema.pth"} <= names and "model_best.pth" not in names
    assert job.text().count("no model_best.pth is kept") == 1
