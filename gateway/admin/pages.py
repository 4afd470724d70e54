"""The console's files on the admin listener. They hold no data: the page asks for a token and reads the API."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.admin import etags
from gateway.admin.exposition import takes_gzip
from gateway.console import files

PAGE_PREFIX = "/console/"


def is_page(path: str) -> bool:
    """Whether the path is one of the console's, which are served without a token."""
    return path == "/" or path.startswith(PAGE_PREFIX)


def page_routes() -> list[Route]:
    """The routes of the console."""
    return [Route("/", _serve, methods=["GET"]), Route(f"{PAGE_PREFIX}{{file:path}}", _serve, methods=["GET"])]


async def _serve(request: Request) -> Response:
    found = files.files().get(request.url.path)
    if found is None:
        raise HTTPException(404)
    headers = {**files.HEADERS, "etag": found.tag, "vary": "accept-encoding"}
    if not etags.unseen(request.headers, found.tag):
        return Response(status_code=304, headers=headers)
    if takes_gzip(", ".join(request.headers.getlist("accept-encoding"))):
        return Response(found.zipped, 200, {**headers, "content-encoding": "gzip"}, found.media_type)
    return Response(found.body, 200, headers, found.media_type)
