"""The Internet of a laboratory: one core that delays every packet between two networks, public hosts, homes behind NATs.

Each access has a network of its own in a /16 of its own, of addresses that look public to everybody: documentation
ranges would not be published or dialled. Homes are all 192.168.1.0/24, as they are.
"""

import contextlib
import itertools
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import spaces
from kinds import KINDS, router

# First octets of networks that end users have; the second one counts accesses.
FIRST = [24, 31, 37, 46, 62, 77, 78, 80, 81, 82, 84, 85, 86, 87, 88, 89, 91, 92, 93, 94, 95, 109, 151, 176, 178, 188]
# Set before any interface is there, so that all of them have it.
EVERYWHERE = {
    "ipv4__conf__all__rp_filter": 0,
    "ipv4__conf__default__rp_filter": 0,
    "ipv6__conf__default__accept_dad": 0,
    "ipv6__conf__default__accept_ra": 0,
}
FORWARDS = {"ipv4__ip_forward": 1, "ipv6__conf__all__forwarding": 1}


# What a carrier's NAT does.
TRANSLATING = KINDS["portrand"]


class Access:
    """One line to the Internet: its public addresses, and the namespace of what is connected to it."""

    def __init__(self, internet, number):
        self.number, self.link = number, f"h{number}"
        self.net4 = f"{FIRST[number % len(FIRST)]}.{100 + number}.14"
        self.net6 = f"2a{number % 16:02x}:{0x100 + number:x}"
        self.gate4, self.gate6 = f"{self.net4}.1", f"{self.net6}::1"
        self.ip4, self.ip6 = f"{self.net4}.{20 + number}", f"{self.net6}::2"
        # The network behind the router.
        self.inner6 = f"{self.net6}:1"
        self.home6 = f"{self.inner6}::10"


class Host:
    """Where processes run: a namespace and its addresses, and the home it is in if any."""

    def __init__(self, space, ip4, ip6, home=None):
        self.space, self.ip4, self.ip6, self.home = space, ip4, ip6, home

    def inside(self):
        return spaces.inside(self.space)


