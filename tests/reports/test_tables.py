"""Numbers in the tables, and text from users in Markdown, CSV and on the page."""

import csv
import re

import numpy as np
import pytest
from run_files import change, report, write_columns, write_run

from report import main
from reports.runs import read_run
from reports.tables import loss_text, markdown_text, score_text


def rows_of(text, title):
    """The cells of a table in the Markdown, without the header."""
    table = re.search(rf"## {title}\n\n(.*?)\n\n", text, re.S)[1].splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[2:]]


def test_the_table_says_mean_and_std_over_seeds(results, capsys):
    text, lines = report(results)
    scores = [read_run(path).final_score for path in results.glob("AWAC/*.json")]
    mean, std = np.mean(scores), np.std(scores, ddof=1)
    assert f"{mean:.1f} ± {std:.1f} (2)" in text
    (line,) = [x for x in lines if x["method"] == "AWAC"]
    assert line["seeds"] == "2" and line["evaluations"] == "6" and line["synthetic"] == "True"
    np.testing.assert_allclose(float(line["score_mean"]), mean)
    np.testing.assert_allclose(float(line["score_std"]), std)
    assert "hopper-medium-v2 (synthetic)" in text
    assert main([str(results), "--html"]) == 0
    assert text.strip() in capsys.readouterr().out
    assert (results / "report" / "report.md").read_text() == text
    with (results / "report" / "report.csv").open() as file:
        assert list(csv.DictReader(file)) == lines


def test_only_the_last_ten_evaluations_count(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path, scores=[9.0] * 15 + [0.5] * 10, seed=seed)
    _, (line,) = report(tmp_path)
    assert float(line["score_mean"]) == 50.0 and float(line["score_std"]) == 0.0
    assert float(line["critic_loss_sum"]) == 50.0


def test_the_best_of_a_task_is_bold(tmp_path):
    for policy, score, loss in (("DMPO", 0.51, 2), ("AWAC", 0.5099, 1), ("IQL", 0.4, 3)):
        path = write_run(tmp_path, f"--policy {policy} --env hopper-medium-v2", [score])
        write_columns(path, {"step": [1], "score_mean": [score], "critic_loss": [loss]})
    text, _ = report(tmp_path)
    # Scores that are shown as equal are equally good; of losses the lowest is best.
    scores = ["hopper-medium-v2", "**51.0 (1)**", "**51.0 (1)**", "40.0 (1)"]
    assert rows_of(text, "Scores") == [scores]
    losses = ["hopper-medium-v2", "2 (1)", "**1 (1)**", "3 (1)"]
    assert rows_of(text, "Accumulated critic loss") == [losses]


def test_a_single_method_is_not_bold(tmp_path):
    write_run(tmp_path)
    assert "**" not in report(tmp_path)[0]


def test_a_policy_without_a_critic_has_scores_and_no_critic_loss(tmp_path):
    write_run(tmp_path, columns={"critic_loss": [""] * 3})
    path = write_run(tmp_path, "--policy IQL --env hopper-medium-v2")
    write_columns(path, {"step": [1, 2, 3], "score_mean": [0.1] * 3, "actor_loss": [1.0] * 3})
    _, lines = report(tmp_path)
    assert [line["critic_loss_sum"] for line in lines] == ["", ""]
    assert all(float(line["score_mean"]) > 0 for line in lines)


def test_critic_loss_accumulates_over_steps(trained):
    (path,) = trained.glob("results/AWAC/*seed1*.json")
    run = read_run(path)
    log = path.with_name(f"{run.name}_critic_loss_log.txt").read_text().split()
    np.testing.assert_allclose(run.critic_loss_sum, 4 * sum(map(float, log)), rtol=1e-6)


def test_comparisons_warn_if_methods_have_other_tasks(tmp_path):
    for policy, robot in (("AWAC", "hopper"), ("AWAC", "walker2d"), ("IQL", "hopper")):
        write_run(tmp_path, f"--policy {policy} --env {robot}-medium-v2")
    assert "METHODS DIFFER" in report(tmp_path)[0]


def test_comparisons_warn_if_methods_have_other_numbers_of_seeds(tmp_path):
    for robot, seeds in (("hopper", 2), ("walker2d", 1)):
        for seed in range(seeds):
            write_run(tmp_path, f"--policy AWAC --env {robot}-medium-v2", seed=seed)
    assert "METHODS DIFFER" not in report(tmp_path)[0]
    for robot in ("hopper", "walker2d"):
        write_run(tmp_path, f"--policy IQL --env {robot}-medium-v2")
    assert "METHODS DIFFER" in report(tmp_path)[0]


def test_the_least_loss_is_bold_only_where_runs_are_as_long(tmp_path):
    write_run(tmp_path, scores=[0.1] * 20)
    write_run(tmp_path, "--policy IQL --env hopper-medium-v2", scores=[0.2] * 20)
    write_columns(
        write_run(tmp_path, "--policy DMPO --env hopper-medium-v2", scores=[0.3] * 20),
        {"step": range(1, 21), "score_mean": [0.3] * 20, "critic_loss": [1.0] * 20},
    )
    losses = report(tmp_path)[0].partition("## Accumulated critic loss")[2]
    assert "**20 (1)**" in losses
    write_run(tmp_path, "--policy IQL --env hopper-medium-v2", seed=2, scores=[0.2] * 10)
    losses = report(tmp_path)[0].partition("## Accumulated critic loss")[2]
    assert "20 (1)" in losses and "**" not in losses


