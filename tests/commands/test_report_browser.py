"""A report as people use it, in a real Chromium: on a desktop and a phone, light and dark, with pointer and keyboard."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CONTRASTS, HOSTILE, chromium, needs_chromium, place, unreadable
from PIL import Image
from run_folders import (
    STEPS,
    make_mixed_run,
    make_run,
    make_run_without_sharp,
    training_records,
    validation_images,
    write_evaluation,
    write_fidelity,
    write_records,
)

from distill.report import report

__all__ = ["chromium", "place"]  # fixtures
pytestmark = needs_chromium


FURTHER_SCORES = {"blurry_psnr_y": 27.0, "student_psnr_y": 28.5, "blurry_lpips_vgg": 0.31, "student_lpips_vgg": 0.23}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Reports of one run, of two, and of runs without sharp images."""
    root = tmp_path_factory.mktemp("browser")
    names = ["a", "b", "c", HOSTILE.replace("/", "")]
    sharp = validation_images(root / "sharp", names)
    for name in ("run", "other"):
        make_run(root / name, sharp, optimizer={"lr": 1e-3 if name == "run" else 1e-4})
        write_evaluation(root / name, {name: (25.0, 29.0, 24.4 + index) for index, name in enumerate(names)})
        odd = [record | ({"rejected_updates": 1} if record["step"] == STEPS else {}) for record in training_records()]
        write_records(root / name, odd)
    two = report([root / "run", root / "other"], root / "two.html", images=3, device="cpu")
    numbered = numbered_runs(root, sharp)
    make_run_without_sharp(root / "unsharp", validation_images(root / "blurry", names[:3]))
    write_fidelity(root / "unsharp", {"a": 0.9, "b": -0.25, "c": None})
    make_mixed_run(root / "mixed", sharp, root / "blurry")
    return {
        "unsharp": report([root / "unsharp"], images=2, device="cpu"),
        "unsharp and others": report([root / "unsharp", root / "mixed", root / "run"], root / "all.html", images=0),
        "one": report([root / "run"], images=4, device="cpu"),
        "two": two,
        "whole images": report(numbered[:1], images=1, device="cpu"),
        "numbered": report(numbered, images=0),
    }


def numbered_runs(root: Path, sharp: Path) -> list[Path]:
    """Two, run1 and run2, on whole images, which are no squares, with a second stage that begins shortly before their end, and
    with further scores."""
    stages = [{"name": "first", "epochs": 3}, {"name": "a-name-of-many-words", "epochs": 1}]
    for name in ("run1", "run2"):
        make_run(root / name, sharp, eval={"crop": None}, stages=stages)
        later, more = {"stage": "a-name-of-many-words"}, FURTHER_SCORES
        known = [
            r | ({"stage": "first"} if "stage" in r else {}) | (more if r["kind"] == "val" else {}) for r in training_records()
        ]
        write_records(root / name, [r | (later if "stage" in r and r["step"] > STEPS - 4 else {}) for r in known])
        (root / name / "student_model_v1.pth").rename(root / name / "student_best.pth")
    return [root / "run1", root / "run2"]


@pytest.fixture
def page(place: Any, pages: dict[str, Path]) -> Any:
    place.goto(pages["one"].as_uri())
    return place


def stage_pixels(page: Any) -> np.ndarray:
    """The lower half of the picture, below its labels and above the detail's frame, without the line in its middle."""
    pixels = np.asarray(Image.open(io.BytesIO(page.locator(".stage").screenshot())).convert("RGB"))
    return pixels[int(0.75 * len(pixels)) :].astype(int)


def set_divider(page: Any, percent: int) -> None:
    page.locator("#divider").focus()
    page.keyboard.press("Home")
    for _ in range(percent):
        page.keyboard.press("ArrowRight")


def detail(page: Any) -> list[str]:
    return page.evaluate("[...document.querySelectorAll('.loupe canvas')].map((canvas) => canvas.toDataURL())")


