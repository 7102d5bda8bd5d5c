"""The figures: what they average, how lines are told apart, and the files."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from run_files import groups_of, write_run

from experiment.options import POLICIES
from report import main
from reports.curves import BAND, DIAGNOSTICS, make_figures, mean_and_band
from reports.groups import make_tasks
from reports.style import component_colours, styles_of

PNG = b"\x89PNG\r\n\x1a\n"


def figures_of(results):
    return make_figures(make_tasks(groups_of(results)[0]))


def test_mean_and_band_are_over_the_seeds(tmp_path):
    write_run(tmp_path, scores=[0.1, 0.2, 0.3])
    write_run(tmp_path, scores=[0.3, 0.4, 0.8], seed=2)
    ((group,), _) = groups_of(tmp_path)
    steps, mean, std = mean_and_band(group, lambda run: run.scores)
    assert steps.tolist() == [1, 2, 3]
    np.testing.assert_allclose(mean, [20, 30, 55])
    np.testing.assert_allclose(std, np.std([[10, 20, 30], [30, 40, 80]], axis=0, ddof=1))


def test_runs_evaluated_at_other_steps_are_interpolated_and_end_where_they_end(tmp_path):
    write_run(tmp_path, scores=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    write_run(tmp_path, scores=[0.2, 0.6], every=2, seed=2)
    ((group,), _) = groups_of(tmp_path)
    steps, mean, std = mean_and_band(group, lambda run: run.scores)
    assert steps.tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(mean, [10, 20, (30 + 40) / 2, (40 + 60) / 2, 50, 60])
    assert np.isnan(std).tolist() == [True, False, False, False, True, True]


def test_a_single_seed_has_no_band(tmp_path):
    write_run(tmp_path)
    ((group,), _) = groups_of(tmp_path)
    assert np.isnan(mean_and_band(group, lambda run: run.scores)[2]).all()
    texts = [text.get_text() for text in figures_of(tmp_path)["critic_loss"].legends[0].texts]
    assert texts == ["AWAC"]


def test_the_band_is_explained_in_the_picture(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path, seed=seed)
    texts = figures_of(tmp_path)["learning_curves"].legends[0].texts
    assert [text.get_text() for text in texts] == ["AWAC", BAND]


def test_the_band_is_one_standard_deviation_around_the_mean(tmp_path):
    write_run(tmp_path, scores=[0.1, 0.2, 0.3])
    write_run(tmp_path, scores=[0.3, 0.4, 0.8], seed=2)
    (axis,) = figures_of(tmp_path)["learning_curves"].axes
    (band,) = axis.collections
    steps, heights = band.get_paths()[0].vertices.T
    limits = [(heights[steps == step].min(), heights[steps == step].max()) for step in (1, 2, 3)]
    mean, std = np.array([20, 30, 55]), np.sqrt([200, 200, 1250])
    np.testing.assert_allclose(np.transpose(limits), [mean - std, mean + std])


@pytest.mark.parametrize("options", ["", " --discount 0.9 --tau 0.01 --learning_rate 0.001"])
def test_the_legend_stays_within_the_picture(tmp_path, options):
    for policy, seed in itertools.product(POLICIES, (1, 2)):
        write_run(tmp_path, f"--policy {policy} --env hopper-medium-v2{options}", seed=seed)
    write_run(tmp_path, "--policy DMPO --env hopper-medium-v2")
    for figure in figures_of(tmp_path).values():
        figure.draw_without_rendering()
        (legend,) = figure.legends
        extent = legend.get_window_extent()
        assert 0 <= extent.x0 and extent.x1 <= figure.bbox.width


def test_there_is_a_panel_for_each_task(tmp_path):
    for robot in ("hopper", "walker2d"):
        for options in ("DMPO", "DMPO --info-reg", "AWAC --hidden 64 64"):
            write_run(tmp_path, f"--policy {options} --env {robot}-medium-v2")
    axes = figures_of(tmp_path)["learning_curves"].axes
    titles = [axis.get_title(loc="left") for axis in axes]
    assert titles == ["hopper-medium-v2", "walker2d-medium-v2"]
    assert [len(axis.lines) for axis in axes] == [3, 3]


@pytest.mark.parametrize("count", [1, 7, 30])
def test_no_two_methods_look_alike(count):
    names = ["DMPO", *(f"DMPO scale {number}" for number in range(count))]
    styles = styles_of(names)
    assert len(set(styles.values())) == len(names)
    widths = [styles[name].width for name in names]
    assert widths == sorted(widths, reverse=True)  # the later ones do not hide the earlier ones


def test_a_policy_looks_the_same_in_all_reports():
    alone, among = styles_of(["AWAC"]), styles_of(["DMPO", "DMPO info-reg", "AWAC scale 3"])
    assert replace(alone["AWAC"], width=0) == replace(among["AWAC scale 3"], width=0)


def test_a_variant_never_has_the_colour_of_another_policy():
    styles = styles_of(["IQL", "IQL log_std state", "IQL scale 3"])
    own = {styles_of([policy])[policy].colour for policy in POLICIES if policy != "IQL"}
    assert not own & {style.colour for style in styles.values()}


@pytest.mark.parametrize("count", [1, 2, 8, 9, 30])
def test_components_have_different_colours_none_black_or_yellow(count):
    colours = component_colours(count)
    assert len(set(colours)) == count
    for red, green, blue in map(to_rgb, colours):
        assert max(red, green, blue) > 0.25
        assert not (red > 0.8 and green > 0.8 and blue < 0.6)


def diagnostics(steps=3):
    names = ("q_data", "value_policy", "value_max", "effective_sample_size", "action_distance")
    columns = {name: [float(number)] * steps for number, name in enumerate(names, 1)}
    return columns | {"data_return_max": [4.0] * steps, "value_bound": [5.0] * steps}


def test_diagnostics_are_drawn_with_their_limits(tmp_path):
    write_run(tmp_path, columns=diagnostics())
    write_run(tmp_path, "--policy AWAC --env walker2d-medium-v2")
    figure = figures_of(tmp_path)["diagnostics"]
    assert len(figure.axes) == len(DIAGNOSTICS)  # only of the task that has them
    drawn = {
        axis.get_title(loc="left"): [set(line.get_ydata()) for line in axis.lines]
        for axis in figure.axes
    }
    assert drawn == {
        "Q of the policy's actions, mean": [{2.0}, {4.0}, {5.0}],
        "Q of the data's actions, mean": [{1.0}],
        "largest Q": [{3.0}, {4.0}, {5.0}],
        "effective sample size, share": [{4.0}],
        "distance to the data's actions": [{5.0}],
    }


def test_limits_far_above_the_curves_do_not_flatten_them(tmp_path):
    write_run(tmp_path, columns=diagnostics() | {"value_bound": [600.0] * 3})
    assert figures_of(tmp_path)["diagnostics"].axes[0].get_ylim()[1] < 10


def test_a_limit_does_not_bring_in_a_farther_one(tmp_path):
    write_run(
        tmp_path, columns=diagnostics() | {"data_return_max": [5.5] * 3, "value_bound": [15.0] * 3}
    )
    value = figures_of(tmp_path)["diagnostics"].axes[0]
    assert [set(line.get_ydata()) for line in value.lines] == [{2.0}, {5.5}]


def test_without_diagnostics_there_is_no_figure_of_them(tmp_path):
    write_run(tmp_path)
    assert list(figures_of(tmp_path)) == [
        *("learning_curves", "critic_loss", "critic_loss_accumulated")
    ]


def test_some_of_the_diagnostics_are_enough(tmp_path):
    write_run(tmp_path, columns={"q_data": [1.0, 2.0, 3.0]})
    assert main([str(tmp_path), "--html"]) == 0
    assert (tmp_path / "report" / "diagnostics.png").read_bytes().startswith(PNG)


def test_losses_that_diverge_are_drawn(tmp_path):
    write_run(tmp_path, columns={"critic_loss": [1.0, 1e20, 1e38]})
    assert main([str(tmp_path)]) == 0
    assert (tmp_path / "report" / "critic_loss.png").read_bytes().startswith(PNG)


def test_figures_are_png_and_svg_and_do_not_change_by_themselves(tmp_path):
    write_run(tmp_path, columns=diagnostics())
    write_run(tmp_path, seed=2)
    folder = tmp_path / "report"
    assert main([str(tmp_path), "--html"]) == 0
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in ("learning_curves", "critic_loss", "critic_loss_accumulated", "diagnostics"):
        assert first[f"{name}.png"].startswith(PNG)
        assert b"</svg>" in first[f"{name}.svg"]
    assert main([str(tmp_path), "--html"]) == 0
    assert first == {path.name: path.read_bytes() for path in folder.iterdir()}
