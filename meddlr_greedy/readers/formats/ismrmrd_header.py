"""The XML header of ISMRMRD files, also where it is slightly off the schema but its meaning is clear.

Only what is used is looked at. Namespaces, the case of names, and elements that the schema does not know say nothing;
whole numbers may be written "256.0". What is missing and can be assumed is told of; all else is refused.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union
from xml.etree import ElementTree

from meddlr_greedy.errors import UserError, first_line
from meddlr_greedy.limits import LARGEST_LENGTH, is_length

__all__ = ["Encoding", "Header"]

_LARGEST_COUNT = 65535  # counters of acquisitions have 16 bits
_MOST_CHARACTERS = 16 << 20
# Of a field of view in mm. One in m, as some converters write it, lies below, one in micrometers above.
_LEAST_MM, _MOST_MM = 1.0, 10_000.0
# Keyword of DICOM -> the element that says the same; of several (one for each echo, say) the first counts.
_STUDY = {
    "StudyInstanceUID": "studyInformation.studyInstanceUID",
    "FrameOfReferenceUID": "measurementInformation.frameOfReferenceUID",
    "PatientID": "subjectInformation.patientID",
    "PatientPosition": "measurementInformation.patientPosition",
    "RepetitionTime": "sequenceParameters.TR",
    "EchoTime": "sequenceParameters.TE",
    "InversionTime": "sequenceParameters.TI",
    "FlipAngle": "sequenceParameters.flipAngle_deg",
    "MagneticFieldStrength": "acquisitionSystemInformation.systemFieldStrength_T",
}
# A header has no document type; one can hold entities that grow without end.
_DOCUMENT_TYPE = re.compile(r"<!(DOCTYPE|ENTITY)", re.IGNORECASE)


@dataclass(frozen=True)
class Encoding:
    """What the header says of one encoding space. x is the readout, y the phase encode.

    Args:
        path: The file, for messages.
        matrix: Points of an oversampled readout, and lines.
        fov_mm: The field of view along them.
        recon_fov_mm: Along the readout, without oversampling.
        center_line: The line through the center of k-space; ``None`` where it is not given.
        trajectory: In lower case; ``None`` where it is not given.
        notes: What was assumed.
    """

    path: Path
    matrix: Tuple[int, int]
    fov_mm: Tuple[float, float]
    recon_fov_mm: float
    center_line: Optional[int]
    trajectory: Optional[str]
    notes: Tuple[str, ...]
    _element: ElementTree.Element

    @staticmethod
    def of(path: Path, element: ElementTree.Element) -> "Encoding":
        """The encoding that an element describes.

        Raises:
            UserError: It lacks a matrix or a field of view, or a number makes no sense.
        """
        notes = []
        recon, center = "reconSpace", "encodingLimits.kspace_encoding_step_1.center"
        if _find(element, recon) is None:
            recon = "encodedSpace"
            notes.append(f"{path}: header: reconSpace is not given; taken to be encodedSpace, without oversampling")
        center_line = None
        if _find(element, center) is not None:
            center_line = _whole(path, element, center, least=0)
        trajectory = _text(element, "trajectory")
        if not trajectory:
            notes.append(f"{path}: header: trajectory is not given; taken to be cartesian")
        return Encoding(
            path,
            (
                _whole(path, element, "encodedSpace.matrixSize.x", least=1),
                _whole(path, element, "encodedSpace.matrixSize.y", least=1),
            ),
            (
                _length(path, element, "encodedSpace.fieldOfView_mm.x"),
                _length(path, element, "encodedSpace.fieldOfView_mm.y"),
            ),
            _length(path, element, f"{recon}.fieldOfView_mm.x"),
            center_line,
            trajectory.lower() if trajectory else None,
            tuple(notes),
            element,
        )

    def announced_phases(self) -> int:
        """Cardiac phases that the header announces; 0 where it says nothing.

        Raises:
            UserError: The number makes no sense.
        """
        name = "encodingLimits.phase.maximum"
        return 0 if _find(self._element, name) is None else _whole(self.path, self._element, name, least=0) + 1

    @property
    def thickness_mm(self) -> Optional[float]:
        """Of a slice; ``None`` where it is not given."""
        value = _float(_text(self._element, "reconSpace.fieldOfView_mm.z"))
        return value if value is not None and is_length(value) else None

    def height(self, num_points: int) -> int:
        """Points of a readout of ``num_points`` without its oversampling, which the fields of view tell.

        The recon matrix does not tell it: the scanner may interpolate its images.

        Raises:
            UserError: Nothing would be left.
        """
        oversampling = self.fov_mm[0] / self.recon_fov_mm
        height = min(round(num_points / oversampling), num_points)
        if height < 1:
            raise UserError(f"{self.path}: header: found an oversampling of {oversampling:g} along {num_points} points")
        return height

    def check_cartesian(self) -> None:
        """Refuses other trajectories.

        Raises:
            UserError: The header names one.
        """
        if self.trajectory not in (None, "cartesian"):
            raise UserError(f"{self.path}: found a {self.trajectory} trajectory, allowed cartesian")


@dataclass(frozen=True)
class Header:
    """A header that was parsed.

    Args:
        path: The file, for messages.
        root: Its outermost element.
    """

    path: Path
    root: ElementTree.Element

    @staticmethod
    def parse(path: Path, xml: Union[bytes, str]) -> "Header":
        """Parses a header as it is stored.

        Letters that are not UTF-8 (names of hospitals, say) do not spoil it, nor does what follows or precedes it.

        Raises:
            UserError: It is no XML, or not that of ISMRMRD.
        """
        text = xml.decode("utf-8", "replace") if isinstance(xml, bytes) else str(xml)
        text = text.strip("\ufeff \t\r\n")
        try:
            if len(text) > _MOST_CHARACTERS or _DOCUMENT_TYPE.search(text):
                raise ValueError("found a document type, or more than a header holds")
            root = ElementTree.fromstring(text)
            if _plain(root.tag) != "ismrmrdheader":
                raise ValueError(f"found <{_plain(root.tag)[:50]}>, allowed <ismrmrdHeader>")
        except Exception as error:  # the parser raises errors of several kinds
            raise UserError(f"{path}: the XML header cannot be read ({first_line(error)})") from error
        return Header(path, root)

    @property
    def num_encodings(self) -> int:
        """Number of encoding spaces."""
        return len(_children(self.root, "encoding"))

    def encoding(self, number: int) -> Encoding:
        """The encoding space of a number from 0.

        Raises:
            UserError: See :meth:`Encoding.of`.
        """
        return Encoding.of(self.path, _children(self.root, "encoding")[number])

    @property
    def subject(self) -> str:
        """The patient's ID; empty where it is not given."""
        return _text(self.root, "subjectInformation.patientID") or ""

    def study_values(self, encoding: Encoding) -> Dict[str, Any]:
        """What the header says of the study, by keywords of DICOM; ``None`` where it does not."""
        values: Dict[str, Any] = {keyword: _text(self.root, name) or None for keyword, name in _STUDY.items()}
        return {**values, "SliceThickness": encoding.thickness_mm}

    @property
    def relative_noise_bandwidth(self) -> float:
        """Noise bandwidth of the receiver over the nominal one; 1 where it is not given.

        Raises:
            UserError: It is no number above 0.
        """
        name = "acquisitionSystemInformation.relativeReceiverNoiseBandwidth"
        text = _text(self.root, name)
        value = _float(text) if text else 0.0
        if value is None or not (value == 0 or is_length(value)):
            raise _wrong(self.path, name, text, f"a number above 0, up to {LARGEST_LENGTH:g}")
        return value or 1.0


