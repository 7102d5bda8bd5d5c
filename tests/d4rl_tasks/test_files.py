"""Notes of checksums, locks that others hold, and folders that cannot be written."""

import os
import threading
import time

import pytest
from filelock import FileLock

from d4rl_tasks import fetch, files, load_dataset
from d4rl_tasks.synthetic.generate import generate

NAME = "hopper-medium-v2"


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A dataset folder that has a synthetic dataset and not D4RL's."""
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    generate(NAME, files.synthetic_path(NAME), transitions=50)
    return tmp_path


@pytest.fixture
def noted(tmp_path):
    """A file with a note of its checksum."""
    path = tmp_path / "file.hdf5"
    path.write_bytes(b"first")
    files.file_checksum(path)
    return path


def test_a_note_with_the_line_ends_of_windows_spares_hashing(noted, monkeypatch):
    note = files.note_path(noted)
    note.write_bytes(note.read_bytes().replace(b"\n", b"\r\n"))
    expected = files.checksum(noted)
    monkeypatch.setattr(files, "checksum", None)
    assert files.file_checksum(noted) == expected


def test_a_file_that_is_replaced_while_it_is_hashed_is_hashed_again(tmp_path, monkeypatch):
    path = tmp_path / "file.hdf5"
    path.write_bytes(b"first")
    checksum = files.checksum

    def replacing(path):
        content = checksum(path)
        path.write_bytes(b"other")
        os.utime(path, ns=(1, 1))
        return content

    monkeypatch.setattr(files, "checksum", replacing)
    files.file_checksum(path)
    monkeypatch.setattr(files, "checksum", checksum)
    assert files.file_checksum(path) == checksum(path)


def test_an_unreadable_note_is_named(noted):
    note = files.note_path(noted)
    note.unlink()
    note.mkdir()
    with pytest.raises(files.D4RLTaskError, match=rf"cannot read {note}"):
        files.file_checksum(noted)


def test_auto_takes_the_synthetic_dataset_of_a_folder_that_cannot_be_written(
    folder, monkeypatch, capsys
):
    monkeypatch.setattr(fetch.os, "access", lambda path, mode: False)
    assert load_dataset(NAME, "auto").synthetic
    assert f"{folder} cannot be written; next: a synthetic dataset" in capsys.readouterr().err


def test_auto_does_not_wait_for_ever_for_the_download_of_another_process(
    folder, monkeypatch, capsys
):
    monkeypatch.setattr(files, "STILL_LIMIT", 0.2)
    lock = FileLock(folder / "hopper_medium-v2.hdf5.lock")
    held, done = threading.Event(), threading.Event()

    def hold():
        with lock:
            held.set()
            done.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(60)
    start = time.monotonic()
    try:
        assert load_dataset(NAME, "auto").synthetic
    finally:
        done.set()
        holder.join()
    assert time.monotonic() - start < 30
    assert "no progress" in capsys.readouterr().err
