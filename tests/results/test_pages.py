"""The report and the gallery in headless Chromium, on a wide and on a narrow screen, light and dark."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from helpers.rows import rows_of, workdir_of
from PIL import Image

from sublim_jax.results import report

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS, HEIGHT = (1280, 420), 1200
# Runs inside each page, and sends what it finds to the page around it.
PROBE = """<script>addEventListener("load", () => {
const shown = [...document.querySelectorAll("svg")].filter(svg => svg.getBoundingClientRect().width > 0);
const texts = shown.flatMap(svg => [...svg.querySelectorAll("text")].map(text => {
  const box = svg.getBoundingClientRect(), own = text.getBoundingClientRect();
  const scale = box.width / svg.viewBox.baseVal.width;
  return {text: text.textContent.trim(), size: parseFloat(getComputedStyle(text).fontSize) * scale,
          outside: Math.max(box.left - own.left, own.right - box.right, box.top - own.top, own.bottom - box.bottom)};
}));
const wide = [...document.querySelectorAll("body *")].filter(element => !element.closest(".scroll, pre, svg") &&
  element.getBoundingClientRect().right > innerWidth + 1).map(element => element.tagName);
parent.postMessage({name: NAME, inner: innerWidth, scroll: document.documentElement.scrollWidth, wide, texts,
  alternatives: [...document.querySelectorAll("svg, img")].map(one => one.getAttribute("aria-label") || one.alt || ""),
  titles: document.querySelectorAll("svg use > title").length,
  links: [...document.querySelectorAll("a")].map(link => link.getAttribute("href")),
  ids: [...document.querySelectorAll("[id]")].map(one => one.id),
  ground: getComputedStyle(document.body).backgroundColor}, "*");
});</script>"""
FRAMES = """<!doctype html><body style="margin:0"><pre id="found"></pre><script>
addEventListener("message", event => { found.textContent += JSON.stringify(event.data) + "\\n"; });</script>"""

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)"),
]


def chromium(*words):
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A report of each kind and a gallery, by name."""
    folder = tmp_path_factory.mktemp("pages")
    kept = {name: pd.read_parquet(ROOT / "experiments" / name / "rows.parquet") for name in ("theorem1", "lm_dose")}
    workdirs = {"transfer": rows_of(widths=(10,), seeds=4), **kept}
    written = {}
    for figure, rows in workdirs.items():
        written[figure] = report.write(workdir_of(folder / figure, rows, name=figure), figure)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        from experiments import gallery
    for name in ("figure5", "lm_base"):
        shutil.copytree(ROOT / "experiments" / name, folder / "kept" / name)
    return {**written, "gallery": gallery.write(folder / "kept" / "gallery.html", folder / "kept")}


@pytest.fixture(scope="module")
def frames(pages, tmp_path_factory):
    """A page with all pages in frames of both widths, whose media queries see the frame's width."""
    folder, body, top = tmp_path_factory.mktemp("frames"), "", 0
    for name, page in pages.items():
        for width in WIDTHS:
            copy = page.with_name(f"probe{width}.html")
            probe = PROBE.replace("NAME", json.dumps(f"{name} {width}"))
            copy.write_text(page.read_text().replace("</head>", f"{probe}</head>"))
            box = f"position:absolute;border:0;top:{top}px;left:0;width:{width}px;height:{HEIGHT}px"
            body += f'<iframe src="{copy.as_uri()}" style="{box}"></iframe>'
            top += HEIGHT
    (outer := folder / "frames.html").write_text(FRAMES + body)
    return outer, top


@pytest.fixture(scope="module")
def found(frames):
    dom = chromium("--virtual-time-budget=20000", "--dump-dom", frames[0].as_uri())
    lines = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)[1].splitlines()
    parsed = [json.loads(line.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")) for line in lines]
    by_name = {one["name"]: one for one in parsed}
    assert len(by_name) == 4 * len(WIDTHS), list(by_name)
    return by_name


def test_pages_do_not_scroll_sideways(found):
    for name, page in found.items():
        assert page["inner"] == int(name.split()[1])
        assert page["scroll"] <= page["inner"] and not page["wide"], name


def test_pages_have_figures_with_legible_texts_that_are_not_cut(found):
    for name, page in found.items():
        texts = [text for text in page["texts"] if text["text"]]
        assert len(texts) > 10, name
        small = [text for text in texts if text["size"] < 11]
        assert not small, (name, small[:3])
        cut = [text for text in texts if text["outside"] > 3]
        assert not cut, (name, cut[:3])


def test_pages_have_alternative_texts_with_numbers_and_values_on_hover(found):
    for name, page in found.items():
        assert page["alternatives"] and all(re.search(r"\d", text) for text in page["alternatives"]), name
        assert page["titles"] > 5, name
    assert "highest mean student test accuracy" in found["transfer 420"]["alternatives"][0]


def test_pages_link_to_files_that_are_there(found, pages):
    for name, page in found.items():
        folder = pages[name.split()[0]].parent
        files = [link for link in page["links"] if not link.startswith("#")]
        assert any("config.json" in link for link in files) or name.startswith("gallery"), name
        assert any(re.search(r"rows(\.parquet)?$", link) for link in files), name
        assert any(link.endswith("docs/theory.md") for link in files), name
        missing = [link for link in files if not (folder / link).exists()]
        missing += [link for link in page["links"] if link[0] == "#" and link[1:] not in page["ids"]]
        assert not missing, name


def test_pages_need_no_other_file(pages):
    for name, page in pages.items():
        text = page.read_text()
        assert not re.search(r"<(link|script|img|iframe)\b|@import|url\((?!#)", text), name
        assert page.stat().st_size < 2e6, name


@pytest.mark.parametrize(("dark", "ground"), [(False, (255, 255, 255)), (True, (27, 30, 34))])
def test_pages_are_drawn_light_and_dark(dark, ground, frames, tmp_path):
    outer, height = frames
    mode = ["--blink-settings=preferredColorScheme=0"] if dark else []
    chromium(*mode, f"--screenshot={tmp_path / 's.png'}", f"--window-size=1280,{height}", outer.as_uri())
    image = Image.open(tmp_path / "s.png").convert("RGB")
    for number in range(height // HEIGHT):
        part = image.crop((0, number * HEIGHT, WIDTHS[number % 2], (number + 1) * HEIGHT))
        colours = sorted(part.getcolors(part.width * part.height), reverse=True)
        assert colours[0][1] == ground, number
        assert colours[0][0] < 0.99 * part.width * part.height and len(colours) > 20, number
