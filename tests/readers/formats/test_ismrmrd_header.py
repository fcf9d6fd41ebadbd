"""Headers that are slightly off the schema are read where their meaning is clear, and refused in one line elsewhere."""

import re

import h5py
import ismrmrd
import numpy as np
import pytest

from meddlr_greedy.errors import UserError
from meddlr_greedy.readers.ismrmrd import IsmrmrdReader
from tests.helpers.heart import HEIGHT, WIDTH
from tests.helpers.mrd_lines import MM, Line, header, oversampled, space, write_lines
from tests.helpers.scanners import Mrd, write_mrd

PHASES = 2


@pytest.fixture(scope="module")
def plain(tmp_path_factory, heart):
    """A file of two phases whose lines fill the encoded matrix, without oversampling."""
    kspace = oversampled(heart.coil_images[0, :PHASES], 1)
    lines = [Line(kspace[t, :, :, line], line, phase=t) for t in range(PHASES) for line in range(WIDTH)]
    folder = tmp_path_factory.mktemp("plain")
    return write_lines(folder / "a.h5", header(space(HEIGHT, WIDTH, factor=1, phases=PHASES)), lines)


def changed(source, path, pattern, replacement):
    """The same file with another header."""
    path.write_bytes(source.read_bytes())
    with h5py.File(path, "a") as file:
        xml = file["dataset/xml"][0].decode()
        other = re.sub(pattern, replacement, xml, flags=re.DOTALL)
        assert other != xml
        file["dataset/xml"][0] = other
    return path


CLEAR = {
    "no namespace": (r' xmlns="[^"]*"', "", None),
    "another namespace": (r"http://www.ismrm.org/ISMRMRD", "http://www.ismrm.org/ISMRMRD/2.0", None),
    "a prefix": (r"<(/?)(?=[a-zA-Z])", r"<\1m:", None),
    "unknown elements": (r"<encoding>", "<vendor><x>7</x></vendor><encoding><spokes>9</spokes>", None),
    "no conditions": (r"<experimentalConditions>.*</experimentalConditions>", "", None),
    "capitals": (r">cartesian<", ">CARTESIAN<", None),
    "a name in capitals": (r"trajectory>", "Trajectory>", None),
    "blanks": (r">cartesian<", ">\n  Cartesian <", None),
    "decimals": (r"<x>64</x>", "<x>64.0</x>", None),
    "another decimal": (r"<maximum>1</maximum>", "<maximum>1.000</maximum>", None),
    "a comment": (r"<encoding>", "<!-- by hand --><encoding>", None),
    "a blank before it": (r"^", "\n ", None),
    "no declaration": (r"<\?xml.*?\?>", "", None),
    "no z": (r"<z>.*?</z>", "", None),
    "no limits": (
        r"<encodingLimits>.*</encodingLimits>",
        "",
        "encodingLimits.kspace_encoding_step_1.center is not given; line 24 of 48 is taken to be the middle",
    ),
    "no recon space": (
        r"<reconSpace>.*</reconSpace>",
        "",
        "reconSpace is not given; taken to be encodedSpace, without oversampling",
    ),
    "no trajectory": (r"<trajectory>.*</trajectory>", "", "trajectory is not given; taken to be cartesian"),
}


@pytest.mark.parametrize("case", CLEAR)
def test_a_clear_header_is_read(plain, tmp_path, case):
    pattern, replacement, told = CLEAR[case]
    if case == "a prefix":
        plain = changed(plain, tmp_path / "prefixed.h5", "xmlns=", "xmlns:m=")
    expected = IsmrmrdReader().open_scan(plain) if case != "a prefix" else None
    scan = IsmrmrdReader().open_scan(changed(plain, tmp_path / "b.h5", pattern, replacement))
    assert scan.num_slices == 1 and scan.pixel_spacing_mm == (MM, MM)
    if expected is not None:
        np.testing.assert_array_equal(scan.load_slice(0).kspace, expected.load_slice(0).kspace)
    assert scan.load_slice(0).kspace.shape[:3] == (HEIGHT, WIDTH, PHASES)
    assert [note for note in scan.notes if "header: " in note] == ([f"{scan.path}: header: {told}"] if told else [])


