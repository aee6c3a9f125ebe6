"""Nothing is computed twice, and what is cached is what would have been computed."""

import logging
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from kdad.cache import main
from kdad.errors import UserError
from kdad.storage import cache
from kdad.storage.cache import Array, ArrayStore

ARRAYS = [Array(("test", i), (10, 3), "float32", f"array {i}") for i in range(2)]
VALUES = [np.arange(30, dtype=np.float32).reshape(10, 3) + 100 * i for i in range(2)]


@pytest.fixture(autouse=True)
def empty_memory():
    cache._MEMORY.clear()
    yield
    cache._MEMORY.clear()


def produce(wanted, calls=None):
    if calls is not None:
        calls.append(list(wanted))
    for start in (0, 4, 8):
        yield [VALUES[i][start : start + 4] for i in wanted]


def same(tensors):
    return all(np.array_equal(t[:].numpy(), v) for t, v in zip(tensors, VALUES, strict=True))


@pytest.mark.parametrize("storage", ["auto", "memory", "disk"])
def test_built_once_then_found(tmp_path, storage):
    calls = []
    store = ArrayStore(storage, folder=tmp_path)
    assert same(store.fetch(ARRAYS, lambda w: produce(w, calls)))
    later = ArrayStore(storage, folder=tmp_path)
    assert same(later.fetch(ARRAYS, lambda w: produce(w, calls)))
    assert calls == [[0, 1]]
    expected = {"storage": storage.replace("auto", "memory"), "bytes": 240, "hits": 0, "misses": 2}
    assert store.report.items() >= expected.items()
    assert later.report["hits"] == 2 and later.report["misses"] == 0


@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_what_finding_has_saved_is_what_making_took(tmp_path, storage):
    def slowly(wanted):
        time.sleep(0.2)
        yield from produce(wanted)

    made, found, half = (ArrayStore(storage, folder=tmp_path) for _ in range(3))
    made.fetch(ARRAYS, slowly)
    found.fetch(ARRAYS, slowly)
    half.fetch(ARRAYS[:1], slowly)
    assert 0.2 <= made.report["seconds"] < 2 and made.report["saved"] == 0
    assert found.report["seconds"] == 0 and found.report["saved"] == pytest.approx(made.report["seconds"], abs=0.002)
    assert half.report["saved"] == pytest.approx(made.report["seconds"] / 2, abs=0.001)  # two arrays of one size
    for note in (tmp_path / "arrays").glob("*.txt"):
        note.write_text("damaged")
    later = ArrayStore(storage, folder=tmp_path)
    assert same(later.fetch(ARRAYS, slowly)) and later.report["saved"] >= 0


def test_only_what_is_missing_is_asked_for(tmp_path):
    calls = []
    ArrayStore("memory").fetch(ARRAYS[1:], lambda w: produce([1], calls))
    assert same(ArrayStore("memory").fetch(ARRAYS, lambda w: produce(w, calls)))
    assert calls == [[1], [0]]


def test_auto_goes_from_memory_to_disk_to_nowhere(tmp_path, caplog):
    small, large = 100 / cache.GB, 1.0
    found = ArrayStore("auto", memory_gb=small, disk_gb=large, folder=tmp_path)
    assert same(found.fetch(ARRAYS, produce)) and found.report["storage"] == "disk"
    nowhere = ArrayStore("auto", memory_gb=small, disk_gb=small, folder=tmp_path / "other")
    with caplog.at_level(logging.WARNING):
        assert nowhere.fetch(ARRAYS, produce) is None
    assert nowhere.report["storage"] == "streamed" and "beyond the cache's budget" in caplog.text
    assert ArrayStore("off").fetch(ARRAYS, produce) is None


def test_budgets_let_go_of_the_least_recently_used(tmp_path):
    budget = 250 / cache.GB
    others = [Array(("other", i), (10, 3), "float32", "other") for i in range(2)]
    ArrayStore("memory", memory_gb=budget).fetch(ARRAYS, produce)
    ArrayStore("memory", memory_gb=budget).fetch(others, produce)
    assert set(cache._MEMORY) == {a.key for a in others}
    budget = 400 / cache.GB  # a file has a header of 128 bytes
    store = ArrayStore("disk", disk_gb=budget, folder=tmp_path)
    store.fetch(ARRAYS, produce)
    for array in ARRAYS:
        os.utime(store.locate(array), (1, 1))
    store.fetch(others, produce)
    assert {p.stem for p in store.folder.glob("*.npy")} == {a.key for a in others}


