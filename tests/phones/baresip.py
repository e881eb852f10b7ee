"""A real baresip, headless: one process, one SIP account, steered over its ctrl_tcp module."""

import json
import os
import queue
import socket
import subprocess
import threading
import time
from pathlib import Path

MODULES = ["ausine", "aubridge", "sndfile", "g711", "uuid", "account", "menu", "ctrl_tcp"]


def free_port(kind=socket.SOCK_STREAM):
    """A port that the OS says is free now."""
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Baresip:
    """Registers `user` at `server` and plays a sine of `tone` hertz; records what it hears under `folder`."""

    def __init__(self, folder, user, password, server, tone, transport="udp", answer="manual"):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.user, self.server, self.tone = user, server, tone
        self.ctrl_port = free_port()
        self.events = queue.Queue()
        self.seen = []
        config = [
            "sip_listen 127.0.0.1:0",
            "call_local_timeout 120",
            "call_max_calls 4",
            "audio_player aubridge,unused",
            f"audio_source ausine,{tone}",
            "audio_alert aubridge,unused",
            "ausrc_srate 48000",
            "auplay_srate 48000",
            "ausrc_channels 2",
            "auplay_channels 2",
            "rtp_timeout 0",
            f"ctrl_tcp_listen 127.0.0.1:{self.ctrl_port}",
            f"snd_path {self.folder}",
            "module_path /usr/lib/baresip/modules",
        ]
        for module in MODULES:
            config.append(("module_app " if module in ("account", "menu", "ctrl_tcp") else "module ") + module + ".so")
        (self.folder / "config").write_text("\n".join(config) + "\n")
        (self.folder / "accounts").write_text(
            f"<sip:{user}@{server};transport={transport}>;auth_pass={password};answermode={answer};"
            f'regint=300;audio_codecs=PCMU,PCMA;outbound="sip:{server};transport={transport}"\n'
        )
        (self.folder / "contacts").write_text("\n")
        self.log = open(self.folder / "log", "wb")
        self.process = self._launch(
            ["baresip", "-f", str(self.folder), "-v"],
            stdin=subprocess.PIPE, stdout=self.log, stderr=subprocess.STDOUT, cwd=self.folder,
        )
        self.control = self._connect()
        threading.Thread(target=self._read, daemon=True).start()

    def _launch(self, command, **more):
        return subprocess.Popen(command, **more)

    def _connect(self):
        deadline = time.monotonic() + 15
        while True:
            try:
                return socket.create_connection(("127.0.0.1", self.ctrl_port), timeout=2)
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise RuntimeError(f"baresip did not start: {(self.folder / 'log').read_text(errors='replace')[-800:]}")
                time.sleep(0.05)

    def _read(self):
        self.control.settimeout(None)
        buffer = b""
        while True:
            try:
                more = self.control.recv(65536)
            except OSError:
                return
            if not more:
                return
            buffer += more
            while b":" in buffer:
                size, rest = buffer.split(b":", 1)
                if not size.isdigit() or len(rest) < int(size) + 1:
                    break
                message = json.loads(rest[: int(size)].decode("utf-8", "replace"))
                buffer = rest[int(size) + 1 :]
                if message.get("event"):
                    self.events.put(message)

    def command(self, command, params=None):
        """Sends one command; its answer comes as a log line that nobody needs."""
        body = json.dumps({"command": command, "params": params or "", "token": "t"}).encode()
        self.control.sendall(b"%d:%s," % (len(body), body))

    def wait(self, kind, seconds=15):
        """Waits for an event of `kind` (a name or several); returns it. Events before it are kept in `seen`."""
        kinds = (kind,) if isinstance(kind, str) else kind
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{self.user}: no {kinds} within {seconds} s; saw {[e['type'] for e in self.seen]}")
            try:
                event = self.events.get(timeout=left)
            except queue.Empty:
                continue
            self.seen.append(event)
            if event["type"] in kinds:
                return event

    def drain(self):
        """Forgets the events so far."""
        while not self.events.empty():
            self.seen.append(self.events.get())

    def dial(self, who):
        self.command("dial", who)

    def accept(self):
        self.command("accept")

    def hang_up(self):
        """Ends the call; refuses with 486 while it rings."""
        self.command("hangup")

    def recordings(self):
        """The WAV files of what this phone decoded in its last call, newest last."""
        return sorted(self.folder.glob("dump-*-dec.wav"), key=os.path.getmtime)[-1:]

    def stop(self):
        try:
            self.command("quit")
            self.process.wait(5)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        self.control.close()
        self.log.close()
