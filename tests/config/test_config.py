"""A configuration that cannot be run is refused in one line that names the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.config import ConfigError, dump_config, load_config

VALID = """
data: {sharp: photos}
degrade: bicubic_x4
stages: [{name: v1, epochs: 1}]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(VALID)
    return path


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.pach=96", ["data.pach: unknown key", "did you mean data.patch?"]),
        ("patch=96", ["patch: unknown key", "did you mean data.patch?"]),
        ("student.widht=8", ["student.widht", "did you mean student.width?"]),
        ("student.dimm=8", ["student.dimm: unknown key; known here: arch, width"]),
        ("student={arch: restormer, dimm: 8}", ["did you mean student.dim?"]),
        ("degrade=[{kind: defocus, radius: [1, 2], sigmo: 1}]", ["degrade.0.sigmo: unknown key; known here: probability, kind"]),
        ("data.val={sources: [{sharp: a, parts: 2}]}", ["data.val.sources.0.parts: unknown key; known here: sharp, blurry"]),
        ("stages.0.clip_norm=1", ["stages.0.clip_norm: unknown key", "did you mean optimizer.clip_norm?"]),
        ("data.sharp={a: 1}", ["data.sharp: ", "found {'a': 1}"]),
        ("data.patch=-5", ["data.patch", "found -5"]),
        ("data.patch=big", ["data.patch", "integer", "found 'big'"]),
        ("data.patch=64.5", ["data.patch", "found 64.5"]),
        ("optimizer.lr=.nan", ["optimizer.lr", "finite"]),
        ("teacher.mode=offline", ["teacher.mode", "'online'", "found 'offline'"]),
        ("student.arch=vit", ["student", "unet or restormer"]),
        ("degrade=blur", ["degrade", "bicubic_x4"]),
        ("degrade=[{kind: gaussian_blur, sigma: [3, 1]}]", ["degrade.0.sigma", "[smallest, largest]"]),
        ("degrade=[{kind: haze}]", ["degrade.0", "haze", "gaussian_blur"]),
        ("degrade=[]", ["data.blurry is null and degrade is empty"]),
        ("teacher.mode=cached", ["teacher.mode: cached needs data.blurry", "distill.prepare"]),
        ("teacher.tile=100", ["teacher.tile", "found 100"]),
        ("teacher.mode=none", ["stages.0.kd: 1 needs a teacher"]),
        ("optimizer.accumulate=3", ["optimizer.accumulate: 3 does not divide data.batch: 8"]),
        ("data.sharp=dead_leaves", ["data.images_per_epoch", "no end"]),
        ("stages=[{name: a, epochs: 1}, {name: a, epochs: 1}]", ["stages", "same name"]),
        ("stages=[{name: a/b, epochs: 1}]", ["stages.0.name"]),
        ("stages.3.epochs=1", ["stages.3.epochs", "entries 0 to 0"]),
        ("data.patch.side=1", ["data.patch", "integer", "found {'side': 1}"]),
        ("nonsense", ["key.path=value"]),
        ("x" * 5000, ["key.path=value"]),
        ("x" * 5000 + "=1", ["key.path=value"]),
        ("a\nb=[", ["key.path=value", "a\\nb"]),
        ("stages." + "9" * 5000 + "=1", ["key.path=value"]),
        ("run.dir=" + "[" * 5000, ["run.dir", "nested more than 32 deep"]),
        ('run.dir="' + "x" * 5000, ["run.dir", "line 1"]),
        ("degrade=[{kind: " + "x" * 5000 + "}]", ["degrade.0", "is one of", "gaussian_blur", "found 'xxx"]),
        ("student={" + ", ".join(f"{'k' * 900}{i}: 1" for i in range(9)) + "}", ["student.kkk", "known here", "and 6 more"]),
        ('run="' + "x" * 200_000 + '"', ["run: ", "found 'xxx"]),
    ],
)
def test_a_wrong_setting_is_refused_by_name(file: Path, override: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(file, [override])
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    assert all(word in message for word in words), message


def test_a_recipe_that_has_nothing_to_do_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match="degrade is given although"):
        load_config(file, ["data.blurry=b", "data.val={sharp: s, blurry: b}"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("run: {seed: 1}\nrun: {seed: 2}\n", "line 2: duplicate key 'run'"),
        ("run: !!python/object/apply:os.system ['true']\n", "python/object"),
        ("run: {seed: 1\n", "line 2"),
        ("- 1\n", "a mapping of sections"),
        ("", "a mapping of sections"),
        ("run: " + "[" * 5000, "line 1: nested more than 32 deep"),
        ("".join(f"{' ' * depth}a:\n" for depth in range(1200)), "line 32: nested more than 32 deep"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [" + "*c, " * 700 + "]", "line 4: more than 10000 values"),
        ("run: &a [*a]", r"line 1: \*'a' stands inside of what it stands for"),
        ("x: " + "9" * 5000, "line 1: a number of 5000 characters"),
        ("run: {seed: 0x" + "f" * 5000 + "}", "run.seed: .*integer, found '0xfff"),
        ("run: {seed: 1" + ":59" * 5000 + "}", "run.seed: .*integer, found '1:59"),
        ("x: !!int ''", "line 1: tags are not understood"),
        ("x: !!bool abc", "line 1: tags are not understood"),
        ("x: !!timestamp abc", "line 1: tags are not understood"),
        ("x: !!map [a]", "line 1: tags are not understood"),
        ('x: "\\Uffffffff"', "not YAML"),
        ('run: {dir: "a\\0b"}', r"control character '\\x00'"),
        ('"a\\nb": 1', r"control character '\\n'"),
        ('run: {dir: "\\ud800"}', r"control character '\\ud800'"),
        ("k" * 900 + ": 1", r"kkk\.\.\.: unknown key"),
        ("x" * 900 + ": 1\n" + "x" * 900 + ": 1", "duplicate key 'xxx"),
        ("#" * 2**20 + "\n", "1048577 bytes are no configuration"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("change", ["gamma: [0.5, 2]", "brightness: [-0.1, 0.1]", "shuffle_channels: 0.5"])
def test_a_cached_teacher_image_is_not_recoloured(file: Path, change: str) -> None:
    cached = ["data.blurry=b", "teacher.mode=cached"]
    assert load_config(file, cached).teacher.mode == "cached"
    key = change.partition(":")[0]
    with pytest.raises(ConfigError, match=rf"augment\.{key}: .* changes colours.*teacher\.mode: online"):
        load_config(file, [*cached, f"augment={{{change}}}"])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")


def test_words_and_numbers_mean_what_they_look_like(file: Path) -> None:
    config = load_config(file, ["optimizer.amp=off", "teacher.check=off", "optimizer.lr=1e-4", "run.dir=2026-01-31"])
    assert (config.optimizer.amp, config.teacher.check, config.optimizer.lr) == ("off", "off", 1e-4)
    assert config.run.dir == "2026-01-31"
    assert load_config(file, ["run.seed=010", "data.patch=+32"]).run.seed == 10
    assert load_config(file, ["run.dir=1:30"]).run.dir == "1:30"
    for number in ("0x10", "0b1", "1_0", "1:30"):
        with pytest.raises(ConfigError, match=rf"run\.seed: .*integer, found '{number}'"):
            load_config(file, [f"run.seed={number}"])


def test_an_alias_repeats_a_value(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(VALID.replace("photos", "&folder photos") + "run: {dir: *folder}")
    assert load_config(tmp_path / "c.yaml").run.dir == "photos"


def test_the_resolved_configuration_reads_back_equal(file: Path, tmp_path: Path) -> None:
    words = ['run.dir="1e400"', 'data.sharp=["off", "1_0", "2026-01-31", "~", "é", "010", "09", "0x10"]']
    config = load_config(file, ["data.patch=48", "student={arch: restormer, dim: 16}", "augment.gamma=[0.5, 2]", *words])
    (tmp_path / "resolved.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "resolved.yaml") == config


def test_a_tilde_is_the_home_folder(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell does not expand the one in `data.sharp=~/photos`."""
    monkeypatch.setenv("HOME", "/home/me")
    sources = "data.sources=[{sharp: ~/a, blurry: ~/b}]"
    config = load_config(file, ["data.sharp=null", sources, "data.val.sharp=~/c", "teacher.weights=~/t.pth", "run.dir=~/run"])
    source = config.data.entries[0]
    found = [source.sharp, source.blurry, config.data.val.sharp, config.teacher.weights, config.run.dir]
    assert found == [f"/home/me/{name}" for name in ("a", "b", "c", "t.pth", "run")]
