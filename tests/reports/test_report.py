"""report.py: what it averages and what not, what it draws, and the page in a real browser."""

import argparse
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

import main_training
from d4rl_tasks.rendering import PROBE
from d4rl_tasks.synthetic.generate import generate
from report import main
from reports.latent import principal_components, shares
from reports.models import Episode, play, read_model
from reports.runs import group_runs, read_run, read_runs
from reports.statistics import interquartile_mean, probability_of_improvement
from reports.style import component_colours
from reports.tables import csv_table, markdown
from reports.video import compose
from reports.whole import summarize

ROOT = Path(__file__).parents[2]
PNG = b"\x89PNG\r\n\x1a\n"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with results/ and models/ of seven short runs."""
    folder = tmp_path_factory.mktemp("trained")
    data = folder / "hopper.hdf5"
    generate("hopper-medium-v2", data, transitions=1500)
    before = Path.cwd()
    os.chdir(folder)
    try:
        for policy, seed, scale in [
            *(("AWAC", 1, 10), ("AWAC", 2, 10), ("AWAC", 1, 1.5)),
            *(("DMPO", 1, 10), ("DMPO", 2, 10), ("DMPO_ant", 1, 10), ("IQL", 1, 10)),
        ]:
            options = f"--policy {policy} --seed {seed} --scale {scale} --env hopper-medium-v2"
            shorter = "--max_timesteps 24 --eval_freq 4 --c_loss_freq 4 --batch_size 16"
            source = ["--source", str(data)]
            assert main_training.main([*options.split(), *shorter.split(), *source]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def results(trained, tmp_path):
    """A copy of the results, to be changed."""
    return shutil.copytree(trained / "results", tmp_path / "results")


def one_file(folder, pattern):
    (path,) = folder.glob(pattern)
    return path


def a_run(results, policy="AWAC", seed=1, scale="10"):
    return one_file(results, f"{policy}/*_seed{seed}_scale{scale}_*.json")


def change(path, new_stem, **changes):
    """Write a run under another name, with other arguments or hyperparameters."""
    config = json.loads(path.read_text())
    for name, value in changes.items():
        for part in ("arguments", "hyperparameters", "dataset"):
            if name in config[part]:
                config[part][name] = value
    path.with_name(new_stem + ".json").write_text(json.dumps(config))
    shutil.copy(path.with_suffix(".csv"), path.with_name(new_stem + ".csv"))


def write_scores(path, scores):
    """Replace a run's evaluations."""
    config = json.loads(path.read_text())
    config["arguments"]["max_timesteps"] = len(scores)
    path.write_text(json.dumps(config))
    with path.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "score_mean", "critic_loss"])
        writer.writerows([step, score, 2.0] for step, score in enumerate(scores, 1))


def report(results):
    """The report's Markdown and the lines of its CSV, without the figures."""
    summary = summarize(results)
    lines = csv.DictReader(csv_table(summary.groups).splitlines())
    return markdown(summary.tables, summary.notes), list(lines)


def write_page(results):
    assert main([str(results), "--html"]) == 0
    return results / "report" / "index.html"


def final_score(path):
    with path.with_suffix(".csv").open() as file:
        return 100 * np.mean([float(row["score_mean"]) for row in csv.DictReader(file)])


def test_the_table_says_mean_and_std_over_seeds(results, capsys):
    text, lines = report(results)
    scores = [final_score(a_run(results, seed=seed)) for seed in (1, 2)]
    mean, std = np.mean(scores), np.std(scores, ddof=1)
    assert f"{mean:.1f} ± {std:.1f} (2)" in text
    (line,) = [x for x in lines if x["policy"] == "AWAC" and x["settings"] == "scale 10"]
    assert line["seeds"] == "2" and line["evaluations"] == "6" and line["synthetic"] == "True"
    np.testing.assert_allclose(float(line["score_mean"]), mean)
    np.testing.assert_allclose(float(line["score_std"]), std)
    assert "hopper-medium-v2 (synthetic)" in text
    write_page(results)
    assert text.strip() in capsys.readouterr().out
    assert (results / "report" / "report.md").read_text() == text
    with (results / "report" / "report.csv").open() as file:
        assert list(csv.DictReader(file)) == lines


