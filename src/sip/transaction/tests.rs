//! RFC 3261 §17 in virtual time: each timer fires when the tables say.

use super::*;
use crate::sip::guard::{Framing, check};
use crate::sip::message::Message;

fn udp() -> Flow {
    let address = |text: &str| text.parse().expect("address");
    Flow::Udp { local: address("127.0.0.1:5060"), remote: address("127.0.0.1:5099") }
}

fn tcp() -> Flow {
    let address = |text: &str| text.parse().expect("address");
    Flow::Tcp { connection: 1, local: address("127.0.0.1:5060"), remote: address("127.0.0.1:5099") }
}

fn head(flow: &Flow) -> ReplyHead {
    let raw = Bytes::from_static(
        b"INVITE sip:b@h SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@h>;tag=1\r\nTo: <sip:b@h>\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\n\r\n",
    );
    let shape = check(&raw, Framing::Datagram).expect("shape");
    ReplyHead::of(&Message::parse(&raw, &shape).expect("message"), flow, "t")
}

/// Runs a machine's timers; returns (milliseconds, what happened) until it is over.
fn run(
    start: Instant,
    mut due: impl FnMut() -> Option<Instant>,
    mut fire: impl FnMut(Instant) -> Timeout,
) -> (Vec<u128>, u128, Timeout) {
    let mut resent = Vec::new();
    loop {
        let at = due().expect("a timer until the end");
        match fire(at) {
            Timeout::Resend(_) => resent.push((at - start).as_millis()),
            Timeout::Nothing => {}
            end => return (resent, (at - start).as_millis(), end),
        }
    }
}

fn run_client(client: ClientTx, start: Instant) -> (Vec<u128>, u128, Timeout) {
    let cell = std::cell::RefCell::new(client);
    run(start, || cell.borrow().due(), |at| cell.borrow_mut().timeout(at))
}

fn run_server(server: ServerTx, start: Instant) -> (Vec<u128>, u128, Timeout) {
    let cell = std::cell::RefCell::new(server);
    run(start, || cell.borrow().due(), |at| cell.borrow_mut().timeout(at))
}

fn client(flow: Flow, purpose: Purpose, now: Instant) -> ClientTx {
    ClientTx::new(flow, LegId(1), purpose, "b".into(), Bytes::from_static(b"x"), T1X64, now)
}

#[test]
fn timers_a_and_b_of_an_unheard_invite() {
    let now = Instant::now();
    let (resent, end, how) = run_client(client(udp(), Purpose::Invite, now), now);
    assert_eq!(resent, [500, 1_500, 3_500, 7_500, 15_500, 31_500]);
    assert_eq!((end, how), (32_000, Timeout::Unanswered));
    let (resent, end, _) = run_client(client(tcp(), Purpose::Invite, now), now);
    assert_eq!((resent.len(), end), (0, 32_000));
}

#[test]
fn timers_e_and_f_of_an_unheard_bye() {
    let now = Instant::now();
    let (resent, end, how) = run_client(client(udp(), Purpose::Bye, now), now);
    assert_eq!(resent, [500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500]);
    assert_eq!((end, how), (32_000, Timeout::Unanswered));
}

#[test]
fn a_provisional_stops_timer_a_and_a_final_starts_timer_d() {
    let now = Instant::now();
    let mut invite = client(udp(), Purpose::Invite, now);
    assert_eq!(invite.response(180, now), Verdict::Pass);
    assert_eq!(invite.due(), None);
    assert_eq!(invite.response(486, now), Verdict::Pass);
    assert_eq!(invite.response(486, now), Verdict::Ignore);
    invite.keep_ack(Bytes::from_static(b"ack"));
    assert_eq!(invite.response(486, now), Verdict::AckAgain(Bytes::from_static(b"ack")));
    assert_eq!(invite.response(200, now), Verdict::Ignore);
    assert_eq!(run_client(invite, now), (vec![], 32_000, Timeout::Over));
    let mut invite = client(tcp(), Purpose::Invite, now);
    assert_eq!(invite.response(486, now), Verdict::Pass);
    assert_eq!(run_client(invite, now), (vec![], 0, Timeout::Over));
}

