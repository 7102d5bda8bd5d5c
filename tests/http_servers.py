"""HTTP servers on the loopback address that answer as a test tells them, faults included."""

import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import h5py
import numpy as np


class Handler(BaseHTTPRequestHandler):
    """Answers each request by the next entry of the server's script, the last one for ever."""

    def do_GET(self):
        self.server.requests.append((self.path, dict(self.headers)))
        script = self.server.script
        answer = script.pop(0) if len(script) > 1 else script[0]
        answer(self)
        self.close_connection = True

    def log_message(self, *arguments):
        pass


class Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        pass  # the client may go away; that is what some tests are about


@contextmanager
def running_server(*script):
    """A server that answers by this script; `requests` lists the paths and headers it got."""
    server = Server(("127.0.0.1", 0), Handler)
    server.requests, server.script = [], list(script)
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def make_content(path, seed, width=11, rows=100, shuffled_next=False):
    """The bytes of a small dataset of a task with 3 actions."""
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        file["observations"] = rng.standard_normal((rows, width)).astype(np.float32)
        file["actions"] = rng.uniform(-1, 1, (rows, 3)).astype(np.float32)
        file["rewards"] = rng.standard_normal(rows).astype(np.float32)
        file["terminals"] = np.zeros(rows, bool)
        file["timeouts"] = np.arange(rows) % 50 == 49
        if shuffled_next:
            file["next_observations"] = rng.standard_normal((rows, width)).astype(np.float32)
    return path.read_bytes()


def serve(body, etag='"1"', ranges=True, stop_after=None, check_if_range=True, piece=None):
    """Answer as a good server does, or stop after some bytes of the body."""

    def answer(handler):
        start = 0
        asked = handler.headers["Range"]
        same = not check_if_range or handler.headers["If-Range"] in (None, etag)
        if asked and ranges and same:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if etag:
            handler.send_header("ETag", etag)
        handler.send_header("Content-Length", str(len(body) - start))
        handler.end_headers()
        rest = body[start:][:stop_after]
        for first in range(0, len(rest), piece or len(rest)):
            handler.wfile.write(rest[first : first + (piece or len(rest))])
            time.sleep(0.02 if piece else 0)

    return answer


def send(status, body, **headers):
    """Answer with these headers and this body, whatever was asked."""

    def answer(handler):
        handler.send_response(status)
        for key, value in headers.items():
            handler.send_header(key.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def then_wait(answer, seconds):
    """Answer, then keep the connection open in silence."""

    def answer_and_wait(handler):
        answer(handler)
        handler.wfile.flush()
        time.sleep(seconds)

    return answer_and_wait
