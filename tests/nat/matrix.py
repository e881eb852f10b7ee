"""Every ordered pair of kinds of homes: a real call beside what a plain ICE-like prober gets through."""

import concurrent.futures
import statistics
import time

import prober
from kinds import KINDS
from town import Town


def check_kinds(town, helpers, homes):
    """Faults of the laboratory: kinds that are not what they are called. Asked of each kind's first host."""
    found = prober.behaviours([home.hosts[0] for home in homes.values()], helpers)
    return [f"{name} is not what it is called: {b}" for (name, home), b in zip(homes.items(), found) if not as_called(home.kind, b)]


def as_called(kind, found):
    udp = kind.mapping is not None
    return (
        (found.mapping, found.filtering) == (kind.mapping, kind.filtering)
        and (found.preserves == kind.preserves or not udp)
        and (found.udp4, found.udp6) == (udp and kind.v4, udp and kind.v6)
    )


def matrix(names, wanted, options, say):
    """Builds a town with two homes of each kind (one, with two hosts, for `shared`) and calls from left to right for each
    of the `wanted` pairs. Returns the results, and the words for what is wrong with the laboratory itself."""
    start = time.monotonic()
    with Town(options.relays, options.delay, options.keep) as town:
        internet = town.internet
        helpers = prober.Helpers(internet.public("helper0"), internet.public("helper1"))
        left_names, right_names = {a for a, _ in wanted}, {b for _, b in wanted}
        left = {n: internet.home(KINDS[n], n + "-l") for n in names if n in left_names}
        right = {n: left[n] if KINDS[n].shared and n in left else internet.home(KINDS[n], n + "-r") for n in names if n in right_names}
        say(f"the laboratory is built ({time.monotonic() - start:.1f} s): {len(left) + len(right)} homes, {options.delay} ms one way")
        wrong = check_kinds(town, helpers, {**right, **left})
        through = prober.pairs([(left[a].hosts[0], right[b].hosts[-1]) for a, b in wanted], helpers)
        say(f"the prober gets through in {sum(t is not None for t in through)} of {len(wanted)} pairs ({time.monotonic() - start:.1f} s)")
        callers = {n: town.desktop(f"{n}-l", home.hosts[0]) for n, home in left.items()}
        callees = {n: town.desktop(f"{n}-r", home.hosts[-1]) for n, home in right.items()}
        for desktop in [*callers.values(), *callees.values()]:
            desktop.up()
        for desktop in callees.values():
            desktop.answer()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            placed = pool.map(lambda d: d.ready(options.patience), callees.values())
            touch = pool.map(lambda d: d.in_touch(options.patience), callers.values())
        for name, done in zip(callees, placed):
            if not done:
                say(f"{name}: its record was placed with nobody")
        for name, done in zip(callers, touch):
            if not done:
                say(f"{name}: in touch with nobody")
        # What a node needs to find out where it is and to find its relays; a person does not dial sooner.
        time.sleep(options.settle)
        say(f"all nodes are up ({time.monotonic() - start:.1f} s)")
        results = {}

        def one(pair):
            a, b = pair
            return pair, town.call(callers[a], callees[b], options.seconds, options.patience)

        with concurrent.futures.ThreadPoolExecutor(options.parallel) as pool:
            for batch in disjoint(wanted, options.parallel):
                for pair, result in pool.map(one, batch):
                    result |= {"from": pair[0], "to": pair[1], "prober_ms": through[wanted.index(pair)]}
                    results[pair] = result
                    say(line(result))
        if options.keep:
            say(f"kept {town.folder}")
        return [results[pair] for pair in wanted], wrong


def disjoint(wanted, most):
    """Batches of pairs in which nobody is twice: neither a caller nor a callee is in two calls."""
    left = list(wanted)
    while left:
        batch, busy = [], set()
        for pair in list(left):
            mine = {("l", pair[0]), ("r", pair[1])}
            if len(batch) < most and not mine & busy:
                batch.append(pair)
                busy |= mine
                left.remove(pair)
        yield batch


def line(r):
    verdict = "ok  " if r["ok"] else "FAIL"
    ms = lambda v: "-" if v is None else f"{v} ms"  # noqa: E731
    said = "" if r["ok"] else f"  {r['words'] if not r['answered'] else 'heard for %s s' % r.get('heard_s')}"
    probe = "direct " + ms(r["prober_ms"]) if r["prober_ms"] is not None else "no direct way"
    media = str(r.get("media") or "mixed" if r["answered"] else "-")
    if r.get("media_end") != r.get("media"):
        media += f", then {r.get('media_end') or 'mixed'}"
    return (
        f"{verdict} {r['from']:>9} -> {r['to']:9} two-way {ms(r['two_way_ms']):>8}, rings {ms(r['ring_ms']):>8}, "
        f"media {media:16} prober: {probe}{said}"
    )


def short_word(r):
    if not r["answered"]:
        return "no call"
    if not r["ok"]:
        return "silent"
    return "mixed" if not isinstance(r["media_end"], str) else r["media_end"].split()[0]


def table(names, results):
    """Rows call, columns are called. A cell says what carried the end of the call; `*`: the prober gets through directly."""
    cells = {(r["from"], r["to"]): short_word(r) + ("*" if r["prober_ms"] is not None else "") for r in results}
    shown = [n for n in names if any(n in pair for pair in cells)]
    width = max(8, *(len(c) for c in cells.values())) + 1
    rows = [" " * 10 + "".join(f"{b:>{width}}" for b in shown)]
    rows += [f"{a:>9} " + "".join(f"{cells.get((a, b), ''):>{width}}" for b in shown) for a in shown if any((a, b) in cells for b in shown)]
    return "\n".join(rows)


def summary(results):
    good = [r for r in results if r["ok"]]
    times = sorted(r["two_way_ms"] for r in good if r["two_way_ms"] is not None)
    rings = sorted(r["ring_ms"] for r in results if r["ring_ms"] is not None)
    possible = [r for r in results if r["prober_ms"] is not None]
    percentile = lambda v, p: v[min(len(v) - 1, int(p * len(v)))] if v else None  # noqa: E731
    return {
        "pairs": len(results), "good": len(good),
        "prober_direct": len(possible), "direct_at_the_end": sum(1 for r in possible if r["ok"] and r["media_end"] in ("direct", "lan")),
        "direct_all_along": sum(1 for r in possible if r["ok"] and r["media"] in ("direct", "lan")),
        "two_way_ms": {"p50": round(statistics.median(times)) if times else None, "p95": percentile(times, 0.95), "max": times[-1] if times else None},
        "ring_ms": {"p50": round(statistics.median(rings)) if rings else None, "p95": percentile(rings, 0.95)},
    }
