"""Checkpoints: what goes in comes out, nothing else is taken, and a crash leaves one that can be used."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from twin.learn import checkpoint
from twin.learn.checkpoint import (
    CheckpointError,
    WeightsDigest,
    digest_of,
    kept,
    latest_good,
    layout_of,
    load,
    save,
)
from twin.record.files import canonical_json

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True)
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)
ARRAYS = st.one_of(
    hnp.arrays(np.float64, SHAPES, elements=st.floats(allow_nan=False, allow_infinity=False)),
    hnp.arrays(np.int64, SHAPES, elements=st.integers(-(1 << 63), (1 << 63) - 1)),
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
FACTS = st.dictionaries(NAMES, st.one_of(TEXT, st.integers(-(1 << 63), (1 << 63) - 1)), max_size=4)

SMALL: dict[str, Any] = {"weights": np.array([[1.5, -0.0], [5e-324, 2.0]]), "steps": np.array([7], dtype=np.int64)}


def small(path: Path, number: int = 1) -> str:
    return save(path, {**SMALL, "steps": np.array([number], dtype=np.int64)}, {"kind": "policy", "number": number})


def signed(body: bytes) -> bytes:
    return body + blake2b(body, digest_size=32).digest()


def framed(header: bytes, values: bytes = b"", version: int = 1) -> bytes:
    lengths = version.to_bytes(4, "little") + len(header).to_bytes(4, "little")
    return signed(checkpoint.MAGIC + lengths + header + values)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(arrays=st.dictionaries(NAMES, ARRAYS, max_size=4), facts=FACTS)
def test_what_goes_in_comes_out_bit_for_bit(
    tmp_path: Path, arrays: dict[str, Any], facts: dict[str, str | int]
) -> None:
    path = tmp_path / "weights"
    digest = save(path, arrays, facts)
    found = load(path, layout_of(arrays))
    assert found.facts == facts
    assert list(found.arrays) == sorted(arrays)
    for name, array in arrays.items():
        same = found.arrays[name]
        assert (same.dtype, same.shape, same.tobytes()) == (array.dtype, array.shape, array.tobytes())
        assert same.flags.writeable
        assert same.flags.c_contiguous
    assert found.digest == digest == path.read_bytes()[-32:].hex()
    assert digest_of(found.arrays) == digest_of(arrays)
    # The same content is the same file, in whatever order it came.
    assert save(path, dict(reversed(arrays.items())), dict(reversed(facts.items()))) == digest


def test_the_order_in_memory_does_not_matter(tmp_path: Path) -> None:
    plain = np.arange(12.0).reshape(3, 4)
    turned = np.asfortranarray(plain)
    strided = np.arange(24.0).reshape(3, 8)[:, ::2] / 2
    assert save(tmp_path / "a", {"w": plain}, {}) == save(tmp_path / "b", {"w": turned}, {})
    assert save(tmp_path / "c", {"w": strided}, {}) == save(tmp_path / "a", {"w": plain}, {})
    assert digest_of({"w": plain}) == digest_of({"w": turned}) == digest_of({"w": strided})
    assert WeightsDigest([plain])() == WeightsDigest([turned])()


def test_digests_tell_name_kind_shape_and_value_apart() -> None:
    one = np.array([0.0, 1.0])
    different = [
        {"w": one}, {"v": one}, {"w": one.reshape(1, 2)}, {"w": one.view(np.int64)}, {"w": np.array([-0.0, 1.0])},
        {"w": one[:1], "x": one[1:]}, {"w": one, "x": np.zeros(0)}, {},
    ]  # fmt: skip
    assert len({digest_of(arrays) for arrays in different}) == len(different)
    lists = [[one], [one[:1], one[1:]], [one, one[:0]], [one[:0], one], [one[::-1]], [np.array([-0.0, 1.0])], []]
    assert len({WeightsDigest(arrays)() for arrays in lists}) == len(lists)
    part = blake2b((2).to_bytes(8, "little") + one.tobytes(), digest_size=32).digest()
    assert WeightsDigest([one, one])() == blake2b(2 * part, digest_size=32).hexdigest()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"w": np.array(1.0)}, "make a single number an array of one"),
        ({"w": np.zeros((1,) * 9)}, "1 to 8 dimensions"),
        ({"w": np.zeros(3, dtype=np.float32)}, "w is float32; allowed are NumPy arrays of float64 and int64"),
        ({"w": np.zeros(3, dtype=">f8")}, "w is >f8"),
        ({"w": np.array([True])}, "w is bool"),
        ({"w": np.array(["a"], dtype=object)}, "w is object"),
        ({"w": np.ma.masked_array([1.0])}, "w is float64"),
        ({"w": [1.0]}, "w is list"),
        ({"w": np.array([0.0, np.nan])}, r"1 values that are not finite, the first at \[1\] \(nan\)"),
        ({"w": np.array([[np.inf, -np.inf]])}, r"2 values that are not finite, the first at \[0, 0\] \(inf\)"),
        ({"": np.zeros(1)}, "cannot be the name of an array"),
        ({"../w": np.zeros(1)}, "cannot be the name of an array"),
        ({"w\n": np.zeros(1)}, "cannot be the name of an array"),
        ({3: np.zeros(1)}, "3 cannot be the name of an array"),
        ({"w": np.zeros((checkpoint.FILE_MOST >> 3) - 8)}, "bytes, of which"),
        ({"w": np.zeros((0, 1 << 20, 1 << 20))}, "the shape"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_changes_nothing(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    path = tmp_path / "weights"
    small(path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=words) as raised:
        save(path, arrays, {})
    assert str(raised.value).startswith(f"{path}: is not written: ")
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights"]


@pytest.mark.parametrize(
    "facts",
    [{"x": True}, {"x": 1.0}, {"x": None}, {"x": 1 << 63}, {"x": 10**5_000}, {"x": "\ud800"}, {"x": "a" * 4_097},
     {"": 1}, {2: 1}, {"x": np.int64(1)}, [1], None],
)  # fmt: skip
def test_facts_that_cannot_be_kept_are_refused(tmp_path: Path, facts: Any) -> None:
    with pytest.raises(CheckpointError, match="is not written"):
        save(tmp_path / "weights", {}, facts)
    assert not list(tmp_path.iterdir())


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as raised:
        save(tmp_path / "w", {"a b": np.zeros(1), "b": np.array([np.nan]), "c": np.array(1)}, {"x": 1.5, "y": None})
    assert all(word in str(raised.value) for word in ("'a b'", "b has 1", "c has the shape ()", "fact x", "fact y"))
    path = tmp_path / "w"
    save(path, {"a": np.zeros(2), "b": np.zeros(2), "c": np.zeros(2)}, {})
    expected = {"a": ((2,), "int64"), "b": ((1, 2), "float64"), "d": ((2,), "float64")}
    with pytest.raises(CheckpointError) as raised:
        load(path, expected)
    for words in ("has no array d", "an array c, which", "a is float64 (2,) and must be int64 (2,)",
                  "b is float64 (2,) and must be float64 (1, 2)", "learn.checkpoint"):  # fmt: skip
        assert words in str(raised.value)


def test_every_flipped_byte_and_every_truncation_is_refused(tmp_path: Path) -> None:
    path, damaged = tmp_path / "weights", tmp_path / "damaged"
    small(path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for flip in (0x01, 0x80, 0xFF):
            damaged.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
            with pytest.raises(CheckpointError):
                load(damaged)
        damaged.write_bytes(whole[:place])
        with pytest.raises(CheckpointError):
            load(damaged)
    for more in (b"\0", whole):
        damaged.write_bytes(whole + more)
        with pytest.raises(CheckpointError):
            load(damaged)
    damaged.write_bytes(whole)
    load(damaged, layout_of(SMALL))


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=8,
)
SIZES = st.one_of(st.integers(-2, 3), st.integers(), st.none(), st.booleans())
ENTRIES = st.fixed_dictionaries(
    {
        "name": st.one_of(st.sampled_from(["a", "b", "", "\ud800"]), st.integers()),
        "dtype": st.sampled_from(["float64", "int64", "object", "O", None, []]),
        "shape": st.one_of(st.lists(SIZES, max_size=10), st.none()),
    }
)
NEARLY = st.fixed_dictionaries(
    {
        "arrays": st.lists(ENTRIES, max_size=3),
        "facts": st.one_of(st.none(), st.dictionaries(st.text(max_size=3), st.one_of(st.none(), st.integers()))),
    }
)
FUZZED = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=200).map(lambda rest: checkpoint.MAGIC + rest),
    st.binary(max_size=200).map(lambda rest: signed(checkpoint.MAGIC + rest)),
    st.builds(framed, st.binary(max_size=100), st.binary(max_size=32)),
    st.builds(lambda value, rest: framed(canonical_json(value), rest), JSON | NEARLY, st.binary(max_size=64)),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=300)
@given(data=FUZZED)
def test_fuzzed_bytes_raise_nothing_else(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "fuzzed"
    path.write_bytes(data)
    # Anything but a CheckpointError fails the test; what is taken is what this program writes.
    with contextlib.suppress(CheckpointError):
        found = load(path)
        path.unlink()
        assert save(path, found.arrays, found.facts) == found.digest


ENTRY = '{"arrays":[{"dtype":"float64","name":"a","shape":[1]}],"facts":{}}'


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (framed(ENTRY.encode(), bytes(8), version=2), "has version 2; this program reads version 1"),
        (framed(ENTRY.encode(), bytes(16)), "the arrays need 8 bytes, and there are 16"),
        (framed(ENTRY.encode()), "the arrays need 8 bytes, and there are 0"),
        (framed(ENTRY.encode(), np.array([np.nan]).tobytes()), "a has 1 values that are not finite"),
        (framed(ENTRY.encode(), np.array([-np.inf]).tobytes()), "a has 1 values that are not finite"),
        (framed(ENTRY.replace(":[{", ": [{").encode(), bytes(8)), "header that this program does not write"),
        (framed(ENTRY.replace('"facts"', '"facts":{},"facts"').encode(), bytes(8)), "header that this program"),
        (framed(ENTRY.replace('[1]', '[true]').encode(), bytes(8)), "shape"),
        (framed(ENTRY.replace('[1]', '[]').encode(), bytes(8)), "shape"),
        (framed(ENTRY.replace('[1]', '[-1]').encode(), bytes(8)), "shape"),
        (framed(ENTRY.replace('[1]', '[0,99999999999]').encode()), "shape"),
        (framed(ENTRY.replace('[1]', f'[{"9" * 5_000}]').encode()), "not JSON"),
        (framed(ENTRY.replace("float64", "object").encode(), bytes(8)), "dtype"),
        (framed(ENTRY.replace('}],', '},{"dtype":"int64","name":"a","shape":[1]}],').encode(), bytes(16)), "each once"),
        (framed(ENTRY.replace('{}', '{"x":NaN}').encode(), bytes(8)), "not JSON"),
        (framed(ENTRY.replace('{}', '{"x":1.5}').encode(), bytes(8)), "fact x"),
        (framed(b"[" * 100_000), "not JSON"),
        (framed(b" " * (checkpoint.HEADER_MOST + 1)), "has a header of"),
        (signed(checkpoint.MAGIC + (1).to_bytes(4, "little") + (1 << 31).to_bytes(4, "little")), "has a header of"),
        (b"", "is not a checkpoint"),
        (b"\x80\x04K\x01.", "is not a checkpoint"),
        (checkpoint.MAGIC, "is cut off: it has 8 bytes"),
    ],
)  # fmt: skip
def test_whole_files_that_cannot_be_are_refused_with_the_reason(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "weights"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=words):
        load(path)


def test_places_that_hold_no_checkpoint(tmp_path: Path) -> None:
    def message(path: Path) -> str:
        with pytest.raises(CheckpointError) as raised:
            load(path)
        assert str(raised.value).startswith(f"{path}: ")
        return str(raised.value)

    assert "No such file" in message(tmp_path / "nothing")
    assert "check the path" in message(tmp_path / "nothing")
    assert "is not a file" in message(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "is not a file" in message(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    assert "circle" in message(tmp_path / "loop")
    assert "name of a file" in message(tmp_path / "a\0b")
    with (tmp_path / "long").open("wb") as file:
        file.truncate(checkpoint.FILE_MOST + 1)
    assert f"more than {checkpoint.FILE_MOST} bytes" in message(tmp_path / "long")
    for place in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(CheckpointError, match="something that is no file is in its place"):
            small(place)
    for place, words in ((tmp_path / "no" / "folder", "No such file"), (tmp_path / "a\0b", "name of a file")):
        with pytest.raises(CheckpointError, match=words):
            small(place)
    assert tmp_path.is_dir()


def unprivileged(work: Callable[[], None]) -> int:
    """Do it in a forked child that is not root; its exit status."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65_534)
                os.setuid(65_534)
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    small(path)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        if folder.stat().st_uid == os.getuid():
            folder.chmod(folder.stat().st_mode | 0o055)
    path.chmod(0)

    def work() -> None:
        with pytest.raises(CheckpointError, match=r"Permission denied.*ls -l"):
            load(path)

    assert unprivileged(work) == 0
    path.chmod(0o600)