def test_the_slider_shows_the_left_picture_left_of_it_and_the_right_one_right_of_it(page: Any) -> None:
    set_divider(page, 0)
    right = stage_pixels(page)
    page.keyboard.press("End")
    left = stage_pixels(page)
    assert np.abs(left - right).mean() > 1
    set_divider(page, 30)
    both = stage_pixels(page)
    cut = int(0.3 * both.shape[1])
    assert np.array_equal(both[:, : cut - 4], left[:, : cut - 4])
    assert np.array_equal(both[:, cut + 4 :], right[:, cut + 4 :])


def test_the_pointer_moves_the_divider(page: Any) -> None:
    stage = page.locator(".stage")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.7 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.7 * box["height"], steps=4)
    assert page.locator("#divider").input_value() == "80"
    page.mouse.up()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.7 * box["height"])
    assert page.locator("#divider").input_value() == "80"
    assert page.locator(".divide").bounding_box()["x"] == pytest.approx(box["x"] + 0.8 * box["width"], abs=3)


def test_the_slider_says_what_it_shows(page: Any) -> None:
    set_divider(page, 30)
    assert page.locator("#divider").get_attribute("aria-valuetext") == "30 % blurry, 70 % student"


def test_another_picture_can_be_put_on_a_side(page: Any) -> None:
    set_divider(page, 0)
    student = stage_pixels(page)
    page.locator("#right-picture").select_option(label="sharp")
    assert np.abs(stage_pixels(page) - student).mean() > 1


def test_the_magnifier_follows_the_pointer_and_the_arrow_keys_and_zooms(page: Any) -> None:
    seen = [detail(page)]
    assert len(set(seen[0])) == 4  # blurry, student, teacher, sharp
    stage = page.locator(".stage")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    page.mouse.move(box["x"] + 0.55 * box["width"], box["y"] + 0.55 * box["height"])
    seen.append(detail(page))
    page.locator(".target").focus()
    page.keyboard.press("ArrowLeft")
    seen.append(detail(page))
    assert "of 80 by 80 pixels" in page.locator(".target").get_attribute("aria-valuetext")
    page.locator("input[name=zoom][value='8']").check(force=True)
    seen.append(detail(page))
    for before, after in pairwise(seen):
        assert all(one != other for one, other in zip(before, after, strict=True))


def test_the_magnifier_stops_at_the_edge_and_comes_back_at_once(page: Any) -> None:
    page.locator(".target").focus()
    for _ in range(60):
        page.keyboard.press("ArrowLeft")
    before = detail(page)
    page.keyboard.press("ArrowRight")
    assert all(one != other for one, other in zip(before, detail(page), strict=True))


def test_the_magnified_detail_is_a_square(place: Any, pages: dict[str, Path]) -> None:
    place.goto(pages["whole images"].as_uri())
    place.locator("input[name=zoom][value='2']").check(force=True)
    box = place.locator(".target").bounding_box()
    assert box["width"] == pytest.approx(box["height"], abs=0.5)


def test_every_image_can_be_chosen_with_the_keyboard(page: Any) -> None:
    buttons = page.locator(".thumb")
    assert buttons.count() == 4
    assert "worst" in buttons.nth(0).inner_text()
    assert "best" in buttons.nth(3).inner_text()
    before = detail(page)
    buttons.nth(1).focus()
    page.keyboard.press("Enter")
    assert page.locator(".thumb[aria-pressed=true]").inner_text() == buttons.nth(1).inner_text()
    page.wait_for_function("(before) => document.querySelector('.loupe canvas').toDataURL() !== before", arg=before[0])


def test_the_bars_of_all_images_have_one_zero(page: Any) -> None:
    zeros = page.evaluate("[...document.querySelectorAll('.gain-bar .zero')].map((line) => line.getBoundingClientRect().x)")
    assert len(zeros) == 4
    assert max(zeros) - min(zeros) < 0.5


def test_a_long_name_does_not_widen_its_thumbnail(page: Any) -> None:
    widths = page.evaluate("[...document.querySelectorAll('.thumb')].map((thumb) => thumb.offsetWidth)")
    assert len(set(widths)) == 1


