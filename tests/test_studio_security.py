"""Nobody but the studio's own page is answered, and nothing leaves its folders."""

from __future__ import annotations

import asyncio
import json
import select
import socket
from contextlib import suppress

import httpx
import pytest

from samtune.errors import UsageError
from samtune.studio.serve import listening_socket, opened
from tests.studio_server import TOKEN, Page, no_model, served, write_images


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("studio")
    write_images(root / "images")
    (root / "secret.txt").write_text("secret")
    with opened(root / "images", root / "studio", no_model, quiet=True) as studio, served(studio) as page:
        yield page


def port_of(page: Page) -> int:
    port = page.base_url.port
    assert port is not None
    return port


def is_error(answer: httpx.Response) -> bool:
    parts = answer.json()["error"]
    return set(parts) == {"expected", "found", "where", "do"} and bool(parts["expected"])


def raw(page: Page, text: str) -> str:
    """What comes back for bytes that no client library would send."""
    with socket.create_connection(("127.0.0.1", port_of(page)), timeout=20) as wire:
        wire.sendall(text.encode("latin-1"))
        return wire.recv(65_536).decode("latin-1")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "", "localhost.:{port}"]
)
@pytest.mark.parametrize("path", ["/", "/api/images/1/objects"])
def test_a_foreign_host_is_refused(page, host, path):
    answer = page.get(path, headers={"Host": host.format(port=port_of(page))})
    assert answer.status_code in (400, 403)


def test_both_loopback_names_are_answered(page):
    port = port_of(page)
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"LOCALHOST:{port}"):
        assert page.get("/api/images/1/objects", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://127.0.0.1:1",
        "https://127.0.0.1:{port}",
        "http://127.0.0.1:{port}.evil.example",
    ],
)
def test_a_foreign_origin_is_refused(page, origin):
    headers = {"Origin": origin.format(port=port_of(page))}
    answer = page.post("/api/classes", json={"name": "x"}, headers=headers)
    assert answer.status_code == 403 and is_error(answer)
    assert "x" not in json.dumps(page.get("/api/images/1/objects").json())
    own = {"Origin": f"http://127.0.0.1:{port_of(page)}"}
    assert page.post("/api/classes", json={"name": "own"}, headers=own).status_code == 200


def test_what_another_site_sends_is_refused_whoever_it_says_it_is(page):
    assert page.get("/api/images/1/objects", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN + "x", TOKEN[:-1], "\xe9"])
def test_without_the_token_nothing_is_said(page, token):
    headers = {} if token is None else {"X-Samtune-Token": token.encode("latin-1")}
    answer = httpx.get(f"{page.base_url}/api/images/1/objects", headers=headers, verify=False)
    assert answer.status_code == 401 and is_error(answer)
    assert (
        httpx.get(str(page.base_url), headers=headers, verify=False).status_code == 200
    )  # the page itself holds no data


def test_no_page_of_another_site_is_let_in(page):
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answers = [page.options("/api/classes", headers=asked), page.get("/"), page.get("/api/images/1/objects")]
    assert answers[0].status_code in (403, 405)
    for answer in answers:
        assert not [name for name in answer.headers if name.startswith("access-control")]
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_form_of_another_page_is_no_request(page, kind):
    answer = page.post("/api/classes", content=b'{"name": "x"}', headers={"Content-Type": kind})
    assert answer.status_code == 415 and is_error(answer)


@pytest.mark.parametrize(
    "path",
    ["/../secret.txt", "/%2e%2e/secret.txt", "/..%2fsecret.txt", "/static/../../secret.txt", "/....//secret.txt",
     "/%5c..%5csecret.txt", "//etc/passwd", "/api/../../secret.txt", "/api/images/..%2f..%2fsecret.txt/pixels",
     "/api/images/%2e%2e/objects", "/api/images/0/pixels", "/api/images/1e3/pixels", "/app.py", "/../app.py"],
)  # fmt: skip
def test_no_path_leads_out(page, path):
    head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port_of(page)}\r\nX-Samtune-Token: {TOKEN}\r\n"
    answer = raw(page, head + "Connection: close\r\n\r\n")
    assert answer.split()[1] in ("400", "404"), answer
    assert "secret\n" not in answer and "root:" not in answer and "import" not in answer


