"""What a file says about itself is checked where it is read: labels, metadata, headers, notes."""

import json
import struct

import pytest

from resnet_keras import backup
from resnet_keras.errors import InputError
from resnet_keras.model_files import Metadata, label_lines, read_metadata
from resnet_keras.preprocessing import Preprocessing
from resnet_keras.weights.formats import read


def test_a_label_is_a_line():
    labels = ("a\nb", "\x1b[31m", "\ud800", "x\u2028y", "مرحبا", "a\u200db", "")
    lines = label_lines(labels).encode().decode().split("\n")
    assert lines == ["a\\nb", "\\x1b[31m", "\\ud800", "x\\u2028y", "مرحبا", "a\u200db", "", ""]


@pytest.mark.parametrize(
    "change",
    [{"size": 10**6}, {"size": 0}, {"size": "8"}, {"size": True}, {"size": [8]},
     {"size": [8, 8, 8]}, {"size": [8, 0]}, {"resize": -1}, {"std": [0.0]}, {"mean": []},
     {"resize": 2.5}, {"interpolation": "exec"}, {"antialias": "yes"}, {"labels": "abc"},
     {"labels": [1, 2]}, {"mean": ["x"]}, {"dataset": 3}, {"size": None}, {"code": "x"}],
    ids=str,
)  # fmt: skip
def test_json_that_is_no_metadata(tmp_path, change):
    Metadata(Preprocessing(8)).write(tmp_path / "x.keras")
    assert read_metadata(tmp_path / "x.keras").preprocessing.size == (8, 8)
    fields = json.loads((tmp_path / "x.json").read_text()) | change
    (tmp_path / "x.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match=r"x\.json does not describe a model: [^\n]+$"):
        read_metadata(tmp_path / "x.keras")


def test_metadata_that_is_nested_too_deep(tmp_path):
    (tmp_path / "x.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="does not describe a model"):
        read_metadata(tmp_path / "x.keras")


def safetensors(header, values=bytes(64), size=None):
    """A file with any header, of any claimed size."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + values


def entry(dtype="F32", shape=(4, 4), offsets=(0, 64)):
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


LIES = {
    "header beyond the file": safetensors(entry(), size=10**6),
    "header beyond memory": safetensors(entry(), size=2**63),
    "header beyond numbers": safetensors(entry(), size=2**64 - 1),
    "no header": safetensors(entry(), size=0),
    "nothing but a size": b"\x08" + bytes(7),
    "shape beyond its bytes": safetensors(entry(shape=(4, 5))),
    "shape beyond memory": safetensors(entry(shape=(2**40, 2**40))),
    "shape beyond numbers": safetensors(entry(shape=(2**62, 4, 4))),
    "negative shape": safetensors(entry(shape=(-4, -4))),
    "shape of text": safetensors(entry(shape="4,4")),
    "shape of fractions": safetensors(entry(shape=(4.0, 4.0))),
    "65 axes": safetensors(entry(shape=(1,) * 65)),
    "offsets beyond the file": safetensors(entry(offsets=(64, 128))),
    "offsets the wrong way": safetensors(entry(offsets=(64, 0))),
    "one offset": safetensors(entry(offsets=(0,))),
    "offsets of text": safetensors(entry(offsets=("0", "64"))),
    "type that is none": safetensors(entry(dtype="F31")),
    "type that is a list": safetensors(entry(dtype=["F32"])),
    "entry that is text": safetensors({"w": "F32"}),
    "header that is a list": safetensors([1]),
    "header that is no JSON": safetensors(b'{"w": '),
    "header that is no text": safetensors(b'{"\xff\xfe": 1}'),
    "header without end": safetensors(b'{"a":' * 100_000),
}


@pytest.mark.parametrize("lie", LIES)
def test_safetensors_with_a_lying_header(tmp_path, capsys, lie):
    (tmp_path / "x.safetensors").write_bytes(LIES[lie])
    with pytest.raises(InputError, match=r"^\S+x\.safetensors [^\n]*Received: [^\n]+$"):
        read(tmp_path / "x.safetensors")
    # The same as the only backup of a run.
    (tmp_path / "000000000001.safetensors").write_bytes(LIES[lie])
    (tmp_path / "x.safetensors").unlink()
    with pytest.raises(InputError, match="all backups in .* are damaged"):
        backup.load(tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert "000000000001.safetensors is damaged" in line


@pytest.mark.parametrize("metadata", [None, {}, {"step": "1"}, {"step": "x", "crc32": "0",
                         "notes": "{}"}, {"step": "1", "crc32": "0", "notes": "[" * 100_000}],
                         ids=["none", "empty", "few", "text", "deep"])  # fmt: skip
def test_a_backup_with_other_notes(tmp_path, capsys, metadata):
    header = entry() | ({"__metadata__": metadata} if metadata is not None else {})
    (tmp_path / "000000000001.safetensors").write_bytes(safetensors(header))
    with pytest.raises(InputError, match="all backups in .* are damaged"):
        backup.load(tmp_path)
    assert len(capsys.readouterr().err.splitlines()) == 1
