"""How each packet of a voice fares between two phones: how much later than the network it arrives, what is lost, and the
longest pause when the call moves to another path. Both ends are heard on the loopback between phone and node, where RTP
is as the phones speak and play it; one machine has one clock."""

import contextlib
import math
import socket
import struct
import threading
import time
from dataclasses import dataclass

from kinds import KINDS
from town import Town

SO_TIMESTAMPNS = 35
# A phone has played its last sound before, or conceals what is later than that: milliseconds beyond the network's delay.
LATE_MS = 300
# Of a phone's packets.
FRAME_MS = 20


class Ear(threading.Thread):
    """Hears RTP on the loopback of a host from its start to `stop`."""

    def __init__(self, host):
        super().__init__(daemon=True)
        with host.inside():
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
            self.socket.bind(("lo", 0x0800))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.socket.settimeout(0.2)
        # (seconds, source port, destination port, SSRC, sequence number)
        self.heard, self.over = [], threading.Event()
        self.start()

    def run(self):
        while not self.over.is_set():
            try:
                data, more, _, _ = self.socket.recvmsg(2048, 64)
            except TimeoutError:
                continue
            except OSError:
                return
            if len(data) < 40 or data[9] != 17:
                continue
            head = (data[0] & 15) * 4
            ports, rtp = struct.unpack_from("!HH", data, head), data[head + 8 :]
            if len(rtp) < 12 or rtp[0] >> 6 != 2 or 64 <= (rtp[1] & 127) < 96:
                continue
            seconds, nanos = struct.unpack("qq", more[0][2]) if more else (time.time(), 0)
            sequence, ssrc = struct.unpack_from("!H", rtp, 2)[0], struct.unpack_from("!I", rtp, 8)[0]
            self.heard.append((seconds + nanos / 1e9, *ports, ssrc, sequence))

    def stop(self):
        self.over.set()
        self.join()
        self.socket.close()


@dataclass
class Way:
    """One direction of a call."""

    sent: int
    lost: int
    # Beyond the delay of the network, milliseconds, sorted.
    added: list
    # Longest time between two arrivals, once sound has begun.
    pause_ms: float

    def told(self):
        late = sum(1 for added in self.added if added > LATE_MS)
        pick = lambda share: round(self.added[min(len(self.added) - 1, int(len(self.added) * share))], 1)  # noqa: E731
        return {
            "sent": self.sent, "lost": self.lost, "late": late, "lost_or_late_percent": round(100 * (self.lost + late) / max(1, self.sent), 2),
            "added_ms": {"p50": pick(0.5), "p95": pick(0.95), "p99": pick(0.99), "max": pick(1)} if self.added else None,
            "pause_ms": round(self.pause_ms),
        }


def streams(heard):
    """(SSRC, source port, destination port) → [(sequence number without overflow, seconds)] in the order of arrival."""
    found = {}
    for seconds, source, to, ssrc, sequence in heard:
        stream = found.setdefault((ssrc, source, to), [])
        last = stream[-1][0] if stream else sequence
        stream.append((last + ((sequence - last + 0x8000) & 0xFFFF) - 0x8000, seconds))
    return found


def way(near, far, network_ms):
    """What was sent at one end and came out at the other; None when nothing did. From the first packet that arrived on."""
    best = None
    for (ssrc, *_), sent in streams(near).items():
        for (other, *_), came in streams(far).items():
            if ssrc == other and len(came) > 50 and came[0][1] >= sent[0][1] and (best is None or len(came) > len(best[1])):
                best = sent, came
    if best is None:
        return None
    sent, came = best
    at, arrived = dict(reversed(sent)), dict(reversed(came))
    turn = {n & 0xFFFF: n for n in at}
    arrived = {turn.get(n & 0xFFFF, n): seconds for n, seconds in arrived.items()}
    first, last = min(arrived), max(arrived)
    meant = [n for n in at if first <= n <= last]
    added = sorted((arrived[n] - at[n]) * 1000 - network_ms for n in meant if n in arrived)
    pause = max((b[1] - a[1] for a, b in zip(came, came[1:])), default=math.inf) * 1000
    return Way(len(meant), sum(1 for n in meant if n not in arrived), added, pause)


@dataclass(frozen=True)
class Scene:
    name: str
    words: str
    left: str
    right: str
    loss: float
    most_added_ms: float
    most_lost_or_late: float
    most_pause_ms: float


SCENES = [
    Scene("framed", "homes without UDP", "noudp", "noudp", 0, 300, 5, 300),
    Scene("framed-lossy", "homes without UDP, 3 % lost each way at one of them", "noudp", "noudp", 3, 300, 5, 1_000),
    Scene("relay", "over a relay", "symmetric", "symmetric", 0, 60, 1, 100),
    Scene("upgrade", "a call that begins by a relay and moves to the direct way", "portpres", "portrand", 0, 100, 1, 60 + FRAME_MS),
    Scene("upgrade-cgnat", "the same behind a carrier's NAT", "portrand", "cgnat", 0, 100, 1, 60 + FRAME_MS),
]


def play(scene, options):
    with Town(options.relays, options.delay, options.keep) as town:
        homes = [town.internet.home(KINDS[kind], side) for kind, side in ((scene.left, "left"), (scene.right, "right"))]
        left, right = (town.desktop(home.name, home.hosts[0]) for home in homes)
        left.up()
        right.up()
        right.answer()
        right.ready(options.patience)
        left.in_touch(options.patience)
        time.sleep(options.settle)
        if scene.loss:
            right.host.home.weather(loss=scene.loss)
        ears = [Ear(left.host), Ear(right.host)]
        with contextlib.ExitStack() as stack:
            for ear in ears:
                stack.callback(ear.stop)
            result = town.call(left, right, options.seconds, options.patience)
        heard = [ear.heard for ear in ears]
        # From home to home, or to a relay and on.
        network = options.delay * (1 if "direct" in str(result.get("media_end")) else 2)
        result |= {"scene": scene.name, "good": False}
        ways = [way(heard[0], heard[1], network), way(heard[1], heard[0], network)]
        if None not in ways:
            result["to_callee"], result["to_caller"] = (each.told() for each in ways)
            result["good"] = all(
                each["added_ms"]["p50"] <= scene.most_added_ms and each["lost_or_late_percent"] <= scene.most_lost_or_late and each["pause_ms"] <= scene.most_pause_ms
                for each in (result["to_callee"], result["to_caller"])
            )
        if options.keep:
            result["folder"] = str(town.folder)
        return result


def line(scene, r):
    verdict = "ok  " if r["good"] else "FAIL"
    if "to_callee" not in r:
        return f"{verdict} {scene.name:13} {scene.left} -> {scene.right}: no voice to measure: {r['words']}"
    told = "; ".join(
        f"{name}: added p50 {w['added_ms']['p50']} p95 {w['added_ms']['p95']} max {w['added_ms']['max']} ms, lost {w['lost']} late {w['late']} of {w['sent']} ({w['lost_or_late_percent']} %), longest pause {w['pause_ms']} ms"
        for name, w in (("to the callee", r["to_callee"]), ("to the caller", r["to_caller"]))
    )
    return f"{verdict} {scene.name:13} {scene.left} -> {scene.right}, media {r.get('media')}, at the end {r.get('media_end')}: {told}"
