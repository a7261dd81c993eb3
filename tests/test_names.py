"""The names of version 0.1 that the field's terms replaced do not come back."""

import ast
from pathlib import Path

import sublim_jax

PACKAGE = Path(sublim_jax.__file__).parent
OLD = """
Refused unknown Classroom Shelf Unit Slice Limits cut owned strangers cost Answer Mixed Noisy Quantised Together Guard
Projected arm axes_of points Point Folder have facts How Lab teach meet learn _through _work begin lesson
Lesson end pulls perturbed widen side_by_side _in_a_row _shared Out Bank Text Teachers Scene Four Watch Law
binding looks said room Say Exam Looks Examine Kept greedy hear each Measure Asked Before Schooling Begin
Learn Arm Said audited filtered still spoken Place by_patches by_library
"""
# Short words that were renamed in one module and are right in another.
OLD_IN_MODULE = {
    "training/step.py": "draw",
    "training/population.py": "measure",
    "metrics/evaluate.py": "measure",
    "lm/generate.py": "look",
    "lm/teachers.py": "told read",
    "pretrained/kv_cache.py": "read",
    "pretrained/checkpoint_io.py": "Plan",
    "pretrained/architectures.py": "Plan",
    "audit/pair.py": "audit",
}


def module_level_names(tree):
    """Names that a module binds by class, function and assignment."""
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            yield node.name
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def test_names_of_version_0_1_do_not_come_back():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        module = path.relative_to(PACKAGE).as_posix()
        old = {*OLD.split(), *OLD_IN_MODULE.get(module, "").split()}
        found |= {(module, name) for name in module_level_names(ast.parse(path.read_text())) if name in old}
    assert not found


def test_module_level_names_finds_classes_functions_and_assignments():
    tree = ast.parse("class A: pass\ndef b(): c = 1\nd = 2\ne: int = 3\n")
    assert list(module_level_names(tree)) == ["A", "b", "d", "e"]
