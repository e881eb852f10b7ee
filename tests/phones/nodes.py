"""Peerline nodes as processes: each with its own data directory, on loopback or in a network namespace."""

import json
import os
import signal
import subprocess
import time
import urllib.request
from pathlib import Path


def binary():
    """The binary under test: $PEERLINE, else the debug build of this repository."""
    if "PEERLINE" in os.environ:
        return os.environ["PEERLINE"]
    root = Path(__file__).resolve().parents[2]
    found = subprocess.run(
        ["cargo", "metadata", "--no-deps", "--format-version", "1"], cwd=root, capture_output=True, text=True, check=True
    )
    return str(Path(json.loads(found.stdout)["target_directory"]) / "debug" / "peerline")


class Node:
    """One `peerline` process. `wrap` is put before the command (`nsenter --net=...`)."""

    def __init__(
        self, folder, role=None, bootstrap=(), overlay="phones", ip="127.0.0.1", wrap=(), extra=(), env=None,
        transports=("tcp", "quic"), mdns=False, wait=True,
    ):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.role, self.bootstrap, self.overlay, self.ip, self.wrap = role, list(bootstrap), overlay, ip, list(wrap)
        self.extra, self.env = list(extra), dict(os.environ, **(env or {}))
        self.transports, self.mdns = transports, mdns
        self.process = None
        self.start(wait)

    def arguments(self):
        """Where it lives and which overlay it joins: a file's or a private one made of a word."""
        chosen = "--overlay" if "/" in self.overlay else "--test-overlay"
        return ["--data-dir", str(self.folder / "data"), chosen, self.overlay]

    def start(self, wait=True):
        command = self.wrap + [binary()] + ([self.role] if self.role else []) + self.arguments()
        for transport in self.transports:
            command += ["--listen", f"/ip4/{self.ip}/" + {"tcp": "tcp/0", "quic": "udp/0/quic-v1"}[transport]]
        command += ["--no-passphrase"] + ([] if self.mdns else ["--no-mdns"])
        if self.role != "relay" and "--sip" not in self.extra:
            command += ["--sip", "127.0.0.1:0"]
        for address in self.bootstrap:
            command += ["--bootstrap", address]
        self.log = open(self.folder / "log", "ab")
        self.process = subprocess.Popen(
            command + self.extra, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=self.env
        )
        if wait:
            self.up()
        return self

    def up(self, seconds=30):
        """Waits for `run.json` of this very process and reads it."""
        path = self.folder / "data" / "run.json"
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                self.run = json.loads(path.read_text())
                if self.wrap or self.run["pid"] == self.process.pid:
                    return self.run
            except (OSError, ValueError):
                pass
            time.sleep(0.02)
        raise RuntimeError(f"{self.folder.name} did not start: {(self.folder / 'log').read_text(errors='replace')[-1500:]}")

    @property
    def listen(self):
        return self.run["listen"]

    @property
    def sip(self):
        return self.run["sip_udp"]

    @property
    def uri(self):
        return self.run["users"][0]["uri"]

    def command(self, *words, check=True):
        """Runs a subcommand against this node's data directory; returns its JSON."""
        done = subprocess.run(
            self.wrap + [binary(), *words, "--json"] + self.arguments(), capture_output=True, text=True, env=self.env
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"peerline {' '.join(words)}: {done.returncode}: {done.stderr[-500:]}")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def api(self, path="/v1/status"):
        token = (self.folder / "data" / "api.token").read_text().strip()
        url = f"http://{self.run['api']}{path}"
        if self.wrap:
            got = subprocess.run(
                self.wrap + ["curl", "-s", "-m", "5", "-H", f"Authorization: Bearer {token}", url], capture_output=True, check=True
            )
            return json.loads(got.stdout)
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.loads(answer.read())

    def account(self):
        """(user, password) of the first SIP account."""
        first = self.command("phone", "list")[0]
        return first["name"], first["password"]

    def until(self, what, seconds=20):
        """Waits until `what(status)` holds; returns the status."""
        deadline = time.monotonic() + seconds
        while True:
            status = self.api()
            if what(status):
                return status
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.folder.name}: status never as wanted: {json.dumps(status)[:1500]}")
            time.sleep(0.05)

    def registered(self, account="me", seconds=20):
        """Waits until a phone is registered for `account`."""
        return self.until(lambda s: s["sip"]["registered"].get(account), seconds)

    def published(self, copies=1, seconds=20):
        """Waits until the node's first user is found at `copies` other nodes."""
        return self.until(lambda s: any(u["copies"] >= copies for u in s["published"]["users"].values()), seconds)

    def idle(self, seconds=10):
        """Waits until no call, leg or port of a call is left."""
        return self.until(
            lambda s: s["calls"]["active"] == 0 and s["sip"]["legs"] == 0 and s["media"]["ports_in_use"] == 0, seconds
        )

    def pid(self):
        return self.run["pid"]

    def kill(self):
        """kill -9."""
        os.kill(self.pid(), signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process and self.process.poll() is None:
            try:
                os.kill(self.pid(), signal.SIGTERM)
                self.process.wait(8)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                self.process.kill()
                self.process.wait()
        self.log.close()


class Overlay:
    """A bootstrap node and `relays - 1` others, plus whatever desktops a test adds."""

    def __init__(self, folder, relays=8, overlay="phones", **more):
        self.folder, self.name, self.nodes, self.more = Path(folder), overlay, [], more
        first = self.add("relay0", role="relay")
        self.bootstrap = first.listen[:1]
        for n in range(1, relays):
            self.add(f"relay{n}", role="relay")

    def add(self, name, role=None, **more):
        node = Node(self.folder / name, role, getattr(self, "bootstrap", ()), self.name, **{**self.more, **more})
        self.nodes.append(node)
        return node

    def stop(self):
        for node in reversed(self.nodes):
            node.stop()
