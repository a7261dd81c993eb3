"""JSON files that a later run reads instead of computing again, with a checksum; a damaged one is set aside."""

import hashlib
import json
from pathlib import Path
from typing import Any

from sublim_jax.core.files import DamagedFile, replace_file, set_aside


def write(path: Path, value: Any) -> None:
    """Write a value, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, ensure_ascii=False)
    replace_file(path, json.dumps({"sha256": _digest(text), "value": text}, ensure_ascii=False).encode())


def read(path: Path) -> Any:
    """Read a value; None where there is none, or where the file is damaged, which is then renamed."""
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if _digest(content["value"]) != content["sha256"]:
            raise ValueError("its checksum does not agree")
        return json.loads(content["value"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        set_aside(DamagedFile(path, " ".join(str(error).split())))
        return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
