"""What every decoder refuses or notes: too many pixels, floating-point pixels, animations, further pages."""

from __future__ import annotations

from collections.abc import Callable

FLOATING_POINT = "floating-point pixels have no defined white; convert the file to 8 or 16 bits"


class TooLargeError(ValueError):
    """An image with more pixels than the caller allows."""


def refuse_too_large(width: int, height: int, max_pixels: int | None) -> None:
    if max_pixels is not None and width * height > max_pixels:
        raise TooLargeError(f"{width}x{height} pixels are more than {max_pixels / 1e6:.0f} megapixels")


def note_frames(count: Callable[[], int], kind: str | None, notes: list[str]) -> None:
    """Notes that only the first page or frame is read, if `count` gives more. Raises ValueError for an animated GIF. `count` may
    raise anything: what follows the first page can be damaged."""
    try:
        frames = count()
    except Exception:  # noqa: BLE001 (decoders raise what they like for damaged files)
        notes.append("only its first page or frame is read; what follows is damaged")
        return
    if frames > 1 and kind == "GIF":
        raise ValueError(f"an animation of {frames} frames; save the frame that is meant as a picture of its own")
    if frames > 1:
        notes.append(f"only the first of its {frames} pages or frames is read")
