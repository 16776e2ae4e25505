"""A study's result in words: what was set, what it cost, and what is not known."""

from __future__ import annotations

from dataclasses import replace

from distill.studies.markdown import to_markdown
from distill.studies.result import Cost, Outcome, StudyResult, VariantResult

NONE = VariantResult("none", ["teacher.mode=none"], None, [0], Cost(2.0, None, False, 1.0, steps=600))
ONLINE = VariantResult("online", [], "none", [0], Cost(2.4, 0.62, True, 1.0, before_minutes=2.0, steps=300, longer=0.2))
ALONE = VariantResult("alone", ["stages.0.l1=0"], None, [0], Cost(2.05, None, True, 1.0, steps=310, longer=0.025))
SCORED = Outcome({"student": {"psnr": 30.0, "ssim": 0.9}}, {}, "The others are compared with this one.", images=24)
RESULT = StudyResult("mine", "base.yaml", ["student.width=8"], "time", 2.0, [0], {}, [NONE, ONLINE, ALONE], [])


def cells(variant: VariantResult) -> list[str]:
    """The row of a variant in a table of one validation set."""
    variants = [replace(one, outcomes={"photos": SCORED}) for one in RESULT.variants]
    rows = to_markdown(replace(RESULT, variants=variants)).splitlines()
    (row,) = [row for row in rows if row.startswith(f"| {variant.name} |")]
    return [cell.strip() for cell in row.split("|")[1:-1]]


def test_all_that_was_set_is_there() -> None:
    text = to_markdown(replace(RESULT, validation={"photos": ["eval.crop=64"]}))
    assert "## Study mine\n\n3 variants of base.yaml, each trained for about 2 minutes with 1 random seed, " in text
    assert "- all variants: student.width=8" in text
    assert "- none: teacher.mode=none" in text
    assert "- online: begins with the student of none" in text
    assert "- scored on photos: eval.crop=64" in text


def test_a_variant_without_settings_of_its_own_has_nothing_more() -> None:
    plain = replace(ONLINE, after=None)
    assert "- online: nothing more" in to_markdown(replace(RESULT, variants=[NONE, plain]))


def test_a_run_that_trained_longer_is_marked_with_the_share() -> None:
    assert cells(NONE)[5:7] == ["2.0 min, 600 steps", ""]
    assert cells(ONLINE)[5:7] == ["2.4 min (+20%!), 300 steps, after 2.0 min", "62%"]
    assert "(!): trained more than 5% longer or shorter than none." in to_markdown(RESULT)
    assert "(!)" not in to_markdown(replace(RESULT, variants=[NONE, ALONE]))


def test_no_teacher_and_a_share_that_is_not_known_look_different() -> None:
    assert cells(NONE)[6] == ""
    assert cells(ALONE)[6] == "?"
