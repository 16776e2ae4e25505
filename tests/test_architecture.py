"""Who may import whom, and that every shipped configuration is valid and says how it is run."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import shell_commands

from distill.config import load_config, load_study
from distill.studies.members import validation_config, variant_configs

ROOT = Path(__file__).parents[1]
PACKAGES = ("distill", "restormer", "unet")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
COMMANDS = [f"distill.{name}" for name in shell_commands.COMMANDS]
# From the top down. A file imports from its own room and from those below it; the networks know nothing of `distill` and of each
# other.
FLOORS = [
    *(
        "distill.command",
        "distill.studies",
        "distill.reporting",
        "distill.benchmark",
        "distill.training",
        "distill.scoring",
        "distill.pictures",
    ),
    *("distill.teacher_cache", "distill.networks", "distill.data", "distill.synthesis", "distill.runtime", "distill.config"),
    "distill.errors",
]
NETWORKS = ["restormer", "unet"]
THIRD_PARTY_OF_NETWORKS = {"torch", "einops", "safetensors"}
MOST_FILES_OF_A_ROOM, MOST_LINES_OF_A_FILE, MOST_LINES_OF_A_FUNCTION = 12, 300, 60


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


NAMES = {name_of(path) for path in MODULES}


def imports_of(path: Path) -> set[str]:
    """Every module that a file names in an import, wherever it stands: in a function, or under TYPE_CHECKING."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # `from distill.synthesis import degrade` imports a module, `from distill.config import Config` imports from one.
            dotted = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in NAMES else str(node.module) for name in dotted}
    return found


def within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def own_imports(path: Path) -> set[str]:
    """Those of this project."""
    return {name for name in imports_of(path) if any(within(name, package) for package in PACKAGES)}


def room_of(module: str) -> str:
    """The entry of FLOORS, the network or the command that a module belongs to."""
    (room,) = [room for room in [*FLOORS, *NETWORKS, *COMMANDS] if within(module, room)]
    return room


def may_import(room: str) -> list[str]:
    if room in NETWORKS:
        return [room]
    below = FLOORS if room in COMMANDS else FLOORS[FLOORS.index(room) :]
    return [room, *below, *(NETWORKS if "distill.networks" in below else [])]


def test_the_rules_know_every_file() -> None:
    assert {"distill.train", "distill.evaluate"} <= set(COMMANDS)
    assert {room_of(name) for name in NAMES - {"distill"}} == {*FLOORS, *NETWORKS, *COMMANDS}


@pytest.mark.parametrize("path", [path for path in MODULES if name_of(path) != "distill"], ids=name_of)
def test_a_file_imports_from_its_own_room_and_those_below(path: Path) -> None:
    allowed = may_import(room_of(name_of(path)))
    for imported in own_imports(path):
        assert any(within(imported, room) for room in allowed), f"{name_of(path)} imports {imported}"


def test_no_imports_run_in_a_circle() -> None:
    graph = {name_of(path): own_imports(path) for path in MODULES}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' -> '.join(error.args[1])}")


def test_rooms_files_and_functions_can_be_seen_at_once() -> None:
    for folder in {path.parent for path in MODULES}:
        assert len(list(folder.glob("*.py"))) <= MOST_FILES_OF_A_ROOM, folder
    for path in MODULES:
        text = path.read_text()
        assert len(text.splitlines()) <= MOST_LINES_OF_A_FILE, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < MOST_LINES_OF_A_FUNCTION, f"{path}: {node.name}"


@pytest.mark.parametrize("path", [path for path in MODULES if name_of(path).partition(".")[0] in NETWORKS], ids=name_of)
def test_networks_need_torch_einops_and_safetensors_only(path: Path) -> None:
    packages = {name.partition(".")[0] for name in imports_of(path)}
    allowed = THIRD_PARTY_OF_NETWORKS | ({"triton"} if path.name == "kernels.py" else set())
    assert packages - sys.stdlib_module_names - set(NETWORKS) <= allowed


def test_the_package_itself_imports_nothing() -> None:
    assert imports_of(ROOT / "distill" / "__init__.py") == set()


def test_reading_a_configuration_does_not_load_torch() -> None:
    code = "import sys, distill.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("path", shell_commands.CONFIGS, ids=lambda p: p.stem)
def test_a_shipped_configuration_is_valid_and_opens_with_its_command(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study's variants and validation sets too, whose base is named as from the project's folder."""
    monkeypatch.chdir(ROOT)
    if path in shell_commands.STUDIES:
        variant_configs(study := load_study(path))
        for validation in study.validation:
            validation_config(study, validation)
    else:
        load_config(path)
    comment = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(f"--config configs/{path.name}" in line for line in comment)


@pytest.mark.parametrize("path", shell_commands.RUNS, ids=lambda p: p.stem)
def test_no_shipped_configuration_trains_on_the_validation_photographs(path: Path) -> None:
    from distill.data.sources import SAMPLES_FOR_TRAINING, SAMPLES_FOR_VALIDATION

    assert {"chelsea.png", "coffee.png"} == set(SAMPLES_FOR_VALIDATION)
    assert not set(SAMPLES_FOR_TRAINING) & set(SAMPLES_FOR_VALIDATION)
    config = load_config(path)
    train, val = ({source.sharp for source in images.entries} - {None} for images in (config.data, config.data.val))
    assert train & val <= {"samples"}
