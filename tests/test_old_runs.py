"""Run directories of an earlier version (tests/fixtures/old-runs.tar.xz) still load, evaluate, resume and open.

`finished` is a run of scsam-adaptive with two snapshots, `stopped` a run of SAM alone (its method was called sam-lora)
that ended at step 4 of 6. Most of their weights were rounded so that the file is small; `expected.json` is what the
version that made them measured when it resumed `stopped`; `finished/record.json` is its record."""
import json
import tarfile
from pathlib import Path

import pytest

from scsam.config import Recipe

FIXTURE = Path(__file__).parent / "fixtures" / "old-runs.tar.xz"


@pytest.fixture
def old(tmp_path):
    with tarfile.open(FIXTURE) as t:
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.3 has no filter
        t.extractall(tmp_path, **safe)
    return tmp_path / "old-runs"


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_old_recipes_are_read_under_todays_names(old):
    recipe = Recipe.from_dict(read(old / "finished" / "recipe.json"))
    assert (recipe.point_encoding, recipe.weaker, recipe.gate_dice, recipe.gate_confidence) == ("released", "agreed",
                                                                                                0.1, 0.6)
    assert (recipe.weight_ema, recipe.branch) == (0.5, "unet")
    assert Recipe.from_dict(read(old / "stopped" / "recipe.json")).method == "sam"


def test_an_old_run_is_evaluated_to_the_same_scores(old):
    from scsam.experiment import make_record, run_data
    from scsam.learner import load_run
    from scsam.records import read_record

    run, before = load_run(old / "finished"), read_record(old / "finished" / "record.json")
    assert not before.changed and before["recipe"]["point_encoding"] == "released"
    after = make_record(run, run_data(run), "old")
    for name, by in before["summary"].items():
        for branch, metrics in by.items():
            assert after["summary"][name][branch]["dice"]["mean"] == pytest.approx(metrics["dice"]["mean"], abs=1e-3)


def test_an_old_run_opens_in_the_inspector(old):
    from scsam.inspector import Review

    review = Review(old / "finished")
    ids = review.ids
    view, problems = review.view(ids[0])
    assert len(ids) == 7 and not problems and len(view.points[0]) == 10


def test_an_old_run_that_was_stopped_is_resumed(old):
    from scsam.experiment import load_dataset
    from scsam.learner import fit, make_method

    where = read(old / "stopped" / "data.json")
    data = load_dataset(where["path"], where["kind"], **where["options"])
    recipe, expected = Recipe.from_dict(read(old / "stopped" / "recipe.json")), read(old / "expected.json")["resumed"]
    history = fit(make_method(recipe), data, recipe, old / "stopped", progress=False)
    for mine, theirs in ((history.train, expected["train"]), (history.val, expected["val"])):
        assert [r["step"] for r in mine] == [r["step"] for r in theirs]
        for a, b in zip(mine, theirs):
            assert a == pytest.approx(b, abs=2e-3)
