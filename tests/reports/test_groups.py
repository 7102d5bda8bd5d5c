"""Which runs belong together, and how rows and columns are named."""

import json

import pytest
from run_files import change, groups_of, report, write_run

from reports.groups import make_tasks, methods_of
from reports.runs import read_run


def methods(results):
    """Each group's method and number of runs."""
    return {(group.method, len(group.runs)) for group in groups_of(results)[0]}


DIFFERENCES = {
    "AWAC tau 0.01": "--tau 0.01",
    "AWAC batch_size 8": "--batch_size 8",
    "AWAC no normalize": "--no_normalize",
    "AWAC hidden 8-8-8": "--hidden 8 8 8",
    "AWAC weight_type raw": "--weight_type raw",
    "AWAC learning_rate 0.001, scale 3": "--learning_rate 1e-3 --scale 3",
}


@pytest.mark.parametrize(("method", "options"), DIFFERENCES.items())
def test_another_setting_makes_a_column(tmp_path, method, options):
    for seed in (1, 2):
        write_run(tmp_path, seed=seed)
    write_run(tmp_path, f"--policy AWAC --env hopper-medium-v2 {options}")
    assert methods(tmp_path) == {("AWAC", 2), (method, 1)}
    assert len(make_tasks(groups_of(tmp_path)[0])) == 1


NO_DIFFERENCE = (
    *("--device_id 0", "--c_loss_freq 7", "--save_model False", "--eval_episodes 3"),
    *("--checkpoint_freq 3", "--logger none", "--fresh", "--kl_weight 0.3"),
    "--no_cuda_graph --compile",
)


@pytest.mark.parametrize("options", NO_DIFFERENCE)
def test_an_option_that_changes_nothing_in_a_run_splits_nothing(tmp_path, options):
    write_run(tmp_path)
    write_run(tmp_path, f"--policy AWAC --env hopper-medium-v2 {options}", seed=2)
    assert methods(tmp_path) == {("AWAC", 2)}


def test_another_evaluation_frequency_splits_nothing(tmp_path):
    write_run(tmp_path, scores=[0.1, 0.2, 0.3, 0.4], every=1)
    write_run(tmp_path, scores=[0.2, 0.6], every=2, seed=2)
    assert methods(tmp_path) == {("AWAC", 2)}


def test_groups_depend_on_settings_alone(tmp_path):
    """Whatever else stands in the JSON splits nothing."""
    config = json.loads(write_run(tmp_path).read_text())
    others = {"versions": {}, "options": {}, "dataset": config["dataset"] | {"size": 5}}
    keys = sorted(config.keys() - {"settings", "max_timesteps"})
    for seed, key in enumerate(keys, 2):
        path = write_run(tmp_path, seed=seed)
        changed = json.loads(path.read_text()) | {key: others.get(key, "other")}
        path.write_text(json.dumps(changed))
    groups, left_out = groups_of(tmp_path)
    assert [len(group.runs) for group in groups] == [len(keys) + 1] and not left_out


def test_more_train_steps_are_noted_and_split_only_policies_that_depend_on_them(tmp_path):
    for policy in ("AWAC", "IQL"):
        write_run(tmp_path, f"--policy {policy} --env hopper-medium-v2")
        write_run(tmp_path, f"--policy {policy} --env hopper-medium-v2", [0.1] * 5, seed=2)
    names = {("AWAC", 2), ("IQL max_timesteps 3", 1), ("IQL max_timesteps 5", 1)}
    assert methods(tmp_path) == names
    text, _ = report(tmp_path)
    assert "trained for different numbers of steps: AWAC 3 and 5, IQL max_timesteps 3 3" in text


def test_tasks_may_be_trained_for_different_numbers_of_steps(tmp_path):
    for policy in ("AWAC", "IQL"):
        write_run(tmp_path, f"--policy {policy} --env hopper-medium-v2")
        write_run(tmp_path, f"--policy {policy} --env walker2d-medium-v2", [0.1] * 5)
    assert methods_of(groups_of(tmp_path)[0]) == ["AWAC", "IQL"]


