"""Files with recorded checksums, from servers on the loopback address that stand for each source.

`test_download.py` tests the sources of the real files.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from http_servers import make_content, running_server, send, serve

from d4rl_tasks import D4RLTaskError, checksums, get_task, load_dataset, sources, transfer

NAME = "hopper-medium-v2"
TASK = get_task(NAME)
FILE = TASK.file_name
IN_FOLDER = f"/gym_mujoco_v2/{FILE}"
NOT_FOUND = send(404, b"")


def edition(body):
    return {"sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}


@pytest.fixture(scope="session")
def content(tmp_path_factory):
    """The bytes of the present edition."""
    return make_content(tmp_path_factory.mktemp("present") / "file.hdf5", seed=0)


@pytest.fixture(scope="session")
def older(tmp_path_factory):
    """The bytes of the older edition: another size."""
    return make_content(tmp_path_factory.mktemp("older") / "file.hdf5", seed=1, rows=150)


@pytest.fixture(scope="session")
def wrong(tmp_path_factory):
    """The bytes of a good dataset of the same size that is not D4RL's."""
    return make_content(tmp_path_factory.mktemp("wrong") / "file.hdf5", seed=2)


@pytest.fixture
def folder(monkeypatch, tmp_path, content, older):
    folder = tmp_path / "datasets"
    folder.mkdir()
    monkeypatch.setenv("D4RL_DATASET_DIR", str(folder))
    monkeypatch.delenv("D4RL_MIRROR", raising=False)
    monkeypatch.setattr(transfer, "PAUSES", (0.01, 0.01, 0.01))
    table = {FILE: edition(content) | {"superseded": edition(older)}}
    monkeypatch.setattr(checksums, "_table", lambda: table)
    return folder


@pytest.fixture
def servers(monkeypatch, folder):
    """One for each source; none has the file."""
    with (
        running_server(NOT_FOUND) as berkeley,
        running_server(NOT_FOUND) as hugging_face,
        running_server(NOT_FOUND) as archive,
        running_server(NOT_FOUND) as mirror,
    ):
        monkeypatch.setattr(sources, "BERKELEY", f"{berkeley.address}/")
        monkeypatch.setattr(sources, "HUGGING_FACE", f"{hugging_face.address}/")
        monkeypatch.setattr(sources, "INTERNET_ARCHIVE", f"{archive.address}/")
        yield SimpleNamespace(
            berkeley=berkeley, hugging_face=hugging_face, archive=archive, mirror=mirror
        )


def paths(server):
    return [path for path, _ in server.requests]


def load():
    return load_dataset(NAME, "d4rl")


def assert_complete(folder, body):
    """The file is there, and nothing but its note beside it."""
    assert (folder / FILE).read_bytes() == body
    assert sorted(file.name for file in folder.iterdir()) == [FILE, f"{FILE}.sha256"]


def test_each_source_is_asked_in_its_order_and_in_its_own_layout(
    servers, monkeypatch, folder, content, capsys
):
    monkeypatch.setenv("D4RL_MIRROR", servers.mirror.address)
    servers.archive.script = [serve(content)]
    assert load().source == "download"
    assert_complete(folder, content)
    assert paths(servers.mirror) == [IN_FOLDER, f"/{FILE}"]
    assert paths(servers.berkeley) == [IN_FOLDER]
    assert paths(servers.hugging_face) == [f"/{FILE}"]
    assert paths(servers.archive) == [IN_FOLDER]
    first, *failures = capsys.readouterr().err.splitlines()
    assert first == f"downloading {servers.mirror.address}{IN_FOLDER} into {folder}"
    assert failures[0] == (
        f"{servers.mirror.address}{IN_FOLDER} answered 404 Not Found; next: "
        f"{servers.mirror.address}/{FILE}"
    )
    assert len(failures) == 4


@pytest.mark.parametrize("path", [IN_FOLDER, f"/{FILE}"], ids=["folders", "flat"])
def test_a_mirror_may_have_d4rls_folders_or_be_flat(servers, monkeypatch, folder, content, path):
    monkeypatch.setenv("D4RL_MIRROR", f"{servers.mirror.address}/")

    def answer(handler):
        (serve(content) if handler.path == path else NOT_FOUND)(handler)

    servers.mirror.script = [answer]
    load()
    assert_complete(folder, content)
    assert servers.berkeley.requests == []