def test_what_has_the_focus_is_seen(page: Any) -> None:
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        state = page.evaluate("""() => {
            const element = document.activeElement;
            const shown = element.matches('.bar input') ? element.nextElementSibling : element;
            const style = getComputedStyle(shown);
            return [element.id || element.getAttribute('class') || element.tagName,
                    style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2];
        }""")
        if state[0] == "BODY":
            break
        assert state[1], f"{state[0]} has the focus, and does not show it"
        reached.add(state[0])
    assert {"divider", "target", "thumb", "left-picture", "right-picture"} <= reached


def test_curves_go_against_time_or_steps_and_are_read_with_the_keyboard(page: Any) -> None:
    chart = page.locator(".charts .chart").first
    assert "training steps" in chart.inner_text() or "training steps" in chart.text_content()
    before = chart.locator("polyline").first.get_attribute("points")
    chart.locator("svg[tabindex]").focus()
    page.keyboard.press("Home")
    assert chart.locator(".place").inner_text() == "step 2"
    page.get_by_label("Time").check(force=True)
    assert "training time in s" in chart.text_content()
    assert chart.locator("polyline").first.get_attribute("points") == before  # steps took equal time
    chart.locator("svg[tabindex]").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert chart.locator(".place").inner_text() == "2 s"


def test_what_the_arrow_keys_read_is_spoken(page: Any) -> None:
    chart = page.locator(".charts .chart").first
    spoken = chart.locator("[aria-live=polite]")
    assert spoken.text_content() == ""
    chart.locator("svg[tabindex]").focus()
    page.keyboard.press("Home")
    assert spoken.text_content().startswith("step 2: loss, weighted sum 0.")
    assert "; l1, to the sharp image 0." in spoken.text_content()


def test_the_name_of_a_stage_near_the_end_is_seen_whole(place: Any, pages: dict[str, Path]) -> None:
    place.goto(pages["whole images"].as_uri())
    outside = place.evaluate("""() => [...document.querySelectorAll('.charts .mark text')].map((text) => {
        const [inner, outer] = [text.getBoundingClientRect(), text.closest('svg').getBoundingClientRect()];
        return [text.textContent, inner.left - outer.left, outer.right - inner.right];
    })""")
    assert "stage a-name-of-many-words" in {name for name, _, _ in outside}
    assert [name for name, left, right in outside if min(left, right) < 0] == []


def test_every_section_has_a_name_of_its_own(place: Any, pages: dict[str, Path]) -> None:
    place.goto(pages["numbered"].as_uri())
    ids = place.evaluate("[...document.querySelectorAll('[id]')].map((element) => element.id)")
    assert len(ids) == len(set(ids))
    named = place.evaluate("""() => [...document.querySelectorAll('section')].map((section) =>
        document.getElementById(section.getAttribute('aria-labelledby')).textContent)""")
    assert named[-2:] == ["What was trained: run1", "What was trained: run2"]


@pytest.mark.parametrize("which", ["one", "two", "unsharp", "unsharp and others"])
def test_nothing_is_wider_than_the_page_and_all_text_can_be_read(place: Any, pages: dict[str, Path], which: str) -> None:
    place.goto(pages[which].as_uri())
    place.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    place.wait_for_selector(".numbers table")
    assert place.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert len(place.evaluate(CONTRASTS)) > 80
    assert unreadable(place) == []


def test_everything_that_is_used_has_a_name(page: Any) -> None:
    nameless = page.evaluate("""() => [...document.querySelectorAll('button, input, select, [tabindex], canvas, svg[role=img]')]
        .filter((element) => !(element.getAttribute('aria-label') || element.labels?.[0]?.textContent.trim()
            || element.textContent.trim())).map((element) => element.outerHTML.slice(0, 80))""")
    assert nameless == []


def test_names_of_files_are_text(page: Any) -> None:
    assert page.evaluate("window.hacked") is None
    assert page.get_by_text(HOSTILE.replace("/", ""), exact=True).count() >= 1


