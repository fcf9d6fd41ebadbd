"""The benchmark of the planner's choice, small."""

import pytest

from projects.cine.benchmarks.fastest import fastest
from projects.cine.benchmarks.options import Options


@pytest.fixture
def found(tmp_path):
    return fastest(Options("cpu", 2, tmp_path, small=True))


def test_every_case_is_compared(found):
    fitting, without = found["rows"]
    named, cheapest = fitting["named"], fitting["measured cheapest"]
    assert (named == cheapest) <= (fitting["within 3 %"] == "yes")
    assert without["named"] == "none fits"
    for case, rows in found["all"].items():
        assert {"backpropagation", "backpropagation, SAVED int8", "2 modules, CHECKPOINT block"} <= {
            row["method"] for row in rows
        }
        timed = {row["method"]: row["measured_s"] for row in rows if "all_s" in row}
        if case == fitting["case"]:
            assert min(timed, key=timed.get) == cheapest and fitting["compared"] == len(timed)
            ratio = timed[named] / timed[cheapest]
            assert float(fitting["time of the cheapest"]) == pytest.approx(ratio, abs=1e-3)
            assert (fitting["within 3 %"] == "yes") == (ratio <= 1.03)
            assert "backpropagation, SAVED int8" not in timed
        else:
            assert not timed
    rows = [row for rows in found["all"].values() for row in rows]
    assert all(row["planned_mb"] / row["measured_mb"] == pytest.approx(row["planned/measured"]) for row in rows)
    assert sum(kind["configs"] for kind in found["more_rows"]) == len(rows)
    (int8,) = (kind for kind in found["more_rows"] if kind["method"] == "SAVED int8")
    furthest = max(
        (row for row in rows if "SAVED int8" in row["method"]), key=lambda row: abs(row["planned/measured"] - 1)
    )
    assert int8["configs"] == 4 and int8["measured_mb"] == furthest["measured_mb"]
