from __future__ import annotations

import json

import pytest
from sweeping import TINY, head, tasks, written

from offline_marl.core.errors import BadInputError
from offline_marl.launch.sweeps.file import Distribution, read_sweep_file
from offline_marl.launch.sweeps.folder import merge
from offline_marl.launch.sweeps.names import LONGEST, folder_name, spell
from offline_marl.launch.sweeps.plan import draw, plan


def planned(folder, text):
    return plan(read_sweep_file(written(folder, text)))


def test_every_combination_is_a_job_in_a_readable_folder(tmp_path):
    jobs = planned(tmp_path, head(tmp_path) + TINY + "[grid]\nlr = [1e-3, 3e-4]\n")
    folders = [job.folder for job in jobs]
    assert len(set(folders)) == 3 * 2 * 3 * 2
    assert "runs/iql_arm1.safetensors_2x1notip_0_lr=0.0003_seed2" in folders


def test_a_grid_may_vary_any_field_of_the_run_or_the_algorithm(tmp_path):
    jobs = planned(
        tmp_path, head(tmp_path, ["iql"], 1, [0]) + TINY + "[grid]\nexpectile = [0.6, 0.9]\nworkers=[1, 2]\n"
    )
    assert [(job.fields["expectile"], job.fields["workers"]) for job in jobs] == [
        (0.6, 1),
        (0.6, 2),
        (0.9, 1),
        (0.9, 2),
    ]


def test_runs_that_play_and_imagine_fit_the_model_that_is_described(tmp_path):
    text = 'algorithms = ["moma-ppo", "marie"]\nenvironments = ["rendezvous"]\nseeds = [0]\n'
    text += 'world_models = ["small", "marie"]\n[models.small]\nkind = "ensemble"\nfields = { members = 3 }\n'
    jobs = planned(tmp_path, text)
    assert [(job.name, job.fields["world_model"], job.fields.get("fit")) for job in jobs] == [
        ("moma-ppo", "ensemble", {"members": 3}),
        ("moma-ppo", "marie", None),
        ("marie", "ensemble", {"members": 3}),
        ("marie", "marie", None),
    ]
    with pytest.raises(BadInputError, match="'small' is fitted to data, and rendezvous is an environment"):
        planned(tmp_path, text.replace('["moma-ppo", "marie"]\n', '["ma-ppo"]\n', 1))


def test_data_is_scored_where_the_fields_say(tmp_path):
    scored = "[fields]\nenvironment = 'my_world:make'\nmax_steps = 5\n"
    jobs = planned(tmp_path, head(tmp_path, ["iql"], 2, [0]) + scored)
    assert len({job.fields["dataset"] for job in jobs}) == 2
    assert {(job.fields["environment"], job.fields["max_steps"]) for job in jobs} == {("my_world:make", 5)}
    played = 'algorithms = ["ma-ppo"]\nenvironments = ["rendezvous"]\nseeds = [0]\n'
    with pytest.raises(BadInputError, match="says where data is scored, and environments = .* without data"):
        planned(tmp_path, played + scored)


def test_conf_and_view_of_fields_are_ends_of_the_tasks_names(tmp_path):
    text = 'algorithms = ["iql"]\ndatasets = ["reacher-scripted-mix-v0"]\nseeds = [0]\nworld_models = ["ensemble"]\n'
    short = planned(tmp_path, text + "[fields]\nconf = '2x1notip'\nview = 0\n")
    assert short == planned(tmp_path, text.replace("-v0", "-v0_2x1notip_0"))
    text = 'algorithms = ["ma-ppo"]\nenvironments = ["reacher"]\nseeds = [0]\n'
    (job,) = planned(tmp_path, text + "[fields]\nconf = '2x1'\nview = 'full'\n")
    assert job.fields["environment"] == "reacher_2x1_full" and "conf" not in job.fields
    with pytest.raises(BadInputError, match="conf and view go together"):
        planned(tmp_path, text + "[fields]\nconf = '2x1'\n")
    with pytest.raises(BadInputError, match="list the tasks"):
        planned(tmp_path, text + "[fields]\nconf = '2x1'\n[grid]\nview = ['full', 0]\n")


