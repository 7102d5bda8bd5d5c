"""Datasets from files, synthetic datasets and Minari: transitions, and all kinds of bad input."""

import dataclasses
import errno
import hashlib
import math
import os
import sys
import tracemalloc
import zlib
from types import SimpleNamespace
from unittest import mock

import gymnasium
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import d4rl_tasks
from d4rl_tasks import D4RLTaskError, checksums, datasets, get_task, hdf5, load_dataset, sources
from d4rl_tasks.files import atomic_path
from d4rl_tasks.hdf5 import counted_cuts, read_arrays
from d4rl_tasks.robots import task_sizes

NAME = "hopper-medium-v2"
TASK = get_task(NAME)
ARRAYS = ("observations", "actions", "next_observations", "rewards", "terminals")


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """The dataset folder. D4RL's server is a port at which nobody listens."""
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "datasets"))
    monkeypatch.delenv("D4RL_MIRROR", raising=False)
    monkeypatch.setattr(sources, "BERKELEY", "http://127.0.0.1:1/")
    monkeypatch.setattr(checksums, "_table", dict)  # nobody recorded any
    (tmp_path / "datasets").mkdir()
    return tmp_path / "datasets"


def make_columns(count=20, observation_size=11, action_size=3, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "observations": rng.standard_normal((count, observation_size)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (count, action_size)).astype(np.float32),
        "rewards": rng.standard_normal(count).astype(np.float32),
        "terminals": np.zeros(count, bool),
        "timeouts": np.zeros(count, bool),
    }


def make_episodes():
    """Columns of five episodes: two of them end, two are cut."""
    columns = make_columns()
    columns["terminals"][[3, 11]] = True
    columns["timeouts"][[7, 15]] = True
    return columns


def write(path, columns, synthetic=False, **options):
    with h5py.File(path, "w") as file:
        for key, values in columns.items():
            file.create_dataset(key, data=values, **options)
        if synthetic:
            file.attrs["synthetic"] = True
    return path


def plain_loop(columns, max_episode_steps):
    """The rows that D4RL's own loop keeps."""
    kept, step = [], 0
    for row in range(len(columns["rewards"]) - 1):
        at_limit = step == max_episode_steps - 1
        if columns["timeouts"][row] if "timeouts" in columns else at_limit:
            step = 0
            continue
        if columns["terminals"][row]:
            step = 0
        kept.append(row)
        step += 1
    return np.array(kept, dtype=int)


def assert_transitions(dataset, columns, kept):
    expected = {
        "observations": columns["observations"][kept],
        "actions": columns["actions"][kept],
        "next_observations": columns["observations"][kept + 1],
        "rewards": columns["rewards"].reshape(-1)[kept],
        "terminals": columns["terminals"].reshape(-1)[kept],
    }
    for key, values in expected.items():
        got = getattr(dataset, key)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, values.astype(np.float32), err_msg=key)


rows = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=40)


@settings(deadline=None, max_examples=60)
@given(
    flags=rows,
    with_timeouts=st.booleans(),
    limit=st.integers(2, 9),
    number=st.sampled_from(["f4", "f8", ">f4", "f2"]),
    flag=st.sampled_from(["?", "f4", "u1"]),
    as_column=st.booleans(),
    options=st.sampled_from([{}, {"compression": "gzip"}, {"chunks": True, "shuffle": True}]),
)
def test_transitions_are_those_of_a_plain_loop(
    tmp_path_factory, flags, with_timeouts, limit, number, flag, as_column, options
):
    columns = make_columns(len(flags))
    for key in ("observations", "actions", "rewards"):
        columns[key] = columns[key].astype(number)
    terminals, timeouts = np.array(flags).T
    columns["terminals"] = terminals.astype(flag)
    columns["timeouts"] = timeouts.astype(flag)
    if not with_timeouts:
        del columns["timeouts"]
    kept = plain_loop(columns, limit)
    if as_column:
        columns |= {key: columns[key][:, None] for key in ("rewards", "terminals")}
    path = write(tmp_path_factory.getbasetemp() / "loop.hdf5", columns, **options)
    task = dataclasses.replace(TASK, max_episode_steps=limit)
    with mock.patch.object(datasets, "get_task", return_value=task):
        if kept.size:
            assert_transitions(load_dataset(NAME, path), columns, kept)
        else:
            with pytest.raises(D4RLTaskError, match="holds no transition"):
                load_dataset(NAME, path)


