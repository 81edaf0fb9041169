"""Files appear complete or not at all."""

from __future__ import annotations

import os

import pytest

from benchmark.data.errors import DataError
from benchmark.data.files import content_hash, read_json, replacing


def test_a_reader_of_the_old_file_is_not_disturbed(tmp_path):
    path, held = tmp_path / "new" / "a.bin", tmp_path / "held"
    with replacing(path) as file:
        file.write(b"old")
    os.link(path, held)  # another name of the old file, as an open reader has
    with replacing(path) as file:
        file.write(b"half")
        file.flush()
        assert path.read_bytes() == b"old"
        file.write(b" whole")
    assert path.read_bytes() == b"half whole" and held.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["a.bin"]


def test_a_failure_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="disk full"), replacing(path) as file:
        file.write(b"half")
        raise RuntimeError("disk full")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.bin"]


def test_json_that_is_no_text_or_no_file(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00\x01{")
    with pytest.raises(DataError, match=r"The list .*a\.json is not valid JSON"):
        read_json(tmp_path / "a.json", "list")
    with pytest.raises(DataError, match=r"The list .* cannot be read: Is a directory"):
        read_json(tmp_path, "list")


def test_hash_ignores_the_order_of_keys_only():
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1}) != content_hash({"a": 2, "b": 1})
    assert content_hash([1, 2]) != content_hash([2, 1])
