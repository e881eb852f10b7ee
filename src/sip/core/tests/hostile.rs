//! RFC 4475 in our own words: torture, mutation, floods.

use super::*;
use proptest::prelude::*;

/// (message, how the answer starts; empty = silence).
fn torture() -> Vec<(String, &'static str)> {
    let mut w = World::new();
    let good = w.request("OPTIONS", "sip:peer.alt", "t", 1, "", "");
    let mut all = vec![
        (good.clone(), "SIP/2.0 200 "),
        // Legal, if odd.
        (good.replace("Via: ", "v:  \t"), "SIP/2.0 200 "),
        (good.replace("Max-Forwards: 70", "MAX-forwards   : 0070"), "SIP/2.0 200 "),
        (good.replace("\"Liar\"", "\"L\\\"i,;<ar\""), "SIP/2.0 200 "),
        (good.replace("Max-Forwards", "X-Long:\r\n  folded\r\n\t over\r\nMax-Forwards"), "SIP/2.0 200 "),
        (good.replace("sip:peer.alt SIP", "sip:%61lice@peer.alt;x=%20?h=v SIP"), "SIP/2.0 200 "),
        (good.replace("Content-Length: 0\r\n", ""), "SIP/2.0 200 "),
        (good.replace("z9hG4bK", "old"), "SIP/2.0 200 "),
        // Broken.
        (good.replace("CSeq: 1 OPTIONS", "CSeq: 1 INVITE"), "SIP/2.0 400 "),
        (good.replace("CSeq: 1 OPTIONS", "CSeq: 36893488147419103232 OPTIONS"), "SIP/2.0 400 "),
        (good.replace("Content-Length: 0", "Content-Length: 9999"), "SIP/2.0 400 "),
        (good.replace("Content-Length: 0", "Content-Length: -999"), "SIP/2.0 400 "),
        (good.replace("OPTIONS sip:peer.alt", "OPTIONS <sip:peer.alt>"), "SIP/2.0 400 "),
        (good.replace("OPTIONS sip", "OPTIONS  sip"), "SIP/2.0 400 "),
        (good.replace("sip:peer.alt SIP/2.0", "sip:peer.alt SIP/7.0"), "SIP/2.0 505 "),
        (good.replace("Max-Forwards: 70", "Max-Forwards: 300000000000"), "SIP/2.0 400 "),
        (good.replace("From: \"Liar\" <", "From: \"Liar <"), "SIP/2.0 400 "),
        (good.replace("Call-ID: t\r\n", "Call-ID: t\r\nCall-ID: u\r\n"), "SIP/2.0 400 "),
        (good.replace("OPTIONS", "NEWMETHOD"), "SIP/2.0 405 "),
        (good.replace("Via: SIP/2.0/UDP 192", "Via: 192"), "SIP/2.0 400 "),
        // Nobody to answer.
        (good.replace("Via", "Vi"), ""),
        (good.replace("\r\n", "\n"), ""),
        (good.replace("OPTIONS ", "ACK ").replace("1 OPTIONS", "1 ACK"), ""),
        (good.replace("OPTIONS sip:peer.alt SIP/2.0", "SIP/2.0 200 OK"), ""),
        (good.replace("OPTIONS sip:peer.alt SIP/2.0", "SIP/2.0 4294967496 OK"), ""),
        ("\r\n\r\n".into(), ""),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".into(), ""),
        (String::new(), ""),
    ];
    all.push((good.replace("\"Liar\"", "\"\u{1F600}\""), "SIP/2.0 200 "));
    all
}

#[test]
fn each_torture_message_gets_what_it_deserves() {
    for (text, answer) in torture() {
        let mut w = World::new();
        w.receive(udp(40_000), &text);
        let sent = w.take();
        match (answer, &sent[..]) {
            ("", []) => {}
            (start, [one]) if !start.is_empty() && one.starts_with(start) => {}
            _ => panic!("{text}\nwanted {answer:?}, got {sent:#?}"),
        }
        assert!(w.events.is_empty());
        w.nothing_left();
    }
}

