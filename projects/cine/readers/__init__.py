"""Readers of measured k-space and of images: file -> one description, :class:`projects.cine.readers.scan.RawScan`."""
