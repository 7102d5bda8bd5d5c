"""Downloads from a real HTTP server on the loopback address that has every fault we know of."""

import errno
import hashlib
import os
import resource
import socket
import threading
import time

import pytest
from http_servers import make_content, running_server, send, serve, then_wait

from d4rl_tasks import (
    D4RLTaskError,
    checksums,
    fetch,
    get_task,
    load_dataset,
    sources,
    task_names,
    transfer,
)

NAME = "hopper-medium-v2"
TASK = get_task(NAME)
SERVED_AS = "/gym_mujoco_v2/hopper_medium-v2.hdf5"


@pytest.fixture
def server(monkeypatch):
    with running_server() as server:
        monkeypatch.setattr(sources, "BERKELEY", f"{server.address}/")
        yield server


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "datasets"))
    monkeypatch.delenv("D4RL_MIRROR", raising=False)
    monkeypatch.setattr(checksums, "_table", dict)  # nobody recorded any
    monkeypatch.setattr(transfer, "PAUSES", (0.01, 0.01, 0.01))
    return tmp_path / "datasets"


@pytest.fixture(scope="session")
def content(tmp_path_factory):
    """The bytes of a good file."""
    return make_content(tmp_path_factory.mktemp("good") / "file.hdf5", seed=0)


def ranges_asked(server):
    return [headers.get("Range") for _, headers in server.requests]


def part_of(folder):
    return folder / f"{TASK.file_name}.part"


