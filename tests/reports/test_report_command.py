"""The command line of report.py: each refusal is one line and exit code 2."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_models_played import model_path

from experiment.files import read_content, write_content
from report import main

ROOT = Path(__file__).parents[2]


def one_line(capsys):
    """The only line on stderr, an error."""
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1, printed
    return printed


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["latent", "--model", "AWAC"], "only DMPO and DMPO_ant"),
        (
            ["latent", "--model", "nothing.safetensors"],
            "the model nothing.safetensors does not exist",
        ),
        (["video", "--model", "damaged"], "is damaged"),
        (["video", "--model", "text"], "is damaged or not a file of this program"),
        (["video", "--model", "old.pt"], "is a model of an older version: train it again"),
        (["video", "--model", "."], "is not a file"),
        (["video", "--model", "DMPO", "--out", "a.avi"], "must end in .mp4 or .gif"),
        (["latent", "--model", "DMPO", "--out", "/proc/x/a"], "cannot write /proc/x/a.png"),
        (["nowhere"], "the folder nowhere does not exist"),
        (["text"], "the folder text does not exist"),
        (["."], "holds no <policy>/<run>.json"),
        (["results", "--out", "text"], "text"),
    ],
)
def test_refusals_are_one_line(trained, tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    good = model_path(trained).read_bytes()
    Path("damaged").write_bytes(good[: len(good) // 2])
    Path("old.pt").write_bytes(b"")
    Path("text").write_text("no model")
    if arguments[0] == "results":
        arguments = [str(trained / "results"), *arguments[1:]]
    names = {name: str(model_path(trained, name)) for name in ("DMPO", "AWAC")}
    assert main([names.get(argument, argument) for argument in arguments]) == 2
    assert says in one_line(capsys)


WRONG_SETTINGS = (
    *({"env": "os"}, {"env": None}, {"env": ["hopper-medium-v2"]}, {"env": "\x1b[31m"}),
    *({"policy": "os"}, {"policy": None}, {"seed": None}, {"seed": -1}, {"seed": "1"}),
    *({"env": "ant-medium-v2"}, {"policy": "AWAC"}),
)


@pytest.mark.parametrize("wrong", WRONG_SETTINGS, ids=json.dumps)
@pytest.mark.parametrize("command", ["latent", "video"])
def test_models_with_wrong_settings_are_refused(trained, tmp_path, capsys, command, wrong):
    path = tmp_path / "run.safetensors"
    content = read_content(model_path(trained))
    content["config"]["settings"] |= wrong
    write_content(path, content)
    assert main([command, "--model", str(path)]) == 2
    assert one_line(capsys).rstrip("\n").isprintable()


@pytest.mark.parametrize("place", ["settings", "dataset", "command", "versions"])
def test_models_whose_settings_are_incomplete_are_refused(trained, tmp_path, capsys, place):
    path = tmp_path / "run.safetensors"
    content = read_content(model_path(trained))
    del content["config"][place]
    write_content(path, content)
    assert main(["latent", "--model", str(path)]) == 2
    one_line(capsys)


def test_a_video_that_cannot_be_written_is_one_line(renderer, trained, capsys):
    arguments = ["video", "--model", str(model_path(trained)), "--out", "/proc/x/a.gif"]
    assert main(arguments) == 2
    assert "cannot write /proc/x/a.gif" in one_line(capsys)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["video"], "--model"),
        (["latent", "--model", "m", "--episodes", "0"], "must be at least 1"),
        (["latent", "--model", "m", "--seed", "-1"], "must be at least 0"),
        (["latent", "--model", "m", "--episode", "2"], "did you mean --episodes?"),
        (["--htm"], "did you mean --html?"),
        (["a", "b"], "unknown argument b"),
    ],
)
def test_wrong_options_are_one_line(arguments, says, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2 and says in one_line(capsys)


@pytest.mark.parametrize("missing", ["matplotlib", "scipy", "PIL", "jsonschema"])
def test_a_missing_package_is_one_line(missing, trained):
    words = (
        ["video", "--model", "m.safetensors"] if missing == "PIL" else [str(trained / "results")]
    )
    program = f"import sys; sys.modules[{missing!r}] = None; import report; "
    program += f"sys.exit(report.main({words!r}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"error: {missing} is missing: pip install -r requirements-report.txt\n"


def test_reports_do_not_import_the_main_job():
    code = "import sys, reports.whole, reports.video; print('main_training' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