def test_two_gigabytes_are_refused_before_they_are_sent(page):
    head = f"POST /api/classes HTTP/1.1\r\nHost: 127.0.0.1:{port_of(page)}\r\nX-Samtune-Token: {TOKEN}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {2 << 30}\r\n\r\n"
    assert raw(page, head + '{"name": "').split()[1] == "413"


def test_who_is_refused_while_still_sending_reads_the_answer(page):
    """The body comes after the answer: closed before it, the connection would be reset."""
    head = f"POST /api/classes HTTP/1.1\r\nHost: 127.0.0.1:{port_of(page)}\r\nOrigin: null\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 13\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port_of(page)), timeout=20) as wire:
        for _ in range(2):  # the same connection serves the next request
            wire.sendall(head.encode())
            assert wire.recv(12) == b"HTTP/1.1 403"
            while select.select([wire], [], [], 0.2)[0]:
                assert wire.recv(65_536), "hung up"
            wire.sendall(b'{"name": "x"}')


def test_a_body_that_does_not_end_is_cut_off(page):
    def endless():
        yield b'{"name": "'
        for _ in range(40):
            yield b"x" * (1 << 20)

    answer = None
    with suppress(httpx.HTTPError):  # the server answers and hangs up while we still send
        answer = page.post("/api/classes", content=endless(), headers={"Content-Type": "application/json"})
    assert answer is None or answer.status_code == 413
    assert page.get("/api/images/1/objects").status_code == 200


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"name": 1}', b'{"name": "x", "more": 1}', b'{"name": ""}', b'{"name": "a\\u0000b"}',
     b'{"name": NaN}', b"[" * 100_000, b"\xff\xfe", b'{"name": "' + b"x" * 9000 + b'"}', b'{"name": "\\ud800"}'],
)  # fmt: skip
def test_malformed_json_is_named(page, body):
    answer = page.post("/api/classes", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and is_error(answer)


@pytest.mark.parametrize(
    "question",
    [{"box": [0, 0, 1e9, 5]}, {"box": [5, 5, 5, 9]}, {"points": [[1, 1]], "labels": []},
     {"points": [[1]], "labels": [1]}, {"points": [[1, 1]], "labels": [2]}, {}, {"box": ["a", 0, 1, 1]},
     {"points": [[1, 1]] * 2000, "labels": [1] * 2000}],
)  # fmt: skip
def test_questions_that_are_none_are_named(page, question):
    answer = page.post("/api/images/1/predict", json={"model": "base", **question})
    assert answer.status_code == 400 and is_error(answer)


def test_html_in_a_class_name_stays_text(page):
    name = "<img src=x onerror=alert(1)>"
    made = page.post("/api/classes", json={"name": name})
    assert made.json()["name"] == name
    assert made.headers["content-type"] == "application/json"


def test_a_taken_port_is_named():
    with listening_socket(0) as first, pytest.raises(UsageError, match="taken") as caught:
        listening_socket(first.getsockname()[1])
    assert caught.value.do and "--port" in str(caught.value)


def test_no_part_of_an_answer_waits_for_the_one_before():
    """Nagle's algorithm is off on connections that asyncio accepts from the studio's socket."""
    found: list[int] = []

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        found.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async def ask() -> None:
        with listening_socket(0) as listener:
            async with await asyncio.start_server(answer, sock=listener):
                reader, writer = await asyncio.open_connection(*listener.getsockname())
                await reader.read()
                writer.close()

    asyncio.run(ask())
    assert found and all(found)
