"""An unrolled network, ``MISC.GREEDY.META_ARCHITECTURE: CineVariationalNetwork``."""

from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY

from meddlr_greedy.modeling.contract import CINE_AXES, NetworkTraits
from meddlr_greedy.modeling.networks.cine import CineUnrolledCNN
from meddlr_greedy.modeling.problem import UnrolledProblem
from meddlr_greedy.ops.cine_sense import CineSenseModel


@META_ARCH_REGISTRY.register()
class CineVariationalNetwork(CineUnrolledCNN):
    r"""Variational network for cine, :math:`x \leftarrow x + s_i (A^H A x - A^H y) - R_i(x)`.

    Hammernik et al., "Learning a variational network for reconstruction of accelerated MRI data", MRM 2018.

    Config, regularizers and data consistency (``dc``, ``reg``) are those of ``CineUnrolledCNN``.
    """

    # forward is our own, so we declare what greedy learning cannot see: that it does nothing but run the steps.
    traits = NetworkTraits(kspace_axes=CINE_AXES, forward_runs_steps=True, signal_model=CineSenseModel)

    def step(self, *, image, model, A, zf_image, step_size, dims):
        """One unrolled step: image (B, H, W, T, M) to image."""
        consistent = self.dc(image=image, A=A, zf_image=zf_image, step_size=step_size)
        return consistent - self.reg(image=image, model=model, dims=dims)

    def forward(self, inputs, return_pp=False, vis_training=False):
        """Reconstructs meddlr's batch, outside of greedy training."""
        problem = UnrolledProblem.prepare(self, inputs)
        image = problem.image
        for i, step_size in enumerate(self.step_sizes):
            image = self.step(
                image=image,
                model=self.resnets if self.num_repeat_steps else self.resnets[i],
                A=problem.A,
                zf_image=problem.zf_image,
                step_size=step_size,
                dims=problem.dims,
            )
        outputs = {**problem.reference, "pred": image, "zf_image": problem.zf_image}
        if return_pp:
            outputs.update({key: problem.inputs[key] for key in ("mean", "std", "norm")})
        return outputs
