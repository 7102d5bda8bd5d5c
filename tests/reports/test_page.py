"""The page, as text and in a real browser."""

import json
import re
import shutil
import subprocess
import urllib.parse

import pytest
from run_files import write_run

from report import main

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Runs of four tasks, one of them synthetic and with several methods."""
    folder = tmp_path_factory.mktemp("page")
    for number, env in enumerate(("ant-medium-v2", "halfcheetah-medium-v2", "walker2d-medium-v2")):
        write_run(folder, f"--policy AWAC --env {env}", [0.4 * number - 0.5])
    for seed in (1, 2):
        for policy in ("DMPO", "DMPO --info-reg", "DMPO --kl_weight 0.1", "AWAC", "IQL"):
            write_run(
                folder, f"--policy {policy} --env hopper-medium-v2", seed=seed, synthetic=True
            )
    return folder


@pytest.fixture(scope="module")
def page(results):
    assert main([str(results), "--html"]) == 0
    return results / "report" / "index.html"


def browse(page, script="", *options, hash=""):
    """Run a script in a page in headless Chromium; returns the document it leaves."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("Chromium is not installed: " + ", ".join(BROWSERS))
    copy = page.with_name("browsed.html")
    text = page.read_text()
    if script:  # the page's policy allows no other script
        text = re.sub(r'<meta http-equiv="Content-Security-Policy".*?>', "", text, flags=re.S)
        text = text.replace("</body>", f"<script>{script}</script></body>")
    copy.write_text(text)
    quiet = "--disable-gpu --disable-quic --no-first-run --disable-background-networking"
    quiet += " --disable-component-update --disable-sync"
    command = [
        *(browser, "--headless", "--no-sandbox", *quiet.split(), *options),
        *(f"--user-data-dir={page.parent / 'profile'}", "--enable-logging=stderr"),
        *("--dump-dom", copy.as_uri() + hash),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


def found_by(page, script, *options, hash=""):
    """The object `found` that a script makes."""
    out = f"""(() => {{ const found = {{}}; {script}
    const out = document.createElement("pre"); out.id = "found";
    out.textContent = JSON.stringify(found); document.body.append(out); }})()"""
    document = browse(page, out, *options, hash=hash)
    return json.loads(re.search(r'<pre id="found">(.*?)</pre>', document, re.S)[1])


def test_the_page_needs_nothing_beside_it(page):
    text = re.sub(r'xmlns(:xlink)?="[^"]*"', "", page.read_text())
    assert text.count("<figure") == 3 * 4
    assert not re.search(r"src=|<link|@import|url\((?!#)|https?:", text)


def test_scripts_other_than_its_own_are_forbidden(page):
    policy = re.search(r'content="(default-src[^"]*)"', page.read_text())[1]
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy


def test_its_own_script_runs_under_its_policy(page):
    """It hides the figures of all tasks except the first."""
    document = browse(page)
    hidden = re.findall(r'<section class="task" id="t(\d)"( hidden="")?>', document)
    assert hidden == [("0", ""), *((str(index), ' hidden=""') for index in range(1, 4))]


def test_a_banner_names_the_synthetic_data(page):
    (banner,) = re.findall(r'<p class="banner">(.*?)</p>', page.read_text())
    assert banner.startswith("Synthetic data.")
    assert "hopper-medium-v2 (synthetic)" in banner and "ant" not in banner


def test_without_synthetic_data_there_is_no_banner(tmp_path):
    write_run(tmp_path)
    assert main([str(tmp_path), "--html"]) == 0
    assert '<p class="banner">' not in (tmp_path / "report" / "index.html").read_text()


def test_every_cell_leads_to_its_runs(page, results):
    text = page.read_text()
    cells = re.findall(r'<td data-key="[^"]+"><a href="#(g\d+)">', text)
    assert len(cells) == 2 * (3 + 5)  # scores and losses
    for name in cells:
        assert text.count(f'<details id="{name}">') == 1
    files = [urllib.parse.unquote(link) for link in re.findall(r'href="(\./[^"]+)"', text)]
    assert len(files) == 2 * (3 + 5 * 2)
    assert all((page.parent / link).is_file() for link in files)
    for path in results.glob("*/*.json"):
        words = json.loads(path.read_text())["command"].split()
        assert "".join(f"<span>{word}</span> " for word in words) in text


def test_the_best_of_a_task_is_bold(tmp_path):
    for policy, score in (("AWAC", 0.5), ("IQL", 0.6)):
        write_run(tmp_path, f"--policy {policy} --env hopper-medium-v2", [score])
    assert main([str(tmp_path), "--html"]) == 0
    text = (tmp_path / "report" / "index.html").read_text()
    assert "<b>60.0 (1)</b>" in text and "<b>50.0" not in text


SORT = """
const column = (table, index) => [...table.tBodies[0].rows].map(r => r.cells[index].dataset.key);
const table = document.querySelector("table");
found.clicks = [0, 4, 4, 4].map((index) => {
  const header = table.tHead.rows[0].cells[index];
  header.querySelector("button").click();
  return [header.getAttribute("aria-sort"), column(table, index),
    document.querySelectorAll("[aria-sort]").length];
});
found.header = [...table.tHead.rows[0].cells].map((cell) => cell.textContent);
"""


def test_a_click_on_a_header_sorts(page):
    found = found_by(page, SORT)
    names = ["task", "DMPO", "DMPO info-reg", "DMPO kl_weight 0.1", "AWAC", "IQL"]
    assert found["header"] == names
    by_name, *by_score = found["clicks"]
    assert by_name[0] == "ascending" and by_name[1] == sorted(by_name[1])
    for click, order in zip(by_score, ("descending", "ascending", "descending"), strict=True):
        numbers = [float(key) for key in click[1] if key]
        assert click[0] == order and click[2] == 1 and len(numbers) == 4
        assert numbers == sorted(numbers, reverse=order == "descending")


CHOOSE = """
const form = document.querySelector("form.choice");
const select = form.querySelector("select");
const shown = () => [...document.querySelectorAll("section.task")].filter(s => !s.hidden)
  .map(s => s.querySelector("h3").textContent);
const drawn = () => [...document.querySelectorAll("section.task:not([hidden]) [id*='-m']")]
  .filter(part => part.getBoundingClientRect().width > 0).map(part => part.id);
found.tasks = [...select.options].map(option => option.textContent);
select.value = [...select.options].find(o => o.textContent.startsWith("hopper")).value;
select.dispatchEvent(new Event("change", {bubbles: true}));
found.shown = shown(); found.all = drawn();
form.querySelectorAll("input")[0].click();
found.without = drawn();
form.querySelectorAll("input")[0].click();
found.again = drawn();
"""


def test_lists_choose_the_task_and_the_methods(page):
    found = found_by(page, CHOOSE)
    assert len(found["tasks"]) == 4 and found["shown"] == ["hopper-medium-v2 (synthetic)"]
    of_first = [name for name in found["all"] if name.endswith("-m0")]
    assert len(of_first) == 6  # a line and a band in each figure
    assert found["without"] == [name for name in found["all"] if name not in of_first]
    assert found["again"] == found["all"]


LAYOUT = """
const table = document.querySelector("table"), box = table.parentElement;
box.scrollLeft = 1000;
found.scrolled = box.scrollLeft;
found.first = table.tBodies[0].rows[0].cells[0].getBoundingClientRect().left
  - box.getBoundingClientRect().left;
found.lines = table.tBodies[0].rows[0].cells[0].getClientRects().length;
found.height = table.tBodies[0].rows[0].getBoundingClientRect().height;
found.wide = document.documentElement.scrollWidth > window.innerWidth;
found.figures = [...document.querySelectorAll("section.task:not([hidden]) figure svg")]
  .map(svg => svg.getBoundingClientRect().width);
"""


@pytest.mark.parametrize("width", [500, 800, 1280])
def test_the_page_fits_and_its_first_column_stays(page, width):
    found = found_by(page, LAYOUT, f"--window-size={width},900")
    assert not found["wide"] and found["first"] == 0 and found["height"] < 45
    assert (found["scrolled"] > 0) == (width < 1000)
    assert len(found["figures"]) == 3 and min(found["figures"]) > 300


def test_a_link_to_runs_unfolds_them(page):
    found = found_by(page, "found.open = document.querySelector('#g1').open;", hash="#g1")
    assert found["open"]
