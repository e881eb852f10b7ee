"""What must stay flat: one long call over a relay, and many calls one after the other between the same two homes."""

import os
import time
from pathlib import Path

import flows
from faults import gap
from kinds import KINDS
from town import LEFT_HZ, RIGHT_HZ, Town

# Of each of many calls, seconds.
SHORT_CALL = 2.0
# Longest silence in a long call, seconds: what the first sound takes beyond half a second counts as silence too.
SILENCE = 1.0
# A node may keep so much more resident memory at the end of many calls than after the first tenth of them, kB.
MORE_KB = 8_192


def homes(town, options):
    """A caller and a callee who answers: both `symmetric`, or the first pair asked for."""
    kinds = (options.pair or [("symmetric", "symmetric")])[0]
    pair = [town.internet.home(KINDS[kind], side) for kind, side in zip(kinds, ("left", "right"))]
    left, right = (town.desktop(home.name, home.hosts[0]) for home in pair)
    left.up()
    right.up()
    right.answer()
    right.ready(options.patience)
    left.in_touch(options.patience)
    time.sleep(options.settle)
    return kinds, left, right


def long(minutes, options, say):
    """One call of so many minutes: kept to its end, the longest silence at each end, and what carried it each minute."""
    seconds, told = minutes * 60, []
    with Town(options.relays, options.delay, options.keep) as town:
        kinds, left, right = homes(town, options)

        def during(process):
            before, start = flows.count(town.internet.core), time.monotonic()
            while process.poll() is None:
                time.sleep(min(60, max(1, seconds - (time.monotonic() - start))))
                now, took = flows.count(town.internet.core), time.monotonic() - start
                since = {key: n - before.get(key, 0) for key, n in now.items()}
                way = flows.way(since, left.addresses(), right.addresses(), town.relay_names(), 1_000)
                before = now
                if process.poll() is None and took < seconds - 1:
                    told.append({"at_s": round(took), "media": way, "caller": sizes(left), "callee": sizes(right)})
                    say(f"      after {took:6.0f} s: media {way}, caller {told[-1]['caller']}, callee {told[-1]['callee']}")

        result = town.call(left, right, seconds, options.patience, during)
        result |= {"from": kinds[0], "to": kinds[1], "minutes": minutes, "told": told, "good": False}
        result["renewed"] = sum(renewed(town, n) for n in range(len(town.relays)))
        if result["answered"]:
            record = left.node.folder / "to-right.wav"
            heard = [gap(record, RIGHT_HZ, seconds), gap(right.heard_file, LEFT_HZ, seconds)]
            result["gap_s"], result["tone_s"] = [g for g, _ in heard], [t for _, t in heard]
            result["good"] = result["words"] == "OK" and max(result["gap_s"]) <= SILENCE
        return result


def renewed(town, n):
    """How often a relay has renewed an allocation: ends of a long call do it at half of their time."""
    with town.relay_hosts[n].inside():
        return (town.relays[n].api().get("relay") or {}).get("renewed", 0)


def long_line(r):
    verdict = "ok  " if r["good"] else "FAIL"
    if not r["answered"]:
        return f"{verdict} a call of {r['minutes']:g} minutes: {r['words']}"
    return (
        f"{verdict} a call of {r['minutes']:g} minutes {r['from']} -> {r['to']}: ended with {r['words']}, media {r.get('media')}, heard "
        f"{' and '.join(f'{t:.0f} s' for t in r['tone_s'])}, allocations renewed {r['renewed']} times, longest silence {' and '.join(f'{g:.2f} s' for g in r['gap_s'])}, lost {r.get('lost')}"
    )


def many(count, options, say):
    """So many calls one after the other: how many were good, and what the two nodes and the relays hold as they go."""
    with Town(options.relays, options.delay, options.keep) as town:
        kinds, left, right = homes(town, options)
        watched = {"caller": left.node, "callee": right.node} | {f"relay {n}": relay for n, relay in enumerate(town.relays)}
        good, wrong, told = 0, [], []
        step = max(1, count // 10)
        for n in range(1, count + 1):
            result = town.call(left, right, SHORT_CALL, options.patience)
            good += result["ok"]
            wrong += [] if result["ok"] else [{"call": n, "words": result["words"], "answered": result["answered"]}]
            if n % step == 0 or n == count:
                for desktop in (left, right):
                    with desktop.host.inside():
                        idle(desktop.node)
                told.append({"calls": n, "good": good} | {name: held(node) for name, node in watched.items()})
                say(f"      {n:5} calls, {good} good: " + "; ".join(f"{name} {told[-1][name]}" for name in watched))
        grown = {name: told[-1][name]["kB"] - told[0][name]["kB"] for name in watched}
        files = {name: told[-1][name]["files"] - told[0][name]["files"] for name in watched}
        busy = [desktop.status()["media"]["ports_in_use"] for desktop in (left, right)]
        flat = max(grown.values()) <= MORE_KB and max(files.values()) <= 8 and busy == [0, 0]
        return {
            "from": kinds[0], "to": kinds[1], "calls": count, "good_calls": good, "wrong": wrong, "told": told, "grown_kB": grown,
            "files_more": files, "ports_in_use": busy, "good": flat and good == count,
        }


def many_line(r):
    return (
        f"{'ok  ' if r['good'] else 'FAIL'} {r['good_calls']} of {r['calls']} calls {r['from']} -> {r['to']} good; more than after the first tenth: "
        f"kB {r['grown_kB']}, files {r['files_more']}; ports of calls in use {r['ports_in_use']}"
    )


def idle(node):
    """Waits until nothing of a call is left; the count after tells when something is."""
    try:
        node.idle(20)
    except TimeoutError:
        pass


def held(node):
    """Resident memory, open files (sockets among them) and threads of a process."""
    proc = Path("/proc", str(node.pid()))
    words = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines() if ":" in line)
    return {"kB": int(words["VmRSS"].split()[0]), "files": len(os.listdir(proc / "fd")), "threads": int(words["Threads"])}


def sizes(desktop):
    found = held(desktop.node)
    return f"{found['kB']} kB, {found['files']} files"
