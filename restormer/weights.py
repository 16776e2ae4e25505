"""Restormer weights: by published name, from a file, or the embedded ones; the architecture is read off the weights."""

from __future__ import annotations

import difflib
import hashlib
import logging
import math
import pickle
import re
import urllib.error
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from restormer.model import Restormer

logger = logging.getLogger(__name__)

EMBEDDED = "embedded"
# What trainers put around a state dict, the preferred one first: BasicSR keeps the moving average beside the weights.
WRAPPERS = ("params_ema", "params", "state_dict")


class WeightsError(ValueError):
    """Weights that cannot be used. The message is one line that begins with their file or name."""


@dataclass(frozen=True)
class Published:
    """A file of the authors' release. Size in bytes and sha256 are None where they are not known."""

    url: str
    size: int | None
    sha256: str | None


_RELEASE = "https://github.com/swz30/Restormer/releases/download/v1.0"
_LICENCE = "the published Restormer weights are for academic, non-commercial use (https://github.com/swz30/Restormer)"
_LICENCE_OF_EMBEDDED = "the embedded weights are of this project (MIT)"

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
    """Whose terms hold for weights given as for `load_restormer`: recognised by name, file name or, where the size is right, by
    hash. None for any other file."""
    path = Path(weights)
    if weights == EMBEDDED:
        return _LICENCE_OF_EMBEDDED
    if weights in PUBLISHED or path.stem.removeprefix("restormer_") in PUBLISHED or _is_published(path):
        return _LICENCE
    return None


def _is_published(path: Path) -> bool:
    if not path.is_file():
        return False
    size = path.stat().st_size
    return any(size == known.size and sha256_of(path) == known.sha256 for known in PUBLISHED.values() if known.sha256)


def load_restormer(weights: str, sha256: str | None = None) -> Restormer:
    """The network of these weights, on the CPU, in float32: `embedded`, a published name (downloaded once into torch's hub
    cache), or a file.

    `sha256` is of the file; it is checked when given, and needed for a published name without a known hash. Raises WeightsError
    and FileNotFoundError.
    """
    path = locate_weights(weights, sha256)
    try:
        return restormer_from_state_dict(read_weights(path))
    except WeightsError as error:
        text = str(error)
        raise WeightsError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def locate_weights(weights: str, sha256: str | None = None) -> Path:
    """The file of `embedded`, a published name (downloading it where it is not in the cache yet) or a path, its hash checked
    where one is known. Raises WeightsError and FileNotFoundError."""
    if weights in PUBLISHED:
        return download(weights, PUBLISHED[weights], sha256)
    path = Path(weights) if weights != EMBEDDED else Path(str(files("restormer") / "pretrained" / "embedded.safetensors"))
    if not path.is_file():
        close = difflib.get_close_matches(weights, [EMBEDDED, *PUBLISHED], n=1)
        hint = f"did you mean {close[0]}?" if close else f"a file, {EMBEDDED}, or one of {', '.join(PUBLISHED)}"
        raise FileNotFoundError(f"{weights}: no such weights; {hint}")
    if sha256 is not None:
        _check_hash(path, sha256)
    return path


def published_file(name: str) -> Path:
    """Where a published name's weights are, or would be, once downloaded: in torch's hub cache."""
    return Path(torch.hub.get_dir()) / "checkpoints" / f"restormer_{name}.pth"


def download(name: str, published: Published, sha256: str | None = None) -> Path:
    """The file in torch's hub cache, downloaded with a progress bar if it is not there; it appears whole and checked, or not at
    all. Raises WeightsError for a hash that is missing or wrong, and where the server cannot be reached."""
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
        # Writes beside the file, checks the hash, and renames.
        torch.hub.download_url_to_file(published.url, str(path), hash_prefix=expected, progress=True)
    except (urllib.error.URLError, OSError) as error:
        raise WeightsError(f"{name}: cannot download {published.url} ({error}); fetch it elsewhere and give the file") from None
    except RuntimeError:
        # The one RuntimeError of that function is its hash check.
        raise WeightsError(f"{name}: what {published.url} sent does not have the sha256 {expected}; nothing was kept") from None
    return path