UNCLEAR = {
    "m": (
        r"(<fieldOfView_mm>\s*<x>)320.0",
        r"\g<1>0.32",
        "encodedSpace.fieldOfView_mm.x: found 0.32, allowed a number above 0",
    ),
    "micrometers": (
        r"<y>240.0<",
        "<y>240000<",
        "encodedSpace.fieldOfView_mm.y: found 240000.0, allowed a number above 0",
    ),
    "no field of view": (
        r"<fieldOfView_mm>.*?</fieldOfView_mm>",
        "",
        "fieldOfView_mm.x: found nothing, allowed a number",
    ),
    "no matrix": (
        r"<matrixSize>.*?</matrixSize>",
        "",
        "encodedSpace.matrixSize.x: found nothing, allowed a whole number",
    ),
    "half a line": (r"<y>48</y>", "<y>48.5</y>", "encodedSpace.matrixSize.y: found '48.5', allowed a whole number"),
    "a comma": (r"<y>48</y>", "<y>48,0</y>", "encodedSpace.matrixSize.y: found '48,0', allowed a whole number"),
    "infinite": (r"<y>48</y>", "<y>inf</y>", "encodedSpace.matrixSize.y: found 'inf', allowed a whole number"),
    "radial": (r">cartesian<", ">Radial<", "found a radial trajectory, allowed cartesian"),
    "no encoding": (r"<encoding>.*</encoding>", "", "found encoding spaces 0, allowed one, described in the header"),
    "a document type": (
        r"<ismrmrdHeader",
        '<!DOCTYPE b [<!ENTITY a "aaaaaaaaaa"><!ENTITY c "&a;&a;&a;&a;">]><ismrmrdHeader',
        "the XML header cannot be read (found a document type",
    ),
    "another file": (
        r"ismrmrdHeader",
        "hello",
        "the XML header cannot be read (found <hello>, allowed <ismrmrdHeader>)",
    ),
    "torn": (r"</encoding>.*", "", "the XML header cannot be read"),
}


@pytest.mark.parametrize("case", UNCLEAR)
def test_an_unclear_header_is_refused(plain, tmp_path, case):
    pattern, replacement, message = UNCLEAR[case]
    source = changed(plain, tmp_path / "b.h5", pattern, replacement)
    with pytest.raises(UserError) as error:
        IsmrmrdReader().open_scan(source)
    assert message in str(error.value) and str(source) in str(error.value) and "\n" not in str(error.value)


def test_coordinates_without_a_trajectory_are_refused(plain, tmp_path):
    source = changed(plain, tmp_path / "b.h5", r"<trajectory>.*</trajectory>", "")
    with h5py.File(source, "a") as file:
        records = file["dataset/data"][()]
        records["head"]["trajectory_dimensions"] = 2
        file["dataset/data"][...] = records
    with pytest.raises(UserError, match="trajectory: found nothing, with coordinates in k-space; allowed cartesian"):
        IsmrmrdReader().open_scan(source)


def test_letters_that_are_no_utf_8_do_not_spoil_a_header(plain, tmp_path):
    source = tmp_path / "b.h5"
    source.write_bytes(plain.read_bytes())
    with h5py.File(source, "a") as file:
        xml = file["dataset/xml"][0]
        subject = b"<subjectInformation><patientID>J\xf6rg</patientID></subjectInformation><encoding>"
        file["dataset/xml"][0] = xml.replace(b"<encoding>", subject, 1)
    assert IsmrmrdReader().open_scan(source).subject_id == "J\ufffdrg"


def test_a_system_without_information_has_the_nominal_bandwidth(heart, tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, heart.maps.shape[0], 64)) * (1 + 1j)
    source = write_mrd(tmp_path / "a.h5", heart.coil_images[:1, :2], Mrd(noise=noise))
    expected = IsmrmrdReader().open_scan(source).load_slice(0).kspace
    pattern = r"<acquisitionSystemInformation>.*</acquisitionSystemInformation>"
    for name, other in (
        ("none", ""),
        ("empty", "<acquisitionSystemInformation/>"),
        (
            "zero",
            r"<acquisitionSystemInformation><relativeReceiverNoiseBandwidth>0</relativeReceiverNoiseBandwidth>"
            "</acquisitionSystemInformation>",
        ),
    ):
        scan = IsmrmrdReader().open_scan(changed(source, tmp_path / f"{name}.h5", pattern, other))
        np.testing.assert_array_equal(scan.load_slice(0).kspace, expected)


def test_a_header_that_keeps_to_the_schema_is_read_as_its_library_reads_it(heart, tmp_path):
    source = write_mrd(tmp_path / "a.h5", heart.coil_images[:1], Mrd(subject="P1", matrix=(100, 90)))
    with h5py.File(source) as file:
        read = ismrmrd.xsd.CreateFromDocument(file["dataset/xml"][0])
    scan = IsmrmrdReader().open_scan(source)
    encoded, recon = read.encoding[0].encodedSpace, read.encoding[0].reconSpace
    kspace = scan.load_slice(0).kspace
    factor = encoded.fieldOfView_mm.x / recon.fieldOfView_mm.x
    assert kspace.shape[:2] == (encoded.matrixSize.x / factor, encoded.matrixSize.y)
    assert scan.pixel_spacing_mm == (recon.fieldOfView_mm.x / HEIGHT, encoded.fieldOfView_mm.y / WIDTH)
    assert scan.subject_id == read.subjectInformation.patientID == "P1"
