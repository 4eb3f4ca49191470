"""The log for any client of C2SP tlog-tiles, over HTTP: checkpoint, tiles and entries (commitments). Never a body.

Only names that tlog-tiles knows are served, so nothing else of the folder can be reached.
"""

import asyncio
from pathlib import Path

from aiohttp import web

from secguard.core.errors import SecguardError
from secguard.ledger.layout import Layout
from secguard.ledger.note import parse_checkpoint
from secguard.ledger.publish import read_checkpoint
from secguard.ledger.tiles import BUNDLE, bundle_path, parse_path, tile_path

__all__ = ["mirror_app"]

_FOREVER = "public, max-age=31536000, immutable"
_BRIEFLY = "public, max-age=1"
_KIND = {"Content-Type": "application/octet-stream", "X-Content-Type-Options": "nosniff"}


def mirror_app(root: Path) -> web.Application:
    """The application: `GET /checkpoint`, `GET /tile/<L>/<N>[.p/<W>]`, `GET /tile/entries/<N>[.p/<W>]`.

    Args:
        root: the log's folder.
    """
    desk = _Desk(Layout(root))
    app = web.Application()
    app.add_routes([web.get("/checkpoint", desk.checkpoint), web.get("/tile/{rest:.+}", desk.tile)])
    return app


class _Desk:
    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    async def checkpoint(self, _: web.Request) -> web.StreamResponse:
        try:
            note = await asyncio.to_thread(read_checkpoint, self._layout)
        except SecguardError as error:
            raise web.HTTPServiceUnavailable from error
        if note is None:
            raise web.HTTPNotFound
        headers = {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": _BRIEFLY}
        return web.Response(body=note, headers=headers)

    async def tile(self, request: web.Request) -> web.StreamResponse:
        name = request.rel_url.raw_path.rpartition("/tile/")[2]
        place = parse_path(f"tile/{name}") if len(name) < 100 else None
        data = await asyncio.to_thread(self._read, *place) if place is not None else None
        if data is None:
            raise web.HTTPNotFound
        return web.Response(body=data, headers={**_KIND, "Cache-Control": _FOREVER})  # hashes do not compress

    def _read(self, level: int, number: int, width: int) -> bytes | None:
        """A tile or bundle that the last checkpoint covers; a partial one also from the full one it became."""
        note = read_checkpoint(self._layout)
        size = parse_checkpoint(note).size if note is not None else 0
        if number * BUNDLE + width > size >> 8 * max(level, 0):
            return None
        piece = 34 if level < 0 else 32
        for candidate in dict.fromkeys((width, BUNDLE)):
            path = bundle_path(number, candidate) if level < 0 else tile_path(level, number, candidate)
            try:
                data = (self._layout.public / path).read_bytes()
            except OSError:
                continue
            if len(data) == candidate * piece:
                return data[: width * piece]
        return None
