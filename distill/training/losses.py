"""The loss: L1 to the sharp image, L1 to the teacher's image, L1 between VGG16 features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.config import StageConfig
from distill.networks.vgg import VggFeatures


def distillation_loss(
    prediction: Tensor, sharp: Tensor, target: Tensor | None, stage: StageConfig, vgg: VggFeatures | None
) -> dict[str, Tensor]:
    """The unweighted terms of the loss, and their weighted sum `loss`: 0-dimensional float32 tensors.

    Images are (B, 3, H, W) in [0, 1]. `target` is the teacher's image. A term of weight 0 is not computed. The VGG term compares
    the prediction with the sharp image or with the target, as `vgg.against` says.
    """
    prediction, sharp = prediction.float(), sharp.float()
    terms: dict[str, Tensor] = {}
    if stage.l1 > 0:
        terms["l1"] = F.l1_loss(prediction, sharp)
    if stage.kd > 0:
        assert target is not None, "a kd weight needs a teacher"
        terms["kd"] = F.l1_loss(prediction, target.float())
    if stage.vgg > 0:
        assert vgg is not None, "a vgg weight needs its network"
        reference = target if vgg.config.against == "teacher" else sharp
        assert reference is not None, "vgg.against: teacher needs a teacher"
        with torch.no_grad():
            wanted = vgg(reference.float())
        terms["vgg"] = F.l1_loss(vgg(prediction), wanted)
    terms["loss"] = torch.stack([stage.weights[name] * term for name, term in terms.items()]).sum()
    return terms
