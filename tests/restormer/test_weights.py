"""Weights load whatever trainer wrote them, and what are no weights is refused with its reason."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from restormer.model import Restormer
from restormer.published import PUBLISHED, Published, download, locate_weights
from restormer.weight_files import WeightsError, read_weights
from restormer.weights import infer_architecture, load_restormer

KEYWORDS: dict[str, Any] = {"dim": 8, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1, "heads": [1, 2, 2, 4]}


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return Restormer(**KEYWORDS).state_dict()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"params": s},
        lambda s: {"params": {k: v + 1 for k, v in s.items()}, "params_ema": s},
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}, "epoch": 3},
    ],
    ids=["plain", "params", "params_ema before params", "state_dict of DataParallel"],
)
def test_every_common_wrapping_loads(tmp_path: Path, state: dict[str, Tensor], wrap: Callable[[Any], Any]) -> None:
    torch.save(wrap(state), tmp_path / "w.pth")
    loaded = load_restormer(str(tmp_path / "w.pth")).state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_half_precision_is_widened(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save({key: value.half() for key, value in state.items()}, tmp_path / "w.pth")
    loaded = load_restormer(str(tmp_path / "w.pth")).state_dict()
    for key, value in state.items():
        assert loaded[key].dtype == torch.float32
        assert torch.equal(loaded[key], value.half().float())


def test_safetensors_load(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "w.safetensors")
    assert torch.equal(load_restormer(str(tmp_path / "w.safetensors")).output.weight, state["output.weight"])


@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"LayerNorm_type": "BiasFree"},
        {"dim": 16, "num_blocks": [1, 2, 2, 3], "num_refinement_blocks": 2, "bias": True, "ffn_expansion_factor": 2.0},
        {"dim": 18, "num_blocks": [1, 1, 1, 2], "heads": [1, 1, 3, 6], "ffn_expansion_factor": 1.37, "num_refinement_blocks": 0},
    ],
)
def test_the_architecture_is_read_off_the_weights(keywords: dict[str, Any]) -> None:
    with torch.device("meta"):
        model = Restormer(**keywords)
        inferred = infer_architecture(model.state_dict())
        again = Restormer(**inferred)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}
    for key, value in keywords.items():
        assert inferred[key] == value or key == "ffn_expansion_factor"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html>Sign in</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"just some text, saved under the wrong name", "not a torch file"),
    ],
)
def test_a_file_that_is_no_weights_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "w.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=reason) as caught:
        load_restormer(str(path))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_truncated_file_is_refused(tmp_path: Path, state: dict[str, Tensor], suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match="damaged or truncated"):
        load_restormer(str(path))


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "attacked",))

    torch.save({"params": Attack()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="not loaded"):
        read_weights(tmp_path / "w.pth")
    assert not (tmp_path / "attacked").exists()


def change(state: dict[str, Tensor], kind: str) -> dict[str, Any]:
    key = "latent.0.ffn.dwconv.weight"
    match kind:
        case "missing":
            return {k: v for k, v in state.items() if k != key}
        case "surplus":
            return state | {"skip.weight": torch.zeros(1)}
        case "shape":
            return state | {key: state[key][:-1]}
        case "nan":
            return state | {key: torch.full_like(state[key], float("nan"))}
        case "number":
            return state | {"epoch": 3}
        case "dual pixel":
            return state | {"patch_embed.proj.weight": torch.zeros(8, 6, 3, 3)}
        case _:
            return {"conv.weight": torch.zeros(3)}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "1 missing keys, such as latent.0.ffn.dwconv.weight"),
        ("surplus", "1 surplus keys, such as skip.weight"),
        ("shape", "latent.0.ffn.dwconv.weight is"),
        ("nan", "latent.0.ffn.dwconv.weight has values that are not finite"),
        ("number", "epoch is a int"),
        ("dual pixel", "only RGB"),
        ("another network", "not the weights of a Restormer"),
    ],
)
def test_other_weights_are_refused(tmp_path: Path, state: dict[str, Tensor], kind: str, reason: str) -> None:
    torch.save(change(state, kind), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=reason) as caught:
        load_restormer(str(tmp_path / "w.pth"))
    assert str(tmp_path / "w.pth") in str(caught.value)


BLOCK = "latent.{}.norm1.body.weight"
EMBED, KERNEL = "patch_embed.proj.weight", "latent.0.ffn.dwconv.weight"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda _: {EMBED: torch.tensor(1.0)}, rf"{EMBED} is \[\]"),
        (lambda _: {"latent.0.attn.temperature": torch.zeros(0, 1, 1)}, r"latent\.0\.attn\.temperature is \[0, 1, 1\]"),
        (lambda _: {BLOCK.format(999_999): torch.zeros(1)}, "1 surplus keys"),
        (lambda _: {BLOCK.format("9" * 5000): torch.zeros(1)}, "no names of tensors"),
        (lambda _: {7: torch.zeros(1)}, "no names of tensors"),
        (lambda _: {"a\nb": torch.zeros(1)}, "no names of tensors"),
        (lambda state: {KERNEL: state[KERNEL].to_sparse()}, f"{KERNEL} is no dense tensor of real numbers"),
        (lambda state: {KERNEL: state[KERNEL].to(torch.complex64)}, f"{KERNEL} is no dense tensor of real numbers"),
        (lambda state: {KERNEL: state[KERNEL].to(torch.float8_e4m3fn)}, f"{KERNEL} is no dense tensor of real numbers"),
        (lambda _: {EMBED: torch.zeros(1).expand(10**9, 3, 3, 3)}, "its tensors would take 108000"),
        (lambda state: dict.fromkeys(state, torch.zeros(1000)), "its tensors would take"),
    ],
)
def test_what_says_more_than_the_file_holds_or_is_no_weight_is_refused(
    tmp_path: Path, state: dict[str, Tensor], change: Callable[[dict[str, Tensor]], dict[Any, Tensor]], reason: str
) -> None:
    torch.save({**state, **change(state)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=rf"w\.pth: .*{reason}"):
        load_restormer(str(tmp_path / "w.pth"))


def rewrite(path: Path, change: Callable[[str, bytes], bytes], compression: int) -> None:
    """Changes the records of a torch file, with the right checksums."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, change(name, content))


