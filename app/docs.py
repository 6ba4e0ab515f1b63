"""The docs page: Swagger UI from our own files, nothing from another host."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

router = APIRouter(include_in_schema=False)

_ASSETS = StaticFiles(directory=Path(__file__).parent / "static" / "docs")

# Without a validatorUrl of null, a page that is not on loopback is reported to a validator on the
# internet. Requests have no time-out of their own: a DELETE may take as long as its `wait`.
_SCRIPT = """
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  validatorUrl: null,
});
"""

# Long words (URLs, curl commands) may not make the page wider than a phone.
_STYLE = """
body { margin: 0; }
.swagger-ui .wrapper { box-sizing: border-box; max-width: 1460px; }
.swagger-ui .opblock-body, .swagger-ui .model-box, .swagger-ui table.model { overflow-x: auto; }
.swagger-ui .info .title { overflow-wrap: anywhere; }
"""

# The addresses are relative, so that the page also works below a proxy's prefix.
_PAGE = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Quiesce: the HTTP interface</title>
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
<style>{_STYLE}</style>
</head>
<body>
<div id="swagger-ui"></div>
<noscript>This page needs JavaScript; the same is in <a href="openapi.json">openapi.json</a>.</noscript>
<script src="docs/swagger-ui-bundle.js"></script>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _hash_source(text: str) -> str:
    """The one inline text that the policy allows, by its hash."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_POLICY = "; ".join(
    (
        "default-src 'none'",
        f"script-src 'self' {_hash_source(_SCRIPT)}",
        f"style-src 'self' {_hash_source(_STYLE)}",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@router.get("/docs")
async def get_docs() -> Response:
    """The page that shows and tries out every call."""
    return HTMLResponse(_PAGE, headers=_HEADERS)


@router.get("/docs/{name}")
async def get_asset(request: Request, name: str) -> Response:
    """One of the page's files, with 304 for one that the browser has."""
    return await _ASSETS.get_response(name, request.scope)
