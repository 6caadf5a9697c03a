"""An OpenAI-compatible server on a free port of this machine that answers by a rule, fails as it is told, and counts."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from drift.engine.endpoint import Endpoint

TOKENS = 1_000_000  # that every request takes: a dollar at the price of `endpoint`
USAGE = {"prompt_tokens": TOKENS, "completion_tokens": 0, "total_tokens": TOKENS}


class Server(ThreadingHTTPServer):
    """`says`: text of the next turn -> the answer's text (or None); `usage`: what it says that a request took; `choices`: sent
    instead of the answer; `answers`: request -> the answer's text, instead of `says`; `status`: of its answers.
    `bodies`: the requests so far."""

    def __init__(self, *, fail_first=0, refuse=False, slow=0.0, says=None, usage=USAGE, choices=None, answers=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.fail_first, self.refuse, self.slow, self.usage, self.choices = fail_first, refuse, slow, usage, choices
        self.answers, self.bodies, self.status = answers, [], 200
        self.says = says or (lambda said: "dsat style 0.9" if "stiff" in said else "I can't say")
        self.served, self.busy, self.most, self.lock = 0, 0, 0, threading.Lock()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        pass  # those who ask are killed


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_POST(self):
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["content-length"])))
        with server.lock:
            server.served += 1
            server.busy += 1
            server.most = max(server.most, server.busy)
            number = server.served
            server.bodies.append(body)
        time.sleep(server.slow)
        with server.lock:
            server.busy -= 1
        if server.refuse or number <= server.fail_first:
            status = 401 if server.refuse else (429, 500, 503)[number % 3]
            answer = {"error": {"message": "no such key"} if server.refuse else {}}
        else:
            if server.answers:
                text = server.answers(body)
            else:
                text = server.says(body["messages"][0]["content"].split("<next_turn>")[1].split("</next_turn>")[0].strip())
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            answer = {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": server.choices or [choice],
            }
            status, answer = server.status, answer | {"usage": server.usage}
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(data)


def endpoint(server, folder, **settings):
    plain = {
        "url": f"http://127.0.0.1:{server.server_port}/v1", "key_variable": None, "model": "m", "answers_as": None,
        "concurrency": 3, "timeout_seconds": 5.0, "retries": 5, "fields": {}, "dollars_per_million_input": 1.0,
        "dollars_per_million_output": 0.0, "max_dollars": 100.0, "cache_dir": str(folder),
    }  # fmt: skip
    return Endpoint(**plain | settings)
