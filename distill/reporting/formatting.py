"""Writes numbers and durations as the sentences of a report need them."""

from __future__ import annotations

from datetime import datetime, timezone

import torch

from distill.config import RestormerConfig, UNetConfig
from distill.networks.architecture import build_network

SHOWN_NAMES = 8


def parameters(student: UNetConfig | RestormerConfig) -> int:
    """The network's number of parameters, counted on torch's meta device, which allocates no memory."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_network(student).parameters())


def duration(seconds: float) -> str:
    """A duration in at most two units, such as `1 min 37 s`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def moment(time: float) -> str:
    """The date and time in UTC, to the minute; the number itself if datetime cannot represent it."""
    try:
        return datetime.fromtimestamp(time, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return f"{time:g}"


def short_number(count: int) -> str:
    for size, name in ((10**9, "billion"), (10**6, "million"), (10**3, "thousand")):
        if count >= 0.9995 * size:  # to three digits, 0.9995 of a unit is 1 of it
            return f"{count / size:.3g} {name}"
    return str(count)


def capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


def counted(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def how_often(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def percent(share: float) -> str:
    """A share with one decimal, such as `93.4%`. A share that rounds to zero has no minus sign."""
    return f"{round(share, 3) + 0.0:.1%}"