#[test]
fn a_flood_is_cut_off_by_source() {
    let mut w = World::new();
    let rate = crate::admission::Rate { per_second: 10.0, burst: 20.0 };
    w.core.sources = crate::admission::PerSource::new(rate, 100);
    let text = w.request("OPTIONS", "sip:peer.alt", "t", 1, "", "");
    for _ in 0..100 {
        w.receive(udp(40_000), &text);
    }
    assert_eq!(w.take().len(), 20);
    assert_eq!(w.core.counts.refused().get("rate"), Some(&80));
    let other = Flow::Udp { local: "10.0.0.1:5060".parse().expect("a"), remote: "10.0.0.8:5060".parse().expect("a") };
    w.receive(other, &text);
    assert_eq!(w.take().len(), 1);
}

#[test]
fn strangers_leave_nothing_behind() {
    let mut w = World::new();
    for n in 0..2_000 {
        for method in ["INVITE", "REGISTER", "OPTIONS", "BYE", "CANCEL", "ACK", "SUBSCRIBE"] {
            let text = w.request(method, "sip:bob@peer.alt", &format!("c{n}"), 1, "", "");
            w.receive(udp(40_000), &text);
        }
    }
    assert_eq!((w.core.leg_count(), w.core.transaction_count(), w.core.dialogs.len()), (0, 0, 0));
    assert!(w.events.is_empty());
}

#[test]
fn a_thousand_calls_leave_nothing_behind() {
    let mut w = World::new();
    for n in 0..1_000 {
        let flow = udp(40_000);
        let (leg, ok) = w.established(flow, &format!("call{n}"));
        if n % 2 == 0 {
            let bye = w.inside("BYE", &ok, 3, "", "");
            w.receive(flow, &bye);
        } else {
            w.tell(|core| core.hang_up(leg, cause(200, "")));
            let bye = w.one();
            w.receive(flow, &reply(&bye, "200 OK", "", ""));
        }
        w.take();
        w.events.clear();
        w.pass(Duration::from_millis(20));
    }
    w.nothing_left();
    assert!(w.core.timers.len() < 1_100 && w.core.finished.len() <= 2 * super::super::MAX_TRANSACTIONS);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Any bytes changed anywhere in a good message of any kind: never a panic, nothing left.
    #[test]
    fn mutations_never_panic(
        kind in 0..6_usize,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..8),
    ) {
        let mut w = World::new();
        let flow = udp(40_000);
        let (_, ok) = w.established(flow, "c1");
        let (_, invite) = w.dialled(udp(40_001));
        let text = match kind {
            0 => w.request("INVITE", "sip:bob@peer.alt", "m", 1, "", SDP),
            1 => w.request("REGISTER", "sip:peer.alt", "m", 1, "Authorization: Digest username=\"alice\", realm=\"peer.alt\", nonce=\"x\", uri=\"sip:peer.alt\", response=\"0\"\r\n", ""),
            2 => w.inside("INVITE", &ok, 3, "Record-Route: <sip:p;lr>\r\n", SDP),
            3 => w.inside("BYE", &ok, 3, "Reason: SIP;cause=200;text=\"x\"\r\n", ""),
            4 => reply(&invite, "200 OK", "bt", SDP),
            _ => reply(&invite, "183 Progress", "bt", SDP),
        };
        let mut bytes = text.into_bytes();
        for (at, value, how) in changes {
            if bytes.is_empty() { break }
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = value,
                1 => { bytes.remove(at); }
                2 => bytes.insert(at, value),
                _ => bytes.truncate(at),
            }
        }
        let raw = Bytes::from(bytes);
        let from = if kind < 4 { flow } else { udp(40_001) };
        w.core.receive(from, &raw, w.now, UnixMillis(1_800_000_000_000));
        w.drain();
        w.tell(|core| core.end_all(&cause(503, "")));
        w.pass(Duration::from_secs(120));
        prop_assert_eq!(w.core.leg_count(), 0);
    }
}
