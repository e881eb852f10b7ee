"""`peerline doctor` in homes of every kind: what it says beside what the home is."""

import subprocess
import time

from kinds import KINDS
from nodes import binary
from town import Town

# Kinds whose NAT gives another port for each destination, and those through which no UDP passes.
SYMMETRIC, NO_UDP = {"symmetric", "opening"}, {"noudp", "web"}


def doctors(names, options):
    """For each kind: what `doctor --json` found, and what of it is wrong (in words)."""
    with Town(options.relays, options.delay, options.keep) as town:
        desktops = {n: town.desktop(n, town.internet.home(KINDS[n], n + "-h").hosts[0]) for n in names}
        for desktop in desktops.values():
            desktop.up()
        for desktop in desktops.values():
            desktop.in_touch(options.patience)
        time.sleep(options.settle)
        found = {}
        for name, desktop in desktops.items():
            with desktop.host.inside():
                found[name] = desktop.node.command("doctor", check=False) or {}
                if options.words and found[name]:
                    found[name]["words"] = words(desktop.node)
        return {name: (one, wrong(name, one)) for name, one in found.items()}


def words(node):
    """What it says to a person."""
    return subprocess.run([binary(), "doctor", *node.arguments()], capture_output=True, text=True).stdout.strip()


def wrong(name, found):
    if not found:
        return ["it said nothing"]
    said = []
    answered = [tried for tried in found["stun"] if tried["rtt_ms"] is not None]
    if bool(answered) == (name in NO_UDP):
        said.append(f"{len(answered)} STUN answers")
    wanted = None if name in NO_UDP or name == "ipv6" else "per destination" if name in SYMMETRIC else "one"
    # A host with both families may have met most servers by IPv6, which have nothing to tell.
    if found["mapping"] not in ([wanted, None] if name == "dual" else [wanted]):
        said.append(f"mapping {found['mapping']}, and it is {wanted}")
    if found["relay"]["good"] == (name in NO_UDP):
        said.append(f"self-call: {found['relay']['words'] or 'heard'}")
    dialled = [tried["rtt_ms"] for tried in found["quic"]]
    if name not in NO_UDP and dialled and not any(dialled):
        said.append("no relay answers over QUIC")
    if name in NO_UDP and any(dialled):
        said.append("QUIC passed without UDP")
    if found["tcp"] and not any(tried["rtt_ms"] for tried in found["tcp"]):
        said.append("no relay answers over TCP")
    if not all(tried["rtt_ms"] for tried in found["called"]) or name not in ("public", "opening") and not found["called"]:
        said.append(f"not reached through relays: {found['called']}")
    if not found["can_be_called"]:
        said.append("cannot be called")
    if abs(found["clock_ahead_ms"] or 0) > 1_000:
        said.append(f"clock ahead by {found['clock_ahead_ms']} ms")
    return said


def line(name, found, said):
    relay = found.get("relay", {})
    ways = {way: [tried["rtt_ms"] for tried in found.get(way, [])] for way in ("quic", "tcp")}
    best = min((tried["rtt_ms"] for tried in found.get("stun", []) if tried["rtt_ms"] is not None), default=None)
    return (
        f"{'FAIL' if said else 'ok  '} {name:>9}: {found.get('reach', {}).get('kind')}, mapping {found.get('mapping')}, "
        f"UDP {'-' if best is None else f'{best} ms'}, QUIC {ways['quic']}, TCP {ways['tcp']} ms, opened {found.get('reach', {}).get('open')}, self-call {'heard' if relay.get('good') else relay.get('words')}, "
        f"loss {relay.get('loss_percent')} %, clock {found.get('clock_ahead_ms')} ms{'  WRONG: ' + '; '.join(said) if said else ''}"
    )
