"""The measurements' own arithmetic."""

import json
import time

import h5py
import numpy as np
import pytest
from programs import exit_code

import d4rl_tasks
from benchmarks import (
    against_jax,
    evaluation,
    likeness,
    products,
    published_returns,
    run,
    scale,
)
from benchmarks.train_step import make_buffer
from d4rl_tasks.synthetic.behaviours import FOLDER, read_manifest
from utils import Policy


def test_the_recorded_actions_keep_every_episode_going_to_its_end():
    actions = evaluation.record_actions()
    assert actions.shape == (1000, evaluation.EVAL_EPISODES, evaluation.ACTIONS)
    environment = d4rl_tasks.make_vec(evaluation.TASK, evaluation.EVAL_EPISODES)
    environment.reset(seed=evaluation.SEEDS)
    for step in actions:
        assert environment.active.all()
        environment.step(step)
    assert not environment.active.any()
    environment.close()


@pytest.mark.slow
def test_the_counted_operations_are_those_of_the_matrix_products():
    widths = [scale.measure("AWAC", "hidden", size).gflop for size in (64, 128)]
    batches = [scale.measure("AWAC", "batch_size", size).gflop for size in (64, 128)]
    np.testing.assert_allclose(batches[1] / batches[0], 2)
    assert 2 < widths[1] / widths[0] < 4


def test_growth_is_relative_to_the_first_size():
    points = [
        scale.Point("DMPO", "hidden", 64, milliseconds=2.0, gflop=1.0),
        scale.Point("DMPO", "hidden", 128, milliseconds=3.0, gflop=4.0),
    ]
    assert scale.growth(points) == [(1.0, 1.0), (1.5, 4.0)]
    assert "| DMPO | hidden width 128 | 3.00 | 4.000 | 1.5 | 4.0 |" in scale.table([points])


def test_published_returns_of_our_own_behaviours(tmp_path, capsys):
    entry = read_manifest()["hopper"][-1]
    policy = tmp_path / "hopper_3.npz"
    policy.write_bytes((FOLDER / entry["file"]).read_bytes())
    published = {"return_mean": entry["return_sampled"], "return_std": entry["return_sampled_std"]}
    (tmp_path / "published_returns.json").write_text(json.dumps({"hopper_online_3": published}))
    (one,) = published_returns.compare(tmp_path, episodes=20)
    assert one.policy == "hopper_3" and one.returns.shape == (20,)
    assert abs(one.distance) < 4
    assert "| hopper_3 | " in published_returns.table([one])


@pytest.mark.parametrize(
    ("names", "text", "words"),
    [
        ([], "{}", "has no files"),
        (["hopper_1.npz"], None, "published_returns.json does not exist"),
        (["hopper_1.npz"], "{}", "no entry 'hopper_online_1'"),
        (["hopper_1.npz"], "[1]", "not a table of published returns"),
        (["hopper_1.npz"], "[" * 10_000, "not a table of published returns"),
        (["hopper_1.npz"], '{"hopper_online_1": {"return_mean": 1, "return_std": 1}}', "readable"),
    ],
)
def test_bad_folders_of_published_returns(tmp_path, capsys, names, text, words):
    for name in names:
        (tmp_path / name).touch()
    if text is not None:
        (tmp_path / "published_returns.json").write_text(text)
    assert exit_code(published_returns.main, ["--policies", str(tmp_path)]) == 2
    errors = capsys.readouterr().err
    assert words in errors and "Traceback" not in errors


def test_a_dataset_is_like_itself_and_its_distance_is_in_standard_deviations(tmp_path):
    task = "hopper-medium-v2"
    mean, std = (np.array(likeness.OBSERVATIONS[task][name]) for name in ("mean", "std"))
    signs = np.where(np.arange(1_000) % 2, 1, -1)[:, None]
    for shift, width in ((0, 1), (0.5, 2)):
        with h5py.File(tmp_path / f"{shift}.hdf5", "w") as file:
            file["observations"] = mean + std * (shift + width * signs)
            file["rewards"] = np.full(1_000, 5.0)
            file["terminals"] = np.arange(1, 1_001) % 400 == 0
            file["timeouts"] = np.arange(1, 1_001) == 1_000
        one = likeness.compare(task, tmp_path / f"{shift}.hdf5")
        np.testing.assert_allclose(one.offset, shift, atol=1e-6)
        np.testing.assert_allclose(one.spread, width, rtol=1e-6)
        assert one.length == pytest.approx(1_000 / 3)
        assert one.score == pytest.approx(d4rl_tasks.normalized_score(task, 5_000 / 3))
    start = f"| {task} | 1,000 | 0.50 | 2.00 (2.00 to 2.00) | 333 | 457 |"
    assert likeness.line(one).startswith(start)


@pytest.mark.parametrize("name", against_jax.POLICIES)
def test_a_step_in_jax_is_a_step_of_ours(name, monkeypatch):
    for module in ("jax", "optax"):
        pytest.importorskip(module)
    buffer = make_buffer(against_jax.STATE_DIM, against_jax.ACTION_DIM)
    assert 0 < against_jax.check(against_jax.make_ours(name), buffer) < 1e-5
    monkeypatch.setattr(against_jax, "td_target", lambda batch, *_: batch["reward"])
    with pytest.raises(AssertionError):
        against_jax.check(against_jax.make_ours(name), buffer)


def test_all_libraries_multiply_the_same():
    calls = products.make_calls()
    assert {"PyTorch's BLAS", "NumPy's BLAS"} <= calls.keys()
    expected = [np.asarray(call(), np.float64) for call in calls["NumPy's BLAS"]]
    for three in calls.values():
        for call, right in zip(three, expected, strict=True):
            np.testing.assert_allclose(np.asarray(call()), right, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("policy", ["IQL", "DMPO"])  # DMPO's figures play episodes
def test_the_parts_of_a_run_add_up_and_are_timed_no_longer(tmp_path, policy):
    start = time.perf_counter()
    seconds = run.measure(policy, 60, tmp_path, transitions=300)
    whole = time.perf_counter() - start
    assert seconds.keys() == (run.PARTS.keys() - {"run"}) | {"rest"}
    assert all(0 < part < whole for part in seconds.values())
    assert sum(seconds.values()) < whole
    assert not hasattr(Policy.train, "__wrapped__")
    assert "| train steps | " in run.table(seconds)