@settings(deadline=None)
@given(terminals=st.lists(st.booleans(), min_size=1, max_size=300), limit=st.integers(1, 12))
def test_counted_cuts_are_those_of_a_plain_loop(terminals, limit):
    terminals = np.array([*terminals, False])  # the loop does not look at the last row
    kept = plain_loop({"rewards": terminals, "terminals": terminals}, limit)
    cuts = counted_cuts(terminals, limit)
    np.testing.assert_array_equal(np.flatnonzero(~cuts[:-1]), kept)


def test_a_file_without_timeouts_is_cut_at_the_tasks_own_limit(tmp_path):
    columns = make_columns(1500, 29, 8)
    del columns["timeouts"]
    columns["terminals"][1000] = True
    dataset = load_dataset("antmaze-umaze-v0", write(tmp_path / "file.hdf5", columns))
    assert_transitions(dataset, columns, np.delete(np.arange(1499), 699))


def test_a_terminal_that_is_a_timeout_too_is_cut(tmp_path):
    columns = make_columns()
    columns["terminals"][[3, 7]] = True
    columns["timeouts"][7] = True
    dataset = load_dataset(NAME, write(tmp_path / "file.hdf5", columns))
    assert_transitions(dataset, columns, np.delete(np.arange(19), 7))
    assert dataset.terminals.sum() == 1


def test_what_a_dataset_says_of_itself(tmp_path, capsys):
    path = write(tmp_path / "file.hdf5", make_columns())
    dataset = load_dataset(f"d4rl/{NAME}", str(path))
    assert (dataset.name, dataset.source, dataset.path) == (NAME, "file", path)
    assert dataset.synthetic is False
    assert dataset.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert dataset.size == path.stat().st_size
    assert capsys.readouterr().err == ""


def test_arrays_share_no_memory(tmp_path):
    dataset = load_dataset(NAME, write(tmp_path / "file.hdf5", make_columns()))
    assert not np.shares_memory(dataset.observations, dataset.next_observations)
    assert all(getattr(dataset, key).flags.writeable for key in ARRAYS)