def test_the_commands_of_the_readme_are_one_row(tmp_path):
    for policy in ("DMPO --info-reg", "DMPO", "AWAC", "IQL"):
        write_run(tmp_path, f"--policy {policy} --env walker2d-expert-v2")
    groups, _ = groups_of(tmp_path)
    (task,) = make_tasks(groups)
    assert task.name == "walker2d-expert-v2"
    assert methods_of(groups) == ["DMPO", "DMPO info-reg", "AWAC", "IQL"]


def test_a_setting_of_one_policy_leaves_the_others_alone(tmp_path):
    write_run(tmp_path, "--policy DMPO --env hopper-medium-v2 --hidden 64 64")
    write_run(tmp_path, "--policy AWAC --env hopper-medium-v2")
    write_run(tmp_path, "--policy DMPO --env hopper-medium-v2 --kl_weight 0.1 --hidden 64 64")
    groups, _ = groups_of(tmp_path)
    assert methods_of(groups) == ["DMPO hidden 64-64", "DMPO hidden 64-64, kl_weight 0.1", "AWAC"]
    assert len(make_tasks(groups)) == 1


def test_settings_that_all_runs_share_are_named_once(tmp_path):
    for policy in ("DMPO", "AWAC"):
        write_run(tmp_path, f"--policy {policy} --env hopper-medium-v2 --scale 3")
    write_run(tmp_path, "--policy DMPO --env antmaze-umaze-v0 --scale 7")
    groups, _ = groups_of(tmp_path)
    assert methods_of(groups) == ["DMPO", "AWAC"]
    text, lines = report(tmp_path)
    assert "- all runs on MuJoCo: scale 3\n" in text
    assert "- all runs on antmaze: scale 7\n" in text
    assert [line["settings"] for line in lines] == ["scale 7", "scale 3", "scale 3"]


def test_mazes_and_tasks_of_another_backend_are_families_of_their_own(tmp_path):
    cube = "cube-single-play-singletask-v0"
    paths = [
        write_run(tmp_path, f"--policy DMPO --env {env}")
        for env in (cube, "antmaze-umaze-v0", "d4rl/maze2d-large-v1", "hopper-medium-v2")
    ]
    change(paths[0], backend="ogbench")
    families = [read_run(path).family for path in paths]
    assert families == ["OGBench", "antmaze", "maze2d", "MuJoCo"]


def test_a_setting_that_this_version_does_not_know_keeps_runs_apart(tmp_path):
    write_run(tmp_path)
    change(write_run(tmp_path, seed=2), some_option="other")
    change(write_run(tmp_path, seed=3), some_option="other")
    groups, _ = groups_of(tmp_path)
    assert sorted(len(group.runs) for group in groups) == [1, 2]
    assert len(set(methods_of(groups))) == 2


def test_a_policy_that_is_not_in_the_source_is_shown(tmp_path):
    for seed in (1, 2):
        change(write_run(tmp_path, seed=seed), policy="MyPolicy")
    change(write_run(tmp_path, seed=3), policy="MyPolicy", tau=0.5)
    assert ("MyPolicy tau 0.5", 1) in methods(tmp_path)
    assert ("MyPolicy", 2) in methods(tmp_path)


def test_loaded_models_have_short_names(tmp_path):
    write_run(tmp_path)
    write_run(tmp_path, load_model="0123456789abcdef" * 4)
    assert methods(tmp_path) == {("AWAC", 1), ("AWAC load_model 01234567", 1)}


def test_two_datasets_of_a_task_are_two_rows_with_short_names(tmp_path):
    write_run(tmp_path, sha256="a" * 64)
    write_run(tmp_path, sha256="b" * 64, synthetic=True)
    write_run(tmp_path, "--policy AWAC --env walker2d-medium-v2", synthetic=True)
    groups, _ = groups_of(tmp_path)
    assert [task.name for task in make_tasks(groups)] == [
        "hopper-medium-v2 (aaaaaaaa)",
        "hopper-medium-v2 (synthetic, bbbbbbbb)",
        "walker2d-medium-v2 (synthetic)",
    ]


