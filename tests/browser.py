"""A headless Chromium, driven over the pipe that it listens on: no driver program, no socket."""

import json
import os
import shutil
import subprocess
import sys
import time
from base64 import b64decode
from pathlib import Path
from typing import Any

from command_line import SECONDS

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--window-size=1600,1400", "--remote-debugging-pipe"),
]
ON_3_AND_4 = """
import os, sys
for given, spare in zip(sys.argv[1:3], (100, 101)):
    os.dup2(int(given), spare)
os.dup2(100, 3), os.dup2(101, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One page of a browser; a context manager.

    Chromium reads JSON, each message ended by a zero byte, from file descriptor 3 and answers on 4.
    """

    def __init__(self, folder: Path) -> None:
        assert CHROMIUM
        self.folder = folder
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        self._log = folder / "chromium.log"
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", ON_3_AND_4, str(theirs_in), str(theirs_out), *command],
                pass_fds=(theirs_in, theirs_out),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        os.close(theirs_in)
        os.close(theirs_out)
        self._received, self._count, self._session = b"", 0, {}

    def __enter__(self) -> "Browser":
        try:
            target = self._call("Target.createTarget", url="about:blank")["targetId"]
            attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        except BaseException:
            self.__exit__()
            raise
        self._session = {"sessionId": attached["sessionId"]}
        return self

    def __exit__(self, *_: Any) -> None:
        os.killpg(self._process.pid, 9)
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": params} | self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:  # events are answered by nobody
            text, zero, self._received = self._received.partition(b"\0")
            if not zero:
                chunk = os.read(self._in, 1 << 20)
                assert chunk, (
                    f"chromium ended: {(self.folder / 'chromium.log').read_text()[-2000:]}"
                )
                self._received = text + chunk
                continue
            answer = json.loads(text)
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]

    def resize(self, width: int, height: int) -> None:
        """The window's size in CSS pixels, such as a phone's."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **size)

    def open(self, url: str) -> None:
        """Go to a page; what it shows comes later."""
        self._call("Page.navigate", url=url)

    def ask(self, script: str) -> Any:
        """The value of a JavaScript expression on the page."""
        answer = self._call("Runtime.evaluate", expression=script, returnByValue=True)
        return answer["result"].get("value")

    def wait_for(self, *texts: str) -> str:
        """Wait until the page shows every one of these texts, and return all that it shows."""
        deadline = time.monotonic() + SECONDS
        while True:
            shown = self.ask("document.body ? document.body.innerText : ''") or ""
            missing = [text for text in texts if text not in shown]
            if not missing:
                return shown
            if time.monotonic() > deadline:
                self.screenshot("missing")
                raise AssertionError(f"{missing} not on the page, which shows:\n{shown[:3000]}")
            time.sleep(0.2)

    def screenshot(self, name: str) -> Path:
        """What a person would see, for a person to look at."""
        path = self.folder / f"{name}.png"
        path.write_bytes(b64decode(self._call("Page.captureScreenshot")["data"]))
        return path