class Home:
    """One access with a router of some kind before its hosts."""

    def __init__(self, internet, kind, name, net="192.168.1"):
        self.internet, self.kind, self.name, self.net = internet, kind, name, net
        self.access = internet.access()
        self.seed = self.access.number + 1
        self.hosts = []
        space, access = internet.space, self.access
        if kind.nat == "none":
            host = space(name)
            internet.plug(access, host, v4=kind.v4, v6=kind.v6)
            self.hosts = [Host(host, access.ip4, access.ip6 if kind.v6 else None, self)]
            self.router = self.outer = None
            return
        self.router = self.outer = space(name + "-nat", FORWARDS)
        self.public, self.behind = access.ip4, f"{net}.10"
        if kind.carrier:
            self.outer = space(name + "-isp", FORWARDS)
            spaces.ip(self.outer, f"link add lan type veth peer name wan netns {self.router}\naddr add 100.64.7.1/24 dev lan\nlink set lan up")
            spaces.ip(self.router, "addr add 100.64.7.9/24 dev wan\nlink set wan up\nroute add default via 100.64.7.1")
        internet.plug(access, self.outer, v4=kind.v4, v6=kind.v6, router=True)
        lan = ["link add lan type bridge", "link set lan up"]
        lan += [f"addr add {net}.1/24 dev lan"] if kind.v4 else []
        lan += [f"addr add {access.inner6}::1/64 dev lan nodad"] if kind.v6 else []
        spaces.ip(self.router, "\n".join(lan))
        self.rules()
        if kind.opens:
            self.opener()
        for n in range(2 if kind.shared else 1):
            self.hosts.append(self.host(n))

    def opener(self):
        """The router's program that opens ports for who asks; it ends with the namespace."""
        folder = self.internet.folder / f"{self.name}-router"
        folder.mkdir()
        settings = folder / "miniupnpd.conf"
        settings.write_text(
            "ext_ifname=wan\nlistening_ip=lan\nenable_natpmp=yes\nenable_upnp=yes\nsecure_mode=yes\nsystem_uptime=yes\n"
            "uuid=00000000-0000-0000-0000-000000000001\nallow 1024-65535 0.0.0.0/0 1024-65535\n"
        )
        command = ["miniupnpd", "-d", "-f", str(settings), "-P", str(folder / "pid")]
        with spaces.inside(self.router), open(folder / "log", "wb") as log:
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def host(self, n):
        kind, access = self.kind, self.access
        host = self.internet.space(f"{self.name}-{n}")
        ip4, ip6 = f"{self.net}.{10 + n}", f"{access.inner6}::{10 + n}"
        spaces.ip(self.router, f"link add p{n} type veth peer name eth0 netns {host}\nlink set p{n} master lan up")
        lines = ["link set eth0 up"]
        lines += [f"addr add {ip4}/24 dev eth0", f"route add default via {self.net}.1"] if kind.v4 else []
        lines += [f"addr add {ip6}/64 dev eth0 nodad", f"route add ::/0 via {access.inner6}::1"] if kind.v6 else []
        spaces.ip(host, "\n".join(lines))
        return Host(host, ip4 if kind.v4 else None, ip6 if kind.v6 else None, self)

    def second(self, host):
        """A host of another home is here too, by a second interface that it takes when the first is gone (IPv4)."""
        spaces.ip(self.router, f"link add q0 type veth peer name eth1 netns {host.space}\nlink set q0 master lan up")
        lines = f"link set eth1 up\naddr add {self.net}.50/24 dev eth1\nroute add default via {self.net}.1 metric 200"
        spaces.ip(host.space, lines)

    def rules(self):
        """Writes the rules of the router (and of the carrier's)."""
        if self.kind.carrier:
            spaces.nft(self.outer, router(TRANSLATING, self.public, "100.64.7.9", self.seed))
            spaces.nft(self.router, router(self.kind, "100.64.7.9", self.behind, self.seed))
        elif self.router:
            spaces.nft(self.router, router(self.kind, self.public, self.behind, self.seed))

    def forget(self):
        """The routers forget every connection, as after a reboot."""
        for space in {self.router, self.outer}:
            self.rules()
            with spaces.inside(space):
                flush_conntrack()

    def rebind(self):
        """Every mapping becomes another one, with the address kept: translated ports move on; preserved ones are taken."""
        self.seed += 1_000
        self.rules()
        if self.kind.nat == "preserving" and not self.kind.carrier:
            spaces.nft(self.router, f"""
flush chain ip home leaving
add rule ip home leaving oifname "wan" meta l4proto {{ udp, tcp }} snat to {self.public}:20000-29999 random
""")
        for space in {self.router, self.outer}:
            with spaces.inside(space):
                flush_conntrack()

    def move(self):
        """The provider gives the home another address; the router has rebooted."""
        access = self.access
        self.public = f"{access.net4}.{int(self.public.rsplit('.', 1)[1]) + 1}"
        spaces.ip(self.outer, f"addr flush dev wan scope global\naddr add {self.public}/24 dev wan\nroute replace default via {access.gate4}")
        if self.kind.v6:
            spaces.ip(self.outer, f"addr add {access.ip6}/64 dev wan nodad\nroute replace ::/0 via {access.gate6}")
        self.forget()

    def weather(self, loss=0.0, cut=False):
        self.internet.weather(self.access, loss, cut)


