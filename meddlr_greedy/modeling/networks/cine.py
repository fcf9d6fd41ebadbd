"""Unrolled networks for cardiac cine (2D+t): proximal gradient steps (DL-ESPIRiT) and conjugate gradients (MoDL)."""

from dataclasses import replace
from typing import Any, Callable, Dict, Optional

import torch
from meddlr.config import CfgNode
from meddlr.config.config import configurable
from meddlr.modeling.meta_arch.build import META_ARCH_REGISTRY, build_model
from meddlr.modeling.meta_arch.unrolled import GeneralizedUnrolledCNN

from meddlr_greedy.config.schema import GreedyConfig
from meddlr_greedy.errors import UserError, did_you_mean
from meddlr_greedy.modeling.contract import CINE_AXES, NetworkTraits, local, then_solves
from meddlr_greedy.modeling.problem import prepare_inputs
from meddlr_greedy.ops.cine_sense import CineSenseModel
from meddlr_greedy.ops.conjugate_gradient import ImplicitSolve, conjugate_gradient, implicit_conjugate_gradient

__all__ = ["CineUnrolledCNN", "CGCineUnrolledCNN"]

Regularizer = Callable[[torch.Tensor], torch.Tensor]

# Frames, readout and phase encode of the image that a regularizer is tried with: a U-Net can halve it four times.
_PROBE = (16, 16, 16)


