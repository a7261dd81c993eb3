"""Sealed JSON files that a later run reads instead of computing again; a damaged one is set aside."""

import json
from pathlib import Path
from typing import Any

from sublim_jax.core import files
from sublim_jax.core.files import DamagedFile


def write(path: Path, value: Any) -> None:
    """Write a value, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"seal": files.seal(), "value": value}, ensure_ascii=False)
    files.write_sealed(path, text.encode())


def read(path: Path) -> Any:
    """Read a value; None where there is none, or where the file is damaged, which is then renamed."""
    try:
        return json.loads(files.read_sealed(path))["value"]
    except FileNotFoundError:
        return None
    except DamagedFile as error:
        files.set_aside(error)
        return None
