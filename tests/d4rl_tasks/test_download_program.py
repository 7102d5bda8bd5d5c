"""`python -m d4rl_tasks.download`, as a user types it."""

import hashlib
import os

import pytest
from http_servers import make_content, running_server, send, serve
from programs import exit_code

from d4rl_tasks import checksums, get_task, sources, task_names, transfer
from d4rl_tasks.download import main, matching_tasks

FILE = "hopper_medium-v2.hdf5"


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    folder = tmp_path / "datasets"
    folder.mkdir()
    monkeypatch.setenv("D4RL_DATASET_DIR", str(folder))
    monkeypatch.delenv("D4RL_MIRROR", raising=False)
    monkeypatch.setattr(transfer, "PAUSES", ())
    return folder


@pytest.fixture
def content(tmp_path, monkeypatch):
    body = make_content(tmp_path / "file.hdf5", seed=0)
    entry = {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}
    monkeypatch.setattr(checksums, "_table", lambda: {FILE: entry})
    return body


@pytest.fixture
def server(monkeypatch, content):
    def answer(handler):
        (serve(content) if handler.path.endswith(FILE) else send(404, b""))(handler)

    with running_server(answer) as server:
        for name in ("BERKELEY", "HUGGING_FACE", "INTERNET_ARCHIVE"):
            monkeypatch.setattr(sources, name, f"{server.address}/")
        yield server


def test_tasks_are_fetched_ahead_of_time(server, folder, content, capsys):
    assert main(["hopper-medium-v2", "d4rl/hopper-medium-v2"]) == 0
    assert capsys.readouterr().out == f"hopper-medium-v2: fetched, {folder / FILE}\n"
    assert (folder / FILE).read_bytes() == content
    assert main(["hopper-medium-v2"]) == 0
    assert capsys.readouterr().out == f"hopper-medium-v2: here, {folder / FILE}\n"


def test_a_file_that_cannot_be_had_does_not_stop_the_others(server, folder, content, capsys):
    assert main(["hopper-expert-v2", "hopper-medium-v2"]) == 2
    assert (folder / FILE).read_bytes() == content
    summary = capsys.readouterr().err.splitlines()[-1]
    assert "1 of 2 not fetched: hopper-expert-v2" in summary


def test_patterns():
    names = [task.name for task in matching_tasks(["hopper-*-v2", "d4rl/hopper-m*-v2", "ant-*-v0"])]
    assert len(names) == len(set(names)) == 6 + 5
    assert names[:6] == [
        name for name in task_names() if name.startswith("hopper") and "v2" in name
    ]


def test_the_list_shows_every_task_its_size_and_what_is_here(folder, capsys):
    (folder / FILE).write_bytes(b"another")
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == task_names()
    here = {line.split()[0]: line for line in lines}
    assert "WRONG" in here["hopper-medium-v2"] and " 146 " in here["hopper-medium-v2"]
    assert "missing" in here["hopper-expert-v2"]
    assert here["antmaze-umaze-v1"].split()[1] == "?"


def test_check_verifies_what_is_here(folder, content, capsys):
    assert main(["--check"]) == 0
    assert "none of these files" in capsys.readouterr().out
    (folder / FILE).write_bytes(content)
    (folder / get_task("antmaze-umaze-v1").file_name).write_bytes(content)
    assert main(["--check"]) == 0
    states = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert ["hopper-medium-v2", "verified"] in states
    assert ["antmaze-umaze-v1", "present"] in states and len(states) == 2
    (folder / FILE).write_bytes(content[:-1] + b"x")
    assert main(["--check", "hopper-*"]) == 1
    captured = capsys.readouterr()
    assert "unreadable" in captured.out or "WRONG" in captured.out


def test_check_sees_a_change_that_left_the_time_of_the_file(folder, content, capsys):
    others = folder / get_task("antmaze-umaze-v1").file_name  # nobody recorded its checksum
    for path in (folder / FILE, others):
        path.write_bytes(content)
    assert main(["--list"]) == main(["--check"]) == 0  # the list notes checksums
    for path in (folder / FILE, others):
        status = path.stat()
        path.write_bytes(content[:-1] + b"x")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert main(["--check"]) == 1
    states = [line.split()[1] for line in capsys.readouterr().out.splitlines()[-2:]]
    assert set(states) <= {"WRONG", "unreadable"} and len(states) == 2


def test_a_pipe_in_the_folder_is_named_and_the_rest_is_checked(folder, content, capsys):
    os.mkfifo(folder / "hopper_expert-v2.hdf5")
    (folder / FILE).write_bytes(content)
    assert main(["--check"]) == 1
    captured = capsys.readouterr()
    assert "not a regular file" in captured.err
    assert "unreadable" in captured.out and "verified" in captured.out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "nothing to do"),
        (["hopper-medium-v9"], "hopper-medium-v2"),
        (["hopper-*-v9"], "no task matches 'hopper-*-v9'"),
        (["pen-human-v1"], "pen-human-v1"),
        (["--chek"], "--check"),
    ],
)
def test_bad_input_is_one_line(argv, words, capsys):
    assert exit_code(main, argv) == 2
    errors = capsys.readouterr().err
    assert words in errors and "Traceback" not in errors
    assert errors.strip().count("\n") == 0