def test_seeds_of_different_code_are_noted(tmp_path):
    write_run(tmp_path, git_commit="0123456789" * 4)
    write_run(tmp_path, seed=2, git_commit="9876543210" * 4 + "+changes")
    text, _ = report(tmp_path)
    assert "AWAC on hopper-medium-v2: computed by different code: commit 01234567, torch" in text
    assert "commit 98765432+changes" in text


def test_code_before_a_run_was_resumed_is_noted(tmp_path):
    write_run(tmp_path, earlier=[{"until_step": 1, "git_commit": "0123456789" * 4}])
    assert "computed by different code: commit 01234567" in report(tmp_path)[0]


def test_the_code_of_each_part_of_a_run_that_was_resumed_twice_is_noted(tmp_path):
    commits = [letter * 40 for letter in "ab"]
    changes = [{"until_step": 1, "git_commit": commits[0]}]  # what differs from the next part
    changes += [{"until_step": 2, "versions": {"torch": "1.0"}}]
    write_run(tmp_path, git_commit=commits[1], versions={"torch": "2.0"}, earlier=changes)
    expected = ["aaaaaaaa, torch 1.0", "bbbbbbbb, torch 1.0", "bbbbbbbb, torch 2.0"]
    text = "; ".join(f"commit {code}" for code in expected)
    assert f"computed by different code: {text}" in report(tmp_path)[0]


def test_two_names_of_a_task_are_one_task(tmp_path):
    write_run(tmp_path)
    path = write_run(tmp_path, "--policy IQL --env d4rl/hopper-medium-v2")
    assert json.loads(path.read_text())["settings"]["env"] == "hopper-medium-v2"
    change(path, env="d4rl/hopper-medium-v2")  # as earlier versions wrote it
    assert len(make_tasks(groups_of(tmp_path)[0])) == 1


def test_scores_of_other_evaluations_are_noted(tmp_path):
    scores = [0.0] * 10 + [1.0] * 10
    write_run(tmp_path, scores=scores, every=1)
    write_run(tmp_path, scores=scores, every=1, seed=2)
    note = "scores are means of evaluations at different steps"
    assert note not in report(tmp_path)[0]
    write_run(tmp_path, scores=[0.0, 1.0], every=10, seed=3)
    text, (line,) = report(tmp_path)
    assert note in text and line["evaluations"] == "2 10"


def test_a_seed_counted_twice_is_noted(tmp_path):
    path = write_run(tmp_path)
    write_run(tmp_path, stem="copy")
    text, _ = report(tmp_path)
    assert "a seed occurs twice: " in text and "copy" in text and path.stem in text


def test_a_run_whose_critic_overestimates_is_marked(tmp_path):
    bound = {"value_bound": [5.0] * 3}
    path = write_run(tmp_path, columns={"value_policy": [1.0, 6.0, 7.0]} | bound)
    write_run(tmp_path, seed=2, columns={"value_policy": [1.0] * 3} | bound)
    text, (line,) = report(tmp_path)
    assert "(2)†" in text and "†: in a run the mean value of the policy's actions" in text
    assert f"{path.stem}: the policy's mean value was above" in text
    assert text.count("first at step 2, in 2 of 3 evaluations") == 1 and line["overestimate"] == "1"


def test_runs_set_aside_are_not_read(tmp_path):
    path = write_run(tmp_path)
    old = path.parent / "old"
    old.mkdir()
    (old / "x.json").write_text(path.read_text())
    assert methods(tmp_path) == {("AWAC", 1)} and not groups_of(tmp_path)[1]


def test_runs_without_a_folder_for_each_policy_are_read_too(tmp_path):
    path = write_run(tmp_path)
    assert methods(path.parent) == {("AWAC", 1)}
