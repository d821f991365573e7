"""Only the pinned GGUF file is ever opened, and a sound conversion is not repeated."""

from pathlib import Path

import pytest

from recmind_dist.errors import TextError
from recmind_dist.ingest.fetch import SMOLLM2_GGUF_SHA256
from recmind_dist.storage import write_manifest
from recmind_dist.text.gguf import KIND, SCHEMA, convert_smollm2


def test_any_other_file_is_refused_unread(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="no such file"):
        convert_smollm2(tmp_path / "absent.gguf", tmp_path / "out")
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    with pytest.raises(TextError, match=rf"is not the pinned {SMOLLM2_GGUF_SHA256}"):
        convert_smollm2(tmp_path / "other.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_sound_conversion_is_skipped_and_a_damaged_one_is_not(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.safetensors").write_bytes(b"weights")
    write_manifest(out, KIND, SCHEMA, {"source_sha256": SMOLLM2_GGUF_SHA256})
    assert convert_smollm2(tmp_path / "absent.gguf", out) is False
    (out / "model.safetensors").write_bytes(b"weighty")
    with pytest.raises(TextError, match="no such file"):
        convert_smollm2(tmp_path / "absent.gguf", out)
