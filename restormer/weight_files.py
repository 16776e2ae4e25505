"""Reads weight files without running code from them. Refuses a bad file with a one-line reason."""

from __future__ import annotations

import hashlib
import logging
import math
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

logger = logging.getLogger(__name__)
# Keys under which trainers store a state dict. If a file has several, the first one is taken: a moving average of the weights.
AVERAGES = ("params_ema", "ema", "state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema_params", "shadow")
WRAPPERS = (*AVERAGES, "params", "state_dict", "model_state_dict", "model", "net", "network", "generator")
# Names of a network among the modules of a trainer, such as `net_g` beside a loss. Averages are first here too.
NETWORKS = ("net_g", "model", "net", "network", "generator", "netG", "module")
PARTS = (*(f"{name}_ema." for name in NETWORKS), *(f"ema_{name}." for name in NETWORKS), "ema.", *(f"{n}." for n in NETWORKS))
MAX_WRAPPERS = 4
# A torch file begins like a zip archive, or, from torch before 1.6, like a bare pickle.
_ZIP_MAGIC = b"PK"
_TORCH_MAGIC = (_ZIP_MAGIC, b"\x80")
# The dtypes of weights, and of counters such as BatchNorm's. Dtypes with fewer bits hold quantised values, which have no meaning
# without their scale.
_DTYPES = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64}
MAX_KEY = 200


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
    """The state dict in a `.safetensors` or torch file, on the CPU, without wrappers (`params`, ...).

    Raises FileNotFoundError, or WeightsError if the file is not a complete weight file. Never runs code from the file.
    """
    return unwrapped(path, read_torch_file(path) if path.suffix != ".safetensors" else read_safetensors(path))


def unwrapped(path: Path, content: Any) -> dict[str, Tensor]:
    """Takes the state dict out of the dictionaries that trainers keep it in (WRAPPERS, possibly nested), and checks it. If a file
    has both the weights and their moving average, the average is taken, and the log says so. Raises WeightsError."""
    for _ in range(MAX_WRAPPERS):
        found = [key for key in WRAPPERS if isinstance(content, Mapping) and _may_be_weights(content.get(key))]
        if not found:
            break
        if found[0] in AVERAGES and len(found) > 1:
            _say_once(f"{path}: {found[0]} is taken, a moving average of the weights; {', '.join(found[1:])} is not")
        content = content[found[0]]
    return check_state_dict(path, content)


def _may_be_weights(content: Any) -> bool:
    """Whether this looks like a state dict, or a wrapper of one. Some trainers keep other things under the keys of WRAPPERS."""
    if not isinstance(content, Mapping) or not content:
        return False
    return any(isinstance(value, Tensor) or (key in WRAPPERS and isinstance(value, Mapping)) for key, value in content.items())


def find_network(
    path: Path, state: Mapping[str, Tensor], is_network: Callable[[Mapping[str, Tensor]], bool]
) -> dict[str, Tensor] | None:
    """The first form of a state dict for which `is_network` holds: as it is, without the prefix that all keys share, or one of
    PARTS alone. The log says which keys are left out. None if it holds for no form."""
    for prefix, form in _forms(dict(state)):
        if is_network(form):
            if len(form) < len(state):
                _say_once(
                    f"{path}: the {len(form)} weights under {prefix} are taken; the {len(state) - len(form)} others are not"
                )
            return form
    return None


def _forms(state: dict[str, Tensor], removed: str = "") -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Pairs (prefix that was removed, state dict)."""
    yield removed, state
    while shared := _shared_prefix(state):
        removed, state = removed + shared, {key.removeprefix(shared): value for key, value in state.items()}
        yield removed, state
    for part in PARTS:
        if inner := {key.removeprefix(part): value for key, value in state.items() if key.startswith(part)}:
            yield from _forms(inner, removed + part)


def _shared_prefix(state: Mapping[str, Tensor]) -> str:
    """The part of a name up to its first dot, if all keys begin with it; else an empty string."""
    name, dot, _ = next(iter(state)).partition(".")
    return name + dot if dot and all(key.startswith(name + dot) for key in state) else ""


def first_keys(state: Mapping[str, Any]) -> str:
    """The names of a state dict's first weights, for a message."""
    return ", ".join(list(state)[:3]) + (", ..." if len(state) > 3 else "")


@cache
def _say_once(message: str) -> None:
    logger.info(message)


def check_state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    """Checks that a file's content is a state dict of dense real tensors, together no larger than the file.

    Returns the state dict without the mark that torch.compile leaves in names. Raises WeightsError.
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
    return {key.replace("_orig_mod.", ""): value for key, value in content.items()}


def read_safetensors(path: Path) -> dict[str, Tensor]:
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
