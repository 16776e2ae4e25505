"""The U-Net student and its weights."""

from unet.model import UNet

__all__ = ["UNet"]
