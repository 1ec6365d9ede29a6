"""Two to four runs on one page: what it shows, and that it needs nothing but itself."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from compared import compare, small_reward
from finished import folder
from worlds import saved, world

from offline_marl.core.config import ConfigError
from offline_marl.core.types import Batch
from offline_marl.launch.cli import main
from offline_marl.preferences.labels import Label
from offline_marl.report.gather.scores import EvidenceError
from offline_marl.report.side_by_side.labels import _told, browsers_of
from offline_marl.report.side_by_side.page import render
from offline_marl.report.side_by_side.sides import read_sides
from offline_marl.training.preferences.folders import ComparisonFolder, numbers_of
from offline_marl.training.preferences.labelled import Labelled
from offline_marl.training.preferences.loading import load_reward

NASTY = "<script>alert(1)</script>"


@pytest.fixture
def runs(tmp_path) -> list[Path]:
    made = []
    for place, (algorithm, score) in enumerate([("bc", 1.0), ("iql", 5.0)]):
        path = tmp_path / f"run {place} {NASTY if place else ''}".replace("/", "_")
        folder(path, score, algorithm=algorithm, seed=place, settings={"lr": 0.1} if place else {"hidden": [8]})
        made.append(path)
    return made


def test_scores_curves_and_settings_that_differ_stand_side_by_side(runs) -> None:
    page = render(read_sides(runs))
    assert "<script>alert" not in page.replace('<script>"use strict"', "") and "&lt;script&gt;alert(1)" in page
    assert all(f'id="{name}"' in page for name in ("scores", "settings"))
    table = page.partition('id="scores"')[2].partition("</table>")[0]
    assert "bc" in table and "iql" in table and "5.00" in table
    settings = page.partition('id="settings"')[2].partition("</section>")[0]
    assert "lr" in settings and "0.1" in settings and "[8]" in settings, "settings that only one of them has"
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page) == [], "nothing is fetched"


@pytest.mark.parametrize(("other", "unlike"), [(-20.0, True), (-1.0, False)])
def test_returns_of_unlike_reference_scores_stand_side_by_side_raw(runs, other, unlike) -> None:
    for path, random in zip(runs, (-1.0, other), strict=True):
        (path / "task.json").write_text(json.dumps({"reference": {"random": random, "expert": 6.0, "note": ""}}))
    page = render(read_sides(runs))
    assert ("Returns on toy are not normalized: its runs name different reference scores." in page) == unlike
    assert ("Normalised return" in page, ">50.0<" in page) == (not unlike, not unlike)
    assert "5.00" in page


def settings_of(*runs: Path) -> str:
    return render(read_sides(runs)).partition('id="settings"')[2].partition("</section>")[0]


def test_settings_are_the_same_where_data_environment_and_algorithm_are_too(tmp_path) -> None:
    for place, (data, algorithm) in enumerate([("a/set", "bc"), ("a/set", "bc"), ("b/set", "bc"), ("a/set", "iql")]):
        folder(tmp_path / str(place), algorithm=algorithm, dataset=data, seed=place)
    assert "All settings but the seed are the same" in settings_of(tmp_path / "0", tmp_path / "1")
    for other, name, value in ((2, "dataset", "b/set"), (3, "algorithm", "iql")):
        shown = settings_of(tmp_path / "0", tmp_path / str(other))
        assert "are the same" not in shown and name in shown and value in shown


@pytest.mark.parametrize("count", [1, 5])
def test_two_to_four_runs_are_compared(runs, count) -> None:
    with pytest.raises(ConfigError, match="2 to 4"):
        read_sides([runs[0], *runs, *runs][:count])


def test_a_run_twice_and_a_folder_of_no_run_are_refused(runs, tmp_path) -> None:
    with pytest.raises(EvidenceError, match="twice"):
        read_sides([runs[0], runs[0]])
    with pytest.raises(EvidenceError, match="holds no run"):
        read_sides([runs[0], tmp_path])


def test_unfinished_runs_are_shown_as_such(runs, tmp_path) -> None:
    folder(tmp_path / "going", done=False)
    sides = read_sides([runs[0], tmp_path / "going"])
    assert sides[1].score is None and "unfinished" in sides[1].note and "unfinished" in render(sides)


def test_labels_stand_beside_the_probability_and_disagreement_of_each_reward_model(tmp_path, runs, monkeypatch) -> None:
    data = saved(tmp_path, world("continuous", episodes=20))
    comparisons = compare(tmp_path / "comparisons", data)
    with ComparisonFolder(comparisons) as opened:
        first = opened.store.pairs()[0].pair
        opened.store.add([Label(first.id, "second", NASTY, target="agent_1")])
    models = [small_reward(tmp_path / f"model{seed}", data, comparisons, seed=seed).folder for seed in (0, 1)]
    sides = read_sides(runs)
    sides = [replace(side, reward_model=model) for side, model in zip(sides, models, strict=True)]
    (browser,), reasons = browsers_of(sides)
    assert reasons == [] and len(browser.asked) == 61 and browser.models == tuple(side.name for side in sides)
    with ComparisonFolder(comparisons) as opened:
        copies = opened.copies(opened.store.pairs())
    rows = numbers_of(copies)
    one = next(asked for asked in browser.asked if asked.target == "agent_1")
    for side, model in zip(sides, models, strict=True):
        scores = load_reward(model).scores(copies.segments)[..., 1]
        likely = (scores[:, rows[first.first]] - scores[:, rows[first.second]]).sigmoid()
        assert one.told[side.name].probability == pytest.approx(likely.mean().item(), abs=1e-5)
        assert one.told[side.name].disagreement == pytest.approx(likely.std(correction=0).item(), abs=1e-5)
    page = render(sides, [browser])
    shown = page.partition('id="label-browser-0"')[2].partition("</section>")[0]
    assert shown.count("<tr>") >= 61 and "disagreement" in shown and "agrees with" in shown
    assert NASTY not in shown and first.id[:8] in shown


def test_agreement_is_that_of_held_out_answers_with_the_verdict_and_no_question_is_invented(tmp_path, runs) -> None:
    data = saved(tmp_path, world("continuous", episodes=20))
    comparisons = compare(tmp_path / "comparisons", data, target="agents", budget=20)
    fit = small_reward(tmp_path / "model", data, comparisons, min_labels=1)
    with ComparisonFolder(comparisons) as opened:
        one = opened.store.pairs()[0].pair.id
        opened.store.add([Label(one, "first", "late", target="agent_0")])
    sides = [replace(side, reward_model=fit.folder) for side in read_sides(runs)]
    (browser,), _ = browsers_of(sides)
    assert len(browser.asked) == 60 and "team" not in {asked.target for asked in browser.asked}
    told, found = fit.report["accuracy"], browser.agreements[sides[0].name]
    hits, count = found.held_out
    assert (count, hits / count) == (told["labels"], pytest.approx(told["accuracy"], abs=1e-5)), (
        "what came late is not counted"
    )
    assert found.train[1] + count == 60
    page = render(sides, [browser])
    assert (
        f"{hits / count:.3f} of {count} held-out answers" in page and f"of the {found.train[1]} that it learnt" in page
    )
    assert "to be trusted" in page


def test_agreement_leaves_out_labels_about_an_agent_that_is_in_neither_segment() -> None:
    here = torch.ones(2, 3, 2, dtype=torch.bool)
    here[:, :, 1] = False
    batch = Batch(
        obs=torch.zeros(2, 3, 2, 1), actions=torch.zeros(2, 3, 2, 1), rewards=torch.zeros(2, 3, 2),
        next_obs=torch.zeros(2, 3, 2, 1), terminations=~here, truncations=~here, mask=here,
    )  # fmt: skip
    labels = tuple(Label("a", "first", "ann", target=f"agent_{agent}") for agent in (0, 1))
    sides = torch.tensor([[0, 1], [0, 1]])
    labelled = Labelled(batch, sides, torch.ones(2), torch.tensor([0, 1]), labels)
    model = SimpleNamespace(scores=lambda segments: torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]))
    assert _told(labelled, model) == (1, 1)


def test_labels_that_are_gone_are_told_of_and_the_rest_is_shown(tmp_path, runs) -> None:
    sides = [replace(side, reward_model=tmp_path / "nowhere") for side in read_sides(runs)]
    browsers, reasons = browsers_of(sides)
    assert browsers == [] and len(reasons) == 2 and "nowhere" in reasons[0]
    assert "nowhere" in render(sides, browsers, notes=reasons)


def test_the_command_writes_one_file_and_films_on_one_clock(tmp_path, runs, monkeypatch, capsys) -> None:
    from offline_marl.films.videos import Film
    from offline_marl.report import films

    def filmed(run: Path, path: Path) -> Film:
        path.write_bytes(b"a film of " + run.name.encode())
        return Film(path, path.with_suffix(".png"), 3, 10.0, (1.0,))

    monkeypatch.setattr(films, "film", filmed)
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as end:
        main(["report", *map(str, runs), "--compare", "--videos", "--out", str(out)])
    assert end.value.code == 0 and "compare.html" in capsys.readouterr().out
    page = (out / "compare.html").read_text()
    assert page.count("<video") == 2 and page.count("data:video/mp4") == 2 and 'id="films-play"' in page
    with pytest.raises(SystemExit) as end:
        main(["report", str(runs[0]), "--compare", "--out", str(out)])
    assert end.value.code == 2


def test_curves_and_metrics_are_drawn_on_common_axes(tmp_path, runs) -> None:
    for path in runs:
        with (path / "metrics.csv").open("w") as stream:
            writer = csv.writer(stream)
            writer.writerows([("step", "loss/critic"), (1, 3.0), (2, 2.0), (3, 1.0)])
    page = render(read_sides(runs))
    metrics = page.partition('id="metrics"')[2].partition("</section>")[0]
    assert "loss/critic" in metrics and metrics.count('class="line') >= 2
