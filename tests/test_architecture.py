"""Who may import whom, and that every shipped configuration is valid and says how it is run."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import shell_commands

from distill.config import load_config

ROOT = Path(__file__).parents[1]
MODULES = sorted(p for package in ("distill", "restormer", "unet") for p in (ROOT / package).rglob("*.py"))
COMMANDS = {f"distill.{name}" for name in shell_commands.COMMANDS}
THIRD_PARTY_OF_NETWORKS = {"torch", "einops", "safetensors"}

# module prefix -> prefixes of the project that it may import
ALLOWED = {
    "restormer": ["restormer"],
    "unet": ["unet"],
    "distill.config.strict_yaml": ["distill.config.explain"],
    "distill.config.explain": [],
    "distill.config.types": [],
    "distill.config.degradations": ["distill.config.types"],
    "distill.config": [
        "distill.config.strict_yaml",
        "distill.config.explain",
        "distill.config.types",
        "distill.config.degradations",
    ],
    "distill.data": ["distill.config", "distill.config.types", "distill.config.degradations", "distill.data"],
    "distill.engine": ["distill.config", "distill.config.types", "distill.data", "distill.engine", "restormer", "unet"],
    "distill.reporting": [
        "distill.config",
        "distill.config.degradations",
        "distill.data",
        "distill.engine",
        "distill.reporting",
        "restormer",
    ],
}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # `from distill.data import degrade` imports a module
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def test_there_are_modules_and_commands_to_check() -> None:
    assert len(MODULES) > 20
    assert {"distill.train", "distill.evaluate"} <= COMMANDS


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_imports_only_what_its_room_may(path: Path) -> None:
    module = name_of(path)
    rules = [allowed for prefix, allowed in ALLOWED.items() if within(module, prefix)]
    for imported in imports_of(path):
        if not any(within(imported, package) for package in ("distill", "restormer", "unet")):
            continue
        assert not any(within(imported, command) and command != module for command in COMMANDS), f"{module}: command {imported}"
        for allowed in rules:
            assert any(within(imported, prefix) for prefix in allowed), f"{module} imports {imported}"


@pytest.mark.parametrize("path", [p for p in MODULES if name_of(p).partition(".")[0] != "distill"], ids=name_of)
def test_networks_need_torch_einops_and_safetensors_only(path: Path) -> None:
    packages = {name.partition(".")[0] for name in imports_of(path)}
    allowed = THIRD_PARTY_OF_NETWORKS | ({"triton"} if path.name == "kernels.py" else set())
    assert packages - sys.stdlib_module_names - {"restormer", "unet"} <= allowed


def test_the_package_itself_imports_nothing() -> None:
    assert imports_of(ROOT / "distill" / "__init__.py") == set()


def test_reading_a_configuration_does_not_load_torch() -> None:
    code = "import sys, distill.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_a_shipped_configuration_is_valid_and_opens_with_its_command(path: Path) -> None:
    load_config(path)
    comment = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(f"--config configs/{path.name}" in line for line in comment)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_no_shipped_configuration_trains_on_the_validation_photographs(path: Path) -> None:
    from distill.data.datasets import SAMPLES_FOR_TRAINING, SAMPLES_FOR_VALIDATION

    assert {"chelsea.png", "coffee.png"} == set(SAMPLES_FOR_VALIDATION)
    assert not set(SAMPLES_FOR_TRAINING) & set(SAMPLES_FOR_VALIDATION)
    config = load_config(path)
    train, val = ({sharp} if isinstance(sharp, str) else {*sharp} for sharp in (config.data.sharp, config.data.val.sharp))
    assert train & val <= {"samples"}