def _plain(tag: Any) -> str:
    """The name of an element without its namespace, in lower case."""
    return str(tag).rsplit("}", 1)[-1].lower()


def _children(element: ElementTree.Element, name: str) -> List[ElementTree.Element]:
    return [child for child in element if _plain(child.tag) == name.lower()]


def _find(element: ElementTree.Element, name: str) -> Optional[ElementTree.Element]:
    """The first element of a name such as "encodedSpace.matrixSize.x"."""
    found: Optional[ElementTree.Element] = element
    for part in name.split("."):
        found = None if found is None else next(iter(_children(found, part)), None)
    return found


def _text(element: ElementTree.Element, name: str) -> Optional[str]:
    found = _find(element, name)
    return None if found is None else (found.text or "").strip()


def _float(text: Optional[str]) -> Optional[float]:
    try:
        return float(text or "")
    except ValueError:
        return None


def _wrong(path: Path, name: str, found: Any, allowed: str) -> UserError:
    found = "nothing" if found is None else repr(found)[:100]
    return UserError(f"{path}: header: {name}: found {found}, allowed {allowed}")


def _whole(path: Path, element: ElementTree.Element, name: str, least: int) -> int:
    text = _text(element, name)
    value = _float(text)
    whole = int(value) if value is not None and value.is_integer() else None
    if whole is None or not least <= whole <= _LARGEST_COUNT:
        found = text if whole is None else whole
        raise _wrong(path, name, found, f"a whole number, {least} to {_LARGEST_COUNT}")
    return whole


def _length(path: Path, element: ElementTree.Element, name: str) -> float:
    text = _text(element, name)
    value = _float(text)
    if value is None or not _LEAST_MM <= value <= _MOST_MM:
        found = text if value is None else value
        raise _wrong(path, name, found, f"a number above 0, of mm: {_LEAST_MM:g} to {_MOST_MM:g}")
    return value
