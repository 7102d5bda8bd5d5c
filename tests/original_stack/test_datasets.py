"""Our loader and our generated files against d4rl's own `qlearning_dataset` and `get_dataset`."""

import d4rl
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import d4rl_tasks
from d4rl_tasks import original
from d4rl_tasks.synthetic.generate import generate

ARRAYS = ("observations", "actions", "next_observations", "rewards", "terminals")
GENERATED = {
    "walker2d-medium-expert-v2": 3_000,
    "hopper-medium-replay-v2": 3_000,
    "halfcheetah-expert-v2": 3_000,
    "antmaze-umaze-v0": 2_500,
    "antmaze-medium-play-v0": 2_500,
    "ant-random-v2": 2_500,
}


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """Paths of generated files by task, each made when it is first asked for."""
    folder, paths = tmp_path_factory.mktemp("synthetic"), {}

    def path_of(name):
        if name not in paths:
            paths[name] = folder / f"{name}.hdf5"
            generate(name, paths[name], GENERATED[name])
        return paths[name]

    return path_of


def assert_loaded_alike(name, path):
    """Ours, from the file, bit for bit what d4rl makes of the same file."""
    ours = d4rl_tasks.load_dataset(name, path)
    environment = original.make(name)
    theirs = d4rl.qlearning_dataset(environment, dataset=environment.get_dataset(h5path=str(path)))
    assert sorted(theirs) == sorted(ARRAYS)
    for key in ARRAYS:
        got, expected = getattr(ours, key), theirs[key]
        assert got.shape == expected.shape
        assert got.dtype == np.float32
        assert expected.dtype == (bool if key == "terminals" else np.float32)
        np.testing.assert_array_equal(got, expected.astype(np.float32), err_msg=key)


@pytest.mark.parametrize("name", GENERATED)
def test_d4rl_loads_our_generated_files(generated, name):
    path = generated(name)
    rows = original.make(name).get_dataset(h5path=str(path))
    assert len(rows["rewards"]) == GENERATED[name]
    assert rows["infos/qpos"].dtype == np.float64
    assert_loaded_alike(name, path)


@settings(deadline=None, max_examples=100)
@given(
    name=st.sampled_from(["hopper-medium-replay-v2", "antmaze-umaze-v0"]),
    with_timeouts=st.booleans(),
    as_column=st.sampled_from([(), ("rewards",), ("terminals",), ("rewards", "terminals")]),
    last=st.sampled_from(["terminal", "timeout", "both", "neither"]),
    start=st.integers(0, 1_500),
    length=st.integers(2, 1_000),
    flags=st.lists(st.tuples(st.integers(0, 999), st.booleans(), st.booleans()), max_size=9),
)
def test_any_part_of_a_generated_file_is_loaded_alike(
    tmp_path_factory, generated, name, with_timeouts, as_column, last, start, length, flags
):
    with h5py.File(generated(name)) as file:
        keys = ("observations", "actions", "rewards", "terminals", "timeouts")
        columns = {key: file[key][start : start + length] for key in keys}
    count = len(columns["rewards"])
    for row, terminal, timeout in flags:
        columns["terminals"][row % count] |= terminal
        columns["timeouts"][row % count] |= timeout
    columns["terminals"][-1] = last in ("terminal", "both")
    columns["timeouts"][-1] = last in ("timeout", "both")
    columns["timeouts"][0] = False  # at least one transition
    if not with_timeouts:
        del columns["timeouts"]
    for key in as_column:
        columns[key] = columns[key][:, None]
    path = tmp_path_factory.getbasetemp() / "part.hdf5"
    with h5py.File(path, "w") as file:
        for key, values in columns.items():
            file[key] = values
    assert_loaded_alike(name, path)