def test_a_truncated_copy_is_refused_by_its_size(servers, folder, content, capsys):
    servers.berkeley.script = [serve(content[:-100])]
    servers.hugging_face.script = [serve(content)]
    load()
    assert_complete(folder, content)
    assert f"has a file of {len(content) - 100:,} bytes, not {len(content):,} or " in (
        capsys.readouterr().err
    )


def test_a_truncated_copy_of_unannounced_size_is_refused_by_its_checksum(
    servers, folder, content, capsys
):
    servers.berkeley.script = [send(200, content[:-100])]
    servers.hugging_face.script = [serve(content)]
    load()
    assert_complete(folder, content)
    assert "sent a wrong file" in capsys.readouterr().err


def test_a_wrong_file_is_refused_and_both_checksums_are_named(
    servers, folder, content, wrong, capsys
):
    assert len(wrong) == len(content)
    servers.berkeley.script = [serve(wrong)]
    servers.hugging_face.script = [serve(content)]
    load()
    assert_complete(folder, content)
    errors = capsys.readouterr().err
    assert edition(wrong)["sha256"] in errors and edition(content)["sha256"] in errors


def test_the_older_edition_is_used_and_named(servers, folder, older, capsys):
    servers.berkeley.script = [serve(older)]
    load()
    assert_complete(folder, older)
    capsys.readouterr()
    assert load().source == "d4rl"
    assert "is the older edition of D4RL's file" in capsys.readouterr().err


def test_no_source_has_the_right_file(servers, folder, wrong):
    for server in (servers.berkeley, servers.hugging_face, servers.archive):
        server.script = [serve(wrong)]
    with pytest.raises(D4RLTaskError) as caught:
        load()
    message = str(caught.value)
    assert "\n" not in message and "D4RL_MIRROR" in message
    assert message.count("sent a wrong file") == 3
    assert list(folder.iterdir()) == [folder / f"{FILE}.lock"]


def test_the_next_source_continues_where_the_last_one_stopped(
    servers, monkeypatch, folder, content
):
    monkeypatch.setattr(transfer, "PAUSES", ())
    servers.berkeley.script = [serve(content, stop_after=3000)]
    servers.hugging_face.script = [serve(content, etag='"another"')]
    load()
    assert_complete(folder, content)
    assert servers.hugging_face.requests[0][1]["Range"] == "bytes=3000-"


@pytest.mark.parametrize("length", [2000, 5000], ids=["416", "another size"])
def test_a_truncated_copy_does_not_cost_what_has_come(
    servers, monkeypatch, folder, content, length
):
    servers.berkeley.script = [serve(content, stop_after=3000), NOT_FOUND]
    size = {"Content_Range": f"bytes */{length}"}
    truncated = send(416, b"", **size) if length < 3000 else serve(content[:length])
    servers.hugging_face.script = [truncated]
    with pytest.raises(D4RLTaskError, match="the one partly downloaded"):
        load()
    assert (folder / f"{FILE}.part").read_bytes() == content[:3000]
    servers.archive.script = [serve(content)]
    load()
    assert_complete(folder, content)


def test_a_wrong_beginning_costs_no_source(servers, monkeypatch, folder, content, wrong):
    """The next server is right, but the beginning was not its own: it is asked for the whole."""
    monkeypatch.setattr(transfer, "PAUSES", ())
    servers.berkeley.script = [serve(wrong, stop_after=7000)]
    servers.hugging_face.script = [serve(content)]
    load()
    assert_complete(folder, content)
    assert [headers.get("Range") for _, headers in servers.hugging_face.requests] == [
        *("bytes=7000-", None),
    ]
    assert servers.archive.requests == []


def test_a_slow_server_is_left_and_the_next_one_continues(
    servers, monkeypatch, folder, content, capsys
):
    monkeypatch.setattr(transfer, "SLOW_WINDOW", 0.2)
    monkeypatch.setattr(transfer, "SLOWEST", 1 << 20)
    servers.berkeley.script = [serve(content, piece=100)]
    servers.hugging_face.script = [serve(content)]
    load()
    assert_complete(folder, content)
    came = int(servers.hugging_face.requests[0][1]["Range"].removeprefix("bytes=")[:-1])
    assert 0 < came < len(content)
    assert "is slow (" in capsys.readouterr().err