def test_only_the_last_ten_count(results):
    for seed in (1, 2):
        write_scores(a_run(results, seed=seed), [9.0] * 15 + [0.5] * 10)
    _, lines = report(results)
    (line,) = [x for x in lines if x["policy"] == "AWAC" and "scale 10" in x["settings"]]
    assert float(line["score_mean"]) == 50.0 and float(line["score_std"]) == 0.0
    assert float(line["critic_loss_sum"]) == 50.0


@pytest.mark.parametrize(
    "difference",
    [
        *({"tau": 0.01}, {"max_timesteps": 20}, {"eval_freq": 1}, {"batch_size": 8}),
        *({"normalize": False}, {"sha256": "0" * 64}, {"hidden": [8, 8]}),
        *({"weight_type": "raw"}, {"load_model": "default"}),
    ],
)
def test_what_differs_in_more_than_the_seed_is_not_averaged(results, difference):
    change(a_run(results), "other", seed=3, **difference)
    runs, _ = read_runs(results)
    groups = [g for g in group_runs(runs) if g.policy == "AWAC"]
    assert sorted(len(group.runs) for group in groups) == [1, 1, 2]
    text, lines = report(results)
    assert "(3)" not in text
    assert len({(x["settings"], x["data"]) for x in lines if x["policy"] == "AWAC"}) == 3


def test_an_option_this_version_does_not_know_keeps_runs_apart(results):
    path = a_run(results)
    config = json.loads(path.read_text())
    config["arguments"] |= {"seed": 3, "some_option": "other"}
    path.with_name("other.json").write_text(json.dumps(config))
    shutil.copy(path.with_suffix(".csv"), path.with_name("other.csv"))
    _, lines = report(results)
    assert [x["settings"] for x in lines if x["policy"] == "AWAC"] == [
        *("scale 1.5", "scale 10", "scale 10, some_option other"),
    ]


@pytest.mark.parametrize("same", [{"device_id": 0}, {"c_loss_freq": 7}, {"save_model": False}])
def test_what_changes_nothing_in_a_run_does_not_keep_seeds_apart(results, same):
    change(a_run(results), "other", seed=3, **same)
    runs, _ = read_runs(results)
    groups = [g for g in group_runs(runs) if g.policy == "AWAC"]
    assert sorted(len(group.runs) for group in groups) == [1, 3]


def test_policies_of_unlike_settings_are_not_side_by_side(results):
    for path in [*results.glob("AWAC/*_scale10_*.json"), a_run(results, "IQL")]:
        path.unlink()
    change(a_run(results, "DMPO"), "longer", max_timesteps=23)
    change(a_run(results, "DMPO"), "raw", normalize=False)
    _, lines = report(results)
    common = "normalize True, scale"
    assert {(x["policy"], x["settings"]) for x in lines} == {
        ("AWAC", f"max_timesteps 24, {common} 1.5"),
        ("DMPO", f"max_timesteps 24, {common} 10"),
        ("DMPO_ant", f"max_timesteps 24, {common} 10"),
        ("DMPO", f"max_timesteps 23, {common} 10"),
        ("DMPO", "max_timesteps 24, no normalize, scale 10"),
    }


def test_a_scale_of_its_own_for_antmaze_is_no_variant(results):
    change(a_run(results, scale="1.5"), "maze", env="antmaze-umaze-v0", scale=5.0)
    a_run(results, scale="1.5").unlink()
    text, lines = report(results)
    assert {line["settings"] for line in lines} == {""}
    assert "settings" not in text


def test_what_is_left_out_is_named(results):
    unfinished, damaged = (a_run(results, seed=seed) for seed in (1, 2))
    without_csv = a_run(results, policy="DMPO")
    lines = unfinished.with_suffix(".csv").read_text().splitlines()
    unfinished.with_suffix(".csv").write_text("\n".join(lines[:4]) + "\n")
    damaged.write_text(damaged.read_text()[:200])
    without_csv.with_suffix(".csv").unlink()
    text, lines = report(results)
    assert f"{unfinished.stem}: unfinished, at step 12 of 24" in text
    assert f"{damaged.stem}: cannot be read" in text
    assert f"{without_csv.stem}: unfinished, at step 0 of 24" in text
    assert {(x["policy"], x["settings"]): x["seeds"] for x in lines} == {
        ("AWAC", "scale 1.5"): "1",
        ("DMPO", "scale 10"): "1",
        ("DMPO_ant", "scale 10"): "1",
        ("IQL", "scale 10"): "1",
    }


