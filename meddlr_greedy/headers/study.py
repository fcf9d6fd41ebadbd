"""What a scan file keeps of the study that a scan is from: what a derived DICOM series of the same study has to repeat.

The attribute "dicom" of a scan file is a JSON object of keywords of DICOM and their values. Only :data:`KEPT` are: no
name, birth date, sex, dates, places, physicians, or free text. Data sets are copied and shared, and who gets one should
not learn more of a patient than the ID by which scans are told apart. Who needs the names has them where the study is.
"""

import json
import re
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from meddlr_greedy.errors import UserError

__all__ = ["ATTRIBUTE", "KEPT", "check_study", "kept_of", "study_of", "study_text"]

#: The attribute of the scan file.
ATTRIBUTE = "dicom"

_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
_LONGEST = 64  # characters of a UID and of an ID
_SHOWN = 60  # of a wrong value, in messages


def _uid(value: Any) -> str:
    text = str(value).strip()
    if len(text) > _LONGEST or not _UID.fullmatch(text):
        raise ValueError("a UID")
    return text


def _identifier(value: Any) -> str:
    text = str(value).strip()
    if len(text) > _LONGEST or "\\" in text or not text.isprintable():
        raise ValueError(f"a text of up to {_LONGEST} characters")
    return text


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not 0 <= number < np.inf:
        raise ValueError("a finite number, 0 or more")
    return number


def _one_of(*terms: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if str(value) not in terms:
            raise ValueError(f"one of {', '.join(terms)}")
        return str(value)

    return check


def _some_of(*terms: str) -> Callable[[Any], List[str]]:
    def check(value: Any) -> List[str]:
        found = [value] if isinstance(value, str) else value
        if not isinstance(found, Sequence) or any(str(term) not in terms for term in found):
            raise ValueError(f"some of {', '.join(terms)}")
        return [str(term) for term in found]

    return check


#: Keywords that are kept, and what makes the value of each (terms: DICOM PS3.3 C.7.3.1.1.2 and C.8.3.1).
KEPT: Dict[str, Callable[[Any], Any]] = {
    "StudyInstanceUID": _uid,
    "FrameOfReferenceUID": _uid,
    "PatientID": _identifier,
    "PatientPosition": _one_of("HFP", "HFS", "HFDR", "HFDL", "FFP", "FFS", "FFDR", "FFDL"),
    "SliceThickness": _number,
    "MRAcquisitionType": _one_of("2D", "3D"),
    "ScanningSequence": _some_of("SE", "IR", "GR", "EP", "RM"),
    "SequenceVariant": _some_of("SK", "MTC", "SS", "TRSS", "SP", "MP", "OSP", "NONE"),
    "RepetitionTime": _number,
    "EchoTime": _number,
    "InversionTime": _number,
    "FlipAngle": _number,
    "MagneticFieldStrength": _number,
}


def kept_of(where: Any, values: Mapping[str, Any]) -> Tuple[Dict[str, Any], Tuple[str, ...]]:
    """What is kept of a scan's header.

    Args:
        where: The file, for notes.
        values: By keyword; ``None`` and empty ones count as absent.

    Returns:
        The values that are kept, and what there is to tell of those that cannot be.
    """
    kept, wrong = _converted(values)
    return kept, tuple(f"{where}: {line}; it is not kept" for line in wrong)


def _converted(values: Mapping[str, Any]) -> Tuple[Dict[str, Any], List[str]]:
    """The values as they are kept, and what is wrong with those that cannot be."""
    kept, wrong = {}, []
    for keyword, convert in KEPT.items():
        value = values.get(keyword)
        if value is None or value in ("", []):
            continue
        try:
            kept[keyword] = convert(value)
        except ValueError as error:
            wrong.append(f"{keyword}: found {str(value)[:_SHOWN]!r}, allowed {error}")
    return kept, wrong


def check_study(values: Mapping[str, Any]) -> Optional[str]:
    """What is wrong with what is to be kept; ``None`` where nothing is."""
    unknown = [str(keyword) for keyword in values if keyword not in KEPT]
    if unknown:
        return f"found {unknown[0][:_SHOWN]!r}, allowed {', '.join(KEPT)}"
    wrong = _converted(values)[1]
    return wrong[0] if wrong else None


def study_text(kept: Mapping[str, Any]) -> Optional[str]:
    """The attribute of a scan file that holds what is kept; ``None`` where nothing is."""
    values = _converted(kept)[0]
    return json.dumps(values, sort_keys=True) if values else None


def study_of(path: str, attributes: Mapping[str, Any]) -> Dict[str, Any]:
    """What the attributes of a scan file keep of the study; nothing where they do not say.

    Raises:
        UserError: They hold something else than :func:`study_text` writes.
    """
    text = attributes.get(ATTRIBUTE)
    if text is None:
        return {}
    where = f"{path}: attribute {ATTRIBUTE}"
    try:
        values = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise UserError(f"{where}: found {str(text)[:_SHOWN]!r}, allowed a JSON object")
    wrong = check_study(values)
    if wrong:
        raise UserError(f"{where}: {wrong}")
    return _converted(values)[0]
