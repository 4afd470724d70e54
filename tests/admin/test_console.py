"""The console's files: what is served to whom, under which policy, and how large it is."""

from __future__ import annotations

import gzip
import re
from importlib import resources
from typing import Any

import httpx
import pytest

from gateway.console import files
from gateway.console.files import HEADERS

FIRST_PAINT_BYTES_MAX = 150_000
OWN = [path for path in files.files() if "/vendor/" not in path]


@pytest.mark.parametrize("path", sorted(files.files()))
def test_every_file_is_served_under_its_policy(standing: Any, path: str) -> None:
    answer = httpx.get(standing.url + path)
    assert answer.status_code == 200 and answer.content == files.files()[path].body
    assert answer.headers["content-type"] == files.files()[path].media_type
    assert {name: answer.headers[name] for name in HEADERS} == dict(HEADERS)
    assert answer.headers["x-content-type-options"] == "nosniff"
    again = httpx.get(standing.url + path, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_policy_allows_nothing_inline_nothing_evaluated_and_nothing_from_elsewhere() -> None:
    policy = dict(part.split(" ", 1) for part in HEADERS["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}


def test_the_page_needs_no_token_and_holds_none(guarded: Any) -> None:
    page = httpx.get(f"{guarded.url}/")
    assert page.status_code == 200 and "set-cookie" not in page.headers
    assert httpx.get(f"{guarded.url}/api/v1/routes").status_code == 401


@pytest.mark.parametrize("path", OWN)
def test_no_file_of_ours_makes_markup_of_text_or_keeps_anything(path: str) -> None:
    text = files.files()[path].body.decode()
    words = r"innerHTML|outerHTML|insertAdjacentHTML|dangerouslySet|document\.write|eval\(|new Function|localStorage"
    assert not re.findall(rf"{words}|sessionStorage|document\.cookie|indexedDB", text)
    assert not re.findall(r"""(?:src|href|import|from|fetch\(|url\()\s*=?\s*["'`(]?(?:https?:)?//""", text)
    if path == "/":
        assert not re.findall(r"<script(?![^>]*\ssrc=)|<style|\son\w+=|\sstyle=", text)


def test_every_module_that_is_imported_is_there() -> None:
    for path, file in files.files().items():
        if path.endswith((".js", ".html")) or path == "/":
            for name in re.findall(r"""["'](/console/[\w./-]+)["']""", file.body.decode()):
                assert name in files.files(), f"{path} names {name}"


def test_the_first_paint_is_small(standing: Any) -> None:
    """All files of the console, the chart library too, as a browser gets them."""
    with httpx.Client(base_url=standing.url, headers={"accept-encoding": "gzip"}) as client:
        answers = [client.get(path) for path in files.files()]
    sent = sum(int(answer.headers["content-length"]) for answer in answers)
    assert all(answer.headers["content-encoding"] == "gzip" for answer in answers)
    assert sent < FIRST_PAINT_BYTES_MAX, f"{sent} bytes"


@pytest.mark.parametrize(
    "path", ["/console/", "/console/nothing.js", "/console/../auth.py", "/console/%2e%2e/files.py", "/index.html"]
)
def test_nothing_else_is_served(standing: Any, path: str) -> None:
    assert httpx.get(standing.url + path).status_code == 404


@pytest.mark.parametrize("path", ["/", "/console/app.js", "/api/v1/routes"])
@pytest.mark.parametrize("fields", [{"host": "gateway.example"}, {"origin": "http://evil.example"}, {"origin": "null"}])
def test_without_a_token_other_hosts_and_origins_are_refused(standing: Any, path: str, fields: dict[str, str]) -> None:
    answer = httpx.get(standing.url + path, headers=fields)
    assert answer.status_code == 403 and answer.json()["type"].endswith(":cross-origin")


def test_a_link_from_another_page_leads_to_the_console(standing: Any) -> None:
    assert httpx.get(f"{standing.url}/", headers={"sec-fetch-site": "cross-site"}).status_code == 200
    own = {"origin": standing.url, "sec-fetch-site": "same-origin"}
    assert httpx.get(f"{standing.url}/api/v1/routes", headers=own).status_code == 200


@pytest.mark.parametrize("name", ["uplot", "preact", "htm"])
def test_each_library_comes_with_its_licence(name: str) -> None:
    licence = resources.files("gateway.console") / "vendor" / name / "LICENSE"
    assert re.search("MIT License|Apache License", licence.read_text("utf-8"))


def test_what_is_compressed_is_the_same() -> None:
    for file in files.files().values():
        assert gzip.decompress(file.zipped) == file.body
