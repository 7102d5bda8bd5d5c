"""Damaged or hostile files of runs: each is left out and named, the others are reported."""

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from run_files import groups_of, report, write_run

from experiment.results import LARGEST_CONFIG
from reports.schema import LARGEST_CSV, BadFileError, read_columns, read_config

WHOLE = (
    *("", "[]", "null", "1", "{}", '"text"', "{", "\x00", '{"settings": {}}', "NaN"),
    *("[" * 100_000, '{"a":' * 100_000, "9" * 5_000, '"\\ud800"', "\ufeff{}"),
)
PLACES = {
    "settings": (None, [], {}, "text", 1),
    "settings.seed": (None, "1", -1, 1.5, True, 10**30, [1], {}),
    "settings.policy": (None, ["AWAC"], {}, "", 1, "x" * 2000),
    "settings.env": (None, ["hopper"], "", 1),
    "settings.dataset_sha256": (None, 1, ""),
    "settings.hidden": ({"a": 1}, [[1]], [{}]),
    "max_timesteps": (None, "3", 0, -1, 2.5, 10**30, True),
    "dataset": (None, [], "file"),
    "dataset.synthetic": (None, "yes", 1),
    "dataset.source": (None, 1),
    "command": (None, 1, []),
    "versions": (None, [], {"torch": 1}),
    "git_commit": (1, [], {}),
    "earlier": (None, {}, [1], [{"git_commit": 1}], [{"versions": None}]),
}
CASES = [(place, value) for place, values in PLACES.items() for value in values]
TABLES = (
    *("step\n1\n", "score_mean\n1\n", "step,score_mean\n1\n", "step,score_mean\n1,2,3\n"),
    *("step,step,score_mean\n1,1,1\n", "step,score_mean\nx,1\n", "step,score_mean\n1,\n"),
    *("step,score_mean\n1,nan\n", "step,score_mean\n1,inf\n", "step,score_mean\n1,1e300\n"),
    *("step,score_mean\n2,1\n1,1\n", "step,score_mean\n1,1\n1,1\n", "step,score_mean\n-1,1\n"),
    *("step,score_mean\n1.5,1\n", "step,score_mean\n1e300,1\n", "step,score_mean\n,1\n"),
    *("step,score_mean,critic_loss\n1,1,1e300\n", 'step,score_mean\n"1,1\n', "\x00", "\ud800"),
    *("step,score_mean\n" + "1" * 200_000 + ",1\n", "step,score_mean\n1,1\n\n", "\n1,1\n"),
)


def put(config, place, value):
    """Set a value at a path such as "settings.seed"."""
    *parents, last = place.split(".")
    for parent in parents:
        config = config[parent]
    config[last] = value


def is_left_out(folder, path):
    """Whether the report names this run, on one printable line, and shows the other one."""
    groups, left_out = groups_of(folder)
    assert [run.seed for group in groups for run in group.runs] == [1]
    (line,) = left_out
    assert line.isprintable() and len(line) < 600
    return line.startswith(f"{path.stem}: ")


@pytest.fixture
def bad(tmp_path):
    """The JSON of a run to be damaged, beside a good one."""
    write_run(tmp_path)
    return write_run(tmp_path, seed=2)


@pytest.mark.parametrize("text", WHOLE, ids=range(len(WHOLE)))
def test_a_json_that_is_of_no_run(tmp_path, bad, text):
    bad.write_text(text)
    assert is_left_out(tmp_path, bad)


@pytest.mark.parametrize(("place", "value"), CASES)
def test_a_json_with_a_wrong_value(tmp_path, bad, place, value):
    config = json.loads(bad.read_text())
    put(config, place, value)
    bad.write_text(json.dumps(config))
    assert is_left_out(tmp_path, bad)
    _, (line,) = groups_of(tmp_path)
    assert f"$.{place.split('.')[0]}" in line


@pytest.mark.parametrize(
    "place", [place for place in PLACES if place not in ("earlier", "settings.hidden")]
)
def test_a_json_that_lacks_something(tmp_path, bad, place):
    config = json.loads(bad.read_text())
    *parents, last = place.split(".")
    del (config[parents[0]] if parents else config)[last]
    bad.write_text(json.dumps(config))
    assert is_left_out(tmp_path, bad)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_json_with_a_number_that_is_not_finite(tmp_path, bad, number):
    bad.write_text(bad.read_text().replace('"batch_size": 256', f'"batch_size": {number}'))
    assert number in bad.read_text() and is_left_out(tmp_path, bad)


