"""The general teacher and the general student, which come with the package."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import convolve, gaussian_filter

from distill import restore
from distill.config import Config, ConfigError, parse_config
from distill.networks.student import build_student
from distill.networks.student_files import load_student, locate_network, read_student
from distill.scoring.metrics import decibel
from distill.training.about import about_config
from restormer.published import locate_weights

Floats = NDArray[np.float64]
STAGES = {"stages": [{"name": "v1", "epochs": 1}], "degrade": [{"kind": "gaussian_blur", "sigma": [1, 2]}]}


def disc(image: Floats) -> Floats:
    y, x = np.mgrid[-2:3, -2:3]
    return averaged(image, (x**2 + y**2 <= 4).astype(float))


def shaken(image: Floats) -> Floats:
    return averaged(image, np.full((1, 9), 1.0))


def averaged(image: Floats, kernel: Floats) -> Floats:
    return convolve(image, (kernel / kernel.sum())[:, :, None], mode="mirror")


def noisy(image: Floats) -> Floats:
    return image + np.random.default_rng(0).normal(0, 15, image.shape)


def compressed(image: Floats) -> Floats:
    file = io.BytesIO()
    Image.fromarray(image.round().astype(np.uint8)).save(file, "jpeg", quality=40)
    return np.asarray(Image.open(file), float)


DEGRADATIONS: dict[str, Callable[[Floats], Floats]] = {
    "softness": lambda image: gaussian_filter(image, (1.6, 1.6, 0), mode="mirror"),
    "defocus": disc,
    "motion": shaken,
    "noise": noisy,
    "jpeg": compressed,
    "all but motion": lambda image: compressed(noisy(disc(gaussian_filter(image, (1, 1, 0)))).clip(0, 255)),
}


def images(degradation: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Blurry and sharp, (2, 3, 192, 192): crops of two photographs that neither network was trained on."""
    sharp = [skimage.data.chelsea()[50:242, 100:292], skimage.data.coffee()[100:292, 200:392]]
    blurry = [DEGRADATIONS[degradation](image.astype(float)).clip(0, 255).round() for image in sharp]
    as_tensor = [torch.from_numpy(np.stack(both)).permute(0, 3, 1, 2).float() / 255 for both in (blurry, sharp)]
    return as_tensor[0], as_tensor[1]


def psnr(image: torch.Tensor, sharp: torch.Tensor) -> float:
    return decibel(float((image.clamp(0, 1) - sharp).square().mean()))


# The gains in dB that are asked for are two thirds or so of those that were measured. The student has hardly learned JPEG: it
# gains 0.04 dB there, and may lose 0.05.
GAINS = {
    "general": {"softness": 2.7, "defocus": 1.6, "motion": 1.6, "noise": 4.4, "jpeg": 0.4, "all but motion": 1.1},
    "general_student": {"softness": 1.4, "defocus": 0.85, "motion": 0.3, "noise": 4.4, "jpeg": -0.05, "all but motion": 0.9},
}


@pytest.mark.parametrize("degradation", DEGRADATIONS)
@pytest.mark.parametrize("weights", GAINS)
def test_it_undoes_each_degradation(weights: str, degradation: str) -> None:
    network, (blurry, sharp) = load_student(locate_network(weights)), images(degradation)
    with torch.no_grad():
        gain = psnr(network(blurry), sharp) - psnr(blurry, sharp)
    assert gain > GAINS[weights][degradation]


@pytest.mark.parametrize("weights", GAINS)
def test_it_leaves_clean_images_nearly_as_they_are(weights: str) -> None:
    network, (_, sharp) = load_student(locate_network(weights)), images("noise")
    with torch.no_grad():
        likeness = psnr(network(sharp), sharp)
    assert likeness > 35  # these two photographs are noisy; on Kodak they keep 46 and 41


def test_the_files_are_small() -> None:
    assert locate_weights("general").stat().st_size <= 8_000_000
    assert locate_network("general_student").stat().st_size <= 1_000_000


def test_a_student_begins_as_the_general_one() -> None:
    config = parse_config({"student": {"init": "general"}, **STAGES})
    network = load_student(locate_network("general_student"))
    student = build_student(config.student, seed=0)
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in student.state_dict().items())
    keys = {"width": 16, "depth": 3, "residual": True, "norm": "batch", "block": "residual", "blocks": [1, 1, 4]}
    assert config.student.model_dump(include=set(keys)) == keys


def test_a_section_that_says_how_deep_it_is_keeps_its_own_form() -> None:
    """As in the run folders of earlier versions, whose general student had this form."""
    section = {"init": "general", "width": 16, "depth": 4, "residual": True, "norm": "batch"}
    student = parse_config({"student": section, **STAGES}).student
    assert student.model_dump(include={"depth", "block", "blocks"}) == {"depth": 4, "block": "double_conv", "blocks": None}


def test_a_student_of_another_architecture_does_not() -> None:
    config = parse_config({"student": {"init": "general", "width": 8}, **STAGES})
    with pytest.raises(ConfigError, match="is of another network than student describes"):
        build_student(config.student, seed=0)


def test_a_run_knows_their_licences(tiny_config: Callable[..., Config]) -> None:
    about = about_config(tiny_config(student={"init": "general"}, teacher={"mode": "online", "weights": "general"}))
    assert about["init_licence"] == about["teacher_licence"] == "the general weights are of this project (MIT)"


def test_the_student_file_says_what_it_was_trained_on() -> None:
    about = read_student(locate_network("general_student"))[1]
    assert {"config", "step", "validation_student_psnr"} <= about.keys()
    assert "dead_leaves" in str(about["config"])


def test_it_restores_a_folder_at_once(tmp_path: Path, call: Callable[..., int]) -> None:
    Image.fromarray(skimage.data.chelsea()[:64, :80]).save(tmp_path / "cat.png")
    assert call(restore.main, "--weights", "general_student", tmp_path / "cat.png", "--out", tmp_path / "out") == 0
    assert (tmp_path / "out" / "cat.png").is_file()
