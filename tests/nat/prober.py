"""What a laboratory's networks really do, found by plain UDP: what kind of NAT a host is behind (RFC 5780's questions,
RFC 4787's words), and whether two hosts get through to each other as ICE does (RFC 8445: all pairs of host and
server-reflexive candidates, both sides at once, learning peer-reflexive ones).

All sockets of all hosts live in this one process: each was made inside its host's namespace.
"""

import concurrent.futures
import select
import socket
import threading
import time
from dataclasses import dataclass, field

from kinds import BY_ADDRESS, BY_PORT, INDEPENDENT

ANSWER = 0.4
# A check every 50 ms, as ICE paces them; what has not worked after this has not worked.
PACE, PATIENCE = 0.05, 1.2


def bound(host, family=socket.AF_INET, address=None, port=0):
    with host.inside():
        made = socket.socket(family, socket.SOCK_DGRAM)
    made.setblocking(False)
    any_address = "0.0.0.0" if family == socket.AF_INET else "::"
    made.bind((address or any_address, port))
    return made


class Helpers:
    """Two public hosts of two ports each that tell who they saw, and answer from where they are asked to (a thread)."""

    PORTS = (3478, 3479)

    def __init__(self, first, second):
        self.sockets = {}
        for family in (socket.AF_INET, socket.AF_INET6):
            for h, host in enumerate((first, second)):
                for p, port in enumerate(self.PORTS):
                    address = host.ip4 if family == socket.AF_INET else host.ip6
                    self.sockets[family, h, p] = (bound(host, family, address, port), (address, port))
        threading.Thread(target=self.answer, daemon=True).start()

    def at(self, family, host, port):
        return self.sockets[family, host, port][1]

    def answer(self):
        """Answers for ever: `tell H P` is answered by host H from port P with the sender's address."""
        families = {sock: family for (family, _, _), (sock, _) in self.sockets.items()}
        while True:
            for sock in select.select(list(families), [], [])[0]:
                data, source = receive(sock)
                words = data.decode(errors="replace").split()
                if len(words) == 4 and words[0] == "tell":
                    by = self.sockets[families[sock], int(words[1]), int(words[2])][0]
                    send(by, f"seen {words[3]} {source[0]} {source[1]}", source)


@dataclass
class Behaviour:
    udp4: bool = False
    udp6: bool = False
    mapping: str | None = None
    filtering: str | None = None
    preserves: bool | None = None


def ask(sock, helpers, family, to, by, tries=3):
    """Asks helper `to` to answer from `by`; the address it saw, or None."""
    for _ in range(tries):
        token = f"{time.monotonic_ns()}"
        send(sock, f"tell {by[0]} {by[1]} {token}", helpers.at(family, *to))
        end = time.monotonic() + ANSWER
        while (left := end - time.monotonic()) > 0:
            select.select([sock], [], [], left)
            words = receive(sock)[0].decode().split()
            if words[:2] == ["seen", token]:
                return words[2], int(words[3])
    return None


def behaviours(hosts, helpers):
    """As `behaviour`, of all at once."""
    with concurrent.futures.ThreadPoolExecutor(len(hosts)) as pool:
        return list(pool.map(lambda host: behaviour(host, helpers), hosts))


def behaviour(host, helpers):
    """Classifies what is between `host` and the Internet."""
    found = Behaviour()
    found.udp6 = bool(host.ip6) and ask(bound(host, socket.AF_INET6), helpers, socket.AF_INET6, (0, 0), (0, 0)) is not None
    family = socket.AF_INET if host.ip4 else socket.AF_INET6
    sock = bound(host, family)
    own = sock.getsockname()[1]
    seen = [ask(sock, helpers, family, (0, 0), (0, 0))]
    if seen[0] is None:
        return found
    seen += [ask(sock, helpers, family, to, to) for to in ((1, 0), (1, 1))]
    found.udp4 = family == socket.AF_INET
    found.mapping = INDEPENDENT if len(set(seen)) == 1 else BY_ADDRESS if seen[1] == seen[2] else BY_PORT
    # Of four sockets, as one may keep its port by luck.
    others = [bound(host, family) for _ in range(3)]
    ports = [(s.getsockname()[1], ask(s, helpers, family, (0, 0), (0, 0))) for s in others] + [(own, seen[0])]
    found.preserves = all(there and there[1] == here for here, there in ports)
    fresh = bound(host, family)
    if ask(fresh, helpers, family, (0, 0), (1, 0), 2):
        found.filtering = INDEPENDENT
    elif ask(fresh, helpers, family, (0, 0), (0, 1), 2):
        found.filtering = BY_ADDRESS
    else:
        found.filtering = BY_PORT
    return found


