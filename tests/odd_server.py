"""Odd answers and odd servers: what a server of the OpenAI form may send instead of an answer, byte by byte, and a server.

`ANSWERS`: name -> (what is sent, what has to become of it): "answered", "no text" (the server answered, and there is nothing to
use), or "failed". `SERVERS`: name -> what the server does with every request.
"""

import json
import threading
import time
import zlib
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-test-0123456789abcdef"
LATE = 20.0  # seconds; more than any test waits


def body(text="sat", **changes):
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 100, "completion_tokens": 3, "total_tokens": 103}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage} | changes


def message(**changes):
    return body(choices=[{"index": 0, "finish_reason": "stop", "message": {"role": "assistant"} | changes}])


def http(data, status=200, kind="application/json", **headers):
    """The bytes of a whole response."""
    data = data if isinstance(data, bytes) else (data if isinstance(data, str) else json.dumps(data)).encode()
    named = {"content-type": kind, "content-length": len(data), "connection": "close"} | headers
    lines = [f"HTTP/1.1 {status} X", *(f"{name.replace('_', '-')}: {value}" for name, value in named.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + data


ANSWERS = {
    "broken JSON": (http('{"id": "x", "choices": [{"mess'), "failed"),
    "HTML with status 200": (http("<html>Sign in</html>", kind="text/html"), "failed"),
    "an empty body": (http(""), "failed"),
    "no content": (http("", 204), "failed"),
    "JSON null": (http("null"), "failed"),
    "a JSON list": (http([body()]), "failed"),
    "a JSON text": (http('"sat"'), "failed"),
    "JSON without end in depth": (http("[" * 100_000), "failed"),
    "bytes that are no UTF-8": (http(b'{"choices": "\xff\xfe\xfa"}'), "failed"),
    "an error with status 200": (http({"error": {"message": "overloaded", "code": 529}}), "failed"),
    "no choices": (http(body(choices=[])), "failed"),
    "choices null": (http(body(choices=None)), "failed"),
    "choices a text": (http(body(choices="none")), "failed"),
    "a choice that is null": (http(body(choices=[None])), "no text"),
    "a choice without message": (http(body(choices=[{"index": 0, "text": "sat"}])), "no text"),
    "message null": (http(body(choices=[{"message": None}])), "no text"),
    "content null": (http(message(content=None, refusal="I can't")), "no text"),
    "content missing": (http(message(tool_calls=[])), "no text"),
    "content a list of parts": (http(message(content=[{"type": "text", "text": "sat"}])), "no text"),
    "content a number": (http(message(content=1)), "no text"),
    "content of spaces": (http(body(" \n\u3000")), "no text"),
    "a lone surrogate": (http(body("sat \ud800")), "no text"),
    "cut by a filter": (http(body(choices=[{"finish_reason": "content_filter", "message": {"content": "sa"}}])), "no text"),
    "another model": (http(body(model="cheap-model")), "failed"),
    "a smaller model of the name": (http(body(model="m-mini")), "failed"),
    "a model that is a list": (http(body(model=["m"])), "failed"),
    "a dated version of the model": (http(body(model="models/M-2025-08-07")), "answered"),
    "usage of nulls": (http(body(usage={"prompt_tokens": None, "completion_tokens": None})), "answered"),
    "usage a text": (http(body(usage="103")), "answered"),
    "usage without end": (http(body(usage={"prompt_tokens": 10**400, "completion_tokens": 1})), "answered"),
    "usage NaN": (http(body(usage={"prompt_tokens": float("nan"), "completion_tokens": 1})), "answered"),
    "status 400": (http({"error": {"message": "filtered"}}, 400), "failed"),
    "a question that a filter refuses": (http({"error": {"message": "x" * 900, "code": "content_filter"}}, 400), "no text"),
    "status 500 with HTML": (http("<h1>Oops</h1>", 500, "text/html"), "failed"),
    "status 429 for an hour": (http("", 429, retry_after="3600"), "failed"),
    "cut in the middle": (http(body())[:-20], "failed"),
    "packed unasked": (http(zlib.compress(json.dumps(body()).encode()), content_encoding="deflate"), "failed"),
    "the key in the answer": (http(body(f"sat {KEY}")), "answered"),
    "escape codes": (http("\x1b]0;owned\x07\x1b[31m", 503, "text/plain"), "failed"),
}  # fmt: skip


def _often(handler, first, part, pause):
    handler.wfile.write(first)
    for _ in range(int(LATE / max(pause, 0.001))):
        handler.wfile.write(part)
        if pause:
            time.sleep(pause)


@cache
def bomb():
    """A hundred MiB in a tenth of one."""
    packed = zlib.compressobj(1, zlib.DEFLATED, 31)
    return b"".join(packed.compress(bytes(2**20)) for _ in range(100)) + packed.flush()


def _redirect(status):
    return lambda handler: handler.wfile.write(http("", status, location=f"http://127.0.0.1:{handler.server.other}/v1/x"))


ENDLESS = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"  # until the connection ends
SERVERS = {
    "drips its answer": lambda handler: _often(handler, http(body(), content_length=5000)[:-20], b" ", 0.1),
    "drips its headers": lambda handler: _often(handler, b"HTTP/1.1 200 OK\r\n", b"x: y\r\n", 0.1),
    "says that it goes on": lambda handler: _often(handler, b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.1),
    "never answers": lambda handler: time.sleep(LATE),
    "never ends": lambda handler: _often(handler, ENDLESS, b" " * 65536, 0),
    "hangs up": lambda handler: None,
    "speaks another language": lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "sends a bomb": lambda handler: handler.wfile.write(http(bomb(), content_encoding="gzip")),
    "sends elsewhere (307)": _redirect(307),
    "sends elsewhere (302)": _redirect(302),
    "repeats the key": lambda handler: handler.wfile.write(http({"error": handler.headers["authorization"]}, 401)),
    "is always busy": lambda handler: handler.wfile.write(http("", 429, retry_after_ms="1")),
}  # fmt: skip


class OddServer(ThreadingHTTPServer):
    """`act(handler, text)`: what it does with the question `text`. `served`: the questions so far. `other`: the port to send to."""

    daemon_threads, block_on_close = True, False

    def __init__(self, act):
        super().__init__(("127.0.0.1", 0), Handler)
        self.act, self.served, self.other = act, [], 0

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        pass  # those who ask hang up


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_POST(self):
        self.close_connection = True
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))["messages"][-1]["content"]
        self.server.served.append(asked)
        self.server.act(self, asked)

    do_GET = do_POST