@pytest.mark.parametrize("text", TABLES, ids=range(len(TABLES)))
def test_a_csv_that_is_of_no_run(tmp_path, bad, text):
    bad.with_suffix(".csv").write_bytes(text.encode(errors="surrogatepass"))
    assert is_left_out(tmp_path, bad)


def test_an_evaluation_at_a_step_that_is_not_trained_leaves_the_run_unfinished(tmp_path, bad):
    lines = bad.with_suffix(".csv").read_text().splitlines()
    bad.with_suffix(".csv").write_text("\n".join(lines[:3]) + "\n")
    assert is_left_out(tmp_path, bad)
    assert "unfinished, at step 2 of 3" in report(tmp_path)[0]


@pytest.mark.parametrize("text", [None, "", "step,score_mean\n"])
def test_a_run_without_evaluations_is_unfinished(tmp_path, bad, text):
    bad.with_suffix(".csv").unlink()
    if text is not None:
        bad.with_suffix(".csv").write_text(text)
    assert is_left_out(tmp_path, bad)
    assert "unfinished, at step 0 of 3" in report(tmp_path)[0]


def test_only_unfinished_runs_make_a_report_that_says_so(tmp_path):
    write_run(tmp_path).with_suffix(".csv").unlink()
    text, lines = report(tmp_path)
    assert text.count("unfinished") == 1 and not lines


def pipe(path):
    os.mkfifo(path)


def folder(path):
    path.mkdir()


def link_to_a_device(path):
    path.symlink_to("/dev/zero")


def link_to_itself(path):
    path.symlink_to(path)


def link_to_nothing(path):
    path.symlink_to("nothing")


def too_large(path):
    path.touch()
    os.truncate(path, max(LARGEST_CSV, LARGEST_CONFIG) + 1)


ODD = (pipe, folder, link_to_a_device, link_to_itself, too_large)


@pytest.mark.parametrize("make", [*ODD, link_to_nothing])
def test_a_json_that_is_not_a_regular_file(tmp_path, bad, make):
    bad.unlink()
    make(bad)
    assert is_left_out(tmp_path, bad)


@pytest.mark.parametrize("make", ODD)
def test_a_csv_that_is_not_a_regular_file(tmp_path, bad, make):
    bad.with_suffix(".csv").unlink()
    make(bad.with_suffix(".csv"))
    assert is_left_out(tmp_path, bad)


def test_large_values_are_reported(tmp_path):
    """Losses of a run that diverges."""
    write_run(tmp_path, columns={"critic_loss": [1.0, 1e20, 1e38]})
    write_run(tmp_path, columns={"critic_loss": [1.0, 1e20, 1e38]}, seed=2)
    text, _ = report(tmp_path)
    assert "1.00e+38 ± 0 (2)" in text and "left out" not in text


def test_an_infinite_bound_is_unknown(tmp_path):
    path = write_run(tmp_path, columns={"value_bound": ["inf"] * 3, "value_policy": [1.0] * 3})
    columns = read_columns(path.with_suffix(".csv"))
    assert all(columns["value_bound"] != columns["value_bound"])
    assert groups_of(tmp_path)[0][0].runs[0].overestimates == ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(place=st.sampled_from(list(PLACES)), value=JSON)
def test_any_value_is_read_or_refused(tmp_path, place, value):
    """A run with any JSON in one place is reported as a whole, or refused."""
    path = tmp_path / "AWAC" / "any.json"
    if not path.exists():
        write_run(tmp_path, stem="any")
        (tmp_path / "good.json").write_text(path.read_text())
    config = json.loads((tmp_path / "good.json").read_text())
    put(config, place, value)
    path.write_text(json.dumps(config))
    try:
        read_config(path)
    except BadFileError as error:
        assert str(error).isprintable()
    else:
        report(path.parent)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(
    st.text(alphabet='step,score_mean\n"0123456789.-e+x', max_size=60)
    | st.lists(st.floats(), min_size=1, max_size=4).map(
        lambda values: "step,score_mean\n" + "".join(f"{v},{v}\n" for v in values)
    )
)
def test_any_csv_is_read_or_refused(tmp_path, text):
    path = tmp_path / "run.csv"
    path.write_text(text)
    try:
        columns = read_columns(path)
    except BadFileError as error:
        assert str(error).isprintable()
    else:
        assert {len(column) for column in columns.values()} <= {len(text.splitlines()) - 1}