def test_a_compressed_file_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"conv.weight": torch.zeros(10**6)}, path)
    rewrite(path, lambda _, content: content, zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match=r"w\.pth: says it holds 40\d+ bytes, and has \d{4};"):
        read_weights(path)


@pytest.mark.parametrize(
    "instructions",
    [b"\x80\x02.", b"\x80\x02ccollections\nOrderedDict\nK\x01R."],
    ids=["IndexError: nothing there", "TypeError: OrderedDict(*1)"],
)
def test_a_pickle_with_a_mistake_is_damage(tmp_path: Path, instructions: bytes) -> None:
    path = tmp_path / "w.pth"
    torch.save({}, path)
    rewrite(path, lambda name, content: instructions if name.endswith("data.pkl") else content, zipfile.ZIP_STORED)
    with pytest.raises(WeightsError, match=r"w\.pth: damaged or truncated"):
        read_weights(path)


def test_a_wrong_hash_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "w.pth"
    torch.save(state, path)
    load_restormer(str(path), hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(WeightsError, match="sha256 is"):
        load_restormer(str(path), "0" * 64)


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(FileNotFoundError, match="did you mean motion_deblurring"):
        locate_weights("motion_debluring")


def test_a_name_without_known_hash_needs_one() -> None:
    with pytest.raises(WeightsError, match=r"deraining: no sha256 is known"):
        locate_weights("deraining")


def test_the_embedded_teacher_is_small_and_loads() -> None:
    assert locate_weights("embedded").stat().st_size <= 4_000_000
    assert load_restormer("embedded").output.weight.isfinite().all()
    with pytest.raises(WeightsError, match="sha256 is"):
        locate_weights("embedded", "0" * 64)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """(address, folder that it serves), and torch's hub cache in a folder of its own."""
    (tmp_path / "served").mkdir()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "served")))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}", tmp_path / "served"
    httpd.shutdown()
    httpd.server_close()


def test_a_download_is_checked_kept_and_not_repeated(server: tuple[str, Path], state: dict[str, Tensor]) -> None:
    address, folder = server
    torch.save({"params": state}, folder / "w.pth")
    digest = hashlib.sha256((folder / "w.pth").read_bytes()).hexdigest()
    published = Published(f"{address}/w.pth", None, digest)
    path = download("test", published)
    assert read_weights(path).keys() == state.keys()
    (folder / "w.pth").unlink()
    assert download("test", published) == path


def test_a_download_of_something_else_is_not_kept(server: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = server
    (folder / "w.pth").write_bytes(b"<html>moved</html>")
    with pytest.raises(WeightsError, match="does not have the sha256"):
        download("test", Published(f"{address}/w.pth", None, "0" * 64))
    assert not list((tmp_path / "hub").rglob("restormer_*"))


def test_a_server_without_the_file_is_named(server: tuple[str, Path]) -> None:
    with pytest.raises(WeightsError, match="cannot download"):
        download("test", Published(f"{server[0]}/none.pth", None, "0" * 64))


def test_a_damaged_file_in_the_cache_is_not_used(server: tuple[str, Path], tmp_path: Path) -> None:
    cached = tmp_path / "hub" / "checkpoints" / "restormer_motion_deblurring.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"half a download")
    with pytest.raises(WeightsError, match="delete the file"):
        locate_weights("motion_deblurring")


def test_published_entries_are_well_formed() -> None:
    for name, published in PUBLISHED.items():
        assert published.url.endswith(f"/{name}.pth")
        assert published.sha256 is None or len(published.sha256) == 64
