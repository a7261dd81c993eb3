"""Files that are written whole or not at all."""

import os
import uuid
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, then rename it: it is there whole, or as it was."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # jobs in containers share process numbers
    temporary.write_bytes(content)
    os.replace(temporary, path)
