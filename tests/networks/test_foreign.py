"""Networks that spandrel builds keep a teacher's contract, whatever their own is; what cannot is refused by its name."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import spandrel
import torch
from foreign_networks import MAKERS, network, save_network
from running import ROOT
from torch import Tensor, nn

from distill.config import TeacherConfig
from distill.networks.adapters import Adapted
from distill.networks.student_files import load_student
from distill.networks.teacher import Teacher, build_teacher, identify
from restormer.weight_files import WeightsError
from unet.model import UNet

CPU = torch.device("cpu")


def teacher_of(path: Path, **settings: object) -> Teacher:
    teacher = build_teacher(TeacherConfig(weights=str(path), **settings), CPU)  # type: ignore[arg-type]
    assert teacher is not None
    return teacher


def smooth(*shape: int) -> Tensor:
    """An image in [0, 1] whose pixels are like their neighbours."""
    small = torch.rand(shape[0], 3, 6, 5, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(small, shape[1:], mode="bicubic").clamp(0, 1)


@pytest.mark.parametrize("name", MAKERS)
def test_its_images_are_those_of_spandrel(tmp_path: Path, name: str) -> None:
    """Of sides that are no multiples of anything, in a batch, in parts of a batch, and alone."""
    teacher, blurry = teacher_of(save_network(tmp_path / "w.pth", name)), smooth(3, 50, 37)
    theirs = spandrel.ModelLoader().load_from_file(tmp_path / "w.pth")
    expected = torch.cat([theirs(image) for image in blurry.split(1)]).clone()
    # Sums are in another order in channels_last, and in a batch.
    torch.testing.assert_close(teacher(blurry.contiguous(memory_format=torch.channels_last)), expected, atol=1e-5, rtol=0)
    teacher.micro_batch = 2
    torch.testing.assert_close(teacher(blurry), expected, atol=1e-5, rtol=0)
    assert float((expected - blurry).abs().mean()) > 0.01


@pytest.mark.parametrize("name", MAKERS)
def test_half_precision_keeps_its_images(tmp_path: Path, name: str) -> None:
    path, blurry = save_network(tmp_path / "w.pth", name), smooth(1, 48, 40)
    exact, half = teacher_of(path), teacher_of(path, precision="bf16")
    assert half.dtype == torch.bfloat16
    error = (half(blurry) - exact(blurry)).square().mean().sqrt() / (exact(blurry) - blurry).square().mean().sqrt()
    # bf16 has 8 bits: one rounding is up to 0.4 %. Measured: 0.2 to 1 %.
    assert 1e-4 < float(error) < 0.03


def test_half_precision_does_not_round_what_the_network_leaves_alone(tmp_path: Path) -> None:
    made = network("NAFNet")
    nn.init.zeros_(made.ending.weight)  # type: ignore[union-attr, arg-type]
    nn.init.zeros_(made.ending.bias)  # type: ignore[union-attr, arg-type]
    torch.save(made.state_dict(), tmp_path / "w.pth")
    blurry = smooth(1, 32, 32)
    assert torch.equal(teacher_of(tmp_path / "w.pth", precision="bf16")(blurry), blurry)


def test_a_precision_that_it_does_not_support_is_replaced_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save_network(tmp_path / "w.pth", "NAFNet")
    teacher = teacher_of(path, precision="fp16")
    assert teacher.precision == "fp32"
    assert "NAFNet does not compute in fp16; it computes in fp32" in caplog.text
    teacher.use_precision("fp16")
    assert next(teacher.parameters()).dtype == torch.float32


def test_a_teacher_changes_no_random_number_of_the_run(tmp_path: Path) -> None:
    path, before = save_network(tmp_path / "w.pth", "NAFNet"), torch.get_rng_state()
    teacher_of(path)
    assert torch.equal(torch.get_rng_state(), before)


def test_its_identity_holds_architecture_and_weights(tmp_path: Path) -> None:
    nafnet, other = (identify(teacher_of(save_network(tmp_path / f"{seed}.pth", "NAFNet", seed))) for seed in (0, 1))
    dncnn = identify(teacher_of(save_network(tmp_path / "d.pth", "DnCNN")))
    restormer = identify(teacher_of(Path("embedded")))
    assert nafnet.difference(nafnet) is None
    assert "other weights" in str(nafnet.difference(other))
    assert nafnet.difference(dncnn) == "made by another network than teacher.weights: NAFNet, not DnCNN"
    assert restormer.difference(nafnet) == "made by another network than teacher.weights: Restormer, not NAFNet"
    assert "arch" not in restormer.architecture  # as caches of earlier versions have it


def test_a_unet_can_teach(tmp_path: Path) -> None:
    torch.manual_seed(0)
    unet = UNet(width=4, depth=2, residual=False).eval()
    torch.save(unet.state_dict(), tmp_path / "w.pth")
    blurry = smooth(2, 50, 37)
    with torch.no_grad():
        expected = unet(blurry).clamp(0, 1)
    teacher = teacher_of(tmp_path / "w.pth")
    # Its BatchNorm is folded into its convolutions.
    torch.testing.assert_close(teacher(blurry), expected, atol=1e-5, rtol=0)
    assert identify(teacher).architecture["arch"] == "unet"
    assert identify(teacher).architecture["residual"] is False
    torch.testing.assert_close(teacher_of(tmp_path / "w.pth", precision="bf16")(blurry), expected, atol=0.03, rtol=0)


class Records(nn.Module):
    """Gives back its input, and spoils it."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, image: Tensor) -> Tensor:
        self.shapes.append(tuple(image.shape))
        out = image.clone()
        image.zero_()
        return out


