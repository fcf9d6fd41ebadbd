"""What decides an example."""

from meddlr.data.transforms.subsample import MaskFunc

from meddlr_greedy.data.seeding import EVAL_EPOCH, SeededMaskFunc, example_seed


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
