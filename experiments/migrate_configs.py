"""Rewrite the kept config.json files in today's spelling of the config fields.

    python -m experiments.migrate_configs [--folder=experiments]

Renames fields in the configs, in the overrides of each run, and in the `--config.` flags of each command. Everything
else, the names of modules in commands included, stays as it was recorded. A second run changes nothing.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FIELDS = {"marks": "eval_steps", "exam": "num_eval_noise", "root": "root_seed", "caps": "aux_widths"}
RUN_FIELDS = {"run.every": "run.save_every", "run.chunk": "run.seed_batch"}
_FLAG = re.compile(r"(?<=--config\.)[\w.]+")


def renamed(name: str) -> str:
    """Today's spelling of a config field.

    Args:
        name: The field, with dots where it is nested.
    """
    section, _, last = name.rpartition(".")
    return RUN_FIELDS.get(name) or f"{section}.{FIELDS.get(last, last)}".lstrip(".")


def migrated(value: Any, section: str = "") -> Any:
    """The same content with every config field in today's spelling.

    Args:
        value: What config.json holds, or a part of it.
        section: The name under which that part stands.
    """
    if isinstance(value, list):
        return [migrated(item, section) for item in value]
    if isinstance(value, str):
        return _FLAG.sub(lambda flag: renamed(flag[0]), value) if section == "command" else value
    if not isinstance(value, dict):
        return value
    prefix = "run." if section == "run" else ""
    return {renamed(prefix + name).removeprefix(prefix): migrated(item, name) for name, item in value.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Migrate every kept experiment and print how many files changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=HERE, help="where experiments are kept")
    changed = 0
    for file in sorted(parser.parse_args(argv).folder.glob("*/config.json")):
        before = file.read_text()
        after = json.dumps(migrated(json.loads(before)), indent=1) + "\n"
        if after != before:
            file.write_text(after)
            changed += 1
    print(f"changed: {changed}")
    return 0


if __name__ == "__main__":
    main()
