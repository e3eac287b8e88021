"""The cards of examples and notebooks in their gallery: a picture each, or what it needs."""

from __future__ import annotations

import base64
import io
import json
import re

from PIL import Image

from repository_pages import DOCS, EXAMPLES, NOTEBOOKS, ROOT

SIZE = (420, 260)  # pixels, at most: twice those on the page
# Packages that load data and draw, which most examples need.
HELPERS = {"sklearn", "tqdm", "matplotlib"}


def pages() -> dict[str, str]:
    """The pages by the names of the cards: notebooks first."""
    notebooks = {title_of(name): f"notebooks/{name}" for name in NOTEBOOKS}
    return notebooks | {f"{name}.py": f"project/examples/{name}" for name in EXAMPLES}


def thumbnail(name: str) -> str:
    """The picture of an example, as its page of examples has it; else what it is about."""
    stem = pages()[name].rpartition("/")[2]
    path = DOCS / "pictures" / f"{stem}.png"
    if not path.exists():
        return f'<div class="subject">{subject_of(stem)}</div>'
    file = io.BytesIO()
    with Image.open(path) as picture:
        picture.thumbnail(SIZE)
        picture.save(file, "PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="" src="data:image/png;base64,{data}">'  # the name follows in text


def subject_of(example: str) -> str:
    """The libraries that an example shows together with this one."""
    code = (ROOT / "examples" / f"{example}.py").read_text()
    needs = re.search(r"^# Needs: (.+)$", code, re.M)
    return ", ".join(name for name in needs[1].split(", ") if name not in HELPERS) or "NumPy"


def title_of(notebook: str) -> str:
    cells = json.loads((DOCS / "notebooks" / f"{notebook}.ipynb").read_text())["cells"]
    return cells[0]["source"][0].removeprefix("# ").strip()
