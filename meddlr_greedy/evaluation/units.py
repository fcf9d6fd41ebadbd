"""What counts as one observation where runs are compared."""

__all__ = ["UNITS"]

#: Its name -> the columns that identify it.
UNITS = {"subject": ["subject"], "scan": ["scan"], "slice": ["scan", "slice"]}