def test_only_unfinished_runs_make_a_report_that_says_so(results):
    for path in results.glob("*/*.csv"):
        path.unlink()
    text, lines = report(results)
    assert text.count("unfinished") == 7 and not lines
    assert "unfinished" in write_page(results).read_text()


def test_runs_set_aside_are_not_read(results):
    old = results / "AWAC" / "old"
    old.mkdir()
    for path in (a_run(results), a_run(results).with_suffix(".csv")):
        shutil.copy(path, old / path.name)
    before = report(results)
    shutil.rmtree(old)
    assert report(results) == before


def test_seeds_of_different_code_are_noted(results):
    path = a_run(results)
    config = json.loads(path.read_text()) | {"git_commit": "abc"}
    path.write_text(json.dumps(config))
    text, _ = report(results)
    assert "AWAC on hopper-medium-v2: its seeds were run by different code: commit" in text


def test_a_seed_counted_twice_is_noted(results):
    change(a_run(results), "copy")
    assert "a seed is there twice" in report(results)[0]


def test_a_policy_without_a_critic_has_scores_and_no_critic_loss(results):
    path = a_run(results, policy="IQL").with_suffix(".csv")
    path.write_text(path.read_text().replace("critic_loss", "actor_loss", 1))
    _, lines = report(results)
    (line,) = [x for x in lines if x["policy"] == "IQL"]
    assert line["critic_loss_sum"] == "" and float(line["score_mean"]) > 0


def test_critic_loss_accumulates_over_steps(results):
    run = read_run(a_run(results))
    log = one_file(results, f"AWAC/{run.name}_critic_loss_log.txt").read_text().split()
    np.testing.assert_allclose(run.critic_loss_sum, 4 * sum(map(float, log)), rtol=1e-6)


def test_figures_are_written_as_png_and_svg_and_do_not_change_by_themselves(results):
    write_page(results)
    first = {path.name: path.read_bytes() for path in (results / "report").iterdir()}
    names = {"learning_curves", "critic_loss", "critic_loss_accumulated"}
    for name in names:
        assert first[f"{name}.png"].startswith(PNG)
        assert b"</svg>" in first[f"{name}.svg"]
    write_page(results)
    assert first == {path.name: path.read_bytes() for path in (results / "report").iterdir()}


# Statistics


def test_interquartile_mean_is_that_of_the_middle_half():
    tasks = [np.array([0.0, 10.0, 20.0, 30.0]), np.array([40.0, 50.0, 60.0, 1e6])]
    estimate = interquartile_mean(tasks)
    assert estimate.value == np.mean([20, 30, 40, 50])
    assert estimate.drawn == "runs" and estimate.low < estimate.value < estimate.high


def test_intervals_draw_runs_within_tasks():
    # Tasks far apart, runs close together: only drawing within tasks leaves little to vary.
    tasks = [np.array([0.0, 1.0]), np.array([1000.0, 1001.0])]
    estimate = interquartile_mean(tasks)
    assert estimate.drawn == "runs" and estimate.high - estimate.low <= 1.0
    estimate = interquartile_mean([scores[:1] for scores in tasks])
    assert estimate.drawn == "tasks" and estimate.high - estimate.low == 1000.0


def test_a_single_run_has_no_interval():
    estimate = interquartile_mean([np.array([7.0])])
    assert (estimate.value, estimate.low, estimate.high) == (7.0, None, None)


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        estimate = interquartile_mean([rng.normal(50, 10, 10) for _ in range(5)])
        hits += estimate.low < 50 < estimate.high
    assert hits >= 85  # below that with probability 1e-4 if they cover 95 %, percentile's 93 %


scores = arrays(float, st.integers(1, 5), elements=st.integers(-100, 100).map(float))


@given(ours=scores, theirs=scores)
def test_probability_of_improvement_is_mann_whitneys(ours, theirs):
    value = probability_of_improvement([(ours, theirs)]).value
    u = stats.mannwhitneyu(ours, theirs, method="asymptotic").statistic
    np.testing.assert_allclose(value, u / (len(ours) * len(theirs)))
    other = probability_of_improvement([(theirs, ours)]).value
    np.testing.assert_allclose(value + other, 1)