def _check_hash(path: Path, expected: str) -> None:
    found = sha256_of(path)
    if found != expected:
        raise WeightsError(f"{path}: sha256 is {found}, expected {expected}; delete the file if it is a broken download")


def sha256_of(path: Path) -> str:
    """Of a file, in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a `.safetensors` or a torch file, without wrappers (`params`, ...) and `module.` prefixes, on the CPU.

    Raises FileNotFoundError, and WeightsError for what is no whole file of weights. Never runs code from the file.
    """
    content = read_torch_file(path) if path.suffix != ".safetensors" else _read_safetensors(path)
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    return check_state_dict(path, content)


def check_state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    """What was read from a file, when it is a state dict of dense tensors of real numbers that the file has room for; without
    `module.` prefixes. Raises WeightsError."""
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not a state dict")
    needed, held = 0, path.stat().st_size
    for key, value in content.items():
        if not isinstance(key, str) or len(key) > MAX_KEY or not key.isprintable():
            raise WeightsError(f"{path}: holds keys that are no names of tensors; not a state dict")
        if not isinstance(value, Tensor):
            raise WeightsError(f"{path}: {key} is a {type(value).__name__}, not a tensor; not a state dict")
        if value.layout != torch.strided or value.is_nested or value.device.type != "cpu" or value.dtype not in _DTYPES:
            raise WeightsError(f"{path}: {key} is no dense tensor of real numbers ({value.dtype}, {value.layout})")
        needed += math.prod(value.shape) * value.element_size()
    if needed > held:
        # Tensors can repeat a few values, or share them. Written out, a file of a kilobyte would fill the memory.
        raise WeightsError(f"{path}: its tensors would take {needed} bytes, and the file has {held}; not a state dict")
    return {key.removeprefix("module."): value for key, value in content.items()}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    _check_file(path)
    try:
        return load_file(path)
    except Exception as error:  # noqa: BLE001 (for a dtype that torch does not have, it is whatever the lookup raises)
        raise _damaged(path, error) from None


def read_torch_file(path: Path) -> Any:
    """What `torch.save` wrote, on the CPU. Raises FileNotFoundError, and WeightsError for anything else; runs no code from it."""
    _check_file(path)
    with path.open("rb") as file:
        magic = file.read(2)
    if not magic.startswith(_TORCH_MAGIC):
        raise WeightsError(f"{path}: not a torch file")
    if magic == _ZIP_MAGIC:
        _check_archive(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "GLOBAL" in str(error):
            raise WeightsError(f"{path}: holds Python objects besides tensors, which could run code; not loaded") from None
        raise WeightsError(f"{path}: not a torch file") from None
    except Exception as error:  # noqa: BLE001 (a damaged pickle is a program with a mistake in it, and raises anything)
        raise _damaged(path, error) from None


# A zip archive, or the bare pickle of torch before 1.6.
_ZIP_MAGIC = b"PK"
_TORCH_MAGIC = (_ZIP_MAGIC, b"\x80")
# Those of which there are weights and counters. What has fewer bits would not be known without its scale.
_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64}
MAX_KEY = 200