@pytest.mark.parametrize("number", ["f4", "f8"])
def test_loading_takes_at_most_three_times_the_memory_of_the_arrays(tmp_path, number):
    columns = make_columns(100_000)
    columns = {key: v.astype(number) if v.dtype == "f4" else v for key, v in columns.items()}
    path = write(tmp_path / "file.hdf5", columns)
    del columns
    load_dataset(NAME, path)  # what is imported and cached on first use does not count
    tracemalloc.start()
    dataset = load_dataset(NAME, path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 3 * sum(getattr(dataset, key).nbytes for key in ARRAYS)


# Sources


@pytest.fixture
def generate(monkeypatch):
    """Stands for `d4rl_tasks.synthetic.generate`; a list of the tasks that it was asked for."""
    asked = []

    def generate(task_name, out, transitions=None, seed=0):
        asked.append(task_name)
        with atomic_path(out) as temporary:
            write(temporary, make_columns(), synthetic=True)

    module = SimpleNamespace(generate=generate)
    monkeypatch.setitem(sys.modules, "d4rl_tasks.synthetic.generate", module)
    return asked


@pytest.mark.parametrize("source", ["auto", "d4rl"])
def test_a_file_in_the_folder_is_used_first(folder, generate, source, capsys):
    path = write(folder / "hopper_medium-v2.hdf5", make_columns())
    write(folder / f"synthetic-{NAME}.hdf5", make_columns(), synthetic=True)
    dataset = load_dataset(NAME, source)
    assert (dataset.source, dataset.path, dataset.synthetic) == ("d4rl", path, False)
    assert capsys.readouterr().err == ""


def test_the_default_folder_is_d4rls_own(monkeypatch, tmp_path, generate):
    monkeypatch.delenv("D4RL_DATASET_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".d4rl" / "datasets").mkdir(parents=True)
    path = write(tmp_path / ".d4rl" / "datasets" / "hopper_medium-v2.hdf5", make_columns())
    assert load_dataset(NAME).path == path


def test_auto_generates_when_the_download_fails_and_says_so(folder, generate, capsys):
    dataset = load_dataset(NAME)
    assert dataset.synthetic is True
    assert dataset.source == "synthetic"
    assert dataset.path == folder / f"synthetic-{NAME}.hdf5"
    downloading, failure, generating, *lines = capsys.readouterr().err.splitlines()
    assert downloading.startswith("downloading") and generating.startswith("generating")
    notice = "\n".join(lines)
    assert "synthetic dataset" in notice and "not comparable with the paper's" in notice
    assert f"python -m d4rl_tasks.download {NAME}" in notice
    assert "refused" in failure and failure.endswith("next: a synthetic dataset")
    assert notice.startswith("NOTE: ") and len(lines) == 2


def test_a_synthetic_is_generated_once_and_announced_every_time(generate, capsys):
    load_dataset(NAME, "synthetic")
    capsys.readouterr()
    load_dataset(NAME, "synthetic")
    load_dataset(NAME)
    assert generate == [NAME]
    assert capsys.readouterr().err.count("is a synthetic dataset") == 2


def test_generated_never_downloads(monkeypatch, generate):
    monkeypatch.setattr(datasets, "d4rl_file", lambda task: pytest.fail("it tried to download"))
    assert load_dataset(NAME, "synthetic").synthetic


def test_d4rl_never_generates(generate):
    fails("cannot be reached", "d4rl")
    assert generate == []


def test_a_file_that_says_it_is_generated_is_never_silent(tmp_path, capsys):
    path = write(tmp_path / "renamed.hdf5", make_columns(), synthetic=True)
    dataset = load_dataset(NAME, path)
    assert (dataset.source, dataset.synthetic) == ("file", True)
    assert "is a synthetic dataset" in capsys.readouterr().err


def test_a_synthetic_that_does_not_say_so_is_announced_too(folder, capsys):
    write(folder / f"synthetic-{NAME}.hdf5", make_columns())
    assert load_dataset(NAME, "synthetic").synthetic is True
    assert "is a synthetic dataset" in capsys.readouterr().err


def test_neither_a_download_nor_a_synthetic_dataset(monkeypatch):
    def generate(task_name, out):
        raise D4RLTaskError("ant has no behaviour")

    monkeypatch.setitem(
        sys.modules, "d4rl_tasks.synthetic.generate", SimpleNamespace(generate=generate)
    )
    message = fails("not available either: ant has no behaviour", name="ant-medium-v2")
    assert "cannot be reached" in message and "D4RL_MIRROR" in message
    message = fails("ant has no behaviour", "synthetic", name="ant-medium-v2")
    assert "download" not in message


def test_a_path_without_the_suffix_is_a_path_if_a_file_is_there(tmp_path):
    path = write(tmp_path / "data", make_columns())
    assert load_dataset(NAME, path).source == "file"


def test_a_home_folder_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write(tmp_path / "file.h5", make_columns())
    assert load_dataset(NAME, "~/file.h5").path == path


@pytest.mark.parametrize("source", ["download", "", "data", "Minari:x"])
def test_an_unknown_source_lists_the_choices(source):
    message = fails("unknown source", source)
    assert all(choice in message for choice in ("auto", "d4rl", "synthetic", "minari:", "HDF5"))


# Bad files


def fails(match, source="auto", name=NAME):
    """The load fails with one clear line that matches."""
    with pytest.raises(D4RLTaskError, match=match) as caught:
        load_dataset(name, source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def without(key):
    columns = make_columns()
    del columns[key]
    return columns


def changed(**columns):
    return make_columns() | columns


def with_value(key, row, value, number="f4"):
    columns = make_columns()
    columns[key] = columns[key].astype(number)
    columns[key][row] = value
    return columns


BAD_COLUMNS = {
    "no observations": (without("observations"), "no array 'observations'"),
    "no actions": (without("actions"), "no array 'actions'"),
    "no rewards": (without("rewards"), "no array 'rewards'"),
    "no terminals": (without("terminals"), "no array 'terminals'"),
    "other observations": (make_columns(20, 17), r"'observations' of shape \(20, 17\).*\(N, 11\)"),
    "other actions": (make_columns(20, 11, 6), r"'actions' of shape \(20, 6\).*\(N, 3\)"),
    "flat actions": (changed(actions=np.zeros(20)), r"'actions' of shape \(20,\)"),
    "wide rewards": (changed(rewards=np.zeros((20, 2))), r"'rewards' of shape \(20, 2\)"),
    "scalar rewards": (changed(rewards=1.0), r"'rewards' of shape \(\)"),
    "empty rewards": (changed(rewards=h5py.Empty("f4")), r"'rewards' of shape None"),
    "NaN": (with_value("observations", (7, 2), np.nan), "'observations', first in row 7"),
    "infinity": (with_value("actions", (19, 0), -np.inf), "'actions', first in row 19"),
    "NaN reward": (with_value("rewards", 3, np.nan), "'rewards', first in row 3"),
    "NaN terminal": (with_value("terminals", 4, np.nan), "'terminals', first in row 4"),
    "NaN timeout": (with_value("timeouts", 0, np.nan), "'timeouts', first in row 0"),
    "too large": (with_value("rewards", 5, 1e300, "f8"), "infinity in 'rewards', first in row 5"),
    "short rewards": (changed(rewards=np.zeros(19)), "lengths: observations 20.*rewards 19"),
    "short timeouts": (changed(timeouts=np.zeros(19)), "different lengths.*timeouts 19"),
    "no row": (make_columns(0), r"too few rows \(0\)"),
    "one row": (make_columns(1), r"too few rows \(1\)"),
    "all cut": (changed(timeouts=np.ones(20)), "holds no transition"),
    "strings": (changed(rewards=np.array([b"a"] * 20)), "in 'rewards', not numbers"),
    "objects": (changed(rewards=["a"] * 20), "in 'rewards', not numbers"),
    "complex": (changed(rewards=np.zeros(20, complex)), "in 'rewards', not numbers"),
    "compound": (changed(terminals=np.zeros(20, [("a", "f4")])), "in 'terminals', not numbers"),
}


@pytest.mark.parametrize(("columns", "match"), BAD_COLUMNS.values(), ids=BAD_COLUMNS)
def test_bad_columns(tmp_path, columns, match):
    path = write(tmp_path / "bad.hdf5", columns)
    before = path.read_bytes()
    message = fails(match, path)
    assert str(path) in message
    assert "move" in message
    assert path.read_bytes() == before


def test_a_group_in_the_place_of_an_array(tmp_path):
    path = write(tmp_path / "bad.hdf5", without("rewards"))
    with h5py.File(path, "a") as file:
        file.create_group("rewards")
    fails("no array 'rewards'", path)


@pytest.mark.parametrize("length", [0, 4, 100, 2000, -1])
def test_a_truncated_file(tmp_path, length):
    path = write(tmp_path / "bad.hdf5", make_columns())
    path.write_bytes(path.read_bytes()[:length])
    assert str(path) in fails("not readable as HDF5", path)


def test_a_file_of_another_kind(tmp_path):
    path = tmp_path / "bad.hdf5"
    path.write_text("<html>Not found</html>")
    fails("not readable as HDF5", path)


def test_a_damaged_compressed_chunk(tmp_path):
    path = write(tmp_path / "bad.hdf5", make_columns(1000), compression="gzip")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    path.write_bytes(content)
    fails("not readable as HDF5", path)


def test_no_file_and_a_folder(tmp_path):
    (tmp_path / "folder.hdf5").mkdir()
    fails("nowhere.h5 does not exist", tmp_path / "nowhere.h5")
    fails("cannot read .*folder.hdf5.*Is a directory", tmp_path / "folder.hdf5")


@pytest.mark.parametrize("count", [1_000_000_000_000, 20_000_000])
def test_a_small_file_that_claims_gigantic_arrays_allocates_nothing(tmp_path, count):
    path = tmp_path / "bad.hdf5"
    with h5py.File(path, "w") as file:
        for key, shape in {"observations": (11,), "actions": (3,), "rewards": ()}.items():
            file.create_dataset(key, (count, *shape), "f4", chunks=(1000, *shape))
        file.create_dataset("terminals", (count,), bool, chunks=(1000,))
    assert path.stat().st_size < 20_000
    tracemalloc.start()
    fails("claims .* bytes for 'observations'", path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_more_bytes_than_any_dataset_has(tmp_path, monkeypatch):
    path = write(
        tmp_path / "bad.hdf5",
        {key: v * 0 for key, v in make_columns(2**15).items()},
        compression="gzip",
        compression_opts=9,
    )
    monkeypatch.setattr(hdf5, "MAX_ROWS", 2**13)
    fails("unpacks to .* bytes, more than the .* such a file can hold", path)


def test_all_arrays_together_are_bounded(tmp_path):
    """4 MB that unpack to 6 GB: each array alone would pass for a large dataset's."""
    path = tmp_path / "bomb.hdf5"
    rows, chunk = 30_000_000, 2**20
    with h5py.File(path, "w") as file:
        for key, shape in (
            ("observations", (11,)),
            ("actions", (3,)),
            ("rewards", ()),
            ("next_observations", (11,)),
            ("terminals", ()),
        ):
            chunks = (chunk, *shape)
            dataset = file.create_dataset(
                key, (rows, *shape), "f8", chunks=chunks, compression="gzip", compression_opts=9
            )
            packed = zlib.compress(bytes(8 * math.prod(chunks)), 9)
            for first in range(0, rows, chunk):
                dataset.id.write_direct_chunk((first, *([0] * len(shape))), packed)
    assert path.stat().st_size < 20_000_000
    assert peak_of(lambda: fails("unpacks to .* bytes, more than", path)) < 10_000_000


def test_a_chunk_far_larger_than_its_array(tmp_path):
    """Few rows are declared, but HDF5 unpacks whole chunks."""
    path = write(tmp_path / "bad.hdf5", without("observations"))
    with h5py.File(path, "a") as file:
        chunks = (2**24, 11)
        dataset = file.create_dataset(
            "observations", (20, 11), "f8", chunks=chunks, maxshape=(None, 11), compression="gzip"
        )
        packed = zlib.compressobj(9)
        block, blocks = bytes(2**20), 8 * math.prod(chunks) // 2**20
        chunk = b"".join([packed.compress(block) for _ in range(blocks)] + [packed.flush()])
        dataset.id.write_direct_chunk((0, 0), chunk)
    assert path.stat().st_size < 3_000_000
    assert peak_of(lambda: fails("unpacks to .* bytes, more than", path)) < 10_000_000


def test_groups_in_groups(tmp_path):
    """10,000 of them: whoever walks through all of a file overflows its stack."""
    path = write(tmp_path / "deep.hdf5", make_columns())
    with h5py.File(path, "a") as file:
        group = file
        for _ in range(10_000):
            group = group.create_group("g")
    assert len(load_dataset(NAME, path)) == 19


def peak_of(function):
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def link_externally(file, other):
    file["rewards"] = h5py.ExternalLink(other, "rewards")


def link_softly_to_external(file, other):
    file["infos"] = h5py.ExternalLink(other, "/")
    file["rewards"] = h5py.SoftLink("/infos/rewards")


def link_to_nothing(file, other):
    file["rewards"] = h5py.ExternalLink(f"{other}.missing", "rewards")


def store_externally(file, other):
    file.create_dataset("rewards", (20,), "f4", external=[(other, 0, 80)])


def store_virtually(file, other):
    layout = h5py.VirtualLayout((20,), "f4")
    layout[:] = h5py.VirtualSource(other, "rewards", (20,))
    file.create_virtual_dataset("rewards", layout)


@pytest.mark.parametrize(
    "add",
    [
        link_externally,
        link_softly_to_external,
        link_to_nothing,
        store_externally,
        store_virtually,
    ],
)
def test_data_from_other_files_are_refused(tmp_path, add):
    other = write(tmp_path / "other.hdf5", make_columns())
    path = write(tmp_path / "bad.hdf5", without("rewards"))
    with h5py.File(path, "a") as file:
        add(file, str(other))
    fails("from another file", path)


def test_a_link_that_leads_out_is_not_followed(tmp_path):
    path = write(tmp_path / "bad.hdf5", without("rewards"))
    os.mkfifo(tmp_path / "pipe")  # whoever opens it waits for ever
    with h5py.File(path, "a") as file:
        file["rewards"] = h5py.ExternalLink(str(tmp_path / "pipe"), "rewards")
    fails("from another file", path)


def test_links_that_nobody_asks_for_are_not_followed(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    path = write(tmp_path / "file.hdf5", make_columns())
    with h5py.File(path, "a") as file:
        file["infos"] = h5py.ExternalLink(str(tmp_path / "pipe"), "/")
        file["loop"] = h5py.SoftLink("/loop")
    assert len(load_dataset(NAME, path)) == 19


def test_a_loop_of_links(tmp_path):
    path = write(tmp_path / "bad.hdf5", without("rewards"))
    with h5py.File(path, "a") as file:
        file["a"] = h5py.SoftLink("/rewards")
        file["rewards"] = h5py.SoftLink("/a")
    fails("from another file", path)


def test_a_soft_link_within_the_file_is_fine(tmp_path):
    columns = make_columns()
    path = write(tmp_path / "file.hdf5", without("rewards") | {"infos/rewards": columns["rewards"]})
    with h5py.File(path, "a") as file:
        file["rewards"] = h5py.SoftLink("/infos/rewards")
    assert_transitions(load_dataset(NAME, path), columns, np.arange(19))


def test_read_arrays_keeps_the_files_numbers(tmp_path):
    qpos = np.random.default_rng(0).standard_normal((20, 6))
    path = write(tmp_path / "file.hdf5", make_columns() | {"infos/qpos": qpos})
    shapes = {"infos/qpos": (6,), "terminals": ()}
    arrays = read_arrays(path, shapes, optional={"timeouts": (), "infos/qvel": (6,)})
    assert list(arrays) == ["infos/qpos", "terminals", "timeouts"]
    np.testing.assert_array_equal(arrays["infos/qpos"], qpos)


# Notes beside files


def test_a_note_of_sha256sum_is_checked(tmp_path):
    path = write(tmp_path / "file.hdf5", make_columns())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    note = tmp_path / "file.hdf5.sha256"
    note.write_text(f"{digest.upper()} *file.hdf5\n")
    assert load_dataset(NAME, path).sha256 == digest
    note.write_text(f"{'0' * 64}  file.hdf5\n")
    assert str(path) in fails("its SHA-256 is .* the note says 0000", path)
    note.write_text(f"# 5 bytes from somewhere\n{digest}  file.hdf5\n")
    fails("the note says 5", path)
    note.write_text("nothing\n")
    assert str(note) in fails("holds no SHA-256", path)


# Writing


def test_atomic_path_leaves_the_old_file_when_the_new_one_fails(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text("new")
        raise ZeroDivisionError
    with atomic_path(path):
        pass
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(D4RLTaskError, match="No space left"), atomic_path(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "old"
    assert list(tmp_path.glob("file*")) == [path]


def test_an_error_over_many_lines_becomes_one(tmp_path):
    with pytest.raises(D4RLTaskError) as caught, atomic_path(tmp_path / "file"):
        raise OSError("write failed\n, errno = 28")
    assert "(write failed , errno = 28)" in str(caught.value)


def test_atomic_path_writes_also_an_empty_file_and_makes_the_folder(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    with atomic_path(path) as temporary:
        temporary.write_text("")
        assert not path.exists()
    assert path.read_text() == ""


@pytest.mark.parametrize("name", ["file/in/it", "n" * 250], ids=["in a file", "long name"])
def test_atomic_path_fails_before_the_work_where_it_can(tmp_path, name):
    (tmp_path / "file").touch()
    path = tmp_path / name
    ran = []
    with pytest.raises(D4RLTaskError, match="cannot write"), atomic_path(path):
        ran.append(path)
    assert not ran


# Minari


def episode(steps, terminated, observation_size=11, seed=0):
    rng = np.random.default_rng(seed)
    terminations = np.zeros(steps, bool)
    terminations[-1] = terminated
    return SimpleNamespace(
        observations=rng.standard_normal((steps + 1, observation_size)),
        actions=rng.uniform(-1, 1, (steps, 3)).astype(np.float32),
        rewards=rng.standard_normal(steps),
        terminations=terminations,
    )


def store(episodes, observation_size=11, action_size=3):
    box = gymnasium.spaces.Box
    return SimpleNamespace(
        observation_space=box(-np.inf, np.inf, (observation_size,)),
        action_space=box(-1, 1, (action_size,)),
        total_steps=sum(len(one.rewards) for one in episodes),
        iterate_episodes=lambda: iter(episodes),
        storage=SimpleNamespace(data_path="minari/hopper/data", metadata={}),
    )


@pytest.fixture
def minari(monkeypatch):
    """Stands for Minari: `minari.stored` is the one dataset on this machine, named there/it-v0."""
    module = SimpleNamespace(stored=None)

    def load(dataset_id):
        if dataset_id != "there/it-v0":
            raise FileNotFoundError(f"Dataset {dataset_id} not found\nlocally")
        return module.stored

    module.load_dataset = load
    monkeypatch.setitem(sys.modules, "minari", module)
    return module


def test_minari_keeps_the_last_transition_of_every_episode(minari):
    episodes = [episode(5, terminated=False, seed=1), episode(4, terminated=True, seed=2)]
    minari.stored = store(episodes)
    dataset = load_dataset(NAME, "minari:there/it-v0")
    assert (dataset.source, dataset.synthetic) == ("minari:there/it-v0", False)
    assert dataset.sha256 is None and dataset.size is None
    first, second = (one.observations.astype(np.float32) for one in episodes)
    np.testing.assert_array_equal(dataset.observations, np.vstack([first[:-1], second[:-1]]))
    np.testing.assert_array_equal(dataset.next_observations, np.vstack([first[1:], second[1:]]))
    np.testing.assert_array_equal(dataset.terminals, [0] * 8 + [1])
    assert dataset.actions.shape == (9, 3)
    assert all(getattr(dataset, key).dtype == np.float32 for key in ARRAYS)


def test_minaris_rewards_and_actions_are_made_d4rls_as_those_of_files(minari, capsys):
    task = get_task("antmaze-umaze-v0")
    sizes = task_sizes(task)
    one = episode(5, True, observation_size=sizes[0])
    one.actions = np.full((5, sizes[1]), 1.5)
    one.rewards = np.array([-1.0, -1, -1, -1, 0])
    minari.stored = store([one], *sizes)
    dataset = load_dataset(task.name, "minari:there/it-v0")
    np.testing.assert_array_equal(dataset.rewards, [0, 0, 0, 0, 1])
    np.testing.assert_array_equal(dataset.actions, np.ones((5, sizes[1])))
    errors = capsys.readouterr().err
    assert "1 is added" in errors and "are clipped" in errors


def test_minari_with_another_dataset(minari):
    minari.stored = store([episode(5, True, observation_size=17)], observation_size=17)
    fails("minari:there/it-v0 has observations in Box.*needs a Box of shape", "minari:there/it-v0")
    minari.stored = store([episode(5, True)], action_size=6)
    fails("has actions in Box", "minari:there/it-v0")
    minari.stored = store([episode(5, True)])
    minari.stored.observation_space = gymnasium.spaces.Dict()
    fails("has observations in Dict", "minari:there/it-v0")


def test_minari_with_bad_episodes(minari):
    minari.stored = store([])
    fails("holds no transition", "minari:there/it-v0")
    bad = episode(5, True)
    bad.rewards[2] = np.nan
    minari.stored = store([bad])
    fails("NaN or infinity in 'rewards', first in row 2", "minari:there/it-v0")
    bad = episode(5, True)
    bad.actions = bad.actions[:-1]
    minari.stored = store([bad])
    fails("differ in length", "minari:there/it-v0")


def test_the_home_of_nobody():
    fails("home folder is unknown: give the full path", "~nobody-of-this-name/x.hdf5")


def test_minari_without_the_dataset(minari):
    fails("cannot load minari:gone/it-v0 .Dataset gone/it-v0 not found", "minari:gone/it-v0")


def test_without_minari(monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    fails("pip install", "minari:there/it-v0")


def test_the_real_minari(monkeypatch, tmp_path):
    minari = pytest.importorskip("minari")
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    steps = episode(5, terminated=False)
    buffer = EpisodeBuffer(
        id=0,
        observations=list(steps.observations),
        actions=list(steps.actions),
        rewards=list(steps.rewards),
        terminations=list(steps.terminations),
        truncations=[False] * 4 + [True],
    )
    minari.create_dataset_from_buffers(
        "test/hopper-v0",
        [buffer],
        observation_space=store([]).observation_space,
        action_space=store([]).action_space,
        algorithm_name="none",
        author="nobody",
        author_email="nobody",
        code_permalink="nowhere",
        description="five steps",
    )
    dataset = load_dataset(NAME, "minari:test/hopper-v0")
    expected = steps.observations.astype(np.float32)
    np.testing.assert_array_equal(dataset.observations, expected[:-1])
    np.testing.assert_array_equal(dataset.next_observations, expected[1:])
    np.testing.assert_array_equal(dataset.terminals, np.zeros(5))
    assert tmp_path in dataset.path.parents
    fails("cannot load minari:test/gone-v0", "minari:test/gone-v0")


def test_a_dataset_reads_like_d4rls_dict(tmp_path):
    dataset = load_dataset(NAME, write(tmp_path / "a.hdf5", make_columns()))
    assert list(dataset.keys()) == [
        *("observations", "actions", "next_observations", "rewards", "terminals"),
    ]
    for key in dataset.keys():  # noqa: SIM118
        assert dataset[key] is getattr(dataset, key)
    assert len(dataset) == len(dataset.rewards)
    with pytest.raises(KeyError, match="timeouts"):
        dataset["timeouts"]


def test_a_missing_file_is_called_missing(tmp_path):
    assert fails("nowhere.hdf5 does not exist: check the path", tmp_path / "nowhere.hdf5")


def shuffled(columns, seed=1):
    """A replay buffer: rows in random order, with their own next observations and no timeouts."""
    columns = columns | {"next_observations": np.roll(columns["observations"], -1, axis=0)}
    order = np.random.default_rng(seed).permutation(len(columns["rewards"]))
    return {key: values[order] for key, values in columns.items() if key != "timeouts"}


def test_a_shuffled_replay_buffer_keeps_its_own_next_observations(tmp_path, capsys):
    columns = shuffled(make_columns())
    dataset = load_dataset(NAME, write(tmp_path / "a.hdf5", columns))
    assert np.array_equal(dataset.observations, columns["observations"])
    assert np.array_equal(dataset.next_observations, columns["next_observations"])
    assert "its 'next_observations' are used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("terminals", "timeouts"),
    [("terminations", "truncations"), ("terminated", "truncated"), ("terminals", "truncations")],
)
def test_ends_of_episodes_have_the_names_of_gymnasium_and_minari_too(tmp_path, terminals, timeouts):
    columns = make_episodes()
    expected = load_dataset(NAME, write(tmp_path / "d4rl.hdf5", columns))
    renamed = columns | {terminals: columns["terminals"], timeouts: columns["timeouts"]}
    for name in {"terminals", "timeouts"} - {terminals, timeouts}:
        del renamed[name]
    again = load_dataset(NAME, write(tmp_path / "renamed.hdf5", renamed))
    for key in expected.keys():  # noqa: SIM118
        assert np.array_equal(again[key], expected[key])


def test_d3rlpys_ends_of_episodes_are_of_either_kind(tmp_path):
    columns = make_episodes()
    expected = load_dataset(NAME, write(tmp_path / "d4rl.hdf5", columns))
    ends = columns["terminals"] | columns["timeouts"]
    columns = columns | {"episode_terminals": ends.astype(np.float32)}
    del columns["timeouts"]
    again = load_dataset(NAME, write(tmp_path / "d3rlpy.hdf5", columns))
    for key in expected.keys():  # noqa: SIM118
        assert np.array_equal(again[key], expected[key])


def test_unusual_files_are_named_and_read(tmp_path, capsys):
    columns = make_columns()
    columns["terminals"] = (np.arange(len(columns["rewards"])) == 5).astype(np.float32)
    ends = (columns["terminals"] != 0) | (columns["timeouts"] != 0)
    no_ends = columns | {"terminals": np.zeros(len(ends))}
    del no_ends["timeouts"]
    for name, changed, words in (
        ("every", columns | {"timeouts": ends}, "sets 'timeouts' at every terminal"),
        ("none", no_ends, "time limits of 1000 steps were counted"),
        ("large", columns | {"actions": 2 * np.sign(columns["actions"])}, "clipped to [-1, 1]"),
    ):
        dataset = load_dataset(NAME, write(tmp_path / f"{name}.hdf5", changed))
        assert words in capsys.readouterr().err
        assert np.abs(dataset.actions).max() <= 1


@pytest.mark.parametrize("value", [2, -1, 0.5])
@pytest.mark.parametrize("key", ["terminals", "timeouts"])
def test_flags_other_than_0_and_1_are_refused(tmp_path, key, value):
    columns = make_columns()
    values = columns[key].astype(np.float32)
    values[7] = value
    path = write(tmp_path / "a.hdf5", columns | {key: values})
    assert fails(f"has {float(value)} in '{key}', row 7, not 0 or 1", path)


def test_antmaze_rewards_that_are_r_minus_1_already_are_put_right(tmp_path, capsys):
    rng = np.random.default_rng(0)
    columns = {
        "observations": rng.normal(size=(30, 29)),
        "actions": rng.uniform(-1, 1, (30, 8)),
        "rewards": np.where(np.arange(30) == 20, 0.0, -1.0),
        "terminals": np.zeros(30),
        "timeouts": np.zeros(30),
    }
    dataset = load_dataset("antmaze-umaze-v0", write(tmp_path / "maze.hdf5", columns))
    assert set(dataset.rewards.tolist()) == {0.0, 1.0} and dataset.rewards.sum() == 1
    assert "rewards of -1 and 0: 1 is added" in capsys.readouterr().err


def test_names_with_d4rls_prefix_and_d4rls_other_tasks():
    assert d4rl_tasks.get_task("d4rl/walker2d-expert-v2").name == "walker2d-expert-v2"
    for name in ("pen-human-v1", "ant-random-expert-v0", "bullet-maze2d-open-v0"):
        with pytest.raises(D4RLTaskError, match=r"main_training.py --backend d4rl has it"):
            d4rl_tasks.get_task(name)
    with pytest.raises(D4RLTaskError, match=r"needs main_training.py --backend minari"):
        d4rl_tasks.get_task("mujoco/hopper/expert-v0")
