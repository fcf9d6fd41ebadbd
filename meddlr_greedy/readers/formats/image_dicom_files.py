"""DICOM files: which of the files in a folder they are, and which of them hold images."""

import os
import struct
from pathlib import Path
from typing import Any, List, Optional, Sequence

from meddlr_greedy.files import reading
from meddlr_greedy.readers.raw_scan import plain_text

__all__ = ["dicom_files", "holds_image", "is_dicom", "listed", "named", "read_dicom"]

_PREAMBLE = 128
_FIRST_GROUPS = (0x0002, 0x0008)  # of the header of a file, and of a data set without one
_LOOKED_AT = 3  # elements that have to look like some
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV")
_SHORT = b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()
_LONGEST_HEAD = 12  # bytes of tag, type and length
_UNDEFINED = 0xFFFFFFFF
_MOST_LISTED = 3


def dicom_files(folder: Path) -> List[Path]:
    """The DICOM files in a folder, by what they begin with."""
    return [path for path in sorted(folder.iterdir()) if path.is_file() and is_dicom(path)]


def is_dicom(path: Path) -> bool:
    """Whether a file begins as a DICOM file does: with a preamble, or at once with a data set, as old programs write.

    A preamble is known by its mark. Without one, the first elements of the data set have to be some: of group 0002 or
    0008, in order, of a type that there is, and no longer than the file.
    """
    with reading(path), path.open("rb") as file:
        begin = file.read(_PREAMBLE + 4)
        if begin[_PREAMBLE:] == b"DICM":
            return True
        end = os.fstat(file.fileno()).st_size
        position, last = 0, -1
        for _ in range(_LOOKED_AT):
            file.seek(position)
            head = file.read(_LONGEST_HEAD)
            length = _length(head)
            if length is None or position + length > end:
                return False
            group, element = struct.unpack("<HH", head[:4])
            tag = group << 16 | element
            if tag <= last or (last < 0 and group not in _FIRST_GROUPS):
                return False
            position, last = position + length, tag
        return True


def _length(head: bytes) -> Optional[int]:
    """Of an element that begins so, its head included; ``None`` where it has none, or an undefined one."""
    if len(head) < 8:
        return None
    if head[4:6] in _SHORT:
        return 8 + int.from_bytes(head[6:8], "little")
    explicit = head[4:6] in _LONG
    if explicit and (len(head) < _LONGEST_HEAD or head[6:8] != b"\0\0"):
        return None
    length = int.from_bytes(head[8:] if explicit else head[4:8], "little")
    return None if length == _UNDEFINED or length % 2 else length + (_LONGEST_HEAD if explicit else 8)


def read_dicom(path: Path, attributes: Optional[Sequence[str]] = None) -> Any:
    """Reads a DICOM file with or without preamble.

    Args:
        path: The file.
        attributes: The keywords that are read, none of which lies behind the pixels; by default all.

    Raises:
        UserError: It is truncated, damaged or something else.
    """
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    with reading(path, "a DICOM file"):
        tags = None if attributes is None else list(attributes)
        read = pydicom.dcmread(path, force=is_dicom(path), stop_before_pixels=tags is not None, specific_tags=tags)
        if "TransferSyntaxUID" not in read.file_meta:
            implicit = read.original_encoding[0]
            read.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        return read


def holds_image(read: Any) -> bool:
    """Whether a DICOM file is to hold an image, and is no DICOMDIR, report, presentation state or the like.

    Its class tells or, where that is not known, whether it has rows.
    """
    from pydicom.uid import UID

    try:
        uid = UID(read.file_meta.get("MediaStorageSOPClassUID") or read.get("SOPClassUID") or "")
        return "Image Storage" in uid.name if uid.name != uid else not uid or "Rows" in read
    except Exception:  # noqa: BLE001 (values are parsed where they are asked for; those of an image are checked later)
        return True


def listed(texts: Sequence[str]) -> str:
    """Texts, for messages: the first few."""
    more = len(texts) - _MOST_LISTED
    return ", ".join(texts[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def named(files: Sequence[Path]) -> str:
    """Names of files, for messages: the first few."""
    return listed([plain_text(path.name) for path in files])
