"""What the phantom is drawn with."""

import numpy as np

from meddlr_greedy.readers.simulation.canvas import Canvas, Vessels


def test_distance_to_the_nearest_vessel():
    """Of cones from a point of their axis to the next: the radius halves from start to end."""
    rng = np.random.default_rng(0)
    starts = rng.uniform(-20, 20, (12, 3))
    vessels = Vessels(starts, starts + rng.uniform(-15, 15, (12, 3)), rng.uniform(1, 3, 12))
    canvas = Canvas.over_field_of_view((9, 7), z=3.0)
    expected = np.full((9, 7), np.inf)
    cut = 0
    for start, end, radius in zip(vessels.starts, vessels.ends, vessels.radii):
        if not min(start[2], end[2]) - radius < 3.0 < max(start[2], end[2]) + radius:
            continue
        cut += 1
        points = np.stack([canvas.x, canvas.y, np.full((9, 7), 3.0)], axis=-1)
        s = np.clip((points - start) @ (end - start) / np.linalg.norm(end - start) ** 2, 0, 1)
        gap = np.linalg.norm(points - start - s[..., None] * (end - start), axis=-1)
        expected = np.minimum(expected, gap - radius * (1 - s / 2))
    assert cut > 1
    np.testing.assert_allclose(vessels.distance(canvas), expected)
    assert np.isinf(vessels.distance(Canvas.over_field_of_view((9, 7), z=100.0))).all()