def test_a_full_disk_leaves_everything_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    for number in range(1, 4):
        small(path, number)
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    program = f"""
import signal, sys
from pathlib import Path
import numpy as np
from twin.learn.checkpoint import CheckpointError, save
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    save(Path({str(path)!r}), {{"w": np.zeros(100_000)}}, {{}})
except CheckpointError as error:
    print(error)
    sys.exit(7)
"""
    done = subprocess.run(
        [sys.executable, "-B", "-c", program], capture_output=True, text=True, check=False,
        env={**os.environ, "TWIN_KERNELS": "python"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )  # fmt: skip
    assert done.returncode == 7, done.stderr
    assert "File too large; what was there before is unchanged" in done.stdout
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before


CALLS = ("open", "fsync", "rename", "replace", "close")


def dies_at(number: int, path: Path, before: bool) -> bool:
    """Save in a forked child that ends at its `number`-th call to the system; whether it got that far."""
    pid = os.fork()
    if pid == 0:
        count = 0

        def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                nonlocal count
                count += 1
                if count == number and before:
                    os._exit(9)
                answer = real(*arguments, **named)
                if count == number:
                    os._exit(9)
                return answer

            return call

        code = 1
        try:
            for name in CALLS:
                setattr(os, name, deadly(getattr(os, name)))
            small(path, 4)
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, 9)
    return code == 9


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("older", [0, 1, 3])
def test_killed_at_any_call_the_newest_or_the_one_before_is_left(tmp_path: Path, before: bool, older: int) -> None:
    number, news = 1, set()
    while True:
        folder = tmp_path / f"{number}"
        folder.mkdir()
        path = folder / "weights"
        for old in range(older):
            small(path, old)
        died = dies_at(number, path, before)
        if older:
            news.add(latest_good(path, layout_of(SMALL)).facts["number"])
        if not died:
            break
        number += 1
    assert number > 4
    if older:
        assert news == {older - 1, 4}
    # What a kill left does not hinder the next.
    small(tmp_path / "1" / "weights", 5)
    assert load(tmp_path / "1" / "weights").facts["number"] == 5


