"""What decides an example."""

import numpy as np
from meddlr.data.transforms.subsample import MaskFunc

from meddlr_greedy.data.seeding import EVAL_EPOCH, SeededMaskFunc, example_seed, seed_transform
from tests.helpers.examples import make_transform


def test_example_seed_never_changes():
    assert example_seed(3, 7, "scan-0") == 2725680543
    seeds = {
        example_seed(seed, epoch, name)
        for seed in range(5)
        for epoch in range(EVAL_EPOCH, 5)
        for name in ("a-1", "a-2", "b-1")
    }
    assert len(seeds) == 5 * 6 * 3
    assert all(0 < seed < 2**32 for seed in seeds)


def test_mask_functions_are_always_given_a_seed():
    """Without one, Poisson disk masks draw inside compiled code, which no seed of Python or numpy reaches."""

    class Recorder(MaskFunc):
        def __call__(self, shape, seed=None, acceleration=None):
            return seed, self.choose_acceleration()

    mask_func = SeededMaskFunc(Recorder((2, 4)))
    mask_func.reseed(7)
    seed, acceleration = mask_func((1, 8, 8, 1))
    assert seed > 0 and 2 <= acceleration <= 4
    assert mask_func((1, 8, 8, 1), seed=9)[0] == 9
    mask_func.reseed(7)
    assert mask_func((1, 8, 8, 1)) == (seed, acceleration)
    mask_func.reseed(8)
    assert mask_func((1, 8, 8, 1))[0] != seed


def test_lines_do_not_follow_the_acceleration():
    """Of one seed, the first number that decides the lines would be the one that the acceleration was drawn from."""

    class Recorder(MaskFunc):
        def __call__(self, shape, seed=None, acceleration=None):
            return self.choose_acceleration(), np.random.RandomState(seed).uniform(2, 4)

    mask_func = SeededMaskFunc(Recorder((2, 4)))
    pairs = []
    for seed in range(1, 200):
        mask_func.reseed(seed)
        pairs.append(mask_func((1, 8, 8, 1)))
    assert abs(np.corrcoef(np.transpose(pairs))[0, 1]) < 0.3
    assert not any(np.isclose(acceleration, first) for acceleration, first in pairs)


def test_every_choice_for_an_example_has_a_generator_of_its_own():
    transform = make_transform(FLIP_PROBABILITY=0.5)
    drawn = []
    for seed in (7, 8, 7):
        masks = []
        transform.mask_func.reseed = masks.append
        seed_transform(transform, seed)
        noise, motion = (m.generator.initial_seed() for m in (transform.noiser, transform.motion_simulator))
        choice = transform.rng.get_state()[1][0]
        drawn.append((*masks, int(choice), noise, motion))
    assert drawn[0] == drawn[2] and len({*drawn[0], *drawn[1]}) == 8
