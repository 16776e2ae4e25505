"""The loss: L1 to the sharp image, L1 to the teacher's image, L1 between VGG16 features.

A sample without a sharp image has no L1 to it. The terms that need a sharp image are means over the samples that have one, in the
whole step: a sample with a sharp image has the same gradient as in a step that the others are not in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.config import StageConfig
from distill.data.batch import sample_mask
from distill.networks.vgg import VggFeatures


@dataclass(frozen=True)
class SharpSamples:
    """Which samples of a part of a step have a sharp image, if not all of the step have one."""

    which: Tensor | None
    """(B, 1, 1, 1) bool. None if none of this part has one."""
    per_part: float
    """The samples with a sharp image in the whole step, divided by its number of parts on all ranks. Because parts and ranks are
    averaged, it is the number by which a part divides its sum. 0 if no sample of the step has one."""

    def l1(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """This part's share of the mean absolute difference over the samples with a sharp image. (B, ...) each."""
        if self.which is None:
            return ours.new_zeros(())
        return ((ours - theirs).abs() * self.which).sum() / (self.per_part * ours[0].numel())


def sharp_samples(
    has_sharp: Sequence[bool], in_step: int | None, parts: int, ranks: int, device: torch.device
) -> list[SharpSamples | None]:
    """One for each part of this rank's batch; None if every sample of the step has a sharp image. `in_step` is the number of
    samples with a sharp image in the whole step; None: every rank has as many as this one."""
    in_step = ranks * sum(has_sharp) if in_step is None else in_step
    if in_step == ranks * len(has_sharp):
        return [None] * parts
    size = len(has_sharp) // parts
    chunks = [has_sharp[first : first + size] for first in range(0, len(has_sharp), size)]
    return [SharpSamples(sample_mask(chunk, device) if any(chunk) else None, in_step / (parts * ranks)) for chunk in chunks]


def distillation_loss(
    prediction: Tensor,
    sharp: Tensor | None,
    target: Tensor | None,
    stage: StageConfig,
    vgg: VggFeatures | None,
    samples: SharpSamples | None = None,
) -> dict[str, Tensor]:
    """The unweighted terms of the loss, and their weighted sum `loss`: 0-dimensional float32 tensors.

    Images are (B, 3, H, W) in [0, 1]. `target` is the teacher's image. `samples` says which samples have a sharp image; None:
    all. A term of weight 0 is not computed, nor is one that needs a sharp image if no sample of the step has one. The VGG term
    compares the prediction with the sharp image or with the target, as `vgg.against` says.
    """
    prediction = prediction.float()
    terms: dict[str, Tensor] = {}
    any_sharp = samples is None or samples.per_part > 0
    to_sharp = F.l1_loss if samples is None else samples.l1
    if sharp is None:  # other parts may have sharp images: this part's share of their terms is then 0
        sharp = prediction.detach()
    if stage.l1 > 0 and any_sharp:
        terms["l1"] = to_sharp(prediction, sharp.float())
    if stage.kd > 0:
        assert target is not None, "a kd weight needs a teacher"
        terms["kd"] = F.l1_loss(prediction, target.float())
    if stage.vgg > 0:
        assert vgg is not None, "a vgg weight needs its network"
        by_teacher = vgg.config.against == "teacher"
        reference, distance = (target, F.l1_loss) if by_teacher else (sharp, to_sharp)
        assert reference is not None, "vgg.against: teacher needs a teacher"
        if by_teacher or any_sharp:
            with torch.no_grad():
                wanted = vgg(reference.float())
            terms["vgg"] = distance(vgg(prediction), wanted)
    terms["loss"] = torch.stack([stage.weights[name] * term for name, term in terms.items()]).sum()
    return terms
