"""Requests that no client should send: as bytes, or as the parts of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from tests.integration.gateways import CHAT, MESSAGES
from tests.unit.gateway.pictures import BAD_INLINE, TOO_LARGE, addresses, chat_body

HOST = "host: localhost"
JSON = "content-type: application/json"
LOAD = "/api/v1/inference/load"
SMUGGLED = b"POST " + CHAT.encode() + b" HTTP/1.1\r\nhost: localhost\r\n\r\n"


def request(line: str, *fields: str, body: bytes = b"") -> bytes:
    return "\r\n".join([line, *fields, "", ""]).encode("latin-1") + body


def post(*fields: str, body: bytes = b"[]", path: str = CHAT) -> bytes:
    return request(f"POST {path} HTTP/1.1", HOST, JSON, *fields, body=body)


def chunked(body: bytes, *fields: str) -> bytes:
    return post("transfer-encoding: chunked", *fields, body=body)


FRAMING: dict[str, bytes] = {
    "CL and TE": post(
        "content-length: 4", "transfer-encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED
    ),
    "TE and CL": post(
        "transfer-encoding: chunked", "content-length: 4", body=b"0\r\n\r\n" + SMUGGLED
    ),
    "two lengths": post("content-length: 2", "content-length: 3", body=b"{}" + SMUGGLED),
    "two equal lengths": post("content-length: 2", "content-length: 2"),
    "a list of lengths": post("content-length: 2, 3"),
    "negative length": post("content-length: -2"),
    "length with a sign": post("content-length: +2"),
    "hexadecimal length": post("content-length: 0x2"),
    "length of letters": post("content-length: two"),
    "length with a space": post("content-length: 1 2"),
    "empty length": post("content-length:"),
    "length over 64 bits": post("content-length: 99999999999999999999999"),
    "space before the colon": post("content-length : 2"),
    "tab before the colon": post("transfer-encoding\t: chunked", "content-length: 2"),
    "unknown coding": post("transfer-encoding: gzip", body=b"{}"),
    "chunked twice": post("transfer-encoding: chunked, chunked", body=b"0\r\n\r\n"),
    "chunked, then identity": post("transfer-encoding: chunked, identity", body=b"0\r\n\r\n"),
    "chunked misspelt": post("transfer-encoding: xchunked", body=b"0\r\n\r\n" + SMUGGLED),
    "chunked in quotes": post('transfer-encoding: "chunked"', body=b"0\r\n\r\n" + SMUGGLED),
    "chunked behind a tab": post("transfer-encoding:\tchunked\x0b", body=b"0\r\n\r\n" + SMUGGLED),
    "TE in HTTP/1.0": request(
        f"POST {CHAT} HTTP/1.0",
        HOST,
        JSON,
        "transfer-encoding: chunked",
        body=b"0\r\n\r\n" + SMUGGLED,
    ),
    "bare LF": post("content-length: 2").replace(b"\r\n", b"\n"),
    "bare LF in one header": post("x: 1\nx-api-key: y", "content-length: 2"),
    "bare CR": post("x: 1\rcontent-length: 2"),
    "CR CR LF": post("x: 1\r", "content-length: 2"),
    "obs-fold": post("x: 1", " content-length: 2"),
    "obs-fold by a tab": post("x: 1", "\ty", "content-length: 2"),
    "fold of the first header": request(f"POST {CHAT} HTTP/1.1", " host: localhost", JSON),
    "NUL in a value": post("x: a\0b", "content-length: 2"),
    "NUL in a name": post("x\0y: a", "content-length: 2"),
    "high bytes in a name": post("\xe9: a", "content-length: 2"),
    "empty name": post(": a", "content-length: 2"),
    "no colon": post("just words", "content-length: 2"),
    "chunk size of letters": chunked(b"zz\r\n[]\r\n0\r\n\r\n"),
    "negative chunk": chunked(b"-2\r\n[]\r\n0\r\n\r\n"),
    "chunk size over 64 bits": chunked(b"fffffffffffffffff\r\n[]\r\n0\r\n\r\n"),
    "chunk too short": chunked(b"1\r\n[]\r\n0\r\n\r\n" + SMUGGLED),
    "chunk with bare LF": chunked(b"2\n[]\n0\n\n" + SMUGGLED),
    "chunk size with 0x": chunked(b"0x2\r\n[]\r\n0\r\n\r\n"),
    "chunk size with a space": chunked(b"2 \r\n[]\r\n0\r\n\r\n"),
    "empty chunk size": chunked(b"\r\n[]\r\n0\r\n\r\n"),
    "chunk with an extension": chunked(b'2;a="\r\n\r\n"\r\n[]\r\n0\r\n\r\n'),
    "chunk with a long extension": chunked(b"2;" + b"a" * 50_000 + b"\r\n[]\r\n0\r\n\r\n"),
    "trailers that decide": chunked(
        b"2\r\n[]\r\n0\r\nhost: attacker.example\r\nx-api-key: x\r\n\r\n"
    ),
    "trailers that frame": chunked(b"2\r\n[]\r\n0\r\ncontent-length: 50\r\n\r\n"),
    "many trailers": chunked(b"2\r\n[]\r\n0\r\n" + b"x: 1\r\n" * 10_000 + b"\r\n"),
}

LINES: dict[str, bytes] = {
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/1.0 without a host": b"GET / HTTP/1.0\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.2": request("GET / HTTP/1.2", HOST),
    "HTTP/9.9": request("GET / HTTP/9.9", HOST),
    "no version": request("GET /", HOST),
    "lower-case version": request("GET / http/1.1", HOST),
    "lower-case method": request("get / HTTP/1.1", HOST),
    "unknown method": request("BREW / HTTP/1.1", HOST),
    "no target": request("GET  HTTP/1.1", HOST),
    "space in the target": request("GET /a b HTTP/1.1", HOST),
    "two spaces": request("GET  / HTTP/1.1", HOST),
    "tab for a space": request("GET\t/\tHTTP/1.1", HOST),
    "absolute form": request("GET http://attacker.example/status HTTP/1.1", HOST),
    "absolute form of ours": request("GET http://localhost/status HTTP/1.1", HOST),
    "authority form": request("CONNECT attacker.example:443 HTTP/1.1", HOST),
    "CONNECT to a path": request("CONNECT / HTTP/1.1", HOST),
    "asterisk form": request("OPTIONS * HTTP/1.1", HOST),
    "TRACE": request("TRACE / HTTP/1.1", HOST),
    "high bytes in the target": b"GET /\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "NUL in the target": b"GET /\0 HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "NUL in the target, encoded": request("GET /v1/models/%00 HTTP/1.1", HOST),
    "bad UTF-8 in the target, encoded": request("GET /v1/models/%ff%fe HTTP/1.1", HOST),
    "a surrogate in the target, encoded": request("GET /v1/models/%ed%a0%80 HTTP/1.1", HOST),
    "half an escape": request("GET /v1/models/%e HTTP/1.1", HOST),
    "dots": request("GET /../../etc/passwd HTTP/1.1", HOST),
    "dots, encoded": request("GET /logs/%2e%2e%2f%2e%2e%2fetc%2fpasswd HTTP/1.1", HOST),
    "two slashes": request("GET //status HTTP/1.1", HOST),
    "a long target": request("GET /" + "a" * 100_000 + " HTTP/1.1", HOST),
    "a long query": request("GET /status?" + "a=1&" * 20_000 + " HTTP/1.1", HOST),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200,
    "noise": bytes(range(256)) * 8,
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "Redis": b"*1\r\n$4\r\nPING\r\n",
    "a PROXY line": b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n" + request("GET / HTTP/1.1", HOST),
    "empty lines": b"\r\n" * 5000,
}

FIELDS: dict[str, bytes] = {
    "no host": request("GET /status HTTP/1.1"),
    "two hosts": request("GET /status HTTP/1.1", HOST, "host: attacker.example"),
    "two equal hosts": request("GET /status HTTP/1.1", HOST, HOST),
    "empty host": request("GET /status HTTP/1.1", "host:"),
    "a huge header": post("x: " + "a" * 1_000_000, "content-length: 2"),
    "a huge name": post("x" * 100_000 + ": a", "content-length: 2"),
    "10,000 headers": post(*["x: 1"] * 10_000, "content-length: 2"),
    "100,000 empty headers": post(*["x:"] * 100_000, "content-length: 2"),
    "101 headers": post(*["x: 1"] * 101, "content-length: 2"),
    "upgrade to WebSocket": request(
        "GET /status HTTP/1.1", HOST, "connection: upgrade", "upgrade: websocket"
    ),
    "upgrade with a body": post("connection: upgrade", "upgrade: x", "content-length: 2"),
    "upgrade to h2c": request(
        "GET / HTTP/1.1", HOST, "connection: upgrade, http2-settings", "upgrade: h2c"
    ),
    "unknown expectation": post("expect: 200-ok", "content-length: 2"),
    "a key of high bytes": request("GET /logs/echo HTTP/1.1", HOST, "x-api-key: \xff\xfe"),
    "a huge key": request("GET /logs/echo HTTP/1.1", HOST, "x-api-key: " + "k" * 30_000),
    "an origin that is none": request("GET / HTTP/1.1", HOST, "origin: \x7f"),
    "gzip": post("content-encoding: gzip", "content-length: 4", body=b"\x1f\x8b\x08\0"),
    "a multipart form": request(
        f"POST {CHAT} HTTP/1.1",
        HOST,
        "content-type: multipart/form-data; boundary=x",
        "content-length: 0",
    ),
    "two content types": post("content-type: text/plain", "content-length: 2"),
    "an endless media type": request(
        f"POST {CHAT} HTTP/1.1",
        HOST,
        "content-type: application/json" + ";" * 20_000,
        "content-length: 0",
    ),
    "a range": request("GET /openapi.json HTTP/1.1", HOST, "range: bytes=0-" + ",0-" * 5000),
    "a request id with a break": request("GET / HTTP/1.1", HOST, "x-request-id: a%0d%0ax: 1"),
}

BODIES: dict[str, bytes] = {
    "NaN": b'{"model": "echo", "temperature": NaN}',
    "infinity": b'{"model": "echo", "temperature": -Infinity}',
    "a number beyond floats": b'{"model": "echo", "temperature": 1e999}',
    "a lone surrogate": b'{"model": "\\ud800"}',
    "a lone surrogate as a key": b'{"\\udfff": 1}',
    "bad UTF-8": b'{"model": "\xff\xfe"}',
    "UTF-16": '{"model": "echo"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"model": "echo"}',
    "100,000 lists": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "100,000 objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "1,100 lists": b'{"messages": ' + b"[" * 1100 + b"]" * 1100 + b"}",
    "5,000 digits": b'{"max_tokens": ' + b"9" * 5000 + b"}",
    "5,000 digits behind the point": b'{"n": 0.' + b"1" * 5000 + b"}",
    "empty": b"",
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xabV*\xcf/\xcaI\x01\x00",
    "NUL": b"\0",
    "NUL at the end": b'{"model": "nobody"}\0',
    "two objects": b"{}{}",
    "a form": b"model=echo&messages=x",
    "a comment": b'{/* */"model": "nobody"}',
    "a trailing comma": b'{"model": "nobody",}',
    "single quotes": b"{'model': 'nobody'}",
    "true": b"true",
    "a long key": b'{"' + b"k" * 1_000_000 + b'": 1, "model": "nobody"}',
    "100,000 keys": b'{"model": "nobody"'
    + b"".join(b',"k%d":1' % n for n in range(100_000))
    + b"}",
    "two models": b'{"model": "echo", "model": "nobody"}',
    "33 MiB": b'{"model": "' + b"x" * 33 * 1024 * 1024 + b'"}',
    "a model of 1 MB": b'{"model": "' + b"m" * 1_000_000 + b'"}',
    "a model with a break": b'{"model": "a\\r\\nx: 1\\u0000"}',
}


def one_part(part: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [part]}]}


WRONG: dict[str, Any] = {
    "model is an object": {"model": {"echo": 1}},
    "stream is a number": {"stream": 1},
    "n is huge": {"n": 10**15},
    "n is no number": {"n": "many"},
    "too many stops": {"stop": ["x"] * 65},
    "too many messages": {"messages": [{}] * 2001},
    "too many prompts": {"prompt": ["x"] * 2001},
    "a template": {"chat_template": "{{ x }}"},
    "reserved arguments": {"chat_template_kwargs": {"tokenize": True}},
    "a source without its URL": one_part({"type": "image", "source": {"type": "url"}}),
    "the type of a part is a list": one_part({"type": ["image_url"], "image_url": {"url": "x"}}),
    "the type of a part is an object": one_part({"type": {}, "image_url": "ftp://x/"}),
    "33 images": chat_body(*["data:image/png;base64,AAAA"] * 33),
}


def json_post(body: bytes, path: str = CHAT, *fields: str) -> bytes:
    return post(*fields, f"content-length: {len(body)}", body=body, path=path)


def wrong_bodies(port: int) -> Iterator[tuple[str, bytes]]:
    """Yield bodies that are JSON and still wrong, those with pictures among them."""
    pictures = {**BAD_INLINE, **TOO_LARGE, **addresses(port)}
    named = {f"picture: {name}": chat_body(url) for name, url in pictures.items()}
    for name, fields in (WRONG | named).items():
        yield name, orjson.dumps({"model": "echo", "messages": MESSAGES} | fields)
