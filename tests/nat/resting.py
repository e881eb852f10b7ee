"""Nodes that nobody calls: what they send and take in an hour, and how soon they leave a relay that stands still."""

import os
import signal
import time

from kinds import KINDS
from town import Town

# Both directions, headers and Ethernet frames included, MB an hour: of a node behind a NAT, and of one that serves (20 kbit/s).
MOST, MOST_SERVING = 1.0, 9.0
# Others reach these by themselves, so they serve.
SERVING = {"public", "opening"}
# Until reached at another relay, seconds: its silence, and what another takes.
LEFT_WITHIN = 30.0
# After the start, until nothing is asked and answered but what always is, seconds.
SETTLED = 90


def rest(names, seconds, options):
    """For each kind of home: traffic during so many seconds, and how long it took to leave the silent relay."""
    with Town(options.relays, options.delay, options.keep) as town:
        desktops = {n: town.desktop(n, town.internet.home(KINDS[n], n + "-h").hosts[0]) for n in names}
        for desktop in desktops.values():
            desktop.up()
        for desktop in desktops.values():
            desktop.in_touch(options.patience)
        time.sleep(SETTLED)
        before, start = {name: octets(desktop.host) for name, desktop in desktops.items()}, time.monotonic()
        time.sleep(seconds)
        hours = (time.monotonic() - start) / 3_600
        results = {}
        for name, desktop in desktops.items():
            megabytes = (octets(desktop.host) - before[name]) / 1e6 / hours
            results[name] = {"mb_an_hour": round(megabytes, 2), "relays": len(relays(desktop))}
        for name, took in silence(town, desktops).items():
            results[name]["left_after_s"] = took
        for name, result in results.items():
            most = MOST_SERVING if name in SERVING else MOST
            result["good"] = result["mb_an_hour"] <= most and result.get("left_after_s", 0.0) is not None
        return results


def octets(host):
    """Bytes on the wire of a host, in and out."""
    with host.inside():
        with open("/proc/thread-self/net/dev") as table:
            rows = [row.split(":") for row in table if ":" in row]
    counts = [row.split() for name, row in rows if name.strip() != "lo"]
    return sum(int(count[0]) + int(count[8]) for count in counts)


def relays(desktop):
    """Through whom it is reached."""
    return {text.split("/p2p/")[1].split("/")[0] for text in desktop.status()["overlay"]["circuits"]}


def silence(town, desktops):
    """Stops the relay that most are reached through, without a word: until each of those was reached elsewhere, seconds."""
    held = {name: relays(desktop) for name, desktop in desktops.items()}
    silent = max(town.relays, key=lambda relay: sum(relay.run["peer_id"] in ids for ids in held.values()))
    victim = silent.run["peer_id"]
    waiting = {name: len(ids) for name, ids in held.items() if victim in ids}
    took = dict.fromkeys(waiting)
    os.kill(silent.pid(), signal.SIGSTOP)
    try:
        start = time.monotonic()
        while waiting and time.monotonic() - start < LEFT_WITHIN:
            for name, wanted in list(waiting.items()):
                now = relays(desktops[name])
                if victim not in now and len(now) >= wanted:
                    took[name] = round(time.monotonic() - start, 1)
                    del waiting[name]
            time.sleep(0.2)
    finally:
        os.kill(silent.pid(), signal.SIGCONT)
    return took


def line(name, result):
    left = result.get("left_after_s", "-")
    words = {"-": "", None: f"; a silent relay was not left in {LEFT_WITHIN:.0f} s"}.get(left, f"; a silent relay left after {left} s")
    verdict = "ok  " if result["good"] else "FAIL"
    return f"{verdict} {name:>9}: {result['mb_an_hour']:.2f} MB an hour, reached through {result['relays']} relays{words}"