def _check_archive(path: Path) -> None:
    """Compares what a zip archive says it holds with its size, before torch allocates it: torch never compresses, and a
    compressed file of a megabyte can hold a gigabyte. Raises WeightsError."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            held = sum(entry.file_size for entry in archive.infolist())
    except Exception as error:  # noqa: BLE001 (its reader trusts the fields of a damaged archive)
        raise _damaged(path, error) from None
    if held > size:
        raise WeightsError(f"{path}: says it holds {held} bytes, and has {size}; compressed or damaged, not as torch writes it")


def _damaged(path: Path, error: Exception) -> WeightsError:
    reason = " ".join((str(error).partition("\n")[0] or type(error).__name__).split())[:200]
    return WeightsError(f"{path}: damaged or truncated ({path.stat().st_size} bytes): {reason}")


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if not start:
        raise WeightsError(f"{path}: an empty file")
    if start.startswith(b"<"):
        raise WeightsError(f"{path}: a web page, not weights; the link probably led to a login or an error page")
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path}: a Git LFS pointer, not the weights themselves; run git lfs pull")


def infer_architecture(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The keywords of `Restormer` that these keys and shapes come from. Raises WeightsError."""
    needed = ["patch_embed.proj.weight", "output.weight"]
    needed += [f"{level}.0.{key}" for level in _LEVELS for key in ("attn.temperature", "ffn.project_out.weight")]
    for key in needed:
        if key not in state:
            raise WeightsError(f"not the weights of a Restormer: there is no {key}")
    for key in needed:
        axes = 3 if key.endswith("temperature") else 4
        if state[key].dim() != axes or 0 in state[key].shape:
            raise WeightsError(f"not the weights of a Restormer: {key} is {list(state[key].shape)}")
    dim, inp_channels = state["patch_embed.proj.weight"].shape[:2]
    hidden = [state[f"{level}.0.ffn.project_out.weight"].shape[1] for level in _LEVELS]
    return {
        "inp_channels": inp_channels,
        "out_channels": state["output.weight"].shape[0],
        "dim": dim,
        "num_blocks": [_count_blocks(state, level) for level in _LEVELS],
        "num_refinement_blocks": _count_blocks(state, "refinement"),
        "heads": [state[f"{level}.0.attn.temperature"].shape[0] for level in _LEVELS],
        "ffn_expansion_factor": _expansion([dim, 2 * dim, 4 * dim, 8 * dim], hidden),
        "bias": "encoder_level1.0.attn.qkv.bias" in state,
        "LayerNorm_type": "WithBias" if "encoder_level1.0.norm1.body.bias" in state else "BiasFree",
        "dual_pixel_task": "skip_conv.weight" in state,
    }


_LEVELS = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")


def _count_blocks(state: Mapping[str, Tensor], level: str) -> int:
    # Counted, and not the largest number: a key alone must not make a network of a million blocks.
    return len({match[1] for key in state if (match := re.match(rf"{level}\.(\d{{1,3}})\.", key))})


def _expansion(widths: list[int], hidden: list[int]) -> float:
    """The factor with the fewest decimals for which int(width * factor) is each level's hidden width."""
    for decimals in range(1, 10):
        low = max(h / w for h, w in zip(hidden, widths, strict=True))
        factor = round(low + 0.5 * 10**-decimals, decimals)
        if [int(width * factor) for width in widths] == hidden:
            return factor
    raise WeightsError(f"not the weights of a Restormer: no expansion factor gives the hidden widths {hidden}")


def restormer_from_state_dict(state: Mapping[str, Tensor]) -> Restormer:
    """The network of these weights. Raises WeightsError for a missing or surplus key, a wrong shape, or a NaN among them."""
    try:
        with torch.device("meta"):  # no time spent on initial values that are replaced at once
            model = Restormer(**infer_architecture(state))
    except (ValueError, RuntimeError) as error:  # torch's is of sizes beyond 64 bits
        raise WeightsError(" ".join(str(error).split())[:200]) from None
    own = model.state_dict()
    for what, keys in (("missing", own.keys() - state.keys()), ("surplus", state.keys() - own.keys())):
        if keys:
            raise WeightsError(f"not the weights of this Restormer: {len(keys)} {what} keys, such as {min(keys)}")
    for key, value in own.items():
        if value.shape != state[key].shape:
            raise WeightsError(f"not the weights of this Restormer: {key} is {list(state[key].shape)}, not {list(value.shape)}")
        if not state[key].isfinite().all():
            raise WeightsError(f"{key} has values that are not finite")
    model.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    return model.requires_grad_(True)
