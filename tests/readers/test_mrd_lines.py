"""ISMRMRD files that the tests write at once are those that the format's library writes."""

import h5py
import ismrmrd
import numpy as np

from tests.helpers.mrd_lines import EMBEDDED, Line, as_acquisition, header, space, write_lines


def test_lines_written_at_once_are_those_of_the_library(tmp_path):
    rng = np.random.default_rng(0)
    kinds = [(0, 8, ()), (1, 8, EMBEDDED), (2, 5, ())]  # slice, samples, flags
    data = [rng.standard_normal((3, size)) + 1j * rng.standard_normal((3, size)) for _, size, _ in kinds]
    lines = [Line(x, 4, slice=s, phase=1, flags=flags) for x, (s, _, flags) in zip(data, kinds)]
    xml = header(space(8, 6, phases=2))
    write_lines(tmp_path / "at_once.h5", xml, lines)
    with ismrmrd.Dataset(str(tmp_path / "library.h5"), "dataset", mode="w") as file:
        file.write_xml_header(xml)
        for line in lines:
            file.append_acquisition(as_acquisition(line))
    with h5py.File(tmp_path / "at_once.h5") as found, h5py.File(tmp_path / "library.h5") as expected:
        assert found["dataset/xml"][()].tolist() == expected["dataset/xml"][()].tolist()
        ours, theirs = found["dataset/data"], expected["dataset/data"]
        assert (ours.shape, ours.dtype, ours.chunks, ours.maxshape) == ((3,), theirs.dtype, theirs.chunks, (None,))
        for row, other in zip(ours[()], theirs[()], strict=True):
            assert row["head"] == other["head"]
            np.testing.assert_array_equal(row["data"], other["data"])
            np.testing.assert_array_equal(row["traj"], other["traj"])
    with ismrmrd.Dataset(str(tmp_path / "at_once.h5"), "dataset") as file:
        for i, x in enumerate(data):
            np.testing.assert_array_equal(file.read_acquisition(i).data, x.astype(np.complex64))
