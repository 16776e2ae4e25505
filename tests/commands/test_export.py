"""An exported network gives torch's images wherever it runs, says where it comes from, and is there whole or not at all."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from foreign_networks import save_network
from PIL import Image
from torch import Tensor

from distill.config import Config, UNetConfig
from distill.export import export, main
from distill.networks import onnx_export
from distill.networks.student_files import load_student, read_student, save_student
from distill.pictures.restorer import Restorer
from distill.train import train
from distill.training.about import UNKNOWN, licence
from restormer.model import Restormer
from restormer.published import PUBLISHED
from restormer.weights import load_restormer
from unet.model import UNet

ROOT = Path(__file__).parents[2]
SHAPES = [(batch, 3, *side) for side in [(64, 64), (100, 75), (17, 16), (512, 512)] for batch in (1, 3)]


FORMS: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "as the original": {"residual": False},
    "without norm": {"norm": "none"},
    "residual blocks": {"block": "residual", "blocks": [1, 2]},
}


def student_file(folder: Path, form: str = "as shipped", about: dict[str, Any] | None = None) -> Path:
    """A student whose BatchNorms and last layer are not what they start as, and whose image is well off its input."""
    keywords: dict[str, Any] = {"width": 4, "depth": 2, "residual": True} | FORMS[form]
    torch.manual_seed(0)
    model = UNet(**keywords)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            for values, low, high in [
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.05, 0.5),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.2, 0.2),
            ]:
                torch.nn.init.uniform_(values, low, high)
    torch.nn.init.normal_(model.final.weight, std=0.1)
    torch.nn.init.constant_(model.final.bias, 0.1)  # type: ignore[arg-type]
    save_student(folder / "student.pth", model, UNetConfig(**keywords), about)
    return folder / "student.pth"


def run(path: Path, image: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["restored"], {"blurry": image.numpy()})[0])


def largest_difference(path: Path, weights: Path, shape: tuple[int, ...]) -> float:
    image = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = load_student(weights)(image).clamp(0, 1)
    assert float((expected - image).abs().mean()) > 0.02
    return float((run(path, image) - expected).abs().max())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """(weights, exported) by form."""
    made = {}
    for form in FORMS:
        weights = student_file(tmp_path_factory.mktemp("student"), form)
        export(weights, weights.with_suffix(".onnx"))
        made[form] = weights, weights.with_suffix(".onnx")
    return made


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("form", FORMS)
def test_the_file_gives_the_images_of_the_network(files: dict[str, tuple[Path, Path]], form: str, shape: tuple[int, ...]) -> None:
    weights, exported = files[form]
    assert largest_difference(exported, weights, shape) <= 1e-4


def test_the_file_clamps_its_images(files: dict[str, tuple[Path, Path]]) -> None:
    weights, exported = files["as shipped"]
    image = torch.ones(1, 3, 32, 32)
    with torch.no_grad():
        assert float(load_student(weights)(image).max()) > 1
    assert float(run(exported, image).max()) == 1


def test_no_batch_norm_is_left_in_the_file(files: dict[str, tuple[Path, Path]]) -> None:
    graph = onnx.load(files["as shipped"][1]).graph
    assert {node.op_type for node in graph.node} & {"Conv", "BatchNormalization"} == {"Conv"}


def test_the_file_says_nothing_of_the_machine_that_wrote_it(files: dict[str, tuple[Path, Path]]) -> None:
    weights, exported = files["as shipped"]
    data = exported.read_bytes()
    assert b"site-packages" not in data
    assert str(ROOT).encode() not in data
    assert str(weights.parent).encode() not in data


def test_half_precision_takes_half_the_room_and_stays_near(files: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    weights, _ = files["as shipped"]
    export(weights, tmp_path / "half.onnx", "fp16")
    model = onnx.load(tmp_path / "half.onnx")
    weights_of = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]
    assert weights_of
    assert {tensor.data_type for tensor in weights_of} == {onnx.TensorProto.FLOAT16}
    assert {part.type.tensor_type.elem_type for part in (*model.graph.input, *model.graph.output)} == {onnx.TensorProto.FLOAT}
    assert max(largest_difference(tmp_path / "half.onnx", weights, shape) for shape in SHAPES) <= 1e-2


def test_half_precision_does_not_round_what_the_network_leaves_alone(tmp_path: Path) -> None:
    model = UNet(width=4, depth=2)  # its last layer is zero: the image itself
    save_student(tmp_path / "student.pth", model, UNetConfig(width=4, depth=2))
    export(tmp_path / "student.pth", tmp_path / "half.onnx", "fp16")
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(run(tmp_path / "half.onnx", image), image)


def test_half_precision_that_overflows_leaves_no_file(tmp_path: Path) -> None:
    model = UNet(width=4, depth=2, norm="none", residual=True)
    torch.nn.init.constant_(model.enc1.block[0].bias, 1e6)  # type: ignore[union-attr, index, arg-type]
    torch.nn.init.normal_(model.final.weight, std=1e-8)
    save_student(tmp_path / "student.pth", model, UNetConfig(width=4, depth=2, norm="none"))
    with pytest.raises(onnx_export.ExportError, match="fp16 form differs from the network by nan"):
        export(tmp_path / "student.pth", tmp_path / "half.onnx", "fp16")
    assert not (tmp_path / "half.onnx").exists()


def restormer_file(folder: Path) -> Path:
    torch.manual_seed(0)
    model = Restormer(dim=4, num_blocks=[1, 1, 1, 1], num_refinement_blocks=0, heads=[1, 1, 2, 2])
    torch.save(model.state_dict(), folder / "teacher.pth")
    return folder / "teacher.pth"


@pytest.mark.slow  # tracing its shapes takes half a minute
def test_a_restormer_is_exported_too(tmp_path: Path) -> None:
    weights = restormer_file(tmp_path)
    export(weights, tmp_path / "teacher.onnx")
    assert max(largest_difference(tmp_path / "teacher.onnx", weights, shape) for shape in SHAPES[:6]) <= 1e-4


@pytest.mark.parametrize("form", FORMS)
def test_safetensors_hold_the_same_network_and_what_is_known_of_it(tmp_path: Path, form: str) -> None:
    weights = student_file(tmp_path, form)
    export(weights, tmp_path / "student.safetensors")
    before, after = load_student(weights), load_student(tmp_path / "student.safetensors")
    assert isinstance(after, UNet)
    assert after.residual == (form != "as the original")
    assert after.state_dict().keys() == before.state_dict().keys()
    assert all(torch.equal(value, before.state_dict()[key]) for key, value in after.state_dict().items())
    assert read_student(tmp_path / "student.safetensors")[1].keys() >= {"exported_by"}


def test_a_restormer_in_safetensors_is_a_teacher(tmp_path: Path) -> None:
    weights = restormer_file(tmp_path)
    export(weights, tmp_path / "teacher.safetensors")
    before, after = load_restormer(str(weights)).state_dict(), load_restormer(str(tmp_path / "teacher.safetensors")).state_dict()
    assert all(torch.equal(value, before[key]) for key, value in after.items())


def test_the_file_says_what_the_student_does(tmp_path: Path) -> None:
    weights = student_file(tmp_path, about={"step": 8, "teacher": "embedded", "validation_student_psnr": 28.5})
    export(weights, tmp_path / "student.onnx")
    said = {entry.key: entry.value for entry in onnx.load(tmp_path / "student.onnx").metadata_props}
    assert (said["arch"], said["step"], said["teacher"], said["validation_student_psnr"]) == ("unet", "8", "embedded", "28.5")
    form = {"block": "double_conv", "blocks": None}
    assert json.loads(said["architecture"]) == {"width": 4, "depth": 2, "norm": "batch", "residual": True} | form
    assert said["exported_by"].startswith("online-distill")


def test_a_trained_student_says_how_it_was_trained_and_how_good_it_is(tiny_config: Callable[..., Config]) -> None:
    config = tiny_config(data={"images_per_epoch": 4}, stages=[{"name": "v1", "epochs": 1}], eval={"crop": 32})
    score = train(config).mean("student")
    assert score is not None
    _, said = read_student(Path(config.run.dir) / "student_model_v1.pth")
    assert (said["stage"], said["step"], said["teacher"]) == ("v1", 1, "embedded")
    assert json.loads(str(said["config"])) == config.model_dump(mode="json")
    assert said["validation_student_psnr"] == pytest.approx(score.psnr)
    assert {f"validation_{row}_{of}" for row in ("blurry", "teacher", "student") for of in ("psnr", "ssim")} <= said.keys()
    assert "MIT" in str(said["teacher_licence"])


def test_a_student_without_a_word_takes_the_teacher_from_its_run_folder(tiny_tree: dict[str, Any], tmp_path: Path) -> None:
    weights = student_file(tmp_path)
    tiny_tree["student"] = {"arch": "unet", "width": 4, "depth": 2}
    tiny_tree["teacher"] |= {"weights": "motion_deblurring"}
    (tmp_path / "config.yaml").write_text(json.dumps(tiny_tree))
    export(weights, tmp_path / "student.safetensors")
    said = read_student(tmp_path / "student.safetensors")[1]
    assert said["teacher"] == "motion_deblurring"
    assert "non-commercial" in str(said["teacher_licence"])
    assert json.loads(str(said["config"]))["data"]["sharp"] == Path(tiny_tree["data"]["sharp"]).name
    assert str(tmp_path) not in str(said)


@pytest.mark.parametrize("small", [False, True])
def test_the_example_restores_an_image_as_the_command_does(
    files: dict[str, tuple[Path, Path]], tmp_path: Path, small: bool
) -> None:
    weights, exported = files["as shipped"]
    pixels = np.random.default_rng(0).integers(0, 256, (9, 40, 3) if small else (100, 75, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "blurry.png")
    words = [sys.executable, ROOT / "docs" / "onnx_example.py", exported, tmp_path / "blurry.png", tmp_path / "restored.png"]
    # From elsewhere, and without this project's path: it needs none of it.
    subprocess.run([*map(str, words)], check=True, cwd=tmp_path, env={"PATH": ""})
    expected = Restorer(load_student(weights), torch.device("cpu")).restore(pixels)
    found = np.asarray(Image.open(tmp_path / "restored.png")).astype(int)
    assert np.abs(found - expected).max() <= 1
    assert (found != expected).mean() < 1e-3


@pytest.mark.parametrize(
    ("weights", "out", "says"),
    [
        ("missing.pth", "student.onnx", "missing.pth: no such weights"),
        ("text.pth", "student.onnx", "text.pth: not a torch file"),
        ("vgg.pth", "student.onnx", "vgg.pth: not the weights of a Restormer"),
        ("half.safetensors", "half.safetensors", "half.safetensors: --out would replace the weights themselves"),
        ("student.pth", "student.pt", "the suffix says what to write: .onnx or .safetensors"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_no_file(
    tmp_path: Path, call: Callable[..., int], capfd: pytest.CaptureFixture[str], weights: str, out: str, says: str
) -> None:
    student_file(tmp_path)
    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "half.safetensors").touch()
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "vgg.pth")
    assert call(main, "--weights", tmp_path / weights, "--out", tmp_path / out) == 2
    said = capfd.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert weights == out or not (tmp_path / out).exists()


def test_without_its_packages_the_command_says_what_to_install(
    tmp_path: Path, call: Callable[..., int], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = student_file(tmp_path)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "onnxruntime" else find(name, *rest))
    assert call(main, "--weights", weights, "--out", tmp_path / "student.onnx") == 2
    assert 'needs onnxruntime; pip install -e ".[export]"' in capfd.readouterr().err


@pytest.mark.parametrize("out", ["student.onnx", "student.safetensors"])
def test_a_file_that_differs_from_torch_is_not_written(
    tmp_path: Path, call: Callable[..., int], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    weights = student_file(tmp_path)
    forward = onnx_export.Deployed.forward
    monkeypatch.setattr(onnx_export.Deployed, "forward", lambda self, blurry: forward(self, blurry) + 1e-3)
    assert call(main, "--weights", weights, "--out", tmp_path / out) == 2
    assert "the fp32 form differs from the network by 0.001" in capfd.readouterr().err
    assert not (tmp_path / out).exists()


def test_the_terms_of_published_weights_are_known_by_name(tmp_path: Path) -> None:
    assert all("non-commercial" in licence(name) for name in PUBLISHED)
    assert licence(str(student_file(tmp_path))) == UNKNOWN


def test_the_terms_of_a_teacher_go_on_to_the_student_of_its_student(tmp_path: Path) -> None:
    model = UNet(width=4, depth=2)
    about = {"teacher": "motion_deblurring", "teacher_licence": licence("motion_deblurring")}
    save_student(tmp_path / "student.pth", model, UNetConfig(width=4, depth=2), about)
    assert licence(str(tmp_path / "student.pth")) == licence("motion_deblurring")


@pytest.mark.parametrize("form", ["as shipped", "residual blocks"])
def test_openvino_gives_the_images_of_the_network(files: dict[str, tuple[Path, Path]], form: str) -> None:
    """At any size, as `docs/index.md` shows it."""
    openvino = pytest.importorskip("openvino")
    weights, exported = files[form]
    compiled = openvino.compile_model(exported, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for shape in SHAPES[:-2]:
        image = torch.rand(shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = load_student(weights)(image).clamp(0, 1)
        torch.testing.assert_close(torch.from_numpy(compiled(image.numpy())[0]), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["DnCNN", *(pytest.param(name, marks=pytest.mark.slow) for name in ("KBNet", "NAFNet"))])
def test_networks_that_spandrel_builds_are_exported_if_they_were_tried(tmp_path: Path, name: str) -> None:
    weights = save_network(tmp_path / "w.pth", name)
    export(weights, tmp_path / "out.onnx")
    assert name in onnx_export.TRIED
    for shape in ((1, 3, 17, 16), (3, 3, 33, 50)):
        assert largest_difference(tmp_path / "out.onnx", weights, shape) <= 1e-4


@pytest.mark.parametrize(
    ("name", "out", "precision", "says"),
    [
        ("RetinexFormer", "out.onnx", "fp32", "RetinexFormer is not exported; .* DnCNN, KBNet, NAFNet are"),
        ("NAFNet", "out.onnx", "fp16", "NAFNet is exported in fp32 only, not in fp16"),
        ("NAFNet", "out.safetensors", "fp32", "holds a U-Net or a Restormer of three channels, and no other network"),
    ],
)
def test_what_was_not_tried_is_not_exported(tmp_path: Path, name: str, out: str, precision: Any, says: str) -> None:
    with pytest.raises(onnx_export.ExportError, match=says):
        export(save_network(tmp_path / "w.pth", name), tmp_path / out, precision)
    assert not (tmp_path / out).exists()
