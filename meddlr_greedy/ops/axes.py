"""Numbers of axes of k-space, which tell cine (2D+t) from 2D.

K-space in a file has as many axes as in a batch: a file has slices S, (S, H, W, T, C) or (S, H, W, C), where a batch
has examples B, (B, H, W, T, C) or (B, H, W, C).
"""

__all__ = ["CINE_AXES", "PLAIN_AXES"]

#: Of a cine series: (S or B, H, W, T, C).
CINE_AXES = 5
#: Of 2D images: (S or B, H, W, C).
PLAIN_AXES = 4
