"""A server of published files on loopback that takes its time, and the command that downloads."""

import contextlib
import hashlib
import http.server
import threading
import time

import numpy as np

BODY = np.random.default_rng(0).bytes(3_000_001)
NAME = "resnet50-0676ba61.pth"

# Downloads a file of these bytes, as `convert` and `ResNet(weights=...)` do.
DOWNLOAD = (
    "import sys; from dataclasses import replace;"
    "from resnet_keras.console import exit_with_one_line; exit_with_one_line();"
    "from resnet_keras.published import download, find;"
    f"row = replace(find('torchvision/resnet50.IMAGENET1K_V1'), "
    f"sha256={hashlib.sha256(BODY).hexdigest()[:8]!r});"
    "print(download.fetch(row))"
)


class Handler(http.server.BaseHTTPRequestHandler):
    """Sends the file, or its end, in pieces."""

    def do_GET(self):
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if start >= len(BODY):
            return self.send_error(416)
        self.server.sent.append(len(BODY) - start)
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", "application/octet-stream")
        if self.server.tells_length:
            self.send_header("Content-Length", str(len(BODY) - start))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client was killed
            for at in range(start, len(BODY), 2**16):
                self.wfile.write(BODY[at : at + 2**16])
                time.sleep(0.002)

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def mirror(tells_length=True):
    """A server, and the environment of a process that downloads from it.

    `sent` of the server lists how many bytes each request was for.
    """
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.tells_length, server.sent = tells_length, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server, {"RESNET_KERAS_MIRROR": f"http://127.0.0.1:{server.server_port}/"}
    server.shutdown()
    server.server_close()
    thread.join()
