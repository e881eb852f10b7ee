"""Networks that change during a call, and calls without the Internet: whether the call is kept, and how long each side
heard nothing, by its own recording."""

import os
import signal
import time
from dataclasses import dataclass

import flows
import spaces
from kinds import KINDS
from tones import power, samples
from town import LEFT_HZ, RIGHT_HZ, Town

# Of a call; what happens, happens after so many.
SECONDS, AFTER = 30, 5.0
# Windows in which a tone is looked for.
WINDOW = 0.02


@dataclass(frozen=True)
class Fault:
    name: str
    words: str
    left: str
    right: str
    # (town, left desktop, right desktop, seconds left of the call): does it.
    strike: object
    # Longest silence at either end, seconds.
    most: float


def gap(path, hertz, seconds):
    """(longest time without the tone, seconds of tone): from the first tone on; a recording that ends early ends silent."""
    values, rate = samples(path)
    step = int(rate * WINDOW)
    good = [power(values[at : at + step], rate, hertz) > 0.25 for at in range(0, len(values) - step + 1, step)]
    if True not in good:
        return seconds, 0.0
    good = good[good.index(True) :]
    longest = run = 0
    for window in good:
        run = 0 if window else run + 1
        longest = max(longest, run)
    # The last half second of a call may miss: hanging up takes its time.
    missing = max(0.0, seconds - 0.5 - len(good) * WINDOW)
    return round(max(longest * WINDOW, missing + (run * WINDOW if missing else 0)), 2), round(sum(good) * WINDOW, 2)


def lossy(town, left, right, rest):
    right.host.home.weather(loss=3)


def cut(town, left, right, rest):
    right.host.home.weather(cut=True)
    time.sleep(1.5)
    right.host.home.weather()


def rebind(town, left, right, rest):
    right.host.home.rebind()


def reboot(town, left, right, rest):
    right.host.home.move()


def switch(town, left, right, rest):
    """From the wire to another network, as a laptop that leaves its desk."""
    spaces.ip(right.host.space, "link set eth0 down")


def kill_relay(town, left, right, rest):
    """The relay that carries most of what leaves the caller."""
    before = flows.count(town.internet.core)
    time.sleep(1)
    kill(town, left, flows.since(town.internet.core, before), lambda port: True)


def kill_circuit(town, left, right, rest):
    """The relay to which most signalling went since the caller dialled."""
    kill(town, left, flows.since(town.internet.core, town.dialled), lambda port: port < 1024)


def kill(town, left, sent, counted):
    names, by_relay = town.relay_names(), {}
    for (source, to, _, port), n in sent.items():
        if source in left.addresses() and to in names and counted(port):
            by_relay[names[to]] = by_relay.get(names[to], 0) + n
    if by_relay:
        town.killed = max(by_relay, key=by_relay.get)
        os.kill(town.relays[int(town.killed[1:])].pid(), signal.SIGKILL)


FAULTS = [
    Fault("loss", "3 % of all packets are lost", "portpres", "portrand", lossy, 0.5),
    Fault("loss-framed", "3 % are lost between homes without UDP", "noudp", "noudp", lossy, 0.5),
    Fault("cut", "no packet passes for 1.5 s", "portpres", "portrand", cut, 3.0),
    Fault("rebind", "the router forgets its mappings and makes others", "portpres", "portrand", rebind, 3.0),
    Fault("reboot", "the router comes back with another address", "portpres", "portrand", reboot, 3.0),
    Fault("switch", "the callee goes over to another network", "portpres", "portrand", switch, 3.0),
    Fault("relay-killed", "kill -9 of the relay that carries the call", "symmetric", "symmetric", kill_relay, 3.0),
    Fault("circuit-killed", "kill -9 of the relay that carries the signalling", "symmetric", "symmetric", kill_circuit, 3.0),
]


def strike(fault, options):
    with Town(options.relays, options.delay, options.keep) as town:
        homes = [town.internet.home(KINDS[kind], side) for kind, side in ((fault.left, "left"), (fault.right, "right"))]
        left, right = (town.desktop(home.name, home.hosts[0]) for home in homes)
        if fault.strike is switch:
            town.internet.home(KINDS["symmetric"], "other", net="10.44.3").second(right.host)
        left.up()
        right.up()
        right.answer()
        placed = right.ready(options.patience)
        time.sleep(options.settle)
        after = {}

        def during(process):
            town.dialled, town.killed = flows.count(town.internet.core), None
            time.sleep(AFTER)
            fault.strike(town, left, right, SECONDS - AFTER)
            after.update(flows.count(town.internet.core))

        result = town.call(left, right, SECONDS, options.patience, during)
        since = flows.since(town.internet.core, after)
        result |= {"fault": fault.name, "killed": town.killed, "placed": placed, "kept": result["answered"] and result["words"] == "OK", "good": False}
        if result["answered"]:
            heard = [gap(left.node.folder / "to-right.wav", RIGHT_HZ, SECONDS), gap(right.heard_file, LEFT_HZ, SECONDS)]
            result["gap_s"], result["tone_s"] = [g for g, _ in heard], [t for _, t in heard]
            voice = (SECONDS - AFTER) * 50 * 0.4
            result["media_after"] = flows.way(since, left.addresses(), right.addresses(), town.relay_names(), voice)
            result["good"] = max(result["gap_s"]) <= fault.most
        if options.keep:
            result["folder"] = str(town.folder)
        return result


def repeated(runs):
    """Several runs of one fault as one result; good when all were. `gaps_s` is the longer silence of each, sorted."""
    good = sum(run["good"] for run in runs)
    gaps = sorted(max(run["gap_s"]) for run in runs if "gap_s" in run)
    return {"runs": runs, "good_runs": good, "gaps_s": gaps, "good": good == len(runs)}


def line(fault, r):
    verdict = "ok  " if r["good"] else "FAIL"
    if not r["answered"]:
        return f"{verdict} {fault.name:14} {fault.left} -> {fault.right}: no call: {r['words']}"
    gaps = " and ".join(f"{g:.2f} s" for g in r["gap_s"])
    killed = f" (killed {r['killed']})" if r["killed"] else ""
    return (
        f"{verdict} {fault.name:14} {fault.left} -> {fault.right}: caller and callee heard nothing for {gaps} "
        f"(at most {fault.most} s), media {r.get('media')}, then {r.get('media_after')}; lost {r.get('lost')}: {fault.words}{killed}"
    )


def switch_without_internet(options):
    """Two hosts on one switch that has nothing else."""
    with Town(0, options.delay, options.keep) as town:
        hosts = town.internet.switch("switch")
        left, right = (town.desktop(name, host) for name, host in zip(("left", "right"), hosts))
        left.up()
        right.up()
        right.answer()
        with right.host.inside():
            right.node.registered()
        if not left.in_touch(20):
            return {"ok": False, "answered": False, "words": "mDNS found nobody", "two_way_ms": None}
        return town.call(left, right, 3.0, options.patience)


def office_without_uplink(options):
    """Two hosts of a home that were in the overlay, and whose line is down for a minute or so."""
    with Town(options.relays, options.delay, options.keep) as town:
        home = town.internet.home(KINDS["shared"], "office")
        left, right = (town.desktop(name, host) for name, host in zip(("left", "right"), home.hosts))
        left.up()
        right.up()
        right.answer()
        right.ready(options.patience)
        left.in_touch(options.patience)
        time.sleep(options.settle)
        home.weather(cut=True)
        time.sleep(10)
        return town.call(left, right, 3.0, options.patience)


LAN = [switch_without_internet, office_without_uplink]