def test_two_runs_are_overlaid_and_their_difference_is_named(place: Any, pages: dict[str, Path]) -> None:
    place.goto(pages["two"].as_uri())
    assert place.locator(".charts .chart").first.locator("polyline").count() == 2
    assert place.locator("table.settings tbody th").all_inner_texts() == ["optimizer.lr"]
    assert place.locator("#left-picture option").all_inner_texts()[1:3] == ["student of run", "student of other"]


@pytest.fixture
def tab(chromium: Any) -> Iterator[Any]:
    """One tab of one size, for tests of what is said."""
    tab = chromium.new_page()
    yield tab
    tab.close()


def test_without_sharp_images_the_page_says_how_closely_the_student_follows(tab: Any, pages: dict[str, Path]) -> None:
    tab.goto(pages["unsharp"].as_uri())
    assert tab.locator(".tile").first.inner_text().split("\n")[:2] == ["Teacher\u2019s correction reproduced", "80 %"]
    assert tab.locator("#left-picture option").all_inner_texts() == ["blurry", "student", "teacher"]
    assert "b \u221225.0 % of the teacher\u2019s correction" in " ".join(tab.locator(".picture-name").inner_text().split())
    assert tab.locator(".loupe .value").all_inner_texts()[0].endswith(" dB to teacher")
    assert tab.locator(".finding.bad").inner_text().endswith("than the blurry input: b (\u221225.0 %).")
    assert tab.get_by_text("The teacher changes nothing on c.").count() == 1
    titles = [title.replace("\u2019", "'") for title in tab.locator(".charts figcaption strong").all_inner_texts()]
    assert titles == ["Loss on training crops", "Teacher's correction reproduced", "PSNR to the teacher's pictures", "Speed"]
    said = tab.locator("main").inner_text()
    assert not any(claim in said for claim in ("Gain over", "higher is better", "got worse", "the worst", "to the sharp image"))


def test_runs_with_and_without_sharp_images_share_a_table(tab: Any, pages: dict[str, Path]) -> None:
    tab.goto(pages["unsharp and others"].as_uri())
    results = tab.locator("table.figures").first
    heads = [head.replace("\u2019", "'") for head in results.locator("thead th").all_inner_texts()]
    assert heads[:5] == ["run", "PSNR, dB", "SSIM", "teacher's gain", "reproduced"]
    rows = [
        [cell.split("\n")[0] for cell in row.locator("td").all_inner_texts()[:4]] for row in results.locator("tbody tr").all()
    ]
    nothing = "\u2013"
    assert [row[:3] == 3 * [nothing] for row in rows] == [True, False, False]
    assert [row[3] for row in rows] == ["80.0 %", "80.0 %", nothing]


def test_a_script_that_is_not_the_reports_own_does_not_run(chromium: Any, pages: dict[str, Path], tmp_path: Path) -> None:
    """Were something not escaped after all, the page's policy would still keep it from running."""
    changed = tmp_path / "changed.html"
    changed.write_text(pages["one"].read_text().replace("</body>", "<script>window.hacked = 1</script></body>"))
    tab = chromium.new_page()
    tab.goto(changed.as_uri())
    assert tab.locator("h1").inner_text() == "run"
    assert tab.evaluate("window.hacked") is None
    tab.close()


@pytest.mark.parametrize("kind", ["whole images", "numbered"])
def test_further_scores_are_columns_and_charts(tab: Any, pages: dict[str, Path], kind: str) -> None:
    """Of one run, and of several compared. The teacher's are not recorded."""
    tab.goto(pages[kind].as_uri())
    text = tab.locator("main").inner_text()
    assert {"psnr_y, dB", "lpips_vgg, lower is better"} <= {cell.strip() for cell in tab.locator("th").all_inner_texts()}
    assert "28.50\n+1.50" in text
    assert "0.2300\n\u22120.0800" in text
    assert "Validation psnr_y, dB" in text
    assert "Validation lpips_vgg, lower is better" in text
