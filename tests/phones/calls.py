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


def check_tones(left_file, right_file, seconds):
    """Each recording must hold the other side's tone, and nothing of its own."""
    for file, tone, own in ((left_file, RIGHT_HZ, LEFT_HZ), (right_file, LEFT_HZ, RIGHT_HZ)):
        good = heard(file, tone, (own,))
        if good < seconds:
            raise AssertionError(f"{file.name}: {tone} Hz heard for {good} s, wanted {seconds}; own tone {heard(file, own)} s")


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
    check_tones(left.recording()[-1], right.recording()[-1], 2)


@test("baresip")
def baresip_calls_baresip_by_uri(overlay, folder):
    """Tones both ways, hang-up from either side; afterwards no leg and no port is left."""
    with desktops(overlay, folder) as (a, b), baresips((a, b), folder) as (left, right):
        talk(left, right, b.uri, left)
        talk(right, left, a.uri, left)
        for node in (a, b):
            node.idle()
        record = a.api()["calls"]["recent"][-1]
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
    """Busy, decline, no answer, cancelled, mistyped, unknown, offline."""
    seen = []
    with desktops(overlay, folder, env={"PEERLINE_CALLS__RING_TIMEOUT": "4s"}) as (a, b), baresips((a, b), folder) as (left, right):
        left.dial(b.uri)
        right.wait("CALL_INCOMING")
        right.hang_up(486, "Busy")
        seen.append(closed_with(left, 486, "busy"))

        left.dial(b.uri)
        right.wait("CALL_INCOMING")
        right.hang_up(603, "Decline")
        seen.append(closed_with(left, 603, "decline"))

        left.dial(b.uri)
        right.wait("CALL_INCOMING")
        seen.append(closed_with(left, 480, "answer"))
        right.wait("CALL_CLOSED")

        left.dial(b.uri)
        right.wait("CALL_INCOMING")
        left.hang_up()
        right.wait("CALL_CLOSED")

        user, host = b.uri.removeprefix("sip:").split("@")
        wrong = ("b" if user[-1] == "a" else "a").join([user[:-1], ""])
        left.dial(f"sip:{wrong}@{host}")
        seen.append(closed_with(left, 404, "mistyped"))

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
        good = heard(phone.recording()[-1], LEFT_HZ)
        if good < 1.5:
            raise AssertionError(f"echo heard for {good} s only")
        a.idle()


@contextlib.contextmanager
def linphones(nodes, folder):
    phones = []
    try:
        for n, (node, tone) in enumerate(zip(nodes, (LEFT_HZ, RIGHT_HZ))):
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
        check_tones(left.heard_file, right.heard_file, 2)

        mark = len(left.text)
        left.dial(b.uri)
        right.wait("incoming call", start=len(right.text) - 1)
        right.decline()
        left.wait("(?i)declined|busy|ended|terminated", start=mark)
        a.idle()
        b.idle()


@test("baresip", "linphonec")
def baresip_and_linphone_call_each_other(overlay, folder):
    with desktops(overlay, folder) as (a, b), baresips((a,), folder) as (left,), linphones((b,), folder) as (right,):
        left.dial(b.uri)
        right.wait("incoming call")
        right.answer()
        left.wait("CALL_ESTABLISHED")
        time.sleep(4)
        left.hang_up()
        right.wait(r"Call 1 with .* ended")
        time.sleep(0.3)
        # linphone's tone is LEFT_HZ here: it is the first of its own list.
        for file in (left.recording()[-1], right.heard_file):
            if heard(file, LEFT_HZ) < 2:
                raise AssertionError(f"{file.name}: tone heard for {heard(file, LEFT_HZ)} s")


@test("baresip")
def hold_and_resume(overlay, folder):
    """re-INVITE passes end to end, and the voice comes back."""
    with desktops(overlay, folder) as (a, b), baresips((a, b), folder) as (left, right):
        left.dial(b.uri)
        right.wait("CALL_INCOMING")
        right.accept()
        left.wait("CALL_ESTABLISHED")
        time.sleep(1)
        left.command("hold")
        time.sleep(1)
        left.command("resume")
        time.sleep(3)
        right.hang_up()
        left.wait("CALL_CLOSED")
        time.sleep(0.3)
        check_tones(left.recording()[-1], right.recording()[-1], 1.5)
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