#[test]
fn an_accepted_invite_passes_every_2xx_and_nothing_else() {
    let now = Instant::now();
    let mut invite = client(udp(), Purpose::Invite, now);
    assert_eq!(invite.response(200, now), Verdict::Pass);
    assert_eq!(invite.response(200, now), Verdict::Pass);
    assert_eq!(invite.response(180, now), Verdict::Ignore);
    assert_eq!(invite.response(486, now), Verdict::Ignore);
    assert_eq!(run_client(invite, now), (vec![], 32_000, Timeout::Over));
}

#[test]
fn timer_k_ends_a_bye_that_was_answered() {
    let now = Instant::now();
    let mut bye = client(udp(), Purpose::Bye, now);
    assert_eq!(bye.response(200, now), Verdict::Pass);
    assert_eq!(bye.response(200, now), Verdict::Ignore);
    assert_eq!(run_client(bye, now), (vec![], 5_000, Timeout::Over));
}

#[test]
fn timers_g_h_and_i_of_a_refused_invite() {
    let now = Instant::now();
    let mut server = ServerTx::new(udp(), head(&udp()), true, None);
    server.responded(486, Bytes::from_static(b"486"), now);
    assert_eq!(server.repeated(), Some(Bytes::from_static(b"486")));
    let (resent, end, how) = run_server(server, now);
    assert_eq!(resent, [500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500]);
    assert_eq!((end, how), (32_000, Timeout::Over));

    let mut server = ServerTx::new(udp(), head(&udp()), true, None);
    server.responded(486, Bytes::from_static(b"486"), now);
    server.acked(now);
    assert_eq!(server.repeated(), None);
    assert_eq!(run_server(server, now), (vec![], 5_000, Timeout::Over));
}

#[test]
fn our_2xx_is_repeated_until_the_ack() {
    let now = Instant::now();
    let mut server = ServerTx::new(udp(), head(&udp()), true, None);
    server.responded(200, Bytes::from_static(b"200"), now);
    let (resent, end, how) = run_server(server, now);
    assert_eq!((resent.len(), end, how), (10, 32_000, Timeout::Unanswered));
    let mut server = ServerTx::new(udp(), head(&udp()), true, None);
    server.responded(200, Bytes::from_static(b"200"), now);
    server.acked(now);
    assert_eq!(run_server(server, now), (vec![], 32_000, Timeout::Over));
}

#[test]
fn timer_j_repeats_the_final_response_of_other_requests() {
    let now = Instant::now();
    let mut server = ServerTx::new(udp(), head(&udp()), false, None);
    assert_eq!(server.repeated(), None);
    server.responded(200, Bytes::from_static(b"200"), now);
    assert_eq!(server.repeated(), Some(Bytes::from_static(b"200")));
    assert_eq!(run_server(server, now), (vec![], 32_000, Timeout::Over));
    let mut server = ServerTx::new(tcp(), head(&tcp()), false, None);
    server.responded(200, Bytes::from_static(b"200"), now);
    assert_eq!(run_server(server, now), (vec![], 0, Timeout::Over));
}

#[test]
fn ack_and_cancel_repeat_the_invite() {
    let invite = b"INVITE sip:b@h SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9\r\nRoute: <sip:p;lr>\r\nMax-Forwards: 70\r\nFrom: <sip:a@h>;tag=1\r\nTo: <sip:b@h>\r\nCall-ID: x\r\nCSeq: 5 INVITE\r\nContact: <sip:c>\r\nContent-Length: 3\r\n\r\nv=0";
    let ack = derive(invite, "ACK", Some("<sip:b@h>;tag=2"), None).expect("derived");
    let text = std::str::from_utf8(&ack).expect("text");
    assert!(text.starts_with("ACK sip:b@h SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9\r\nRoute: <sip:p;lr>\r\n"), "{text}");
    assert!(text.contains("To: <sip:b@h>;tag=2\r\n") && text.contains("CSeq: 5 ACK\r\n") && !text.contains("Contact"));
    let cancel =
        derive(invite, "CANCEL", None, Some("SIP;cause=200;text=\"Call completed elsewhere\"")).expect("derived");
    let text = std::str::from_utf8(&cancel).expect("text");
    assert!(text.contains("CSeq: 5 CANCEL\r\n") && text.contains("Reason: SIP;cause=200"), "{text}");
}
