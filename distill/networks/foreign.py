"""Networks of other projects, recognised by their weights and built by the package spandrel."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill.config.types import Precision
from distill.errors import one_line
from distill.networks.adapters import Adapted
from restormer.weight_files import WeightsError, find_network, first_keys
from restormer.weights import FIRST_KEYS
from unet.weights import FIRST_LAYERS

# The side in pixels of the two images that a network restores when it is loaded.
TRIED_SIDE = 64
# Largest difference between an image restored alone and in a batch, in a network whose images are of the order of 1.
BATCH_TOLERANCE = 1e-3
# In the number of a layer.
MOST_DIGITS = 3


def load_foreign(path: Path, state: Mapping[str, Tensor]) -> Adapted:
    """The network that these weights are of, on the CPU, in float32.

    Raises WeightsError if no network is recognised or the package that does it is missing, if the network enlarges images or has
    other than three channels, or if it does not run.
    """
    unknown = (
        f"{path}: not the weights of a Restormer or of a U-Net of this project: the first keys are {first_keys(state)}; a"
        f" Restormer has {FIRST_KEYS[0]}, a U-Net {' or '.join(FIRST_LAYERS)}"
    )
    if importlib.util.find_spec("spandrel") is None:
        raise WeightsError(f'{unknown}; for other restoration networks pip install -e ".[teachers]"')
    # Imported here: most users have no weights that need it.
    import spandrel

    def architecture_of(form: Mapping[str, Tensor]) -> Any:
        known = spandrel.MAIN_REGISTRY.architectures("detection")
        return next((support.architecture for support in known if support.detect(dict(form))), None)

    form = find_network(path, state, lambda form: architecture_of(form) is not None)
    if form is None:
        raise WeightsError(f"{unknown}; and no network that spandrel {spandrel.__version__} knows has such weights")
    for key, value in form.items():
        # spandrel builds as many layers as the largest number in a name says, and layers as wide as a shape says.
        if value.numel() == 0 or any(part.isdigit() and len(part) > MOST_DIGITS for part in key.split(".")):
            raise WeightsError(f"{path}: {key} is {list(value.shape)}; not the weights of a network")
        if not value.isfinite().all():
            raise WeightsError(f"{path}: {key} has values that are not finite")
    architecture = architecture_of(form)
    # A network's constructor draws random weights. What else a run draws must not depend on its teacher.
    with torch.random.fork_rng(devices=[]):
        try:
            found = architecture.load(dict(form))
        except Exception as error:  # noqa: BLE001 (each architecture fails in its own way)
            raise WeightsError(f"{path}: looks like {architecture.name}, and does not load: {one_line(error)}") from None
        _check(path, found, spandrel)
        return _tried(path, _adapted(found))


def _check(path: Path, found: Any, spandrel: Any) -> None:
    """Raises WeightsError unless the network makes an RGB image out of an RGB image of the same size."""
    name, channels = found.architecture.name, (found.input_channels, found.output_channels)
    if not isinstance(found, spandrel.ImageModelDescriptor):
        raise WeightsError(f"{path}: {name} fills holes that a mask marks; it does not restore an image alone")
    if found.scale != 1:
        raise WeightsError(f"{path}: {name} enlarges images {found.scale} times; only networks that keep the size can be used")
    if channels != (3, 3):
        raise WeightsError(f"{path}: {name} with {channels[0]} channels in and {channels[1]} out; only 3 and 3 can be used")


def _adapted(found: Any) -> Adapted:
    precisions: list[Precision] = ["fp32"]
    precisions += ["fp16"] if found.supports_half else []
    precisions += ["bf16"] if found.supports_bfloat16 else []
    sides = found.size_requirements
    # `found.model`, not `found`, which clamps infinity to white, and whose images cannot take part in a backward pass.
    network = Adapted(
        found.model,
        found.architecture.name,
        found._call_fn,
        multiple=sides.multiple_of,
        minimum=sides.minimum,
        square=sides.square,
        precisions=precisions,
    )
    network.eval().requires_grad_(False)
    return network


@torch.no_grad()
def _tried(path: Path, network: Adapted) -> Adapted:
    """Restores two images, in the memory format of a teacher's images, one by one and together. Raises WeightsError if the
    network does not run. Some networks can take one image at a time only."""
    images = torch.rand(2, 3, TRIED_SIDE, TRIED_SIDE, generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last)
    try:
        alone = torch.cat([network(image) for image in images.split(1)])
    except Exception as error:  # noqa: BLE001
        raise WeightsError(f"{path}: {network.arch} does not run: {one_line(error)}") from None
    if alone.shape != images.shape:
        raise WeightsError(f"{path}: {network.arch} makes {list(alone.shape)} out of {list(images.shape)}")
    try:
        together = network(images)
    except Exception:  # noqa: BLE001
        network.one_by_one = True
    else:
        network.one_by_one = not torch.allclose(together, alone, rtol=0, atol=BATCH_TOLERANCE, equal_nan=True)
    return network
