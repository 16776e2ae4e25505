"""Finds weights by name. Some come with this package. Published weights are downloaded and checked by sha256."""

from __future__ import annotations

import difflib
import logging
import urllib.error
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch

from restormer.weight_files import WeightsError, sha256_of

logger = logging.getLogger(__name__)
PACKAGED = ("embedded", "general")
"""The names of the weights that come with this package; restormer/pretrained/README.md describes them."""


@dataclass(frozen=True)
class Published:
    """A file of the authors' release. The size in bytes and the sha256 are None if unknown."""

    url: str
    size: int | None
    sha256: str | None


_RELEASE = "https://github.com/swz30/Restormer/releases/download/v1.0"
_LICENCE = "the published Restormer weights are for academic, non-commercial use (https://github.com/swz30/Restormer)"
PUBLISHED = {
    "motion_deblurring": Published(
        f"{_RELEASE}/motion_deblurring.pth",
        104_700_429,
        "194e38fb5b607c9dc5a5b3e08e65b2e79ee2bf0ef5048e0612f6b2ff2f79da31",
    ),
    "real_denoising": Published(
        f"{_RELEASE}/real_denoising.pth",
        104_611_957,
        "4cae18bed8a291b9a5deeeab48756bbe6f61fcf7f31a4cca0969b24608601387",
    ),
    "gaussian_color_denoising_blind": Published(
        f"{_RELEASE}/gaussian_color_denoising_blind.pth",
        104_611_957,
        "4e2314dae77bb907184da6e2ac625b921491d6b33de26a52512eff1c6bb37fbd",
    ),
    "single_image_defocus_deblurring": Published(f"{_RELEASE}/single_image_defocus_deblurring.pth", 104_700_429, None),
    "deraining": Published(f"{_RELEASE}/deraining.pth", None, None),
}


def licence_note(weights: str) -> str | None:
    """The licence of weights, given by name or file as for `load_restormer`. None if the file is not recognised.

    Published weights are recognised by name, by file name or by hash. A file is hashed only if its size matches.
    """
    path = Path(weights)
    if weights in PACKAGED:
        return f"the {weights} weights are of this project (MIT)"
    if weights in PUBLISHED or path.stem.removeprefix("restormer_") in PUBLISHED or _is_published(path):
        return _LICENCE
    return None


def _is_published(path: Path) -> bool:
    if not path.is_file():
        return False
    size = path.stat().st_size
    return any(size == known.size and sha256_of(path) == known.sha256 for known in PUBLISHED.values() if known.sha256)


def locate_weights(weights: str, sha256: str | None = None, also: Sequence[str] = ()) -> Path:
    """The weight file for a name in PACKAGED, a published name, or a path. A published file that is not in the cache is
    downloaded. If there is no such file, the message also offers the names in `also`.

    The hash is checked for a published name, and for any file if `sha256` is given. Raises WeightsError and FileNotFoundError.
    """
    if weights in PUBLISHED:
        return download(weights, PUBLISHED[weights], sha256)
    path = Path(str(files("restormer") / "pretrained" / f"{weights}.safetensors")) if weights in PACKAGED else Path(weights)
    if not path.is_file():
        names = [*also, *PACKAGED, *PUBLISHED]
        close = difflib.get_close_matches(weights, names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"a file, or one of {', '.join(names)}"
        raise FileNotFoundError(f"{weights}: no such weights; {hint}")
    if sha256 is not None:
        _check_hash(path, sha256)
    return path


def published_file(name: str) -> Path:
    """Path of a published file in torch's hub cache, whether it has been downloaded or not."""
    return Path(torch.hub.get_dir()) / "checkpoints" / f"restormer_{name}.pth"


def download(name: str, published: Published, sha256: str | None = None) -> Path:
    """Path of the file in torch's hub cache. If it is not there, it is downloaded with a progress bar.

    A downloaded file appears whole and checked, or not at all. Raises WeightsError if no hash is known, if the file has another
    hash, or if the server cannot be reached.
    """
    expected = sha256 or published.sha256
    if expected is None:
        raise WeightsError(
            f"{name}: no sha256 is known for this file; give it (teacher.sha256), or download {published.url} and give the file"
        )
    path = published_file(name)
    if path.is_file():
        _check_hash(path, expected)
        return path
    size = f" ({published.size / 1e6:.0f} MB)" if published.size else ""
    logger.warning("downloading %s%s; %s", published.url, size, _LICENCE)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Torch writes to a temporary file beside `path`, checks its hash, and renames it.
        torch.hub.download_url_to_file(published.url, str(path), hash_prefix=expected, progress=True)
    except (urllib.error.URLError, OSError) as error:
        raise WeightsError(f"{name}: cannot download {published.url} ({error}); fetch it elsewhere and give the file") from None
    except RuntimeError:
        # download_url_to_file raises RuntimeError only if the hash is wrong.
        raise WeightsError(f"{name}: what {published.url} sent does not have the sha256 {expected}; nothing was kept") from None
    return path


def _check_hash(path: Path, expected: str) -> None:
    found = sha256_of(path)
    if found != expected:
        raise WeightsError(f"{path}: sha256 is {found}, expected {expected}; delete the file if it is a broken download")