def test_a_full_disk_falls_back_with_a_warning(tmp_path, monkeypatch, caplog):
    def full(*args, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    store = ArrayStore("disk", folder=tmp_path)
    assert store.fetch(ARRAYS, produce) is None
    assert store.report["storage"] == "streamed" and "No space left on device" in caplog.text
    assert list(store.folder.iterdir()) == []


@pytest.mark.slow
def test_a_builder_that_dies_half_way_leaves_nothing_that_is_believed(tmp_path):
    def dies(wanted):
        yield [VALUES[i][:4] for i in wanted]
        raise KeyboardInterrupt

    store = ArrayStore("disk", folder=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        store.fetch(ARRAYS, dies)
    assert list(store.folder.iterdir()) == []
    code = (
        "import os, sys, numpy as np; from kdad.storage.cache import Array, ArrayStore\n"
        "def dies(w):\n    yield [np.zeros((4, 3), 'float32')] * len(w)\n    os.kill(os.getpid(), 9)\n"
        "ArrayStore('disk', folder=sys.argv[1]).fetch([Array(('test', i), (10, 3), 'float32', '') for i in range(2)], dies)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -9
    assert len(list(store.folder.glob(".building.*"))) == 2 and not list(store.folder.glob("*.npy"))
    for left in store.folder.glob(".building.*"):
        os.utime(left, (1, 1))
    assert same(ArrayStore("disk", folder=tmp_path).fetch(ARRAYS, produce))
    assert not list(store.folder.glob(".building.*"))  # swept away


def test_several_builders_at_once(tmp_path):
    gate, found = threading.Barrier(4), []

    def job():
        def together(wanted):
            gate.wait()
            yield from produce(wanted)

        found.append(ArrayStore("disk", folder=tmp_path).fetch(ARRAYS, together))

    threads = [threading.Thread(target=job) for _ in range(4)]
    [t.start() for t in threads], [t.join() for t in threads]
    assert len(found) == 4 and all(same(f) for f in found)
    assert len(list((tmp_path / "arrays").glob("*.npy"))) == 2 and not list((tmp_path / "arrays").glob(".building.*"))


def test_list_and_clear(tmp_path, capsys):
    ArrayStore("disk", folder=tmp_path).fetch(ARRAYS, produce)
    main(["list", "--folder", str(tmp_path)])
    out = capsys.readouterr().out
    assert "array 0" in out and "array 1" in out and "2 arrays" in out
    main(["clear", "--folder", str(tmp_path)])
    assert "Removed 2 arrays" in capsys.readouterr().out and not (tmp_path / "arrays").exists()


def test_what_a_job_holds_in_memory_counts_until_it_ends(tmp_path):
    """Two arrays of 120 bytes, each within the budget: the second goes to disk, and the first is not let go."""
    budget = 200 / cache.GB
    store = ArrayStore("auto", memory_gb=budget, folder=tmp_path)
    first, second = (store.fetch(ARRAYS[i : i + 1], lambda w, i=i: produce([i]))[0] for i in range(2))
    assert same([first, second]) and set(cache._MEMORY) == {ARRAYS[0].key}
    assert store.report.items() >= {"storage": "memory, disk", "bytes": 240, "hits": 0, "misses": 2}.items()
    later = ArrayStore("auto", memory_gb=budget, folder=tmp_path)
    assert same(later.fetch(ARRAYS, produce)) and later.report["hits"] == 2


@pytest.mark.parametrize("key", ["memory_gb", "disk_gb"])
@pytest.mark.parametrize("value", ["4", -1, float("nan"), True])
def test_budgets_are_numbers(key, value):
    with pytest.raises(UserError, match=f"cache.{key}="):
        ArrayStore(**{key: value})


def test_a_damaged_file_is_computed_anew(tmp_path, caplog):
    store = ArrayStore("disk", folder=tmp_path)
    store.fetch(ARRAYS, produce)
    for array, content in zip(ARRAYS, (store.locate(ARRAYS[0]).read_bytes()[:-10], b""), strict=True):
        store.locate(array).write_bytes(content)
    later = ArrayStore("disk", folder=tmp_path)
    assert same(later.fetch(ARRAYS, produce)) and later.report["misses"] == 2
    assert caplog.text.count("computing it anew") == 2
    assert ArrayStore("disk", folder=tmp_path).fetch(ARRAYS, lambda w: pytest.fail("not kept")) is not None


def test_other_jobs_may_remove_files_at_any_time(tmp_path, caplog):
    store = ArrayStore("disk", folder=tmp_path)
    store.folder.mkdir()
    (store.folder / "gone.npy").symlink_to("nowhere")  # listed, but no longer there when it is looked at
    (store.folder / ".building.gone").symlink_to("nowhere")
    kept = store.fetch(ARRAYS, produce)
    main(["clear", "--folder", str(tmp_path)])
    assert same(kept)  # open, so still whole

    def cleared_meanwhile(wanted):
        yield from produce(wanted)
        main(["clear", "--folder", str(tmp_path)])

    other = ArrayStore("disk", folder=tmp_path)
    assert other.fetch(ARRAYS, cleared_meanwhile) is None and other.report["storage"] == "streamed"
    assert "cannot cache array 0" in caplog.text
    (tmp_path / "file").write_text("")
    assert ArrayStore("disk", folder=tmp_path / "file").fetch(ARRAYS, produce) is None  # no folder can be made there


def test_clear_removes_nothing_else(tmp_path):
    ArrayStore("disk", folder=tmp_path).fetch(ARRAYS, produce)
    (tmp_path / "arrays" / "mine.csv").write_text("1")
    main(["clear", "--folder", str(tmp_path)])
    assert [p.name for p in (tmp_path / "arrays").iterdir()] == ["mine.csv"]


def test_an_upgrade_lets_go_of_what_older_code_computed(tmp_path, monkeypatch):
    ArrayStore("disk", folder=tmp_path).fetch(ARRAYS, produce)
    monkeypatch.setattr(cache, "CODE", ("later",))
    later = ArrayStore("disk", folder=tmp_path)
    assert same(later.fetch(ARRAYS, produce)) and later.report["misses"] == 2


def test_a_file_of_another_array_is_computed_anew(tmp_path, caplog):
    """Of another shape, another type or order of rows, an archive, or objects that would have to be unpickled."""
    store = ArrayStore("disk", folder=tmp_path)
    store.folder.mkdir()
    place = store.locate(ARRAYS[0])
    for other in (VALUES[0].reshape(5, 6), VALUES[0].astype("int32"), np.asfortranarray(VALUES[0]), np.array([{}])):
        np.save(place, other)
        assert same(ArrayStore("disk", folder=tmp_path).fetch(ARRAYS, produce))
        store.locate(ARRAYS[1]).unlink()
    with place.open("wb") as file:
        np.savez(file, VALUES[0])
    assert same(ArrayStore("disk", folder=tmp_path).fetch(ARRAYS, produce))
    assert caplog.text.count("computing it anew") == 5
