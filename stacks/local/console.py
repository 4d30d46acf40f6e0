"""A small status page: `python -m stacks.local.console DIRECTORY PORT`. `GET /` for people, `GET /status` for programs.

Loopback only, and nothing secret in it: what it shows is the state file's processes and the accelerator's status.
`GET /log/…` gives the files of the local measurement log, as a bucket would.
"""

from __future__ import annotations

import asyncio
import html
import signal
import sys
from pathlib import Path
from typing import Any

from aiohttp import web

from dataplane.protocol.transparency.checkpoint import CHECKPOINT_PATH
from dataplane.protocol.transparency.errors import TransparencyError
from dataplane.protocol.transparency.tiles import Tile
from stacks.local.files import read_json
from stacks.local.layout import Layout
from stacks.local.readiness import ask
from stacks.local.status import read_status, summarize

LOOPBACK = "127.0.0.1"
ROOT = web.AppKey("root", Path)
REFRESH_S = 2


async def _status(request: web.Request) -> web.Response:
    return web.json_response(await _collect(request.app[ROOT]))


async def _page(request: web.Request) -> web.Response:
    status = await _collect(request.app[ROOT])
    rows = "".join(
        f"<tr><td>{_text(p['region'])}<td>{_text(p['host'])}<td>{_text(p['role'])}<td>{p['pid']}"
        f"<td>{_text(p['state'])} {_text(p['how'])}</tr>"
        for p in status["processes"]
    )
    groups = "".join(
        f"<tr><td>{_text(group['region'])}<td>{group['dial']:g} %<td>{endpoint['weight']}"
        f"<td>{_text(endpoint['health'])}<td>{endpoint['opened']}<td>{endpoint['active']}</tr>"
        for group in (status["accelerator"] or {"groups": []})["groups"]
        for endpoint in group["endpoints"]
    )
    body = (
        f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="{REFRESH_S}"><title>MRGC</title>'
        "<style>body{font:14px sans-serif;margin:2em}td,th{padding:.2em 1em .2em 0;text-align:left}</style>"
        f"<h1>Local cluster</h1><p>{_text(status['summary'])}</p><h2>Accelerator</h2><table><tr><th>region<th>dial"
        f"<th>weight<th>health<th>opened<th>active</tr>{groups}</table><h2>Processes</h2><table><tr><th>region"
        f"<th>host<th>process<th>pid<th>state</tr>{rows}</table>"
    )
    return web.Response(text=body, content_type="text/html")


async def _log(request: web.Request) -> web.StreamResponse:
    path = request.match_info["path"]
    try:
        found = path if path == CHECKPOINT_PATH else Tile.parse(path).path
    except TransparencyError:
        raise web.HTTPNotFound from None
    file = Layout(request.app[ROOT], request.app[ROOT]).log / found
    if not await asyncio.to_thread(file.is_file):
        raise web.HTTPNotFound
    return web.Response(body=await asyncio.to_thread(file.read_bytes), content_type="application/octet-stream")


async def _collect(root: Path) -> dict[str, Any]:
    found = await asyncio.to_thread(read_status, root)
    status = found.as_json() if found else {"running": False, "processes": []}
    cluster = await asyncio.to_thread(read_json, Layout(root, root).cluster_file)
    answer = await ask(f"{cluster['accelerator_admin']}/status") if cluster else None
    return status | {
        "summary": summarize(found) if found else "No cluster is running.",
        "accelerator": answer[1] if answer else None,
    }


def _text(value: object) -> str:
    return html.escape(str(value) or "-")


async def _main(root: Path, port: int) -> None:
    app = web.Application()
    app[ROOT] = root
    app.router.add_get("/", _page)
    app.router.add_get("/status", _status)
    app.router.add_get("/log/{path:.+}", _log)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await runner.setup()
        await web.TCPSite(runner, LOOPBACK, port).start()
        await stop.wait()
    finally:
        await runner.cleanup()


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM; returns the exit code."""
    try:
        asyncio.run(_main(Path(arguments[0]), int(arguments[1])))
    except OSError as error:
        sys.stderr.write(f"console: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