@pytest.mark.parametrize(
    "change, words",
    [
        (('["bc"]', '["td3bc"]'), "Unknown algorithm 'td3bc': did you mean 'td3-bc'"),
        (("arm0", "arm7"), "There is no file"),
        (("steps = 6", "stops = 6"), "Unknown field 'stops' of bc: did you mean 'steps'"),
        (("steps = 6", "steps = 0"), "Field 'steps' cannot be 0"),
        (("seeds = [0]", 'seeds = [0]\npresets = ["publshed"]'), "There is no preset 'publshed' of bc"),
        (("seeds = [0]", 'seeds = [0]\nworld_models = ["ensembel"]'), "did you mean 'ensemble'"),
        (("seeds = [0]", 'seeds = [0]\nworld_models = ["oracle"]'), "bc clones what was recorded"),
        (("steps = 6", "steps = 6\nreal_fraction = 0.1"), "--real-fraction needs a --world-model"),
        (("datasets", 'environments = ["reacher"]\ndatasets'), "does not say who moves and sees what"),
        (("datasets", 'environments = ["simple-spread"]\ndatasets'), "bc learns from recorded data"),
    ],
)
def test_what_could_not_begin_is_refused_before_anything_is_started(tmp_path, change, words):
    text = (head(tmp_path, ["bc"], 1, [0]) + TINY).replace(*change)
    with pytest.raises(BadInputError, match="(?s)" + words.replace("[", r"\[")) as error:
        planned(tmp_path, text)
    assert "\n" not in str(error.value)


def test_a_shared_world_model_is_one_job_before_the_runs_that_need_it(tmp_path):
    text = head(tmp_path, ["td3-bc", "iql"], 2, [0, 1]) + 'world_models = ["none", "small", "oracle"]\n' + TINY
    jobs = planned(tmp_path, text + "[models.small]\nfields = { steps = 4 }\n")
    fits = [job for job in jobs if job.command == "fit-model"]
    assert [job.folder for job in fits] == [f"models/small_arm{n}.safetensors_2x1notip_0_seed0" for n in (0, 1)]
    assert jobs[:2] == fits and fits[0].fields["device"] == "cpu"
    users = [job for job in jobs if job.model]
    assert len(users) == 2 * 2 * 2 and all(
        job.fields["dataset"][-20:] in fits[0].fields["dataset"] or job.model == fits[1].folder for job in users
    )
    assert sum(job.fields.get("world_model") == "oracle" for job in jobs) == 8


def test_a_world_model_may_be_fitted_anew_for_each_seed(tmp_path):
    text = head(tmp_path, ["iql"], 1, [3, 4]) + 'world_models = ["small"]\n' + TINY
    jobs = planned(tmp_path, text + '[models.small]\nseed = "run"\n')
    assert [(job.fields["seed"], job.model) for job in jobs[2:]] == [(3, jobs[0].folder), (4, jobs[1].folder)]


def test_presets_lie_beneath_fields_and_may_be_named_by_data_set(tmp_path):
    text = 'algorithms = ["iql"]\ndatasets = ["reacher-scripted-mix-v0_2x1notip_0"]\nseeds = [0]\n'
    text += 'presets = ["{dataset}"]\n'
    (job,) = planned(tmp_path, text + "[fields]\nsteps = 7\n")
    assert job.fields["steps"] == 7 and len(job.fields) > 4
    assert job.folder == "runs/iql_reacher-scripted-mix-v0_2x1notip_0_seed0"


def test_trials_draw_what_seed_field_and_number_decide(tmp_path):
    text = head(tmp_path, ["iql"], 1, [0, 1]) + TINY
    search = "[search]\ntrials = {}\nseed = 5\n[search.fields]\n"
    search += "lr = {{ distribution = 'log-uniform', low = 1e-5, high = 1e-2 }}\n"
    three, four = (planned(tmp_path, text + search.format(trials)) for trials in (3, 4))
    assert set(job.folder for job in three) < set(job.folder for job in four)
    kept = {job.folder: job for job in four}
    assert all(kept[job.folder] == job for job in three)
    assert len({job.fields["lr"] for job in four}) == 4
    more = planned(tmp_path, text + search.format(3) + "tau = { distribution = 'choice', values = [0.1, 0.2] }\n")
    assert [job.fields["lr"] for job in more] == [job.fields["lr"] for job in three]