class Internet:
    """`with Internet() as internet:` - everything in it is gone at the end of the block."""

    def __init__(self, delay_ms=30, keep=None):
        self.prefix = f"{spaces.PREFIX}{os.getpid()}-"
        self.delay_ms, self.keep = delay_ms, keep
        self.numbers = itertools.count()
        self.lock = threading.Lock()

    def __enter__(self):
        spaces.sweep()
        self.folder = Path(tempfile.mkdtemp(prefix=f"peerline-nat-{os.getpid()}-"))
        self.guardian = spaces.Guardian(self.prefix, None if self.keep else self.folder)
        for sign in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(sign, lambda *_: sys.exit(130))
        try:
            self.core = self.space("core", FORWARDS)
            with spaces.inside(self.core):
                command = [sys.executable, str(Path(__file__).with_name("delay.py")), "delay", str(self.delay_ms)]
                self.delay = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            if self.delay.stdout.readline() != b"ready\n":
                raise RuntimeError("the delay does not start")
            # What comes from an access goes through the delay, what comes out of it to its destination.
            rules = "rule add iif delay lookup main pref 10\nrule add lookup 100 pref 20\nroute add default dev delay table 100"
            spaces.ip(self.core, "link set delay txqueuelen 8000 up")
            for family in ("-4", "-6"):
                spaces.ip(self.core, rules, family)
            spaces.nft(self.core, "table inet weather { chain over { type filter hook forward priority filter; }; }")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        spaces.clear(self.prefix)
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.guardian.dismiss()

    def space(self, name, values=None):
        name = self.prefix + name
        subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
        spaces.sysctl(name, **EVERYWHERE, **(values or {}))
        spaces.ip(name, "link set lo up")
        return name

    def access(self):
        return Access(self, next(self.numbers))

    def plug(self, access, space, v4=True, v6=True, router=False, port="wan"):
        """Connects the namespace to the Internet by its interface `port`."""
        a = access
        core = [f"link add {a.link} type veth peer name {port} netns {space}", f"addr add {a.gate4}/24 dev {a.link}",
                f"addr add {a.gate6}/64 dev {a.link} nodad", f"link set {a.link} up"]
        core += [f"route add {a.inner6}::/64 via {a.ip6}"] if router and v6 else []
        ours = [f"link set {port} up"]
        ours += [f"addr add {a.ip4}/24 dev {port}", f"route add default via {a.gate4}"] if v4 else []
        ours += [f"addr add {a.ip6}/64 dev {port} nodad", f"route add ::/0 via {a.gate6}"] if v6 else []
        # The far end must be up before routes through it.
        spaces.ip(self.core, "\n".join(core[:4]))
        spaces.ip(space, "\n".join(ours))
        spaces.ip(self.core, "\n".join(core[4:]) + "\n")
        spaces.nft(self.core, f"""
table inet weather {{
    chain {a.link} {{ }}
    chain over {{
        iifname "{a.link}" jump {a.link}
        oifname "{a.link}" jump {a.link}
    }}
}}""")

    def public(self, name, **more):
        """A host with public addresses of both families, as a relay has."""
        access = self.access()
        space = self.space(name)
        self.plug(access, space, **more)
        return Host(space, access.ip4, access.ip6)

    def home(self, kind, name, **more):
        return Home(self, kind, name, **more)

    def switch(self, name, hosts=2):
        """So many hosts on one switch, with addresses that nobody gave out and no way beyond."""
        switch = self.space(name)
        spaces.ip(switch, "link add lan type bridge\nlink set lan up")
        made = []
        for n in range(hosts):
            host, ip4 = self.space(f"{name}-{n}"), f"169.254.77.{10 + n}"
            spaces.ip(switch, f"link add p{n} type veth peer name eth0 netns {host}\nlink set p{n} master lan up")
            spaces.ip(host, f"link set eth0 up\naddr add {ip4}/16 dev eth0")
            made.append(Host(host, ip4, None))
        return made

    def weather(self, access, loss=0.0, cut=False):
        """Loss of so many percent, or everything, each way between an access and the Internet."""
        rule = "drop" if cut else f"numgen random mod 1000 < {round(loss * 10)} drop" if loss else ""
        with self.lock:
            spaces.nft(self.core, f"flush chain inet weather {access.link}\n" + (f"add rule inet weather {access.link} {rule}" if rule else ""))


def flush_conntrack():
    """Empties the connection tracking table of this thread's namespace (ctnetlink: delete without a selector)."""
    NETLINK_NETFILTER, IPCTNL_MSG_CT_DELETE, REQUEST_ACK = 12, (1 << 8) | 2, 0x5
    with contextlib.closing(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)) as netlink:
        netlink.bind((0, 0))
        # nlmsghdr, then nfgenmsg: any family, version 0.
        netlink.send(struct.pack("=IHHII", 20, IPCTNL_MSG_CT_DELETE, REQUEST_ACK, 1, 0) + struct.pack("=BBH", 0, 0, 0))
        answer = netlink.recv(4096)
        error = struct.unpack_from("=i", answer, 16)[0]
        if error:
            raise OSError(-error, "the connection tracking table cannot be emptied")

