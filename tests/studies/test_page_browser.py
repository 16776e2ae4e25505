"""The page of a study in a real Chromium: on a desktop and a phone, light and dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browser import CONTRASTS, HOSTILE, chromium, needs_chromium, place, unreadable

from distill.studies.page import render
from distill.studies.result import Cost, Outcome, StudyResult, VariantResult, verdict
from distill.studies.statistics import Difference

__all__ = ["chromium", "place"]  # fixtures
pytestmark = needs_chromium

SETS = ("kodak", HOSTILE)
FAR = Difference(0.42, 0.31, 0.55, {0: 0.3, 1: 0.44, 2: 0.52})
NEAR = Difference(-0.01, -0.09, 0.07, {0: -0.1, 1: 0.0, 2: 0.07})


def outcome(found: Difference | None) -> Outcome:
    means = {row: {"psnr": psnr, "ssim": 0.8} for row, psnr in (("blurry", 27.0), ("teacher", 32.5), ("student", 29.8))}
    differences = {} if found is None else {"psnr": found, "ssim": found}
    words = "The others are compared with this one." if found is None else verdict(found)
    return Outcome(means, differences, words, images=24)


def on_all_sets(found: Difference | None) -> dict[str, Outcome]:
    return {name: outcome(found) for name in SETS}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three variants, one of them with a long name, one that took too long, and a run that failed."""
    variants = [
        VariantResult(
            "none", ["teacher.mode=none", "stages.0.kd=0"], None, [0, 1, 2], Cost(1.0, None, False, 1.3), on_all_sets(None)
        ),
        VariantResult("online", [], None, [0, 1, 2], Cost(1.2, 0.71, True, 1.5, longer=0.2), on_all_sets(FAR)),
        VariantResult("a-name.of-many_words-" * 4, [HOSTILE], "none", [0], Cost(1.0, None, True, 99.0), on_all_sets(NEAR)),
    ]
    validation = {name: ["eval.images=null"] for name in SETS}
    failures = [f"variant online, seed 2: {HOSTILE}"]
    result = StudyResult(
        "reuse", "configs/base.yaml", ["student.width=8"], "time", 5.0, [0, 1, 2], validation, variants, failures
    )
    path = tmp_path_factory.mktemp("study") / "study.html"
    path.write_bytes(render(result))
    return path


@pytest.fixture
def page(place: Any, file: Path) -> Any:
    place.goto(file.as_uri())
    return place


def test_nothing_is_wider_than_the_page_and_all_text_can_be_read(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert len(page.evaluate(CONTRASTS)) > 60
    assert unreadable(page) == []


def test_every_interval_and_every_section_has_a_name(page: Any) -> None:
    labels = page.locator("svg[role=img]").evaluate_all("all => all.map((one) => one.getAttribute('aria-label'))")
    assert labels[0] == "online: +0.42 dB, from +0.31 to +0.55"
    assert len(labels) == 4
    assert page.locator("section h2").all_inner_texts() == [
        *(f"{name}: 24 images" for name in SETS),
        "What each costs",
        "What was trained",
    ]


def test_the_strips_of_a_set_share_one_scale(page: Any) -> None:
    """The zero of every strip is at one place, and a difference above it lies to the right of it."""
    zeros = page.locator(".strips").first.locator(".zero").evaluate_all("all => all.map((one) => one.getBoundingClientRect().x)")
    means = page.locator(".strips").first.locator(".mean").evaluate_all("all => all.map((one) => one.getBoundingClientRect().x)")
    assert len(zeros) == 2
    assert abs(zeros[0] - zeros[1]) < 1
    assert means[0] > zeros[0] + 20


def test_names_are_text(page: Any) -> None:
    assert page.evaluate("window.hacked") is None
    assert page.get_by_text(HOSTILE).count() >= 3


def test_what_is_doubtful_is_said(page: Any) -> None:
    assert page.get_by_text("1.2 min (+20%!)").count() == 1
    assert page.get_by_text("1 of 3 seeds").count() == 1
    assert page.locator(".callout.warning").count() == 1
    assert page.get_by_text("No difference could be shown: it may be 0.09 dB worse or 0.07 dB better.").count() == 2
