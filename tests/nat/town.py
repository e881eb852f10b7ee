"""A town of real nodes: public relays, and homes with a desktop node in each, with headless phones on them."""

import json
import os
import subprocess
import threading
import time
from pathlib import Path

import flows
import spaces
from internet import Internet
from nodes import Node, binary
from tones import heard

LEFT_HZ, RIGHT_HZ = 440, 620
# 20 ms each; a call is "on" a path that carried this share of its packets.
PACKETS_A_SECOND, MOST_OF = 50, 0.6
OVERLAY = 'name = "lab.alt"\naddress_scope = "global"\nnonce = "%032x"\n'
RELAY_PORT = 443


class Desktop:
    """A desktop node on a host."""

    def __init__(self, town, name, host):
        self.town, self.name, self.host = town, name, host
        with host.inside():
            self.node = Node(
                town.folder / name, None, town.bootstrap, str(town.overlay), transports=(), mdns=True, wait=False,
                extra=["--log", os.environ.get("NAT_LOG", "error,peerline=debug")],
            )
        self.answering = None

    def up(self):
        with self.host.inside():
            self.node.up(60)

    def status(self):
        with self.host.inside():
            return self.node.api()

    def until(self, what, seconds):
        with self.host.inside():
            return self.node.until(what, seconds)

    def addresses(self):
        """What the Internet sees of it."""
        home = self.host.home
        if home is None:
            return set()
        ours = {home.access.ip4 if home.router is None else home.public} if self.host.ip4 else set()
        return ours | ({self.host.ip6} if self.host.ip6 else set())

    def answer(self, *more):
        """Answers every call from now on with a tone, and records."""
        folder = self.node.folder
        self.heard_file, self.answers = folder / "heard.wav", folder / "answers"
        command = [binary(), "answer", "--json", "--tone", str(RIGHT_HZ), "--record", str(self.heard_file), *more]
        with self.host.inside(), open(self.answers, "ab") as log:
            self.answering = subprocess.Popen(command + self.node.arguments(), stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def ready(self, seconds=30):
        """Waits until its phone is registered and it is in touch; whether its record was placed with others."""
        with self.host.inside():
            self.node.registered(seconds=seconds)
            try:
                self.node.published(seconds=seconds)
                return True
            except TimeoutError:
                return False

    def in_touch(self, seconds=30):
        """Waits until it knows another node; whether it does."""
        try:
            return bool(self.until(lambda s: s["overlay"]["peers"] >= 1, seconds))
        except TimeoutError:
            return False

    def reports(self):
        return [r for r in map(_json, self.answers.read_text().splitlines()) if r.get("who")]

    def call(self, uri, seconds, record):
        """Starts a call with a tone of so many seconds; the process."""
        command = [binary(), "call", uri, "--json", "--tone", str(LEFT_HZ), "--duration", f"{seconds}s", "--record", str(record)]
        with self.host.inside():
            return subprocess.Popen(
                command + self.node.arguments(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )


class Town:
    """`with Town(...) as town:` - relays that are up, and what a scene adds."""

    def __init__(self, relays=4, delay_ms=30, keep=False, relay_extra=()):
        self.internet = Internet(delay_ms, keep)
        self.count, self.relay_extra = relays, list(relay_extra)

    def __enter__(self):
        self.internet.__enter__()
        try:
            self.folder = self.internet.folder
            spaces.nft(self.internet.core, flows.TABLE)
            self.overlay = self.folder / "overlay.toml"
            self.overlay.write_text(OVERLAY % time.time_ns())
            self.bootstrap, self.relays, self.relay_hosts = [], [], []
            for n in range(self.count):
                self.relay(f"relay{n}")
        except BaseException:
            self.internet.__exit__()
            raise
        return self

    def __exit__(self, *error):
        self.internet.__exit__(*error)

    def relay(self, name):
        host = self.internet.public(name)
        addresses = [
            f"/{family}/{address}/{transport}"
            for family, address in (("ip4", host.ip4), ("ip6", host.ip6))
            for transport in (f"udp/{RELAY_PORT}/quic-v1", f"tcp/{RELAY_PORT}")
        ]
        extra = [word for address in addresses for word in ("--listen", address, "--external", address)]
        with host.inside():
            node = Node(
                self.folder / name, "relay", self.bootstrap, str(self.overlay), transports=(),
                extra=extra + self.relay_extra + ["--log", os.environ.get("NAT_LOG", "error,peerline=debug")],
            )
        self.relays.append(node)
        self.relay_hosts.append(host)
        self.bootstrap += [f"{address}/p2p/{node.run['peer_id']}" for address in addresses]
        return node

    def relay_names(self):
        return {ip: f"r{n}" for n, host in enumerate(self.relay_hosts) for ip in (host.ip4, host.ip6)}

    def desktop(self, name, host):
        return Desktop(self, name, host)

    def call(self, left, right, seconds=3.0, patience=20.0, during=None):
        """A call with tones from `left` to `right`, who answers by itself: what happened, as a dictionary.

        `during(process)` runs in the middle of it. "ok" says that each heard the other's tone, and nothing else."""
        record = left.node.folder / f"to-{right.name}.wav"
        before, calls_before = flows.count(self.internet.core), len(right.reports())
        start = time.time()
        process = left.call(right.node.uri, seconds, record)
        watching = threading.Thread(target=self.watch, args=(process, seen := []))
        watching.start()
        try:
            if during:
                during(process)
            out, err = process.communicate(timeout=patience + seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
        watching.join()
        caller = _json(out)
        result = {
            "from": left.name, "to": right.name, "answered": bool(caller.get("answered")), "ok": False,
            "words": caller.get("words") or err.strip()[-200:] or "no end within its time", "took_s": round(time.time() - start, 1),
            "ring_ms": caller.get("ring_ms"), "answer_ms": caller.get("answer_ms"), "two_way_ms": None,
        }
        if not result["answered"]:
            return result
        callee = self.report(right, calls_before)
        result["lost"] = [caller.get("lost"), callee.get("lost")]
        result["packets"] = [caller.get("packets"), callee.get("packets")]
        voices = [r["at_ms"] + r["voice_ms"] for r in (caller, callee) if r.get("voice_ms") is not None]
        if len(voices) == 2:
            result["two_way_ms"] = max(voices) - caller["at_ms"]
        good = [heard(record, RIGHT_HZ, (LEFT_HZ,)), heard(right.heard_file, LEFT_HZ, (RIGHT_HZ,))]
        result["heard_s"] = good
        packets = flows.since(self.internet.core, before)
        voice, relays = seconds * PACKETS_A_SECOND * MOST_OF, self.relay_names()
        ways = [
            flows.way(packets, one.addresses(), other.addresses(), relays, voice)
            for one, other in ((left, right), (right, left))
        ]
        result["ok"] = min(good) >= (seconds - 1) / 2
        ends = left.addresses() | right.addresses()
        # Whatever could have been voice: to each other, and to what relays opened for it.
        may_be_voice = ((to in ends or (to in relays and port >= 1024), n) for (source, to, _, port), n in packets.items() if source in ends)
        crossed = sum(n for is_voice, n in may_be_voice if is_voice)
        if ways == [None, None] and result["ok"] and crossed < voice:
            ways = ["lan", "lan"]
        result["media"] = ways[0] if ways[0] == ways[1] else ways
        result["media_end"] = result["media"] if ways == ["lan", "lan"] else self.last_way(left, right, seen)
        result["flows"] = {" ".join(map(str, k)): n for k, n in packets.items() if n >= voice and k[0] in ends}
        return result

    def watch(self, process, seen):
        """Appends (time, counted) twice a second while the process runs, and keeps the last few."""
        while process.poll() is None:
            seen.append((time.monotonic(), flows.count(self.internet.core)))
            del seen[:-6]
            time.sleep(0.5)

    def last_way(self, left, right, seen):
        """What carried the last half second in which both sides' voice was counted; None when it never was."""
        for (earlier, before), (later, after) in reversed(list(zip(seen, seen[1:]))):
            sent = {key: n - before.get(key, 0) for key, n in after.items()}
            voice = (later - earlier) * PACKETS_A_SECOND * MOST_OF
            sides = (left.addresses(), right.addresses())
            ways = [flows.way(sent, *pair, self.relay_names(), voice) for pair in (sides, sides[::-1])]
            if None not in ways:
                return ways[0] if ways[0] == ways[1] else ways
        return None

    def report(self, right, before, seconds=5):
        """The callee's report of the call, which it writes a moment after its end."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if len(reports := right.reports()) > before:
                return reports[-1]
            time.sleep(0.05)
        return {}


def _json(text):
    try:
        value = json.loads(text)
        return value if isinstance(value, dict) else {}
    except ValueError:
        return {}
