"""MkDocs hooks: the site shows the stories and figures of experiments/, and examples in docstrings as code."""

import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).resolve().parent.parent
_REPOSITORY_LINK = re.compile(r"\]\(((?:\.\./)*)\.\./experiments/")


def on_files(files: Files, config: Any) -> Files:
    """Add every story, table and PNG of experiments/ under the same path, with the story's title where it has none."""
    for path in sorted(_ROOT.glob("experiments/*/*")):
        name = path.relative_to(_ROOT).as_posix()
        if path.suffix == ".png":
            files.append(File.generated(config, name, abs_src_path=str(path)))
        elif path.name in ("story.md", "table.md"):
            files.append(File.generated(config, name, content=_page(path)))
    readme = _ROOT / "experiments/slurm/README.md"
    files.append(File.generated(config, "experiments/slurm/slurm.md", content=readme.read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turn links into the repository's experiments/ into links into the site's."""
    text = _REPOSITORY_LINK.sub(r"](\1experiments/", markdown)
    return text.replace("experiments/slurm/README.md", "experiments/slurm/slurm.md")


def _page(path: Path) -> str:
    """The text of a story under a title, with the experiment's figure below it."""
    text = path.read_text("utf-8")
    title = "" if text.startswith("# ") else f"# {path.parent.name}\n\n"
    figure = f"\n\n![{path.parent.name}](figure.png)\n" if (path.parent / "figure.png").exists() else ""
    return title + text + figure


class ExampleSections(griffe.Extension):
    """A section `Example:` of a docstring is shown as code, as `Examples:` is."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section in the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
