use super::super::packet::write_rtp;
use super::super::srtp::Suite;
use super::*;
use proptest::prelude::*;

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

fn rtp(sequence: u16, ssrc: u32) -> Vec<u8> {
    let mut packet = Vec::new();
    write_rtp(&mut packet, false, (0, sequence, 0, ssrc), &[0x55; 20]);
    packet
}

fn remote(port: u16, secure: bool) -> sdp::Stream {
    let rtp = Some(at(port));
    let proto = String::new();
    sdp::Stream {
        rtp,
        rtcp: Some(at(port + 1)),
        proto,
        secure,
        keys: Vec::new(),
        sends: true,
        listens: true,
        call: None,
    }
}

fn key() -> Key {
    Key::fresh(Suite::AeadAes128Gcm).unwrap()
}

/// Sends a packet through `gate` and returns what would be on the wire.
fn out(gate: &mut Gate, packet: &[u8], now: Instant) -> Result<Vec<u8>, Reason> {
    gate.outward(&packet::read(packet).unwrap(), packet, now).map(|(packet, _)| packet.to_vec())
}

fn arrives(gate: &mut Gate, from: u16, packet: &[u8], now: Instant) -> Result<Vec<u8>, Reason> {
    gate.inward(at(from), packet, now).map(|(_, packet)| packet.to_vec())
}

/// Two nodes after offer and answer: the offerer at port 1, the answerer at port 2.
fn peers(now: Instant) -> (Gate, Gate) {
    let (mut offerer, mut answerer) = (Gate::new(LegKind::Peer, 5), Gate::new(LegKind::Peer, 5));
    negotiate(&mut offerer, &mut answerer, now);
    (offerer, answerer)
}

fn negotiate(offerer: &mut Gate, answerer: &mut Gate, now: Instant) {
    let (offered, answered) = (key(), key());
    offerer.offer_key(&offered).unwrap();
    answerer.accept(&remote(1, true), Some(&offered)).unwrap();
    answerer.answer_key(&answered, now).unwrap();
    offerer.accept(&remote(2, true), Some(&answered)).unwrap();
}

#[test]
fn a_peer_gets_nothing_plain_and_gives_nothing_plain() {
    let now = Instant::now();
    let mut gate = Gate::new(LegKind::Peer, 5);
    assert_eq!(arrives(&mut gate, 1, &rtp(1, 7), now), Err(Reason::NotReady));
    assert!(matches!(gate.accept(&remote(1, false), None), Err(MediaError::NoCrypto)));
    assert!(matches!(gate.accept(&remote(1, true), None), Err(MediaError::NoCrypto)));
    gate.accept(&remote(1, true), Some(&key())).unwrap();
    assert_eq!(out(&mut gate, &rtp(1, 7), now), Err(Reason::NotReady), "no key of ours yet");
    assert_eq!(arrives(&mut gate, 1, &rtp(1, 7), now), Err(Reason::Forged));
}

#[test]
fn genuine_packets_move_the_latch_and_forged_ones_do_not() {
    let now = Instant::now();
    let (mut a, mut b) = peers(now);
    let first = out(&mut a, &rtp(1, 7), now).unwrap();
    assert_eq!(arrives(&mut b, 50, &first, now), Ok(rtp(1, 7)), "from behind a NAT");
    assert_eq!(b.rtp.target(), Some(at(50)));
    let second = out(&mut a, &rtp(2, 7), now).unwrap();
    let mut forged = second.clone();
    forged[20] ^= 1;
    assert_eq!(arrives(&mut b, 60, &forged, now), Err(Reason::Forged));
    assert_eq!(arrives(&mut b, 60, &first, now), Err(Reason::Forged), "replayed from elsewhere");
    assert_eq!(b.rtp.target(), Some(at(50)));
    assert_eq!(arrives(&mut b, 60, &second, now), Ok(rtp(2, 7)), "the path changed");
    assert_eq!(b.rtp.target(), Some(at(60)));
}

#[test]
fn strangers_with_new_ssrcs_are_refused_before_any_cryptography() {
    let now = Instant::now();
    let (mut a, mut b) = peers(now);
    let genuine = out(&mut a, &rtp(1, 7), now).unwrap();
    arrives(&mut b, 1, &genuine, now).unwrap();
    for ssrc in 0..100_000_u32 {
        let mut forged = genuine.clone();
        forged[8..12].copy_from_slice(&(ssrc | 1 << 31).to_be_bytes());
        assert_eq!(arrives(&mut b, 99, &forged, now), Err(Reason::Source));
    }
    let other = out(&mut a, &rtp(1, 8), now).unwrap();
    assert_eq!(arrives(&mut b, 1, &other, now), Ok(rtp(1, 8)), "the far end may take a new one");
}

