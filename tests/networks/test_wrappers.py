"""Weights load out of whatever a trainer wrapped them in, for every network and every use, and with the right values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_networks import network
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distill.config import RestormerConfig, TeacherConfig, UNetConfig
from distill.export import export
from distill.networks.adapters import Adapted
from distill.networks.student import build_student
from distill.networks.student_files import load_student
from distill.networks.teacher import build_teacher
from distill.restore import restore
from restormer.model import Restormer
from restormer.weight_files import WeightsError
from unet.model import UNet

State = dict[str, Tensor]
RESTORMER: dict[str, Any] = {"dim": 4, "num_blocks": [1] * 4, "num_refinement_blocks": 0, "heads": [1, 1, 2, 2]}
RESIDUAL: dict[str, Any] = {"width": 4, "depth": 2, "block": "residual", "blocks": [1, 1], "residual": False}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "restormer": lambda: Restormer(**RESTORMER),
    "nafnet": lambda: network("NAFNet"),
    "unet": lambda: UNet(width=4, depth=2, residual=False),
    "residual unet": lambda: UNet(**RESIDUAL),
    # All its own keys begin with `model.`, as a trainer's would.
    "dncnn": lambda: network("DnCNN"),
}


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


def inside(state: State) -> State:
    """As torch.compile names the weights of a compiled part."""
    return {".".join(["_orig_mod", *key.split(".")]) if "." in key else key: value for key, value in state.items()}


# (state, other weights of the same network) -> what a trainer writes. The first are to be loaded.
WRAPPINGS: dict[str, Callable[[State, State], Any]] = {
    "plain": lambda s, o: s,
    "params": lambda s, o: {"params": s},
    "params_ema beside params": lambda s, o: {"params": o, "params_ema": s},
    "DataParallel": lambda s, o: prefixed(s, "module."),
    "torch.compile": lambda s, o: prefixed(s, "_orig_mod."),
    "torch.compile of DataParallel": lambda s, o: {"state_dict": prefixed(s, "_orig_mod.module.")},
    "parts that are compiled": lambda s, o: inside(s),
    "Lightning, net_g": lambda s, o: {"state_dict": prefixed(s, "net_g."), "epoch": 3, "pytorch-lightning_version": "2.0"},
    "Lightning, model": lambda s, o: {"state_dict": prefixed(s, "model."), "hyper_parameters": {"lr": 1e-3}},
    "Lightning, net": lambda s, o: {"state_dict": prefixed(s, "net."), "optimizer_states": [{"state": {}}]},
    "Lightning beside a loss": lambda s, o: {"state_dict": prefixed(s, "net_g.") | {"loss.vgg.weight": torch.zeros(3)}},
    "Lightning with an average": lambda s, o: {"state_dict": prefixed(o, "net_g.") | prefixed(s, "net_g_ema.")},
    "model": lambda s, o: {"model": s, "epoch": 3},
    "model_state_dict": lambda s, o: {"model_state_dict": s, "optimizer_state_dict": {"state": {}}, "loss": 0.1},
    "ema beside state_dict": lambda s, o: {"epoch": 3, "state_dict": o, "ema": s},
    "ema that is kept in two": lambda s, o: {"ema": {"decay": 0.999, "shadow": s}, "model": o},
    "ema that is something else": lambda s, o: {"ema": {"decay": 0.999}, "model": s},
    "ema that is not there": lambda s, o: {"ema": None, "model": s},
    "state_dict_ema beside state_dict": lambda s, o: {"state_dict": o, "state_dict_ema": s, "arch": "x"},
    "AveragedModel of torch": lambda s, o: {"n_averaged": torch.tensor(7)} | prefixed(s, "module."),
}
PARTS_OF_A_TRAINER = {"Lightning beside a loss", "Lightning with an average", "AveragedModel of torch"}
AVERAGES = {name for name in WRAPPINGS if "beside" in name and "loss" not in name} | {"ema that is kept in two"}


def two_states(name: str) -> tuple[State, State]:
    torch.manual_seed(0)
    state = NETWORKS[name]().state_dict()
    return state, {key: value + 1 if value.is_floating_point() else value for key, value in state.items()}


def weights_of(loaded: nn.Module) -> State:
    return (loaded.network if isinstance(loaded, Adapted) else loaded).state_dict()


def same(found: State, expected: State) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_wrapping_loads_with_the_right_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, wrapping: str
) -> None:
    caplog.set_level("INFO")
    state, other = two_states(name)
    torch.save(WRAPPINGS[wrapping](state, other), tmp_path / "w.pth")
    assert same(weights_of(load_student(tmp_path / "w.pth")), state)
    if name == "unet":
        load_student(tmp_path / "w.pth")
    assert caplog.text.count("a moving average of the weights") == (wrapping in AVERAGES)
    assert ("others are not" in caplog.text) == (wrapping in PARTS_OF_A_TRAINER)


@pytest.mark.parametrize("prefix", ["module.", "net_g.", "_orig_mod."])
@pytest.mark.parametrize("name", NETWORKS)
def test_safetensors_with_a_prefix_load(tmp_path: Path, name: str, prefix: str) -> None:
    state, _ = two_states(name)
    save_file({key: value.contiguous() for key, value in prefixed(state, prefix).items()}, tmp_path / "w.safetensors")
    assert same(weights_of(load_student(tmp_path / "w.safetensors")), state)


def wrapped(tmp_path: Path, name: str) -> tuple[State, str]:
    state, other = two_states(name)
    content = {"epoch": 1, "state_dict": prefixed(other, "net_g."), "state_dict_ema": prefixed(state, "module.net_g.")}
    torch.save(content, tmp_path / "w.pth")
    return state, str(tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["restormer", "nafnet"])
def test_a_teacher_is_taken_out_of_its_wrapping(tmp_path: Path, name: str) -> None:
    state, path = wrapped(tmp_path, name)
    teacher = build_teacher(TeacherConfig(weights=path), torch.device("cpu"))
    assert teacher is not None
    assert same(weights_of(teacher.network), state)


@pytest.mark.parametrize("name", ["restormer", "unet", "residual unet"])
def test_a_student_starts_from_weights_in_a_wrapping(tmp_path: Path, name: str) -> None:
    state, path = wrapped(tmp_path, name)
    keywords = {"unet": {"width": 4, "depth": 2, "residual": False}, "residual unet": RESIDUAL}.get(name, {})
    unet, restormer = UNetConfig(init=path, **keywords), RestormerConfig(arch="restormer", init=path, **RESTORMER)
    assert same(build_student(restormer if name == "restormer" else unet, 0).state_dict(), state)


@pytest.mark.parametrize("name", ["restormer", "unet", "nafnet"])
def test_restore_takes_weights_out_of_their_wrapping(tmp_path: Path, name: str) -> None:
    state, path = wrapped(tmp_path, name)
    torch.save(state, tmp_path / "plain.pth")
    Image.effect_mandelbrot((40, 32), (-2, -1, 1, 1), 100).convert("RGB").save(tmp_path / "in.png")
    for weights, out in ((path, "a"), (str(tmp_path / "plain.pth"), "b")):
        assert restore([str(tmp_path / "in.png")], weights, tmp_path / out).restored
    assert (tmp_path / "a" / "in.png").read_bytes() == (tmp_path / "b" / "in.png").read_bytes()


@pytest.mark.parametrize("name", ["restormer", "unet"])
def test_export_takes_weights_out_of_their_wrapping(tmp_path: Path, name: str) -> None:
    state, path = wrapped(tmp_path, name)
    export(path, tmp_path / "out.safetensors")
    assert same(load_file(tmp_path / "out.safetensors"), state)


@pytest.mark.parametrize(
    ("name", "removed", "says"),
    [
        ("restormer", "output.weight", "there is no output.weight; the first keys are patch_embed.proj.weight"),
        (
            "unet",
            "final.weight",
            "the first keys are net.enc1.block.0.weight, .*; a Restormer has patch_embed.proj.weight, a U-Net",
        ),
        ("nafnet", "intro.weight", "the first keys are .*; a Restormer has patch_embed.proj.weight, a U-Net"),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_the_keys_named(tmp_path: Path, name: str, removed: str, says: str) -> None:
    state, _ = two_states(name)
    torch.save({"state_dict": {f"net.{key}": value for key, value in state.items() if key != removed}}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=rf"w\.pth: .*{says}"):
        load_student(tmp_path / "w.pth")


def test_a_wrapper_that_holds_itself_is_refused(tmp_path: Path) -> None:
    content: dict[str, Any] = {}
    content["model"] = content
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"w\.pth: model is a dict, not a tensor"):
        load_student(tmp_path / "w.pth")
