"""Makes Data Docs readable without a network: great_expectations' pages take their styles and scripts from eleven public hosts.

The pages stay as they are except that every external script, style and image is removed, a small style sheet is put in, and
the 4 MB of logos and fonts nothing refers to any more are deleted. What is left is a few dozen KB that works in an iframe.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

_EXTERNAL = re.compile(
    r"""<script\b[^>]*\bsrc\s*=\s*["'](?:https?:)?//[^>]*>.*?</script\s*>"""
    r"""|<link\b[^>]*\bhref\s*=\s*["'](?:https?:)?//[^>]*>"""
    r"""|<img\b[^>]*\bsrc\s*=\s*["'](?:https?:)?//[^>]*>""",
    re.IGNORECASE | re.DOTALL,
)

_STYLE = """<style>
:root{color-scheme:light dark}
body{font:14px/1.5 system-ui,sans-serif;margin:0 auto;max-width:1200px;padding:16px;background:Canvas;color:CanvasText}
table{border-collapse:collapse;width:100%;margin:8px 0}
td,th{border-bottom:1px solid GrayText;padding:6px 8px;text-align:left;vertical-align:top;overflow-wrap:anywhere}
nav ol,ol.breadcrumb{list-style:none;padding:0;display:flex;gap:12px;flex-wrap:wrap}
a{color:LinkText}
img,.btn,button,#gx-learn,.modal,.navbar-brand{display:none}
.collapse,.tab-pane,.tab-content>*{display:block!important;opacity:1!important}
.fa-check-circle::before{content:"\\2714\\00a0passed";font-style:normal;color:light-dark(#1a7f37,#4ac26b)}
.fa-times::before{content:"\\2716\\00a0failed";font-style:normal;font-weight:600;color:light-dark(#b42318,#ff8a80)}
footer,.footer{display:none}
.badge{border:1px solid GrayText;border-radius:8px;padding:0 6px}
</style>"""


def make_offline(docs: Path) -> None:
    """Rewrite every page of a Data Docs folder in place."""
    for page in docs.rglob("*.html"):
        text = _EXTERNAL.sub("", page.read_text(encoding="utf-8"))
        page.write_text(text.replace("</head>", _STYLE + "</head>", 1), encoding="utf-8")
    shutil.rmtree(docs / "static", ignore_errors=True)