def test_a_body_without_an_end_is_bounded(servers, folder, content, older):
    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(bytes(1 << 16))

    servers.berkeley.script = [endless]
    servers.hugging_face.script = [serve(content)]
    load()
    assert_complete(folder, content)


def test_a_password_is_not_shown(servers, monkeypatch, folder, content, capsys):
    address = servers.mirror.address.replace("http://", "http://me:secret@")
    monkeypatch.setenv("D4RL_MIRROR", address)
    servers.mirror.script = [serve(content)]
    load()
    assert servers.mirror.requests[0][1]["Authorization"].startswith("Basic ")
    assert "secret" not in capsys.readouterr().err
    for file in folder.iterdir():
        assert b"secret" not in file.read_bytes()


def test_a_password_is_not_shown_in_errors(servers, monkeypatch, folder, capsys):
    for mirror in ("http://me:secret@127.0.0.1:1", "ftp://me:secret@host", "http://me:secret@["):
        monkeypatch.setenv("D4RL_MIRROR", mirror)
        with pytest.raises(D4RLTaskError) as caught:
            load()
        assert "secret" not in f"{caught.value}{capsys.readouterr()}"


def test_what_a_server_says_cannot_write_on_the_terminal(servers, folder, content, capsys):
    def answer(handler):
        handler.wfile.write(b"HTTP/1.0 404 \x1b[2J\x1b]0;owned\x07 error: forged\r\n\r\n")

    servers.berkeley.script = [answer]
    servers.hugging_face.script = [serve(content)]
    load()
    errors = capsys.readouterr().err
    assert "answered 404" in errors and "\x1b" not in errors and "\x07" not in errors


# Files that are there


def test_a_wrong_file_that_is_there_is_kept_but_not_used(servers, folder, content, wrong, capsys):
    (folder / FILE).write_bytes(wrong)
    with pytest.raises(D4RLTaskError):
        load()
    assert (folder / FILE).read_bytes() == wrong
    errors = capsys.readouterr().err
    assert f"{folder / FILE} is not D4RL's file" in errors and "not used" in errors
    servers.archive.script = [serve(content)]
    load()
    assert (folder / FILE).read_bytes() == content
    assert (folder / f"{FILE}.wrong").read_bytes() == wrong
    (folder / FILE).write_bytes(wrong)
    os.utime(folder / FILE, (1, 1))
    load()
    assert (folder / f"{FILE}.wrong2").read_bytes() == wrong


def test_a_wrong_file_whose_path_is_given_is_used_with_a_warning(folder, wrong, capsys):
    (folder / FILE).write_bytes(wrong)
    assert load_dataset(NAME, folder / FILE).source == "file"
    assert "it is used anyway" in capsys.readouterr().err


def test_a_file_of_ones_own_name_is_nobodys_business(folder, wrong, capsys):
    (folder / "mine.hdf5").write_bytes(wrong)
    load_dataset(NAME, folder / "mine.hdf5")
    assert capsys.readouterr().err == ""


def test_a_checksum_is_computed_once_until_the_file_changes(folder, content, monkeypatch):
    hashed = []
    digest = hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda file, name: hashed.append(1) or digest(file, name)
    )
    path = folder / FILE
    path.write_bytes(content)
    for _ in range(3):
        assert load().sha256 == edition(content)["sha256"]
    assert len(hashed) == 1
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    load()
    assert len(hashed) == 2
    check = ["sha256sum", "--check", "--quiet", f"{FILE}.sha256"]
    assert subprocess.run(check, cwd=folder).returncode == 0


def test_d4rls_own_file_keeps_d4rls_rows(folder, tmp_path, monkeypatch):
    """In a genuine file the rows are in order, whatever its `next_observations` are."""
    path = folder / FILE
    body = make_content(path, seed=3, shuffled_next=True)
    assert len(load_dataset(NAME, path)) == 100, "each row with its own next observation"
    monkeypatch.setattr(checksums, "_table", lambda: {FILE: edition(body)})
    assert len(load_dataset(NAME, path)) == 98