@META_ARCH_REGISTRY.register()
class CineUnrolledCNN(GeneralizedUnrolledCNN):
    r"""Unrolled proximal gradient descent for cine, :math:`x \leftarrow R_i(x + s_i (A^H A x - A^H y))`.

    Sandino et al., "Accelerating cardiac cine MRI using a deep learning-based ESPIRiT reconstruction", MRM 2021.
    Takes meddlr's batch with a frame axis: kspace (B, H, W, T, C), maps (B, H, W, 1, C, M), mask (B, H, W, T, 1) and,
    in training, target (B, H, W, T, M), or of the lines held out for the loss loss_kspace and loss_mask, of the shapes
    of kspace and mask; H readout, W phase encode, T cardiac phases, C coils, M map sets. All keys of
    ``MODEL.UNROLLED`` are meddlr's.
    """

    # forward only prepares the batch; the steps run through step() as in the base class.
    traits = NetworkTraits(kspace_axes=CINE_AXES, forward_runs_steps=True, signal_model=CineSenseModel)
    regularizer = "SpatioTemporalResNet"  # that "ResNet" stands for

    def forward(self, inputs: Dict[str, Any], return_pp: bool = False, vis_training: bool = False) -> Dict[str, Any]:
        """Reconstructs a batch, which is left as it is.

        Args:
            inputs: meddlr's batch with a frame axis, see the class.
            return_pp: Whether the outputs hold "mean", "std" and "norm" of the batch.
            vis_training: Whether to draw a picture, whatever the iteration.

        Returns:
            Dict[str, Any]: meddlr's outputs, images (B, H, W, T, M); "measured" are the lines held out for the loss.
        """
        # With a signal model and k-space of its own: the base class knows 2D only, and multiplies k-space in place.
        inputs = prepare_inputs(self, inputs)
        # It would multiply k-space, masked above, by the mask once more, which weights that are not 0 or 1 must not be.
        inputs["mask"] = inputs["mask"] != 0
        outputs = super().forward(inputs, return_pp=return_pp, vis_training=vis_training)
        return {**outputs, "measured": inputs.get("measured")}

    def dc(self, *, image, A, zf_image, step_size):  # noqa: N803 (meddlr's name)
        """The gradient step of data consistency; images are complex, (B, H, W, T, M)."""
        return image + step_size * (A.normal(image) - zf_image)

    @local
    def reg(self, *, image: torch.Tensor, model: Regularizer, dims=None) -> torch.Tensor:  # noqa: ARG002 (meddlr's)
        """Applies a real regularizer to a complex image.

        Args:
            image: Complex, (B, H, W, T, M).
            model: Maps (B, 2M, T, H, W) to the same shape; channels are real and imaginary part of each map set. It may
                give a part of H and W.
            dims: Not used.

        Returns:
            torch.Tensor: Complex, (B, H, W, T, M).
        """
        x = torch.view_as_real(image.permute(0, 3, 1, 2, 4).contiguous()).flatten(-2)
        x = model(x.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
        x = x.unflatten(-1, (-1, 2)).contiguous()
        return torch.view_as_complex(x).permute(0, 2, 3, 1, 4)

    def visualize_training(self, kspace, zfs, targets, preds):
        """Shows the middle frame; several map sets as the root of their sum of squares. Nothing without targets."""
        if targets is None:
            return

        def frame(x: torch.Tensor) -> torch.Tensor:
            return x[:1, :, :, x.shape[3] // 2]

        def single_set(x: torch.Tensor) -> torch.Tensor:
            x = frame(x)
            return x if x.shape[-1] == 1 else x.norm(dim=-1, keepdim=True).to(x.dtype)

        images = [torch.view_as_real(single_set(x).contiguous()) for x in (zfs, targets, preds)]
        super().visualize_training(frame(kspace), *images)

    @classmethod
    def from_config(cls, cfg: CfgNode, **kwargs) -> Dict[str, Any]:
        """As in meddlr; the regularizer "ResNet" is the (2+1)D residual network, and others have to be 3D networks.

        Raises:
            UserError: ``MODEL.UNROLLED.BLOCK_ARCHITECTURE`` does not map (B, 2M, T, H, W) to the same shape.
        """
        name = cfg.MODEL.UNROLLED.BLOCK_ARCHITECTURE
        if name == "ResNet":
            cfg = cfg.clone().defrost()
            cfg.MODEL.UNROLLED.BLOCK_ARCHITECTURE = cls.regularizer
            return super().from_config(cfg.freeze(), **kwargs)
        _check_regularizer(cfg, name)
        return super().from_config(cfg, **kwargs)


def _check_regularizer(cfg: CfgNode, name: str) -> None:
    """Builds the network once and lets it map a small image."""
    key = "MODEL.UNROLLED.BLOCK_ARCHITECTURE"
    allowed = "allowed are 'ResNet' (the (2+1)D residual network) and registered 3D networks"
    names = [registered for registered, _ in META_ARCH_REGISTRY]
    if name not in names and not name.startswith("monai/"):
        raise UserError(f"{key}: unknown name '{name}', {allowed}{did_you_mean(name, ['ResNet', *names])}")
    image = torch.zeros(1, 2 * cfg.MODEL.UNROLLED.NUM_EMAPS, *_PROBE)
    cfg = cfg.clone().defrost()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = name, "cpu"
    cfg.MODEL.UNROLLED.BLOCK_ARCHITECTURE = "ResNet"  # or an unrolled network would build itself for ever
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            out = build_model(cfg.freeze()).eval()(image)
    except UserError:
        raise
    except Exception as error:  # whatever a network says of a shape or a key that is not for it
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    else:
        if isinstance(out, torch.Tensor) and out.shape == image.shape:
            return
        reason = f"it gives {tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__}"
    raise UserError(
        f"{key}: found '{name}', which does not map images (B, {image.shape[1]}, T, H, W), tried with"
        f" {tuple(image.shape)}, to the same shape ({reason}); {allowed}"
    )


@META_ARCH_REGISTRY.register()
class CGCineUnrolledCNN(CineUnrolledCNN):
    r"""MoDL for cine: :math:`x \leftarrow (A^H A + \mu_i)^{-1} (A^H y + \mu_i R_i(x))` by conjugate gradients.

    Aggarwal et al., "MoDL: model-based deep learning architecture for inverse problems", IEEE TMI 2019. The step sizes
    are the :math:`\mu_i`; ``MODEL.UNROLLED.DC.MAX_ITER`` and ``EPS`` as for meddlr's ``CGUnrolledCNN``, but with a
    fixed number of iterations, each example frozen once converged. ``MISC.GREEDY.CG_BACKWARD`` chooses between the
    gradient of the iterations and that of the solution.
    """

    traits = replace(CineUnrolledCNN.traits, chooses_cg_backward=True)

    @configurable
    def __init__(self, *args, cg_max_iter: int = 10, cg_eps: float = 1e-4, cg_backward: str = "unrolled", **kwargs):
        super().__init__(*args, order=("reg", "dc"), **kwargs)
        self.solve = {"unrolled": conjugate_gradient, "implicit": implicit_conjugate_gradient}[cg_backward]
        self.cg_max_iter = cg_max_iter
        self.cg_eps = cg_eps
        self.relies_on_convergence = cg_backward == "implicit"
        #: What the solves of the step that runs now tell, see ``ImplicitSolve``.
        self.residual: Optional[torch.Tensor] = None
        weights = [float(mu.detach()) for mu in self.step_sizes]
        if min(weights) < 0:
            raise UserError(
                f"MODEL.UNROLLED.STEP_SIZES: found {weights}, non-negative numbers (the weights mu) are allowed for"
                " CGCineUnrolledCNN"
            )

    @then_solves
    def step(self, *, image, model, A, zf_image, step_size, dims):  # noqa: N803 (meddlr's name)
        """Regularizes, then solves data consistency; arguments as in ``modeling.contract.UnrolledNetwork``."""
        regularized = self.reg(image=image, model=model, dims=dims)
        told = {"residual": self.residual} if self.relies_on_convergence else {}
        return self.solve(
            A.normal,
            b=zf_image + step_size * regularized,
            x=image,  # where meddlr's CGUnrolledCNN starts, too
            mu=step_size,
            max_iter=self.cg_max_iter,
            eps=self.cg_eps,
            **told,
        )

    def solver(self, A: CineSenseModel, mu: torch.Tensor) -> Optional[ImplicitSolve]:  # noqa: N803 (meddlr's name)
        """How :meth:`step` solves, where its gradient is that of the solution; None where it is that of iterations."""
        return ImplicitSolve(A.normal, mu, self.cg_max_iter, self.cg_eps) if self.relies_on_convergence else None

    @classmethod
    def from_config(cls, cfg: CfgNode, **kwargs) -> Dict[str, Any]:
        """As for :class:`CineUnrolledCNN`, with the keys of the conjugate gradients."""
        unrolled = cfg.MODEL.UNROLLED
        return {
            **super().from_config(cfg, **kwargs),
            "cg_max_iter": unrolled.DC.MAX_ITER,
            "cg_eps": unrolled.DC.EPS,
            "cg_backward": GreedyConfig.from_cfg(cfg).CG_BACKWARD,
            **kwargs,
        }