@pytest.mark.parametrize(
    ("demands", "side", "padded"),
    [
        ({"multiple": 8}, (50, 37), (56, 40)),
        ({"multiple": 128}, (17, 130), (128, 256)),
        ({"multiple": 128, "square": True}, (17, 130), (256, 256)),
        ({"minimum": 40}, (16, 45), (40, 45)),
        ({}, (17, 16), (17, 16)),
    ],
)
def test_images_are_padded_to_what_the_network_demands(
    demands: dict[str, int], side: tuple[int, int], padded: tuple[int, int]
) -> None:
    records, image = Records(), torch.rand(2, 3, *side)
    before = image.clone()
    assert torch.equal(Adapted(records, "Records", **demands)(image), before)  # type: ignore[arg-type]
    assert records.shapes == [(2, 3, *padded)]
    assert torch.equal(image, before)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("enlarges", "RealESRGAN Compact enlarges images 4 times"),
        ("grey", "DnCNN with 1 channels in and 1 out; only 3 and 3 can be used"),
        ("mask", "LaMa fills holes that a mask marks"),
    ],
)
def test_another_kind_of_network_is_refused_by_name(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(WeightsError, match=says) as caught:
        load_student(save_network(tmp_path / "w.pth", name))
    assert str(caught.value).startswith(str(tmp_path / "w.pth"))


def test_weights_that_look_like_a_network_and_do_not_fit_are_refused(tmp_path: Path) -> None:
    state = network("NAFNet").state_dict()
    torch.save({key: value for key, value in state.items() if key != "intro.bias"}, tmp_path / "missing.pth")
    with pytest.raises(WeightsError, match=r"missing\.pth: looks like NAFNet, and does not load: .*intro\.bias"):
        load_student(tmp_path / "missing.pth")
    torch.save(state | {"intro.bias": torch.full_like(state["intro.bias"], float("nan"))}, tmp_path / "nan.pth")
    with pytest.raises(WeightsError, match=r"nan\.pth: intro\.bias has values that are not finite"):
        load_student(tmp_path / "nan.pth")
    torch.save(state | {"middle_blks.99999.beta": torch.zeros(1)}, tmp_path / "many.pth")
    with pytest.raises(WeightsError, match=r"many\.pth: middle_blks\.99999\.beta is \[1\]; not the weights of a network"):
        load_student(tmp_path / "many.pth")


def test_unknown_weights_are_refused_with_their_first_keys_and_the_expected_ones(tmp_path: Path) -> None:
    torch.save({f"{name}.weight": torch.zeros(1) for name in "abcd"}, tmp_path / "w.pth")
    found = "a.weight, b.weight, c.weight, ..."
    expected = "a Restormer has patch_embed.proj.weight, a U-Net enc1.block.0.weight or stem.weight"
    with pytest.raises(WeightsError, match=f"the first keys are {found}; {expected}.* and no network that spandrel .* knows"):
        load_student(tmp_path / "w.pth")


def test_without_spandrel_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, find = save_network(tmp_path / "w.pth", "NAFNet"), importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "spandrel" else find(name))
    with pytest.raises(WeightsError, match=r'the first keys are .*; for other .* pip install -e "\.\[teachers\]"'):
        load_student(path)


def test_the_commands_of_the_readme_import_no_extra(tmp_path: Path) -> None:
    """The README's first two commands: pip, which installs no extra, and the quickstart, here with little to do."""
    few = ["data.sharp=samples", "data.images_per_epoch=8", "data.workers=0", "eval.crop=64", "stages.0.epochs=1"]
    few += [f"run.dir={tmp_path / 'run'}"]
    words = ["distill.train", "--config", "configs/quickstart.yaml", "--set", "run.device=cpu", "teacher.check=off", *few]
    code = f"""if True:
        import runpy, sys
        sys.argv = {words}
        runpy.run_module("distill.train", run_name="__main__")
        extras = {{"spandrel", "timm", "lpips", "pyiqa", "piq", "onnx", "onnxruntime", "openvino"}}
        sys.exit(str(extras & set(sys.modules)) if extras & set(sys.modules) else 0)
    """
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "run" / "student_model_v1.pth").is_file()


@pytest.mark.gpu
def test_on_a_gpu_it_computes_in_the_half_precision_that_it_supports(tmp_path: Path) -> None:
    path, blurry = save_network(tmp_path / "w.pth", "NAFNet"), smooth(2, 50, 37)
    teacher = build_teacher(TeacherConfig(weights=str(path)), torch.device("cuda"))
    assert teacher is not None
    assert teacher.precision == ("bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32")
    exact = teacher_of(path)(blurry)
    error = (teacher(blurry.cuda()).cpu() - exact).square().mean().sqrt() / (exact - blurry).square().mean().sqrt()
    assert float(error) < 0.03
