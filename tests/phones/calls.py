"""Calls between real phones over a ten-node overlay: eight relays and the two desktop nodes of each test."""

import contextlib
import time

from baresip import Baresip
from linphone import Linphone
from tones import heard

LEFT_HZ, RIGHT_HZ = 440, 620
TESTS = []


def test(*needs, root=False):
    def mark(function):
        function.needs, function.root = needs, root
        TESTS.append(function)
        return function

    return mark


@contextlib.contextmanager
def desktops(overlay, folder, count=2, **more):
    """Desktop nodes of one test, stopped at its end."""
    nodes = [overlay.add(f"{folder.name}-{n}", **more) for n in range(count)]
    try:
        yield nodes
    finally:
        for node in nodes:
            node.stop()
            overlay.nodes.remove(node)


@contextlib.contextmanager
def baresips(nodes, folder, **more):
    phones = []
    try:
        for n, (node, tone) in enumerate(zip(nodes, (LEFT_HZ, RIGHT_HZ))):
            user, password = node.account()
            phones.append(Baresip(folder / f"phone{n}", user, password, node.sip, tone, **more))
        for node in nodes:
            node.registered()
            node.published()
        yield phones
    finally:
        for phone in phones:
            phone.stop()


def check_tones(left, right, seconds):
    """What each phone recorded must hold the other's tone, and nothing of its own."""
    for phone, other in ((left, right), (right, left)):
        good = max((heard(file, other.tone, (phone.tone,)) for file in phone.recordings()), default=0)
        if good < seconds:
            own = [(file.name, heard(file, phone.tone)) for file in phone.recordings()]
            raise AssertionError(f"{other.tone} Hz heard for {good} s, wanted {seconds}; own tone in {own}")


def talk(left, right, uri, hang_up):
    """left calls `uri`, right accepts, three seconds of tones, `hang_up` ends it; both must see the end."""
    left.dial(uri)
    right.wait("CALL_INCOMING")
    left.wait("CALL_RINGING")
    right.accept()
    left.wait("CALL_ESTABLISHED")
    time.sleep(3)
    hang_up.hang_up()
    for phone in (left, right):
        if phone is not hang_up:
            phone.wait("CALL_CLOSED")
    time.sleep(0.3)
    check_tones(left, right, 2)


@test("baresip")
def baresip_calls_baresip_by_uri(overlay, folder):
    """Tones both ways, hang-up from either side; afterwards no leg and no port is left."""
    with desktops(overlay, folder) as (a, b), baresips((a, b), folder) as (left, right):
        talk(left, right, b.uri, left)
        talk(right, left, a.uri, left)
        for node in (a, b):
            node.idle()
        record = a.api()["calls"]["recent"][0]
        return f"ring {record['ring_ms']} ms, lookup {record['lookup_ms']} ms"


@test("baresip")
def baresip_over_tcp(overlay, folder):
    with desktops(overlay, folder) as (a, b), baresips((a, b), folder, transport="tcp") as (left, right):
        talk(left, right, b.uri, right)


def closed_with(phone, code, words=None):
    event = phone.wait("CALL_CLOSED", 30)
    if str(code) not in event.get("param", ""):
        raise AssertionError(f"wanted {code}, the phone saw {event.get('param')!r}")
    if words and words.lower() not in event["param"].lower():
        raise AssertionError(f"wanted the word {words!r}, the phone saw {event['param']!r}")
    return event["param"]


@test("baresip")
def refusals_have_the_right_codes_and_words(overlay, folder):
    """Busy, no answer, cancelled, mistyped, unknown, offline (decline: see linphone, baresip only knows 486)."""
    seen = []
    with desktops(overlay, folder, env={"PEERLINE_CALLS__RING_TIMEOUT": "5s"}) as (a, b), baresips((a, b), folder) as (left, right):
        left.dial(b.uri)
        right.wait("CALL_INCOMING")
        right.hang_up()
        seen.append(closed_with(left, 486))

        left.dial(b.uri)
        right.wait("CALL_INCOMING")
        seen.append(closed_with(left, 480, "answer"))
        right.wait("CALL_CLOSED")

        left.dial(b.uri)
        right.wait("CALL_INCOMING")
        left.hang_up()
        left.wait("CALL_CLOSED")
        right.wait("CALL_CLOSED")

        user, host = b.uri.removeprefix("sip:").split("@")
        wrong = ("b" if user[-1] == "a" else "a").join([user[:-1], ""])
        left.dial(f"sip:{wrong}@{host}")
        seen.append(closed_with(left, 484, "mistyped"))

        left.dial("sip:nobody@" + a.sip)
        seen.append(closed_with(left, 404))

        right.stop()
        with desktops(overlay, folder / "offline", 1) as (c,):
            left.dial(c.uri)
            seen.append(closed_with(left, 480, "online"))
        a.idle()
        b.idle()
    return "; ".join(seen)