def fails(match, source="d4rl"):
    """The load fails with one clear line that matches."""
    with pytest.raises(D4RLTaskError, match=match) as caught:
        load_dataset(NAME, source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_is_fetched_checked_noted_and_used_again(server, folder, content, capsys):
    server.script = [serve(content)]
    dataset = load_dataset(NAME)
    path = folder / "hopper_medium-v2.hdf5"
    assert path.read_bytes() == content
    assert (dataset.source, dataset.path, dataset.synthetic) == ("download", path, False)
    assert len(dataset.rewards) == 98
    assert server.requests[0][0] == SERVED_AS
    digest = hashlib.sha256(content).hexdigest()
    note = (folder / "hopper_medium-v2.hdf5.sha256").read_text()
    assert f"{digest}  {path.name}" in note and str(len(content)) in note
    assert sorted(file.name for file in folder.iterdir()) == [path.name, f"{path.name}.sha256"]
    assert "synthetic dataset" not in capsys.readouterr().err

    again = load_dataset(NAME)
    assert (again.source, again.sha256, again.size) == ("d4rl", digest, len(content))
    assert len(server.requests) == 1

    path.write_bytes(content[:-1] + b"x")
    capsys.readouterr()
    assert load_dataset(NAME).source == "download"
    errors = capsys.readouterr().err
    assert f"{path} is not the file noted" in errors and "kept but not used" in errors
    assert path.read_bytes() == content
    assert (folder / f"{path.name}.wrong").read_bytes() == content[:-1] + b"x"


def test_an_early_close_is_resumed_within_one_call(server, folder, content):
    server.script = [serve(content, stop_after=3000), serve(content)]
    load_dataset(NAME, "d4rl")
    assert ranges_asked(server) == [None, "bytes=3000-"]
    assert (folder / TASK.file_name).read_bytes() == content


def test_the_next_call_continues_where_the_last_one_stopped(server, folder, content):
    server.script = [serve(content, stop_after=3000), send(503, b"")]
    fails("answered 503")
    assert part_of(folder).read_bytes() == content[:3000]
    server.requests.clear()
    server.script = [serve(content)]
    load_dataset(NAME, "d4rl")
    assert ranges_asked(server) == ["bytes=3000-"]
    assert (folder / TASK.file_name).read_bytes() == content


@pytest.mark.parametrize("check_if_range", [True, False], ids=["If-Range", "ETag of the answer"])
def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(
    server, folder, tmp_path, content, check_if_range
):
    changed = make_content(tmp_path / "changed.hdf5", seed=1)
    server.script = [
        serve(content, stop_after=3000),
        serve(changed, etag='"2"', check_if_range=check_if_range),
    ]
    load_dataset(NAME, "d4rl")
    assert (folder / TASK.file_name).read_bytes() == changed


@pytest.mark.parametrize("content_range", ["bytes 2000-{last}/{size}", "bytes 3000-{last}/99"])
def test_another_part_than_the_one_asked_for_is_not_appended(
    server, folder, content, content_range
):
    size = len(content)
    wrong = content_range.format(last=size - 1, size=size)
    length = str(size - 3000)
    server.script = [
        serve(content, stop_after=3000),
        send(206, content[3000:], ETag='"1"', Content_Range=wrong, Content_Length=length),
        serve(content),
    ]
    load_dataset(NAME, "d4rl")
    assert ranges_asked(server) == [None, "bytes=3000-", None]
    assert (folder / TASK.file_name).read_bytes() == content


def test_the_date_of_the_last_change_serves_where_there_is_no_strong_etag(server, folder, content):
    date = "Wed, 01 Jan 2020 00:00:00 GMT"
    length = str(len(content))
    server.script = [
        send(200, content[:3000], ETag='W/"1"', Last_Modified=date, Content_Length=length),
        send(
            206,
            content[3000:],
            Last_Modified=date,
            Content_Range=f"bytes 3000-{len(content) - 1}/{length}",
            Content_Length=str(len(content) - 3000),
        ),
    ]
    load_dataset(NAME, "d4rl")
    assert server.requests[1][1]["If-Range"] == date
    assert (folder / TASK.file_name).read_bytes() == content


def test_a_server_that_ignores_range_starts_again(server, folder, content):
    server.script = [serve(content, stop_after=3000), serve(content, ranges=False)]
    load_dataset(NAME, "d4rl")
    assert ranges_asked(server) == [None, "bytes=3000-"]
    assert (folder / TASK.file_name).read_bytes() == content


def test_without_a_validator_nothing_is_resumed(server, folder, content):
    server.script = [serve(content, etag=None, stop_after=3000), serve(content, etag=None)]
    load_dataset(NAME, "d4rl")
    assert ranges_asked(server) == [None, None]
    assert (folder / TASK.file_name).read_bytes() == content


def test_a_part_from_another_server_is_not_continued(server, monkeypatch, content):
    server.script = [serve(content, stop_after=3000)]
    monkeypatch.setattr(transfer, "PAUSES", ())
    fails("ended after 3000 of")
    server.script = [serve(content)]
    monkeypatch.setenv("D4RL_MIRROR", f"{server.address}/other")
    load_dataset(NAME, "d4rl")
    assert [path for path, _ in server.requests] == [SERVED_AS, f"/other{SERVED_AS}"]
    assert ranges_asked(server) == [None, None]


def test_416_starts_again(server, folder, content):
    server.script = [serve(content, stop_after=3000), send(416, b""), serve(content)]
    load_dataset(NAME, "d4rl")
    assert ranges_asked(server) == [None, "bytes=3000-", None]
    assert (folder / TASK.file_name).read_bytes() == content


def test_5xx_and_429_pass(server, content):
    server.script = [send(503, b""), send(500, b""), send(429, b""), serve(content)]
    assert load_dataset(NAME, "d4rl").source == "download"


def test_404_is_final(server):
    server.script = [send(404, b"no")]
    message = fails("answered 404 Not Found")
    assert "D4RL_MIRROR" in message and SERVED_AS in message
    assert len(server.requests) == 1


def test_a_web_page_is_final_and_costs_no_part(server, folder, content):
    page = send(200, b"<html>Please log in</html>", Content_Type="text/html; charset=utf-8")
    server.script = [serve(content, stop_after=3000), page]
    fails("web page")
    assert part_of(folder).read_bytes() == content[:3000]
    assert not (folder / TASK.file_name).exists()


def test_a_web_page_that_says_it_is_data(server, folder):
    server.script = [send(200, b"<html>Please log in</html>", Content_Type="binary/octet-stream")]
    fails("not a dataset for hopper-medium-v2.*not readable as HDF5")
    assert not (folder / TASK.file_name).exists()
    assert not part_of(folder).exists()


def test_another_robots_file_is_refused(server, folder, tmp_path):
    server.script = [serve(make_content(tmp_path / "other.hdf5", seed=0, width=17))]
    fails(r"'observations' of shape \(100, 17\), the task needs \(N, 11\)")
    assert not (folder / TASK.file_name).exists()


def test_more_bytes_announced_than_sent(server, content):
    server.script = [
        send(200, content, Content_Length=str(len(content) + 1), ETag=f'"{attempt}"')
        for attempt in range(4)
    ]
    fails(f"ended after {len(content)} of {len(content) + 1} bytes")
    assert len(server.requests) == 4


def test_fewer_bytes_announced_than_sent(server, folder, content):
    server.script = [send(200, content, Content_Length=str(len(content) - 1))]
    fails("not a dataset.*truncated file")
    assert not (folder / TASK.file_name).exists()


def test_a_file_of_unannounced_size(server, folder, content):
    server.script = [send(200, content)]
    load_dataset(NAME, "d4rl")
    assert (folder / TASK.file_name).read_bytes() == content


def test_a_server_that_hangs_is_given_up(server, monkeypatch):
    monkeypatch.setattr(transfer, "TIMEOUT", 0.3)
    server.script = [then_wait(lambda handler: None, 3)]
    started = time.monotonic()
    fails("cannot be reached.*(no answer|timed out)")
    assert time.monotonic() - started < 2
    assert len(server.requests) == 1


def test_a_stall_is_resumed(server, monkeypatch, folder, content):
    monkeypatch.setattr(transfer, "TIMEOUT", 1.0)
    server.script = [then_wait(serve(content, stop_after=3000), 3), serve(content)]
    started = time.monotonic()
    load_dataset(NAME, "d4rl")
    assert time.monotonic() - started < 3
    assert ranges_asked(server) == [None, "bytes=3000-"]


def test_a_refused_connection_is_given_up_at_once(monkeypatch):
    monkeypatch.setattr(transfer, "PAUSES", (60,))
    monkeypatch.setenv("D4RL_MIRROR", f"http://127.0.0.1:{closed_port()}")
    fails("cannot be reached.*refused")


def closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_a_name_that_cannot_be_looked_up_is_given_up(monkeypatch):
    monkeypatch.setattr(transfer, "OPEN_LIMIT", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(3))
    monkeypatch.setenv("D4RL_MIRROR", "http://mirror.invalid")
    started = time.monotonic()
    fails("mirror.invalid.*cannot be reached.*no answer within 0.2 seconds")
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("mirror", ["ftp://host/x", "host/x", "http://", "http://["])
def test_a_mirror_that_is_not_an_http_address(monkeypatch, mirror):
    monkeypatch.setenv("D4RL_MIRROR", mirror)
    fails("D4RL_MIRROR is .*http://")


@pytest.mark.parametrize("mirror", ["http://host:port", "http://a..b"])
def test_a_mirror_that_makes_no_sense(monkeypatch, mirror):
    monkeypatch.setenv("D4RL_MIRROR", mirror)
    fails("cannot be reached")


def test_sources_in_their_order(monkeypatch):
    monkeypatch.undo()  # of the fixtures
    monkeypatch.setenv("D4RL_MIRROR", "https://user:secret@host/x/")
    berkeley = "https://rail.eecs.berkeley.edu/datasets/offline_rl" + SERVED_AS
    assert sources.addresses(TASK) == [
        f"https://user:secret@host/x{SERVED_AS}",
        f"https://user:secret@host/x/{TASK.file_name}",
        berkeley,
        f"{sources.HUGGING_FACE}{TASK.file_name}",
        f"https://web.archive.org/web/20250102id_/{berkeley}",
    ]
    monkeypatch.delenv("D4RL_MIRROR")
    for name in task_names():
        task = get_task(name)
        urls = sources.addresses(task)
        assert urls[0] == task.url.replace("http:", "https:")
        # Nobody recorded their checksums, so what another server has proves nothing.
        antmaze_v1 = name.startswith("antmaze") and name.endswith("v1")
        alone = task.robot == "maze2d" or (antmaze_v1 and "medium-play" not in name)
        assert len(urls) == (1 if alone else 3)


def test_two_that_want_the_same_file_fetch_it_once(server, monkeypatch, folder, content, capsys):
    server.script = [serve(content, piece=1000)]
    datasets = []
    threads = [
        threading.Thread(target=lambda: datasets.append(load_dataset(NAME))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 1
    assert [dataset.sha256 for dataset in datasets] == [hashlib.sha256(content).hexdigest()] * 2
    assert "waiting for the process" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made(server, monkeypatch, tmp_path, content):
    server.script = [serve(content)]
    (tmp_path / "file").touch()
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "file" / "datasets"))
    fails("cannot write .*hopper_medium-v2.hdf5.*choose a folder")


def test_a_disk_that_is_full_while_the_file_comes(server, folder, content):
    server.script = [serve(content)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        fails("cannot write .*free some space")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (folder / TASK.file_name).exists()
    load_dataset(NAME, "d4rl")
    assert (folder / TASK.file_name).read_bytes() == content


def test_a_disk_that_is_full_at_the_last_moment(server, monkeypatch, folder, content):
    server.script = [serve(content)]

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        fails("cannot write .*No space left")
    assert not (folder / TASK.file_name).exists()
    load_dataset(NAME, "d4rl")
    assert (folder / TASK.file_name).read_bytes() == content
    assert len(server.requests) == 1, "what had come was complete"


def test_a_note_of_a_deleted_file_does_not_outlive_it(server, monkeypatch, folder, content):
    server.script = [serve(content)]
    folder.mkdir()
    (folder / f"{TASK.file_name}.sha256").write_text(f"{'0' * 64}  {TASK.file_name}\n")

    def crash(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(fetch, "write_note", crash)
        load_dataset(NAME)
    assert load_dataset(NAME).source == "d4rl"


def test_a_bad_file_that_is_there_is_reported_and_kept(server, folder, content):
    server.script = [serve(content)]
    folder.mkdir()
    bad = folder / TASK.file_name
    bad.write_bytes(content[:3000])
    for source in ("auto", "d4rl"):
        assert str(bad) in fails("truncated file", source)
    assert bad.read_bytes() == content[:3000]
    assert server.requests == []


def test_a_file_that_came_meanwhile_is_not_fetched_again(server, folder, content):
    folder.mkdir()
    (folder / TASK.file_name).write_bytes(content)
    assert fetch.d4rl_file(TASK).path == folder / TASK.file_name
    assert server.requests == []