#[test]
fn new_keys_come_without_a_gap() {
    let now = Instant::now();
    let (mut a, mut b) = peers(now);
    for (sealed, by) in [(out(&mut a, &rtp(1, 7), now), 0), (out(&mut b, &rtp(1, 9), now), 1)] {
        let to = if by == 0 { &mut b } else { &mut a };
        arrives(to, by + 1, &sealed.unwrap(), now).unwrap();
    }
    let (offered, answered) = (key(), key());
    a.offer_key(&offered).unwrap();
    let early = out(&mut a, &rtp(2, 7), now).unwrap();
    b.accept(&remote(1, true), Some(&offered)).unwrap();
    assert!(arrives(&mut b, 1, &early, now).is_ok(), "still under the old key");
    b.answer_key(&answered, now).unwrap();
    let on_the_way = out(&mut b, &rtp(2, 9), now).unwrap();
    assert!(arrives(&mut a, 2, &on_the_way, now).is_ok(), "sent before the answer has arrived");
    a.accept(&remote(2, true), Some(&answered)).unwrap();
    let late = out(&mut b, &rtp(3, 9), now).unwrap();
    assert!(arrives(&mut a, 2, &late, now).is_ok());
    let new = out(&mut a, &rtp(3, 7), now).unwrap();
    assert!(arrives(&mut b, 1, &new, now).is_ok());
    let first_new = out(&mut b, &rtp(4, 9), now).unwrap();
    assert!(arrives(&mut a, 2, &first_new, now).is_ok());
    // The old keys are gone for good a little later.
    let later = now + OLD_KEY;
    let next = out(&mut a, &rtp(4, 7), later).unwrap();
    arrives(&mut b, 1, &next, later).unwrap();
    assert!(b.keys.old.is_empty() && b.keys.next.is_none() && a.keys.offered.is_none());
}

#[test]
fn a_silent_far_end_gets_the_new_key_after_a_while() {
    let now = Instant::now();
    let (mut a, mut b) = peers(now);
    negotiate(&mut a, &mut b, now);
    let (old, new) = (out(&mut b, &rtp(1, 9), now), out(&mut b, &rtp(2, 9), now + NEW_KEY));
    assert!(b.keys.next.is_none());
    assert!(arrives(&mut a, 2, &new.unwrap(), now).is_ok());
    assert!(arrives(&mut a, 2, &old.unwrap(), now).is_ok());
}

#[test]
fn a_failed_offer_leaves_the_old_keys_in_use() {
    let now = Instant::now();
    let (mut a, mut b) = peers(now);
    a.offer_key(&key()).unwrap();
    b.accept(&remote(1, true), Some(&key())).unwrap();
    b.accept(&remote(1, true), Some(&key())).unwrap();
    for sequence in 1..100 {
        let sealed = out(&mut a, &rtp(sequence, 7), now).unwrap();
        let much_later = now + Duration::from_secs(u64::from(sequence));
        assert!(arrives(&mut b, 1, &sealed, much_later).is_ok(), "{sequence}");
    }
}

#[test]
fn a_far_end_silent_over_two_offers_is_understood_when_it_speaks() {
    let now = Instant::now();
    let (mut a, mut b) = peers(now);
    negotiate(&mut a, &mut b, now);
    // B is on hold and shows nothing; A's packet tells it to use its second key.
    let sealed = out(&mut a, &rtp(1, 7), now).unwrap();
    arrives(&mut b, 1, &sealed, now).unwrap();
    negotiate(&mut a, &mut b, now);
    let second_key = out(&mut b, &rtp(1, 9), now).unwrap();
    assert!(arrives(&mut a, 2, &second_key, now).is_ok());
    for _ in 0..100 {
        a.accept(&remote(2, true), Some(&key())).unwrap();
    }
    assert_eq!(a.keys.old.len(), MAX_OLD_KEYS);
    let again = out(&mut b, &rtp(2, 9), now).unwrap();
    assert!(arrives(&mut a, 2, &again, now).is_ok(), "after a hundred offers that came to nothing");
}

#[test]
fn a_description_cannot_point_a_stream_at_somebody_for_long() {
    let now = Instant::now();
    let (mut a, mut b) = peers(now);
    let sent = (0..2 * UNCONFIRMED_PACKETS).filter(|n| out(&mut a, &rtp(*n as u16, 7), now).is_ok()).count();
    assert_eq!(sent, UNCONFIRMED_PACKETS as usize);
    let from_b = out(&mut b, &rtp(1, 9), now).unwrap();
    arrives(&mut a, 2, &from_b, now).unwrap();
    assert!(out(&mut a, &rtp(5_000, 7), now).is_ok(), "a genuine packet lifts the limit");
    a.accept(&remote(77, true), Some(&key())).unwrap();
    assert_eq!(out(&mut a, &rtp(5_001, 7), now), Err(Reason::Unconfirmed), "and another address brings it back");
}