def test_draws_stay_in_their_range():
    uniform = Distribution(distribution="uniform", low=2, high=3)
    whole = Distribution(distribution="log-uniform", low=1, high=64, integer=True)
    choice = Distribution(distribution="choice", values=([1], [2, 3]))
    narrow = Distribution(distribution="uniform", low=0.99996, high=0.99999)
    for trial in range(200):
        assert 2 <= draw(uniform, 0, "a", trial) <= 3
        assert draw(whole, 0, "a", trial) in range(1, 65)
        assert draw(choice, 0, "a", trial) in ([1], [2, 3])
        # Four digits of it would be 1.
        assert 0.99996 <= draw(narrow, 0, "a", trial) <= 0.99999
    # Uniform in the logarithm: half of the draws below 8.
    assert 70 < sum(draw(whole, 0, "a", trial) < 8 for trial in range(200)) < 130


@pytest.mark.parametrize(
    "value, spelt",
    [
        (1e-3, "0.001"),
        (3e-4, "0.0003"),
        (1 / 3, "0.3333333333333333"),
        (True, "true"),
        ([64, 64], "64x64"),
        ("a.b", "a.b"),
    ],
)
def test_values_are_spelt_as_typed(value, spelt):
    assert spell(value) == spelt


def test_values_that_cannot_be_read_are_told_apart():
    assert spell({"N": 5}) != spell({"N": 6})
    assert spell("a/b") != spell("a:b")
    assert spell("x" * 40) != spell("x" * 41)
    names = {folder_name(["bc"], {f"field{n}": 1 for n in range(40)} | {"last": last}, 7) for last in (1, 2)}
    assert len(names) == 2 and all(len(name) <= LONGEST and name.endswith("_seed7") for name in names)


def test_files_of_one_name_get_folders_apart(tmp_path):
    text = 'algorithms = ["iql"]\nseeds = [0]\nworld_models = ["ensemble"]\n'
    places = [tasks(tmp_path / name, 1)[0] for name in "ab"]
    jobs = merge([], planned(tmp_path, text + f"datasets = {json.dumps(places)}\n" + TINY), "x").every
    assert len({job.folder for job in jobs}) == 4
    by_data = {job.fields["dataset"]: job.folder for job in jobs[:2]}
    assert all(job.model == by_data[job.fields["dataset"]] for job in jobs[2:])
    # The order of a list moves nothing.
    again = merge(jobs, planned(tmp_path, text + f"datasets = {json.dumps(places[::-1])}\n" + TINY), "x")
    assert not again.new and again.every == jobs


def test_the_same_file_adds_nothing_and_a_longer_one_only_what_is_new(tmp_path):
    text = head(tmp_path, ["bc", "iql"], 1, [0]) + TINY
    first = merge([], planned(tmp_path, text + "[grid]\nlr = [1e-3]\n"), "x").every
    assert not merge(first, planned(tmp_path, text + "[grid]\nlr = [1e-3]\n"), "x").new
    longer = merge(first, planned(tmp_path, text + "[grid]\nlr = [3e-4, 1e-3]\n"), "x")
    assert longer.every[:2] == first and [job.fields["lr"] for job in longer.new] == [3e-4, 3e-4]
    # tau is 0.005 unless said: a field added with its default is the same job.
    wider = merge(first, planned(tmp_path, text + "[grid]\nlr = [1e-3]\nbatch_size = [8, 16]\n"), "x")
    assert [job.fields["batch_size"] for job in wider.new] == [16, 16] and len(wider.named) == 4


@pytest.mark.parametrize("change", [("steps = 6", "steps = 7"), ("hidden = [8]", "hidden = [4]")])
def test_a_changed_setting_of_a_job_is_refused(tmp_path, change):
    text = head(tmp_path, ["bc"], 1, [0]) + TINY
    first = merge([], planned(tmp_path, text), "x").every
    with pytest.raises(BadInputError, match=r"x changes \w+ of bc_arm0.* from .* to .*: put it back, or .* --out"):
        merge(first, planned(tmp_path, text.replace(*change)), "x")


def test_a_changed_world_model_is_refused(tmp_path):
    text = (
        head(tmp_path, ["iql"], 1, [0])
        + 'world_models = ["small"]\n'
        + TINY
        + "[models.small]\nfields = { steps = 4 }\n"
    )
    first = merge([], planned(tmp_path, text), "x").every
    with pytest.raises(BadInputError, match="changes steps of small_arm0.* from 4 to 5"):
        merge(first, planned(tmp_path, text.replace("steps = 4", "steps = 5")), "x")
