"""Reads weight files without running code from them. Refuses a bad file with a one-line reason."""

from __future__ import annotations

import hashlib
import math
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

# Keys under which trainers store a state dict, the preferred one first. BasicSR stores the moving average beside the weights.
WRAPPERS = ("params_ema", "params", "state_dict")


class WeightsError(ValueError):
    """Weights that cannot be used. The message is one line. It begins with the weights' file or name, if that is known."""


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal. Raises OSError if the file cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a `.safetensors` or torch file, on the CPU, without wrappers (`params`, ...) and `module.` prefixes.

    Raises FileNotFoundError, or WeightsError if the file is not a complete weight file. Never runs code from the file.
    """
    content = read_torch_file(path) if path.suffix != ".safetensors" else _read_safetensors(path)
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    return check_state_dict(path, content)


def check_state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    """Checks that a file's content is a state dict of dense real tensors, together no larger than the file.

    Returns the state dict without `module.` prefixes. Raises WeightsError.
    """
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
        # A tensor can repeat one stored value (by a stride of 0), and tensors can share stored values. The tensors of a
        # one-kilobyte file, once copied, could therefore fill the memory.
        raise WeightsError(f"{path}: its tensors would take {needed} bytes, and the file has {held}; not a state dict")
    return {key.removeprefix("module."): value for key, value in content.items()}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    _check_file(path)
    try:
        return load_file(path)
    except Exception as error:  # noqa: BLE001 (safetensors looks up torch's dtype, and a failed lookup can raise anything)
        raise _damaged(path, error) from None


def read_torch_file(path: Path) -> Any:
    """The content of a file that `torch.save` wrote, on the CPU. Never runs code from the file.

    Raises FileNotFoundError, or WeightsError for any other file.
    """
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
    except Exception as error:  # noqa: BLE001 (a damaged pickle is a faulty program and can raise anything)
        raise _damaged(path, error) from None


# A torch file begins like a zip archive, or, from torch before 1.6, like a bare pickle.
_ZIP_MAGIC = b"PK"
_TORCH_MAGIC = (_ZIP_MAGIC, b"\x80")
# The dtypes of weights, and of counters such as BatchNorm's. Dtypes with fewer bits hold quantised values, which have no meaning
# without their scale.
_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64}
MAX_KEY = 200


def _check_archive(path: Path) -> None:
    """Raises WeightsError if a zip archive claims to hold more bytes than its own size.

    The check runs before torch allocates these bytes. Torch never compresses, but a compressed megabyte can hold a gigabyte.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            held = sum(entry.file_size for entry in archive.infolist())
    except Exception as error:  # noqa: BLE001 (zipfile trusts the fields of a damaged archive and can raise anything)
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
