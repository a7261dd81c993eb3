"""JSON files with a checksum."""

import os

import pytest

from sublim_jax.llm import kept_json, row_store


def test_values_come_back_and_missing_files_are_none(tmp_path):
    value = {"a": [1, 2.5, None], "é": "“x”\n"}
    kept_json.write(tmp_path / "folder" / "value.json", value)
    assert kept_json.read(tmp_path / "folder" / "value.json") == value
    assert kept_json.read(tmp_path / "other.json") is None


@pytest.mark.parametrize("damage", [
    lambda path: os.truncate(path, path.stat().st_size - 3),
    lambda path: path.write_bytes(path.read_bytes().replace(b"2.5", b"2.6")),
    lambda path: path.write_text("[]"),
    lambda path: path.write_text('{"sha256": 5, "value": 6}'),
    lambda path: path.write_bytes(b"\xff\xfe"),
])  # fmt: skip
def test_damaged_files_are_set_aside(damage, tmp_path):
    path = tmp_path / "value.json"
    kept_json.write(path, {"a": 2.5})
    damage(path)
    assert kept_json.read(path) is None and not path.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["value.json.damaged"]


def test_answers_are_written_once_for_every_chunk_of_requests(tmp_path, monkeypatch):
    monkeypatch.setattr(row_store, "CHUNK", 2)
    asked, stops = [], []

    def write(numbers):
        asked.append(numbers)
        return [(number, answer, f"{number}, {answer}", True) for number in numbers for answer in range(2)]

    first = row_store.load_or_write(tmp_path, ["a"] * 5, 2, write, lambda: stops.append(1))
    assert asked == [range(2), range(2, 4), range(4, 5)] and len(stops) == 3 and len(first) == 10
    (tmp_path / "000002.json").write_text("{")
    assert row_store.load_or_write(tmp_path, ["a"] * 5, 2, write) == first and asked[3:] == [range(2, 4)]
