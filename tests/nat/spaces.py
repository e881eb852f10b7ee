"""Network namespaces of one laboratory: made, entered, cleared away. Linux, root; Python's standard library and `ip`.

Every name begins with the pid of the laboratory that owns it (`plnat<pid>-...`), so runs side by side do not meet, and
what a killed run left behind is known: a guardian process clears it when the run is gone, however it went.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

PREFIX = "plnat"
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def missing():
    """What this machine lacks for a laboratory, in words; None when nothing."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "needs root (network namespaces)"
    for tool in ("ip", "nft", "miniupnpd"):
        if not shutil.which(tool):
            return f"needs `{tool}` (apt-get install iproute2 nftables miniupnpd-nftables)"
    if not Path("/dev/net/tun").exists():
        return "needs /dev/net/tun (the Internet's delay)"
    name = f"{PREFIX}{os.getpid()}-try"
    try:
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
        if made.returncode != 0:
            return f"this machine refuses network namespaces: {made.stderr.strip()[-120:]}"
        rules = "table ip t { chain c { type nat hook postrouting priority 100; masquerade fully-random; }; }"
        with inside(name):
            nft = subprocess.run(["nft", "-f", "-"], input=rules, capture_output=True, text=True)
        if nft.returncode != 0:
            return f"this machine refuses NAT in nftables: {nft.stderr.strip()[-120:]}"
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return None


@contextlib.contextmanager
def inside(name):
    """This thread, its sockets and the processes it starts are in the namespace `name` until the end of the block."""
    with open(f"/proc/self/task/{threading.get_native_id()}/ns/net") as before, open(f"/run/netns/{name}") as there:
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(before.fileno())


def _enter(fd):
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns: " + os.strerror(ctypes.get_errno()))


def run(name, *command, text=None, check=True):
    """Runs a command in a namespace; its output. Raises with its words when it fails."""
    with inside(name):
        done = subprocess.run(command, input=text, capture_output=True, text=True)
    if check and done.returncode != 0:
        raise RuntimeError(f"{name}: {' '.join(command)}: {done.stderr.strip()[-400:]}\n{text or ''}")
    return done.stdout


def ip(name, lines, family=None):
    """Commands of `ip`, one a line; `family` (`-4`, `-6`) where no address says it."""
    run(name, "ip", *([family] if family else []), "-batch", "-", text=lines)


def nft(name, rules):
    run(name, "nft", "-f", "-", text=rules)


def sysctl(name, **values):
    """Sets /proc/sys/net/ values of a namespace; `__` stands for a slash."""
    with inside(name):
        for key, value in values.items():
            Path("/proc/sys/net", key.replace("__", "/")).write_text(str(value))


def clear(prefix):
    """Kills every process in the namespaces whose names begin with `prefix`, and removes them."""
    here = Path("/run/netns")
    names = {name: here / name for name in os.listdir(here) if name.startswith(prefix)} if here.is_dir() else {}
    ours = {path.stat().st_ino for path in names.values()}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if int(pid) != os.getpid() and os.stat(f"/proc/{pid}/ns/net").st_ino in ours:
                os.kill(int(pid), signal.SIGKILL)
    for name in names:
        subprocess.run(["ip", "netns", "del", name], capture_output=True)


def sweep():
    """Clears what runs left behind that are no more."""
    for name in os.listdir("/run/netns") if os.path.isdir("/run/netns") else []:
        pid = name.removeprefix(PREFIX).split("-")[0]
        if name.startswith(PREFIX) and pid.isdigit() and not Path("/proc", pid).exists():
            clear(f"{PREFIX}{pid}-")


class Guardian:
    """A process that waits for this one to end, in whatever way, and clears its namespaces away."""

    def __init__(self, prefix, folder=None):
        command = [sys.executable, __file__, prefix] + ([str(folder)] if folder else [])
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def dismiss(self):
        self.process.stdin.close()
        self.process.wait(30)


if __name__ == "__main__":
    # The guardian: end of input is the end of the run.
    for gone in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(gone, signal.SIG_IGN)
    sys.stdin.read()
    clear(sys.argv[1])
    for folder in sys.argv[2:]:
        shutil.rmtree(folder, ignore_errors=True)
