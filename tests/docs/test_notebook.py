"""The notebook runs from top to bottom."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "online_distillation.ipynb"

nbformat = pytest.importorskip("nbformat", reason='the notebook needs pip install -e ".[notebook]"')
nbclient = pytest.importorskip("nbclient", reason='the notebook needs pip install -e ".[notebook]"')
pytest.importorskip("ipykernel", reason='the notebook needs pip install -e ".[notebook]"')


@pytest.mark.slow
def test_the_notebook_runs_and_its_student_improves_the_photographs(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    quickstart = tmp_path / "configs" / "quickstart.yaml"
    shorter = quickstart.read_text().replace("images_per_epoch: 800", "images_per_epoch: 240")
    assert shorter != quickstart.read_text()
    quickstart.write_text(shorter)
    (tmp_path / "notebooks").mkdir()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path / "notebooks")}})
    client.execute()
    printed = "".join(o["text"] for cell in notebook.cells for o in cell.get("outputs", []) if o.get("name") == "stdout")
    blurry, student = (float(re.findall(rf"^{row} +([\d.]+)", printed, re.M)[0]) for row in ("blurry", "student"))
    assert student > blurry + 0.5
    assert (tmp_path / "notebooks" / "student.onnx").is_file()
    pictures = [o for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(pictures) == 5


def test_the_notebook_keeps_no_error_and_no_path_of_a_machine() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    assert all(o["output_type"] != "error" for o in outputs)
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|tmp|Users|work)/", text)