#[test]
fn a_keepalive_confirms_a_peer_that_says_nothing() {
    let now = Instant::now();
    let (mut a, mut b) = peers(now);
    let (packet, to) = b.keepalive().unwrap();
    assert_eq!(to, at(1));
    let plain = arrives(&mut a, 2, &packet, now).unwrap();
    assert!(packet::is_empty_report(&plain));
    let sent = (0..2 * UNCONFIRMED_PACKETS).filter(|n| out(&mut a, &rtp(*n as u16, 7), now).is_ok()).count();
    assert_eq!(sent, 2 * UNCONFIRMED_PACKETS as usize);
    assert!(Gate::new(LegKind::Phone, 5).keepalive().is_none());
    assert!(Gate::new(LegKind::Peer, 5).keepalive().is_none(), "no key, no address");
}

#[test]
fn phones_have_a_latch_for_each_kind() {
    let now = Instant::now();
    let mut gate = Gate::new(LegKind::Phone, 5);
    gate.accept(&remote(10, false), None).unwrap();
    let report = [0x80, 201, 0, 1, 0, 0, 0, 7];
    let target = |gate: &mut Gate, packet: &[u8]| gate.outward(&packet::read(packet).unwrap(), packet, now).unwrap().1;
    assert_eq!((target(&mut gate, &rtp(1, 1)), target(&mut gate, &report)), (at(10), at(11)));
    arrives(&mut gate, 40, &rtp(1, 7), now).unwrap();
    assert_eq!((target(&mut gate, &rtp(1, 1)), target(&mut gate, &report)), (at(40), at(11)));
    assert_eq!(arrives(&mut gate, 41, &rtp(2, 8), now), Err(Reason::Source));
    assert_eq!(arrives(&mut gate, 40, &[0x80; 5], now), Err(Reason::Malformed));
}

#[test]
fn a_phone_with_its_own_keys_is_spoken_to_with_keys() {
    let now = Instant::now();
    let (theirs, ours) =
        (Key::fresh(Suite::AesCm128HmacSha1_80).unwrap(), Key::fresh(Suite::AesCm128HmacSha1_80).unwrap());
    let mut gate = Gate::new(LegKind::Phone, 5);
    gate.accept(&remote(10, true), Some(&theirs)).unwrap();
    gate.answer_key(&ours, now).unwrap();
    let mut phone = Sealer::new(&theirs).unwrap();
    let sealed = phone.seal(&packet::read(&rtp(1, 7)).unwrap(), &rtp(1, 7)).unwrap();
    assert_eq!(arrives(&mut gate, 10, &sealed, now), Ok(rtp(1, 7)));
    assert_eq!(arrives(&mut gate, 10, &rtp(2, 7), now), Err(Reason::Forged), "plain from a phone with keys");
    let back = out(&mut gate, &rtp(1, 9), now).unwrap();
    assert_eq!(Opener::new(ours).unwrap().open(&packet::read(&back).unwrap(), &back).unwrap(), rtp(1, 9));
    gate.accept(&remote(10, false), None).unwrap();
    assert_eq!(out(&mut gate, &rtp(2, 9), now), Ok(rtp(2, 9)), "a later plain offer ends that");
}

proptest! {
    /// Whatever comes, from a phone or a peer, plain or sealed: it is judged, and nothing panics.
    #[test]
    fn no_packet_panics(
        first in prop::sample::select(vec![0x80_u8, 0x90, 0x9f, 0xb2, 0xa0]),
        second in prop::sample::select(vec![0_u8, 8, 111, 0x80, 200, 201, 203]),
        rest in proptest::collection::vec(prop_oneof![Just(0xbe_u8), Just(0xde), Just(0x10), Just(0), Just(1), any::<u8>()], 0..80),
    ) {
        let now = Instant::now();
        let packet = [&[first, second][..], &rest].concat();
        let (mut a, mut b) = peers(now);
        let mut phone = Gate::new(LegKind::Phone, 5);
        prop_assert!(arrives(&mut b, 1, &packet, now).is_err());
        if let Ok((header, plain)) = phone.inward(at(3), &packet, now)
            && let Ok((sealed, _)) = a.outward(&header, &plain, now)
        {
            prop_assert_eq!(arrives(&mut b, 1, &sealed, now), Ok(packet.clone()));
        }
        let sdes = Key::fresh(Suite::AesCm128HmacSha1_80).unwrap();
        phone.accept(&remote(3, true), Some(&sdes)).unwrap();
        prop_assert!(arrives(&mut phone, 3, &packet, now).is_err());
    }
}
