"""What somebody sees who records everything between two nodes: three network namespaces on one bridge."""

import contextlib
import struct
import subprocess
import time
from pathlib import Path

from baresip import Baresip
from calls import LEFT_HZ, RIGHT_HZ, talk
from nodes import Node
from tones import power

TESTS = []


def run(*words):
    done = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"`{' '.join(words)}` ended with {done.returncode}: {done.stderr.strip()}")


def inside(name):
    """What comes before a command that shall run in a namespace. Not `ip netns exec` nor `ip -n`: they mount /sys
    anew, which fails in a chroot whose root is no mount point."""
    return ["nsenter", f"--net=/run/netns/{name}"]


@contextlib.contextmanager
def namespaces(names):
    """Namespaces named `names`, the first holding the bridge; addresses 10.77.0.1, .2, ..."""
    try:
        for n, name in enumerate(names):
            run("ip", "netns", "add", name)
            run(*inside(name), "ip", "link", "set", "lo", "up")
            if n == 0:
                run(*inside(name), "ip", "link", "add", "br0", "type", "bridge")
                run(*inside(name), "ip", "addr", "add", "10.77.0.1/24", "dev", "br0")
                run(*inside(name), "ip", "link", "set", "br0", "up")
            else:
                run(*inside(names[0]), "ip", "link", "add", f"v{n}", "type", "veth", "peer", "name", "eth0", "netns", name)
                run(*inside(names[0]), "ip", "link", "set", f"v{n}", "master", "br0", "up")
                run(*inside(name), "ip", "addr", "add", f"10.77.0.{n + 1}/24", "dev", "eth0")
                run(*inside(name), "ip", "link", "set", "eth0", "up")
                run(*inside(name), "ip", "route", "add", "default", "via", "10.77.0.1")
        yield
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def packets(path):
    """(is_udp, payload) of each IPv4 packet in a pcap file written by tcpdump on Ethernet."""
    data = Path(path).read_bytes()
    at = 24
    while at + 16 <= len(data):
        size = struct.unpack_from("<I", data, at + 8)[0]
        frame = data[at + 16 : at + 16 + size]
        at += 16 + size
        if len(frame) < 34 or frame[12:14] != b"\x08\x00":
            continue
        ip = frame[14:]
        head = (ip[0] & 15) * 4
        if ip[9] == 17:
            yield True, ip[head + 8 :]
        elif ip[9] == 6 and len(ip) > head + 13:
            yield False, ip[head + (ip[head + 12] >> 4) * 4 :]


def ulaw(byte):
    byte = ~byte & 255
    value = (((byte & 15) << 3) + 132) << ((byte >> 4) & 7)
    return (132 - value if byte & 128 else value - 132) / 32768


def a_wiretap_learns_nothing(_overlay, folder):
    """Records all traffic between the nodes of a call: no SIP word, no number, no key, no G.711."""
    names = [f"pl{n}-{time.monotonic_ns() % 100000}" for n in ("hub", "left", "right")]
    folder.mkdir(parents=True)
    nodes, phones = [], []
    with namespaces(names):
        wrap = [inside(name) for name in names]
        capture = subprocess.Popen(
            wrap[0] + ["tcpdump", "-i", "br0", "-U", "-s", "0", "-w", str(folder / "tap.pcap")],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        try:
            capture.stderr.readline()
            hub = Node(folder / "hub", "relay", ip="10.77.0.1", wrap=wrap[0])
            nodes.append(hub)
            for n, tone in ((1, LEFT_HZ), (2, RIGHT_HZ)):
                node = Node(folder / names[n], None, hub.listen[:1], ip=f"10.77.0.{n + 1}", wrap=wrap[n])
                nodes.append(node)
                user, password = node.account()
                phones.append(Namespaced(wrap[n], folder / f"phone{n}", user, password, node.sip, tone))
            for node in nodes[1:]:
                node.registered()
                node.published()
            talk(phones[0], phones[1], nodes[2].uri, phones[0])
            time.sleep(0.5)
        finally:
            for phone in phones:
                phone.stop()
            for node in nodes:
                node.stop()
            capture.terminate()
            capture.wait()
    words = [b"INVITE", b"SIP/2.0", b"sip:", b"a=crypto", b"inline:", b"m=audio", b"PCMU", b"Call-ID", b"REGISTER"]
    for node in nodes[1:]:
        words.append(node.run["users"][0]["number"].encode())
        words.append((node.folder / "data" / "node.key").read_bytes()[-32:])
    stream, datagrams, voice = b"", 0, 0
    for is_udp, payload in packets(folder / "tap.pcap"):
        if is_udp:
            datagrams += 1
            if len(payload) > 172 and payload[0] >> 6 == 2:
                voice += 1
                window = [ulaw(b) for b in payload[12:172]]
                if max(power(window, 8000, LEFT_HZ), power(window, 8000, RIGHT_HZ)) > 0.5:
                    raise AssertionError("a voice packet holds the tone in clear")
        stream += payload
    for word in words:
        if word in stream:
            raise AssertionError(f"the capture holds {word[:12]!r}")
    if voice < 200:
        raise AssertionError(f"only {voice} voice packets were captured: the test saw nothing")
    return f"{len(stream)} bytes, {datagrams} datagrams, {voice} of them voice"


class Namespaced(Baresip):
    """A baresip inside a network namespace; its control port is reached through a pipe there."""

    def __init__(self, wrap, *rest):
        self.wrap = wrap
        super().__init__(*rest)

    def _launch(self, command, **more):
        return super()._launch(self.wrap + command, **more)

    def _connect(self):
        return NamespacedSocket(self.wrap, self.ctrl_port)


class NamespacedSocket:
    """Just enough of a socket, over `socat`-less plumbing: python in the namespace copies bytes both ways."""

    COPY = (
        "import os,socket,sys,threading,time\n"
        "for _ in range(200):\n"
        "  try: s=socket.create_connection(('127.0.0.1',int(sys.argv[1]))); break\n"
        "  except OSError: time.sleep(.05)\n"
        "def up():\n"
        "  while True:\n"
        "    b=os.read(0,65536)\n"
        "    if not b: os._exit(0)\n"
        "    s.sendall(b)\n"
        "threading.Thread(target=up,daemon=True).start()\n"
        "while True:\n"
        "  b=s.recv(65536)\n"
        "  if not b: break\n"
        "  os.write(1,b)\n"
    )

    def __init__(self, wrap, port):
        self.process = subprocess.Popen(
            wrap + ["python3", "-c", self.COPY, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    def settimeout(self, _seconds):
        pass

    def recv(self, size):
        return self.process.stdout.read(size) or b""

    def sendall(self, data):
        self.process.stdin.write(data)

    def close(self):
        self.process.kill()
        self.process.wait()


a_wiretap_learns_nothing.needs = ("baresip", "tcpdump", "ip", "nsenter", "curl")
a_wiretap_learns_nothing.root = True
TESTS.append(a_wiretap_learns_nothing)
