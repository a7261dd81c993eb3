"""Atomic file writes."""

import os
import uuid
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Write `content` to a temporary file and rename it to `path`, so that no reader sees a partial file."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # jobs in containers share process numbers
    temporary.write_bytes(content)
    os.replace(temporary, path)
