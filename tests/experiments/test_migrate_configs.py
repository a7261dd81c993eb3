"""The kept configs are in today's spelling."""

import json
from pathlib import Path

import pytest

from experiments import migrate_configs

ROOT = Path(__file__).parents[2]
RENAMED = {  # old: new
    "exam": "num_eval_noise",
    "root": "root_seed",
    "caps": "aux_widths",
    "marks": "eval_steps",
    "every": "save_every",
    "chunk": "seed_batch",
}


def facts(exam, root, caps, marks, every, chunk):
    """The facts of a work directory by the names of their fields."""
    command = f"sublim_jax --config=configs/a.py --config.run.{every}=2 '--config.student.{marks}=()'"
    resolved = {"run": {chunk: 2, every: 1}, root: 3, "metrics": ["task"]}
    overrides = {f"run.{every}": "2", f"student.{marks}": "()", "seeds": "3"}
    return {
        "config": {exam: 4, root: 0, caps: [16], "arms": {"a": {"student": {marks: [[5]]}}}},
        "runs": [{"command": command, "resolved": resolved, "overrides": overrides}],
    }


def test_migrate_configs_renames_nested_dotted_and_flagged_fields_once(tmp_path, capsys):
    (tmp_path / "toy").mkdir()
    file = tmp_path / "toy" / "config.json"
    file.write_text(json.dumps(facts(*RENAMED), indent=1) + "\n")
    for count in (1, 0):
        assert migrate_configs.main([f"--folder={tmp_path}"]) == 0
        assert json.loads(file.read_text()) == facts(*RENAMED.values())
        assert capsys.readouterr().out == f"changed: {count}\n"


@pytest.mark.parametrize("file", sorted(ROOT.glob("experiments/*/config.json")), ids=lambda file: file.parent.name)
def test_migrate_configs_leaves_the_kept_files_alone(file):
    kept = json.loads(file.read_text())
    assert migrate_configs.migrated(kept) == kept
