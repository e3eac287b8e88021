"""Makes the README of package indexes, whose links must be absolute, while a package is built.

A provider of dynamic metadata. The address is the Source of project.urls in pyproject.toml. Links
lead to the tag of the version, where every file stays as it was at the release.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Code comes first, so that no text inside it counts as a link.
PIECE = re.compile(r"^```.*?^```$|`[^`\n]*`|(!?)(\[[^\]]*\])\((?![a-z]+:)([^)\s]+)\)", re.M | re.S)


def dynamic_metadata(settings: Mapping[str, Any], project: Mapping[str, Any]) -> dict[str, Any]:
    """The field readme; scikit-build-core calls this after it has read the version."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = with_absolute_links(text, project["urls"]["Source"], f"v{project['version']}")
    return {"readme": {"text": text, "content-type": "text/markdown"}}


def with_absolute_links(text: str, source: str, tag: str) -> str:
    """A page of the top folder with links and pictures that lead to the repository."""

    def absolute(piece: re.Match[str]) -> str:
        image, words, target = piece.groups()
        if target is None:
            return piece[0]  # code
        kind = "raw" if image else "blob"
        path = f"README.md{target}" if target.startswith("#") else target
        return f"{image}{words}({source}/{kind}/{tag}/{path})"

    return PIECE.sub(absolute, text)
