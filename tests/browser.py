"""A real Chromium without a window, driven through its DevTools protocol."""

import base64
import contextlib
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import websocket

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@contextlib.contextmanager
def chromium(folder):
    """A tab of a fresh browser; `folder` is where it keeps its things."""
    profile = Path(folder) / "chromium"
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--hide-scrollbars", "--remote-debugging-port=0", f"--user-data-dir={profile}",
        "about:blank",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with contextlib.closing(Tab(_address(profile / "DevToolsActivePort", process))) as tab:
            yield tab
    finally:
        process.terminate()
        process.wait(30)


class Tab:
    """One page: what it asks for, what goes wrong in it, and how it looks.

    Attributes:
        requests: addresses that were asked for since `open`.
        errors: exceptions, error messages on the console, and what the page's policy blocked.
    """

    def __init__(self, address: str):
        self.socket = websocket.create_connection(address, timeout=60, suppress_origin=True)
        self.number, self.requests, self.errors, self.loaded = 0, [], [], False
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def close(self):
        self.socket.close()

    def send(self, method: str, **parameters):
        """Call a method of the protocol; gives its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        self.socket.send(json.dumps(message))
        while True:
            answer = json.loads(self.socket.recv())
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self._note(answer)

    def open(self, url: str, *, width: int = 1280, height: int = 900, theme: str = "light"):
        """Show an address in a window of so many pixels, for a reader who likes `theme`."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": theme}]
        self.send("Emulation.setEmulatedMedia", features=features)
        self.requests.clear()
        self.errors.clear()
        self.loaded = False
        self.send("Page.navigate", url=url)
        while not self.loaded:
            self._note(json.loads(self.socket.recv()))

    def evaluate(self, script: str):
        """The value of an expression in the page; a promise is waited for."""
        done = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in done:
            raise RuntimeError(done["exceptionDetails"]["exception"].get("description"))
        return done["result"].get("value")

    def screenshot(self, path, *, whole: bool = False):
        """A PNG of the window, or of the whole page."""
        done = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(done["data"]))

    def _note(self, event: dict):
        method, parameters = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            url = parameters["request"]["url"]
            if not url.startswith("data:"):  # which asks nobody
                self.requests.append(url)
        elif method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.errors.append(details.get("exception", details).get("description", "uncaught"))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(parameters["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and parameters["type"] == "error":
            self.errors.append(str(parameters["args"]))


def _address(port_file: Path, process) -> str:
    """The socket of the first tab, when the browser is up."""
    for _ in range(300):
        if process.poll() is not None:
            raise RuntimeError(f"{CHROMIUM} ended with code {process.returncode}")
        if port_file.exists() and (lines := port_file.read_text().splitlines()):
            break
        time.sleep(0.1)
    with urllib.request.urlopen(f"http://127.0.0.1:{lines[0]}/json", timeout=30) as answer:
        tabs = json.load(answer)
    return next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