@test("baresip")
def echo_plays_back(overlay, folder):
    with desktops(overlay, folder, 1) as (a,), baresips((a,), folder) as (phone,):
        phone.dial("sip:echo@" + a.sip)
        phone.wait("CALL_ESTABLISHED")
        time.sleep(2.5)
        phone.hang_up()
        time.sleep(0.3)
        good = heard(phone.recordings()[-1], LEFT_HZ)
        if good < 1.5:
            raise AssertionError(f"echo heard for {good} s only")
        a.idle()


@contextlib.contextmanager
def linphones(nodes, folder, tones=(LEFT_HZ, RIGHT_HZ)):
    phones = []
    try:
        for n, (node, tone) in enumerate(zip(nodes, tones)):
            user, password = node.account()
            phones.append(Linphone(folder / f"linphone{n}", user, password, node.sip, tone))
        for node in nodes:
            node.registered()
            node.published()
        yield phones
    finally:
        for phone in phones:
            phone.stop()


@test("linphonec")
def linphone_calls_linphone_by_uri(overlay, folder):
    with desktops(overlay, folder) as (a, b), linphones((a, b), folder) as (left, right):
        left.dial(b.uri)
        right.wait("incoming call")
        right.answer()
        left.wait("established|connected")
        time.sleep(4)
        right.hang_up()
        left.wait(r"Call 1 with .* ended")
        time.sleep(0.3)
        check_tones(left, right, 2)

        before, heard_before = len(left.text), len(right.text)
        left.dial(b.uri)
        right.wait("incoming call", start=heard_before)
        right.hang_up()
        left.wait("(?i)declined", start=before)
        for node in (a, b):
            node.idle()
            last = node.api()["calls"]["recent"][0]
            if last["status"] != 603:
                raise AssertionError(f"declined, but the node says {last['status']} {last['words']}")


@test("baresip", "linphonec")
def baresip_and_linphone_call_each_other(overlay, folder):
    with desktops(overlay, folder) as (a, b), baresips((a,), folder) as (left,), linphones((b,), folder, (RIGHT_HZ,)) as (right,):
        left.dial(b.uri)
        right.wait("incoming call")
        right.answer()
        left.wait("CALL_ESTABLISHED")
        time.sleep(4)
        left.hang_up()
        right.wait(r"Call 1 with .* ended")
        time.sleep(0.3)
        check_tones(left, right, 2)


@test("baresip", "linphonec")
def hold_and_resume(overlay, folder):
    """re-INVITE passes end to end, and the voice comes back (baresip's recording ends at a re-INVITE, linphone's not)."""
    with desktops(overlay, folder) as (a, b), baresips((a,), folder) as (left,), linphones((b,), folder, (RIGHT_HZ,)) as (right,):
        left.dial(b.uri)
        right.wait("incoming call")
        right.answer()
        left.wait("CALL_ESTABLISHED")
        time.sleep(1.5)
        left.command("hold")
        right.wait("(?i)paused|on hold")
        time.sleep(1)
        left.command("resume")
        time.sleep(3)
        left.hang_up()
        right.wait(r"Call 1 with .* ended")
        time.sleep(0.3)
        good = heard(right.heard_file, LEFT_HZ)
        if good < 3.5:
            raise AssertionError(f"voice for {good} s of the 4.5 s around the hold")
        a.idle()
        b.idle()


@test("baresip")
def a_call_comes_in_after_a_restart(overlay, folder):
    """kill -9 of the callee's node: its phone is still registered after the restart, and rings within two seconds."""
    with desktops(overlay, folder, extra=["--sip", "127.0.0.1:0"]) as (a, b):
        port = b.sip
        b.extra = ["--sip", port]
        with baresips((a, b), folder) as (left, right):
            b.kill()
            b.start(wait=False)
            start = time.monotonic()
            b.up()
            up = time.monotonic() - start
            start = time.monotonic()
            left.dial(b.uri)
            right.wait("CALL_INCOMING", 5)
            rang = time.monotonic() - start
            right.accept()
            left.wait("CALL_ESTABLISHED")
            left.hang_up()
            if up + rang > 2:
                raise AssertionError(f"up after {up:.2f} s, rang after {rang:.2f} s more")
            return f"up after {up:.2f} s, rang after {rang:.2f} s more"
