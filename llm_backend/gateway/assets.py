"""The static files of the console: read once, answered from memory, under a strict policy.

What models say is shown on that page. So it may load nothing from elsewhere, run nothing that is
not a file of this folder, and be framed by nobody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from starlette.responses import Response

from llm_backend.errors import NotFound

CONSOLE: Final = Path(__file__).with_name("console")
INDEX: Final = "index.html"

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)

_HEADERS: Final = MappingProxyType(
    {
        "cache-control": "no-cache",  # asked for anew each time; the tag spares the bytes
        "content-security-policy": POLICY,
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
)

_MEDIA_TYPES: Final = MappingProxyType(
    {
        ".css": "text/css",
        ".html": "text/html",
        ".js": "text/javascript",
        ".svg": "image/svg+xml",
    }
)


@dataclass(frozen=True, slots=True)
class Asset:
    """One file.

    Attributes:
        body: Its bytes.
        media_type: What they are.
        etag: Names these very bytes.
    """

    body: bytes
    media_type: str
    etag: str

    @classmethod
    def read(cls, path: Path) -> Asset:
        """Read a file."""
        body = path.read_bytes()
        tag = f'"{hashlib.sha256(body).hexdigest()[:24]}"'
        return cls(body, _MEDIA_TYPES[path.suffix], tag)


class Assets:
    """The files of one folder, by name.

    Args:
        files: Their paths; a suffix must be one of css, html, js, svg.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._assets: Mapping[str, Asset] = {path.name: Asset.read(path) for path in files}

    @classmethod
    def of_console(cls) -> Assets:
        """Read the console's files. Blocks."""
        return cls(path for path in CONSOLE.iterdir() if path.suffix in _MEDIA_TYPES)

    def answer(self, name: str, known: str | None) -> Response:
        """Return the answer that shows a file.

        Args:
            name: Of the file.
            known: What the client sent as `If-None-Match`.

        Raises:
            NotFound: there is no such file.
        """
        asset = self._assets.get(name)
        if asset is None:
            raise NotFound(f"The console has no file {name[:100]!r}.", hint="It is at /console.")
        headers = {**_HEADERS, "etag": asset.etag}
        if known is not None and _matches(known, asset.etag):
            return Response(status_code=304, headers=headers)
        return Response(asset.body, headers=headers, media_type=asset.media_type)


def _matches(known: str, etag: str) -> bool:
    tags = {tag.strip().removeprefix("W/") for tag in known.split(",")}
    return etag in tags or "*" in tags