def test_killed_at_any_moment(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    small(path, 0)
    newest = 0
    for round_number in range(12):
        reads, writes = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                number = newest
                while True:
                    number += 1
                    save(path, {"w": np.full(20_000, float(number))}, {"number": number})
                    os.write(writes, number.to_bytes(8, "little"))
            finally:
                os._exit(1)
        os.close(writes)
        said = 0
        for _ in range(1 + round_number % 3):
            said = int.from_bytes(os.read(reads, 8), "little")
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        while piece := os.read(reads, 8):
            said = int.from_bytes(piece, "little")
        os.close(reads)
        found = latest_good(path)
        # It may have been killed between the rename and saying so.
        assert found.facts["number"] in (said, said + 1)
        assert found.arrays["w"][0] == found.facts["number"]
        newest = int(found.facts["number"])


def test_the_last_three_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    for number in range(1, 6):
        small(path, number)
        ages = [load(place).facts["number"] for place in kept(path)[: min(number, 3)]]
        assert ages == list(range(number, max(0, number - 3), -1))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["weights", "weights.1", "weights.2"]


def test_a_damaged_one_gives_way_to_the_one_before_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "weights"
    for number in range(1, 4):
        small(path, number)
    with caplog.at_level(logging.WARNING):
        assert latest_good(path).facts["number"] == 3
        assert not caplog.records
        path.write_bytes(path.read_bytes()[:-1])
        found = latest_good(path, layout_of(SMALL))
        assert (found.facts["number"], found.path.name) == (2, "weights.1")
        assert [record.getMessage() for record in caplog.records] == [
            f"{path}: is cut off or altered: its digest is not that of its content; take it from a copy, or name "
            "another checkpoint (learn.checkpoint); weights.1, which was saved before it, is used instead"
        ]
        path.unlink()
        kept(path)[1].write_bytes(b"")
        assert latest_good(path).facts["number"] == 1
    kept(path)[2].write_bytes(b"x")
    with pytest.raises(CheckpointError) as raised:
        latest_good(path)
    assert all(f"weights.{age}: is not a checkpoint" in str(raised.value) for age in (1, 2))
    with pytest.raises(CheckpointError, match="No such file") as raised:
        latest_good(tmp_path / "none")
    assert "none.1" not in str(raised.value)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.floats(allow_nan=False)), max_size=12))
def test_a_digest_of_weights_is_that_of_what_they_are_and_not_of_what_they_were(
    changes: list[tuple[int, int, float]],
) -> None:
    rows = np.zeros((3, 8))
    views = [rows[i, :5] for i in range(3)]
    digest = WeightsDigest(views)
    seen = {digest()}
    for place, cell, value in changes:
        before = rows.tobytes(), digest()
        views[place][cell] = value
        assert digest() == WeightsDigest([view.copy() for view in views])()
        assert (digest() == before[1]) == (rows.tobytes() == before[0])
        seen.add(digest())
    # The bounds between arrays count, too.
    assert WeightsDigest([np.zeros(2), np.zeros(1)])() != WeightsDigest([np.zeros(1), np.zeros(2)])()