@dataclass
class Side:
    """One end of a pair: a socket for each family, the addresses that others may try, and who it heard from."""

    sockets: dict
    token: str
    starts: float
    candidates: set = field(default_factory=set)
    heard: set = field(default_factory=set)
    through: float | None = None


def side(host, token, starts):
    made = Side({}, token, starts)
    for family, address in ((socket.AF_INET, host.ip4), (socket.AF_INET6, host.ip6)):
        if address:
            sock = made.sockets[family] = bound(host, family)
            made.candidates.add((family, (address, sock.getsockname()[1])))
    return made


def gather(sides, helpers):
    """All sides learn their server-reflexive addresses, with three questions each."""
    asked = {sock: (family, one) for one in sides for family, sock in one.sockets.items()}
    for _ in range(3):
        waiting = set(asked)
        for sock, (family, one) in asked.items():
            send(sock, f"tell 0 0 {one.token}", helpers.at(family, 0, 0))
        end = time.monotonic() + ANSWER
        while waiting and (left := end - time.monotonic()) > 0:
            for sock in select.select(list(waiting), [], [], left)[0]:
                family, one = asked[sock]
                words = receive(sock)[0].split()
                if words[:2] == [b"seen", one.token.encode()]:
                    one.candidates.add((family, (words[2].decode(), int(words[3]))))
                    waiting.discard(sock)
        asked = {sock: asked[sock] for sock in waiting}


def pairs(hosts, helpers, later=0.06):
    """Tries every pair of `hosts` at once: for each the milliseconds until both had an answer, or None.

    The left one, who calls, starts `later` seconds later: it waits for the candidates of the one that is called."""
    tries = [(side(left, f"a{n}", later), side(right, f"b{n}", 0.0)) for n, (left, right) in enumerate(hosts)]
    gather([one for pair in tries for one in pair], helpers)
    whose = {}
    for left, right in tries:
        for one, other in ((left, right), (right, left)):
            for family, sock in one.sockets.items():
                whose[sock] = (family, one, other)
    start = due = time.monotonic()
    while (now := time.monotonic()) < start + PATIENCE:
        if now >= due:
            due = now + PACE / 5
            for one, other in [*tries, *[(right, left) for left, right in tries]]:
                if now >= start + one.starts and not one.through:
                    one.starts += PACE
                    for family, address in other.candidates | one.heard:
                        if family in one.sockets:
                            send(one.sockets[family], f"check {one.token}", address)
        ready, _, _ = select.select(list(whose), [], [], max(0, due - time.monotonic()))
        for sock in ready:
            take(sock, *whose[sock], start)
        if all(left.through and right.through for left, right in tries):
            break
    for sock in whose:
        sock.close()
    return [
        round(1000 * max(left.through, right.through)) if left.through and right.through else None for left, right in tries
    ]


def receive(sock):
    try:
        data, source = sock.recvfrom(100)
        return data, source[:2]
    except (BlockingIOError, ConnectionError):
        return b"", None


def take(sock, family, one, other, start):
    data, source = receive(sock)
    # A neighbour with the peer's private address says nothing of the peer: the word of the right one counts.
    if data == f"check {other.token}".encode():
        if len(one.heard) < 8:
            one.heard.add((family, source))
        send(sock, f"good {one.token} {other.token}", source)
    elif data == f"good {other.token} {one.token}".encode():
        one.through = one.through or time.monotonic() - start


def send(sock, text, address):
    try:
        sock.sendto(text.encode(), address)
    except OSError:
        pass  # No route, or an ICMP error of an earlier packet: as lost.
