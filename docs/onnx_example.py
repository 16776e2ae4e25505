"""Restores one image with an exported student; needs numpy, Pillow and onnxruntime, and nothing of this project:

python docs/onnx_example.py student.onnx blurry.png restored.png
"""

import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

MIN_SIDE = 16  # the network pads to multiples of 16 by itself, by reflection, and needs this much to reflect


def restore(session: onnxruntime.InferenceSession, pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> the same shape."""
    height, width = pixels.shape[:2]
    # Right and bottom; this mirror, which repeats the edge, works for any size, one pixel included.
    padded = np.pad(pixels, ((0, max(0, MIN_SIDE - height)), (0, max(0, MIN_SIDE - width)), (0, 0)), mode="symmetric")
    blurry = padded.transpose(2, 0, 1)[None].astype(np.float32) / 255  # (1, 3, H, W) in [0, 1]
    (restored,) = session.run(["restored"], {"blurry": blurry})
    # Already clamped to [0, 1]; rounded to the nearest level, not down.
    return (restored[0] * 255).round().astype(np.uint8).transpose(1, 2, 0)[:height, :width]


def main() -> None:
    model, source, target = sys.argv[1:]
    # Or ["CUDAExecutionProvider", "CPUExecutionProvider"] with the package onnxruntime-gpu.
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    with Image.open(source) as image:
        pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))  # as a camera was held
    Image.fromarray(restore(session, pixels)).save(target)


if __name__ == "__main__":
    main()