# Processes


def start(code, **environment):
    program = f"import http_servers, sys\nfrom d4rl_tasks import *\n{code}"
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_six_processes_generate_one_dataset(folder):
    code = (
        "import os, pathlib, time\n"
        "from d4rl_tasks.synthetic import generate as module\n"
        "real, here = module.generate, pathlib.Path(os.environ['D4RL_DATASET_DIR'])\n"
        "def generate(name, out):\n"
        "    while len(list(here.glob('started*'))) < 6:\n"
        "        time.sleep(0.1)\n"
        "    real(name, out, transitions=1500)\n"
        "module.generate = generate\n"
        "(here / f'started{os.getpid()}').touch()\n"
        "print(load_dataset('hopper-medium-v2', 'synthetic').sha256)"
    )
    outputs = [process.communicate(timeout=120) for process in [start(code) for _ in range(6)]]
    assert len({out for out, _ in outputs}) == 1 and outputs[0][0]
    errors = "".join(err for _, err in outputs)
    assert errors.count("generating a synthetic dataset") == 1
    assert errors.count("waiting for the process that generates") >= 1


def test_a_process_that_is_stuck_is_not_waited_for_without_end(servers, monkeypatch, folder):
    """It holds the lock, but the part does not grow."""
    monkeypatch.setattr("d4rl_tasks.files.STILL_LIMIT", 0.5)
    code = (
        "from d4rl_tasks.files import sole_writer, dataset_folder\n"
        f"with sole_writer(dataset_folder() / '{FILE}', 'downloads'):\n"
        "    print('locked', flush=True)\n"
        "    import time; time.sleep(60)"
    )
    process = start(code)
    try:
        assert process.stdout.readline() == "locked\n"
        started = time.monotonic()
        with pytest.raises(D4RLTaskError, match="has made no progress for"):
            load()
        assert time.monotonic() - started < 10
    finally:
        process.kill()
        process.communicate()


# Files that are not files


def make_fifo(path):
    os.mkfifo(path)


def link_to_zero(path):
    path.symlink_to("/dev/zero")


def link_to_fifo(path):
    pipe = path.with_name("pipe")
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    path.symlink_to(pipe)


ODD = pytest.mark.parametrize("make", [make_fifo, link_to_zero, link_to_fifo])


@ODD
def test_odd_files_as_data_are_refused_at_once(folder, make):
    make(folder / FILE)
    for source in ("d4rl", folder / FILE):
        with pytest.raises(D4RLTaskError, match="not a regular file"):
            load_dataset(NAME, source)


@ODD
def test_odd_files_as_notes_are_refused_at_once(folder, content, make):
    (folder / FILE).write_bytes(content)
    make(folder / f"{FILE}.sha256")
    with pytest.raises(D4RLTaskError, match="not a regular file"):
        load()


@ODD
def test_odd_files_as_parts_are_refused_or_replaced(servers, folder, content, make):
    servers.berkeley.script = [serve(content)]
    make(folder / f"{FILE}.part.json")
    load()
    assert (folder / FILE).read_bytes() == content
    (folder / FILE).unlink()
    make(folder / f"{FILE}.part")
    load()
    assert (folder / FILE).read_bytes() == content
    (folder / FILE).unlink()
    make(folder / f"{FILE}.part")
    origin = {"url": "u", "validator": None, "size": len(content)}
    (folder / f"{FILE}.part.json").write_text(json.dumps(origin))
    try:
        load()
    except D4RLTaskError as error:
        assert "not a regular file" in str(error)
    else:
        assert (folder / FILE).read_bytes() == content


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "[" * 10_000, '{"url": 1}', '{"url": "u", "size": "x"}']
)
def test_a_note_of_a_part_that_is_damaged_starts_again(servers, folder, content, text):
    (folder / f"{FILE}.part").write_bytes(content[:3000])
    (folder / f"{FILE}.part.json").write_text(text)
    servers.berkeley.script = [serve(content)]
    load()
    assert_complete(folder, content)
    assert servers.berkeley.requests[0][1].get("Range") is None