def test_a_pair_of_probabilities_adds_up_with_its_intervals(tmp_path):
    rng = np.random.default_rng(0)
    for policy in ("AWAC", "IQL"):
        for seed in range(3):
            scores = [float(rng.random())]
            write_run(
                tmp_path, f"--policy {policy} --env hopper-medium-v2", scores=scores, seed=seed
            )
    table = report(tmp_path)[0].partition("## Probability of improvement")[2].partition("##")[0]
    cells = re.findall(r"(\d\.\d\d) \((\d\.\d\d) to (\d\.\d\d)\)", table)
    (p, low, high), (q, other_low, other_high) = (map(float, cell) for cell in cells)
    assert (p + q, low + other_high, high + other_low) == pytest.approx((1, 1, 1), abs=0.011)


def test_two_datasets_of_a_task_are_one_task_in_comparisons(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path, scores=[0.5], seed=seed, sha256="a" * 64)
    write_run(tmp_path, scores=[0.9], sha256="b" * 64)
    text, _ = report(tmp_path)
    ((method, tasks, runs, mean, *_),) = rows_of(text, "Over tasks: MuJoCo")
    assert (method, tasks, runs, mean) == ("AWAC", "1", "2", "50.0")
    assert "Where a task has several datasets, one counts (hopper-medium-v2: aaaaaaaa)." in text
    assert "90.0 (1)" in text


def test_synthetic_data_is_compared_apart(tmp_path):
    for env in ("hopper-medium-v2", "walker2d-medium-v2"):
        write_run(tmp_path, f"--policy AWAC --env {env}", sha256="a" * 64)
        write_run(tmp_path, f"--policy AWAC --env {env}", sha256="b" * 64, synthetic=True)
    text, _ = report(tmp_path)
    assert rows_of(text, "Over tasks: MuJoCo")[0][1] == "2"
    assert rows_of(text, "Over tasks: MuJoCo, synthetic")[0][1] == "2"


@pytest.mark.parametrize(
    ("value", "shown"), [(-0.04, "0.0"), (12.34, "12.3"), (100.0, "100.0"), (-3.0, "-3.0")]
)
def test_scores_have_one_decimal(value, shown):
    assert score_text(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0.01234, "0.0123"), (50.94, "50.9"), (3796.4, "3796"), (1e30, "1.00e+30")]
)
def test_losses_have_about_three_digits(value, shown):
    assert loss_text(value) == shown


HOSTILE = (
    *("=1+1", "+1", "-1", "@SUM(A1)", "a\n# heading", "\n\n## heading\n", "<script>x()</script>"),
    *("a|b", "`code`", "**bold**", "[link](x)", "$a^b$", "\x1b[31mred", "_em_", "\ud800", "a\tb"),
    *("\u202eright to left", "&lt;", "\\", '"><img src=x onerror=x()>', " ", "x" * 900),
)


def write_hostile_runs(folder, texts):
    """Runs with these texts wherever a user can put one, names of files included."""
    for seed, text in enumerate(texts):
        path = write_run(folder, seed=seed, command=text, git_commit=text, device=text)
        change(path, env=text, policy=text, score_type=text, **{text: text})
    change(write_run(folder, seed=len(texts)), score_type="$a^b$")
    (folder / "AWAC" / "=1\n# h<script>.json").write_text("{}")


def test_text_from_users_is_text_in_markdown_and_csv(tmp_path):
    write_hostile_runs(tmp_path, HOSTILE)
    text, rows = report(tmp_path)
    lines = text.splitlines()
    titles = ("# Results", "## Scores", "## Over", "## Prob", "## Acc", "## Notes")
    assert all(line.startswith(titles) for line in lines if line.startswith("#"))
    assert all(line.isprintable() for line in lines) and "<script" not in text
    fields = [field for row in rows for field in row.values()]
    assert len(rows) == len(HOSTILE) + 1
    assert not any(field.startswith(("=", "+", "-", "@", "\t")) for field in fields)


def test_text_from_users_is_text_on_the_page_and_in_figures(tmp_path):
    write_hostile_runs(tmp_path, ("$a^b$", "\x1b[31m", "\ud800", '"><script>x()</script>'))
    assert main([str(tmp_path), "--html"]) == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("<script") == 1 and "\x1b" not in page
    assert "&quot;&gt;&lt;script&gt;x()&lt;/script&gt;" in page
    assert "$a^b$" in (tmp_path / "report" / "learning_curves.svg").read_text()
    assert (tmp_path / "report" / "learning_curves.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("walker2d-medium-v2", "walker2d-medium-v2"),
        ("DMPO_ant kl_weight", "DMPO_ant kl_weight"),
        ("_a_", r"\_a\_"),
        ("<b>", "&lt;b&gt;"),
        ("a|b*c", r"a\|b\*c"),
    ],
)
def test_markdown_escapes_only_markup(text, shown):
    assert markdown_text(text) == shown