def test_probability_of_improvement_is_the_mean_over_tasks():
    always, never = np.array([2.0, 3.0]), np.array([0.0, 1.0])
    pairs = [(always, never), (never, always), (always, never), (always, never)]
    estimate = probability_of_improvement(pairs)
    assert (estimate.value, estimate.low, estimate.high) == (0.75, 0.75, 0.75)


def test_comparisons_warn_if_policies_have_other_tasks(results):
    change(a_run(results), "walker", env="walker2d-medium-v2")
    assert "NOT ALL POLICIES" in report(results)[0]


# The page


def test_the_page_needs_nothing_beside_it(results):
    page = write_page(results).read_text()
    outside = re.sub(r'src="data:image/svg\+xml;base64,[A-Za-z0-9+/=]+"', "", page)
    assert page.count('src="data:') == 3
    assert not re.search(r"src=|<link|@import|url\(|https?:", outside)


def test_names_cannot_break_out_of_the_page(results):
    nasty = '<img src=x onerror="alert(1)">'
    change(a_run(results), "nasty", env=nasty)
    page = write_page(results).read_text()
    assert "&lt;img src=x" in page and nasty not in page


def browse(page, script, *options):
    """Run a script in a page in headless Chromium; returns the document it leaves."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium here: " + ", ".join(BROWSERS))
    copy = page.with_name("browsed.html")
    copy.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
    quiet = "--disable-gpu --disable-quic --no-first-run --disable-background-networking"
    quiet += " --disable-component-update --disable-sync"
    command = [
        *(browser, "--headless", "--no-sandbox", *quiet.split(), *options),
        *(f"--user-data-dir={page.parent / 'profile'}", "--enable-logging=stderr"),
        *("--dump-dom", copy.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


CLICKS = """
const column = (table, index) => [...table.tBodies[0].rows].map(r => r.cells[index].dataset.key);
const table = document.querySelector("table"), found = [];
for (const index of [0, 2, 2, 2]) {
  const header = table.tHead.rows[0].cells[index];
  header.querySelector("button").click();
  found.push([index, header.getAttribute("aria-sort"), column(table, index),
    document.querySelectorAll("[aria-sort]").length]);
}
const images = [...document.images].map(i => i.complete && i.naturalWidth > 100);
const wide = document.documentElement.scrollWidth > window.innerWidth;
const out = document.createElement("pre");
out.id = "found"; out.textContent = JSON.stringify({found, images, wide});
document.body.append(out);
"""


def test_a_click_on_a_header_sorts_in_chromium(results):
    change(a_run(results), "walker", env="walker2d-medium-v2")
    write_scores(one_file(results, "AWAC/walker.json"), [1.0, 2.0])
    change(a_run(results), "ant", env="ant-medium-v2")
    write_scores(one_file(results, "AWAC/ant.json"), [-0.5])
    change(a_run(results, policy="IQL"), "cheetah", env="halfcheetah-medium-v2")
    # Images are read from data, but not at once.
    script = f"window.addEventListener('load', () => {{ {CLICKS} }});"
    page = browse(write_page(results), script, "--window-size=800,600")
    found = json.loads(re.search(r'<pre id="found">(.*?)</pre>', page, re.S)[1])
    assert found["images"] == [True, True, True] and not found["wide"]
    by_name, first, second, third = found["found"]
    assert by_name[1] == "ascending" and by_name[2] == sorted(by_name[2])
    header = re.findall(r'<button type="button">(.*?)</button>', page)
    assert header[:3] == ["task", "settings", "DMPO"] or header[2] == "DMPO"
    for column, order in ((first, "descending"), (second, "ascending"), (third, "descending")):
        numbers = [float(key) for key in column[2] if key]
        assert column[1] == order and column[3] == 1
        assert numbers == sorted(numbers, reverse=order == "descending")
        assert column[2][len(numbers) :] == [""] * (len(column[2]) - len(numbers))


# Models, videos, components


def a_model(trained, policy="DMPO"):
    return next(trained.glob(f"models/{policy}_hopper*_seed1_scale10_*.pt"))


@pytest.mark.parametrize("policy", ["DMPO", "DMPO_ant", "AWAC", "IQL"])
def test_episodes_are_those_of_the_evaluation(trained, policy):
    model = read_model(a_model(trained, policy))
    episodes = play(model, episodes=3, seed=1)
    returns = main_training.evaluate(model.policy, model.env, 3, 1, model.scaling)
    np.testing.assert_array_equal([episode.returns[-1] for episode in episodes], returns)
    config = json.loads(one_file(trained, f"results/{policy}/{model.name}.json").read_text())
    components = config["hyperparameters"].get("latent_disc_dim", 0)
    for episode in episodes:
        assert episode.values.shape == (len(episode.returns), components)


def test_the_component_that_acts_is_the_most_valued(trained):
    model = read_model(a_model(trained))
    (episode,) = play(model, episodes=1, seed=1)
    actions = model.policy.select_action(episode.states)
    for index in range(model.components):
        acted = episode.components == index
        own = model.policy.select_action_of(episode.states[acted], index)
        np.testing.assert_allclose(own, actions[acted], atol=1e-6)
    assert shares([episode], model.components).sum() == pytest.approx(1)


@pytest.fixture(scope="session")
def gif(renderer, trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("video") / "episodes.gif"
    done = command("video", "--model", a_model(trained), "--episodes", 2, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


def command(*arguments, **environment):
    line = [sys.executable, ROOT / "report.py", *arguments]
    return subprocess.run(
        list(map(str, line)), env=os.environ | environment, capture_output=True, text=True
    )


def test_a_gif_shows_every_episode_in_real_time(trained, gif):
    frames = imageio.imread(gif)
    episodes = play(read_model(a_model(trained)), episodes=2, seed=1)
    # A hopper step is 8 ms; 15 frames a second show every eighth.
    assert len(frames) == sum(-(-len(episode.returns) // 8) for episode in episodes)
    assert frames.shape[1:] == (544, 480, 3)
    assert frames[0][:480].std() > 5


@pytest.mark.slow
def test_an_mp4_plays(renderer, trained, tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    out = tmp_path / "episode.mp4"
    done = command("video", "--model", a_model(trained, "AWAC"), "--out", out)
    assert done.returncode == 0, done.stderr
    frames = imageio.imread(out, plugin="FFMPEG")
    (episode,) = play(read_model(a_model(trained, "AWAC")), episodes=1, seed=1)
    assert frames.shape == (-(-len(episode.returns) // 4), 544, 480, 3)
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.slow
def test_osmesa_draws_where_egl_does_not(trained, tmp_path):
    without_egl = {"__EGL_VENDOR_LIBRARY_DIRS": str(tmp_path), "MUJOCO_GL": ""}
    probe = [sys.executable, "-c", PROBE]
    osmesa = os.environ | without_egl | {"MUJOCO_GL": "osmesa"}
    if subprocess.run(probe, env=osmesa, capture_output=True).returncode:
        pytest.skip("OSMesa is not installed")
    out = tmp_path / "episode.gif"
    done = command("video", "--model", a_model(trained), "--out", out, **without_egl)
    assert done.returncode == 0, done.stderr
    assert imageio.imread(out)[0][:480].std() > 5


@pytest.mark.parametrize(
    "environment", [{"MUJOCO_GL": "", "PYOPENGL_PLATFORM": "none"}, {"MUJOCO_GL": "nonsense"}]
)
def test_where_nothing_draws_one_line_says_so(trained, tmp_path, environment):
    out = tmp_path / "episode.gif"
    done = command("video", "--model", a_model(trained), "--out", out, **environment)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "cannot draw" in done.stderr and not out.exists()


def episode_of(components, count):
    values = np.eye(count, dtype=np.float32)[components]
    steps = len(components)
    return Episode(*(np.zeros((steps, 1)),) * 3, np.arange(float(steps)), values, None)


def test_the_bar_shows_the_components_up_to_now():
    episode = episode_of([0, 0, 2, 1], count=3)
    frame = compose(np.zeros((480, 480, 3), np.uint8), episode, 2, 3)
    assert frame.shape == (544, 480, 3) and not frame[:480].any()
    colours = [tuple(bytes.fromhex(colour[1:])) for colour in component_colours(3)]
    bar = [tuple(int(x) for x in frame[496, column]) for column in (60, 180, 300, 420)]
    assert bar == [colours[0], colours[0], colours[2], (0xDD, 0xDD, 0xDD)]


@pytest.mark.parametrize("count", [1, 2, 8, 9, 30])
def test_components_have_different_colours(count):
    assert len(set(component_colours(count))) == count


@pytest.mark.parametrize("policy", ["DMPO", "DMPO_ant"])
def test_latent_draws_and_prints_which_component_acts(trained, tmp_path, policy, capsys):
    model = a_model(trained, policy)
    arguments = ["latent", "--model", str(model), "--episodes", "2"]
    assert main([*arguments, "--out", str(tmp_path / "which.png")]) == 0
    assert (tmp_path / "which.png").read_bytes().startswith(PNG)
    assert b"</svg>" in (tmp_path / "which.svg").read_bytes()
    percent = re.findall(r"acts in +([\d.]+) %", capsys.readouterr().out)
    assert len(percent) == 8 and sum(map(float, percent)) == pytest.approx(100, abs=0.5)


@pytest.mark.parametrize("count", [1, 12])
def test_latent_with_other_numbers_of_components(tmp_path, count, capsys):
    module = main_training.policy_module("DMPO")
    policy = module.DMPO(11, 3, 1.0, module.Hyperparameters(latent_disc_dim=count))
    scaling = main_training.Scaling(np.zeros(11, np.float32), np.ones(11, np.float32))
    named = argparse.Namespace(policy="DMPO", env="hopper-medium-v2")
    main_training.save_model(tmp_path / "run.pt", policy, named, scaling)
    assert main(["latent", "--model", str(tmp_path / "run.pt"), "--episodes", "2"]) == 0
    assert capsys.readouterr().out.count("acts in") == count


def test_latent_writes_beside_the_model(trained, tmp_path):
    model = shutil.copy(a_model(trained), tmp_path / "run_scale1.5.pt")
    assert main(["latent", "--model", str(model), "--episodes", "1"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        *("run_scale1.5.pt", "run_scale1.5_latent.png", "run_scale1.5_latent.svg"),
    }


def test_principal_components_are_those_of_the_covariance():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(200, 5)) * [5, 3, 1, 0.5, 0.1] + 7
    points, held = principal_components(states)
    variances = np.linalg.eigvalsh(np.cov(states.T, ddof=0))[::-1]
    np.testing.assert_allclose(points.var(0), variances[:2])
    np.testing.assert_allclose(held, variances[:2] / variances.sum())


def test_a_policy_that_stands_in_one_state_has_no_directions():
    points, held = principal_components(np.ones((3, 4)))
    assert not points.any() and not held.any()


# What it refuses


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["latent", "--model", "AWAC"], "only DMPO and DMPO_ant"),
        (["latent", "--model", "nothing.pt"], "there is no model nothing.pt"),
        (["video", "--model", "damaged"], "is damaged"),
        (["video", "--model", "text"], "is no model"),
        (["video", "--model", "other"], "is of policy 'os'"),
        (["video", "--model", "renamed"], "does not fit this version of DMPO"),
        (["video", "--model", "DMPO", "--out", "a.avi"], "must end in .mp4 or .gif"),
        (["latent", "--model", "DMPO", "--out", "/proc/x/a"], "cannot write /proc/x/a.png"),
        (["nowhere"], "there is no folder nowhere"),
        (["."], "holds no <policy>/<run>.json"),
    ],
)
def test_refusals_are_one_line(trained, tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    good = a_model(trained).read_bytes()
    Path("damaged").write_bytes(good[: len(good) // 2])
    Path("text").write_text("no model")
    content = torch.load(a_model(trained), weights_only=True)
    torch.save(content | {"policy": "os"}, "other")
    torch.save(content | {"hyperparameters": {"new_name": 1}}, "renamed")
    names = {name: str(a_model(trained, name)) for name in ("DMPO", "AWAC")}
    assert main([names.get(argument, argument) for argument in arguments]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1 and says in printed


def test_a_video_that_cannot_be_written_is_one_line(renderer, trained, capsys):
    assert main(["video", "--model", str(a_model(trained)), "--out", "/proc/x/a.gif"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: cannot write /proc/x/a.gif") and printed.count("\n") == 1


@pytest.mark.parametrize("arguments", [["video"], ["latent", "--model", "m", "--episodes", "0"]])
def test_wrong_options_are_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2 and capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("missing", ["matplotlib", "scipy", "PIL"])
def test_a_missing_optional_package_is_one_line(missing, trained):
    command_name = ["video", "--model", "m.pt"] if missing == "PIL" else [str(trained / "results")]
    program = f"import sys; sys.modules[{missing!r}] = None; import report; "
    program += f"sys.exit(report.main({command_name!r}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"error: {missing} is missing: pip install -r requirements-report.txt\n"
