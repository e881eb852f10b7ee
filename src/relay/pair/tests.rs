use super::*;
use crate::wire::AddressScope;

const RTP: [u8; 172] = [0x80; 172];

fn places() -> Places {
    Places::new(AddressScope::Global, &["9.9.9.9".parse().unwrap()], 1..=2)
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// A message of STUN with its header alone.
fn message(kind: u16, id: u8) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &[0, 0, 0x21, 0x12, 0xa4, 0x42], &[id; 12]].concat()
}

struct World {
    pair: Pair,
    now: Instant,
}

impl World {
    fn new(hints: [Option<&str>; 2]) -> Self {
        let now = Instant::now();
        let hints = hints.map(|hint| hint.map(|ip| ip.parse().unwrap()));
        Self { pair: Pair::new(hints, 256_000, now), now }
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn came(&mut self, end: End, from: &str, packet: &[u8]) -> Result<Vec<SocketAddr>, Dropped> {
        let targets = self.pair.came(end, at(from), packet, &places(), self.now)?;
        Ok([Some(targets.first)].into_iter().chain(targets.more).flatten().collect())
    }

    fn asks(&mut self, end: End, from: &str, id: u8) -> Result<Vec<SocketAddr>, Dropped> {
        self.came(end, from, &message(0x0001, id))
    }

    fn answers(&mut self, end: End, from: &str, id: u8) -> Result<Vec<SocketAddr>, Dropped> {
        self.came(end, from, &message(0x0101, id))
    }

    fn voice(&mut self, end: End, from: &str) -> Result<Vec<SocketAddr>, Dropped> {
        self.came(end, from, &RTP)
    }

    /// Both have checked each other.
    fn connected(a: &str, b: &str) -> Self {
        let mut world = Self::new([None, None]);
        let _ = world.asks(End::Ours, a, 1);
        world.asks(End::Theirs, b, 2).unwrap();
        world.answers(End::Ours, a, 2).unwrap();
        world.asks(End::Ours, a, 3).unwrap();
        world.answers(End::Theirs, b, 3).unwrap();
        world
    }
}

const A: &str = "1.1.1.1:1000";
const B: &str = "2.2.2.2:2000";
const LIAR: &str = "6.6.6.6:666";

#[test]
fn nothing_goes_to_who_has_not_sent() {
    let mut world = World::new([None, None]);
    assert_eq!(world.voice(End::Ours, A), Err(Dropped::Nobody));
    assert_eq!(world.voice(End::Theirs, B), Ok(vec![at(A)]));
    assert_eq!(world.voice(End::Ours, A), Ok(vec![at(B)]));
}

#[test]
fn what_is_no_call_is_not_passed_on() {
    let mut world = World::connected(A, B);
    let mut refused = |packet: &[u8]| assert_eq!(world.came(End::Ours, A, packet), Err(Dropped::Shape), "{packet:?}");
    refused(&[]);
    refused(&[0x80; 11]);
    refused(&[0x80; MAX_PACKET + 1]);
    (4..128).chain(192..=255).for_each(|first| refused(&[first; 40]));
    // STUN by its first byte alone.
    refused(&[0; 40]);
    refused(&message(1, 1)[..19]);
}

#[test]
fn private_places_are_not_sent_to() {
    for from in ["10.0.0.1:5", "127.0.0.1:5", "9.9.9.9:5", "224.0.0.1:5", "[::1]:5", "[fe80::1]:5"] {
        let mut world = World::new([None, None]);
        let _ = world.voice(End::Theirs, B);
        assert_eq!(world.voice(End::Ours, from), Err(Dropped::Place), "{from}");
        let mut world = World::connected(A, B);
        assert_eq!(world.asks(End::Ours, from, 9), Err(Dropped::Place), "{from} as a newcomer");
    }
}

#[test]
fn a_stranger_neither_gets_nor_says_anything() {
    let mut world = World::connected(A, B);
    assert_eq!(world.voice(End::Theirs, LIAR), Err(Dropped::Stranger));
    assert_eq!(world.answers(End::Theirs, LIAR, 3), Err(Dropped::Stranger));
    // It may ask; the call's own party does not answer it, and nothing changes.
    assert_eq!(world.asks(End::Theirs, LIAR, 7), Ok(vec![at(A)]));
    assert_eq!(world.answers(End::Theirs, LIAR, 3), Ok(vec![at(A)]), "a forged answer, for A to judge");
    assert_eq!(world.voice(End::Ours, A), Ok(vec![at(B)]));
    assert_eq!(world.voice(End::Theirs, LIAR), Err(Dropped::Stranger));
}

#[test]
fn an_answer_to_a_check_moves_an_end() {
    let mut world = World::connected(A, B);
    let moved = "1.1.1.1:1001";
    assert_eq!(world.voice(End::Ours, moved), Err(Dropped::Stranger));
    assert_eq!(world.asks(End::Ours, moved, 9), Ok(vec![at(B)]));
    assert_eq!(world.voice(End::Theirs, B), Ok(vec![at(A)]), "not yet");
    assert_eq!(world.answers(End::Theirs, B, 9), Ok(vec![at(moved)]));
    assert_eq!(world.voice(End::Theirs, B), Ok(vec![at(moved)]));
    assert_eq!(world.voice(End::Ours, moved), Ok(vec![at(B)]));
    world.pass(16);
    assert_eq!(world.voice(End::Ours, A), Err(Dropped::Stranger), "the old one is another now");
}

/// A host with both families checks from both, and then speaks from the one that was chosen.
#[test]
fn an_end_with_two_sources_is_heard_from_both() {
    let mut world = World::connected(A, B);
    let six = "[2a01:1::1]:1000";
    assert_eq!(world.asks(End::Ours, six, 9), Ok(vec![at(B)]));
    assert_eq!(world.answers(End::Theirs, B, 9), Ok(vec![at(six)]));
    for (from, id) in [(A, 10), (six, 11), (A, 12)] {
        // Consent is asked for from one, voice comes from the other.
        assert_eq!(world.asks(End::Ours, A, id), Ok(vec![at(B)]));
        assert_eq!(world.answers(End::Theirs, B, id), Ok(vec![at(A)]));
        assert_eq!(world.voice(End::Ours, from), Ok(vec![at(B)]));
        assert_eq!(world.voice(End::Theirs, B), Ok(vec![at(from)]), "there it is answered");
    }
    assert_eq!(world.voice(End::Ours, LIAR), Err(Dropped::Stranger));
}

#[test]
fn both_ends_may_move_at_once() {
    let mut world = World::connected(A, B);
    world.pass(16);
    let (a, b) = ("3.3.3.3:3", "4.4.4.4:4");
    assert_eq!(world.asks(End::Ours, a, 20), Ok(vec![at(B)]));
    assert_eq!(world.asks(End::Theirs, b, 21), Ok(vec![at(A), at(a)]));
    assert_eq!(world.answers(End::Ours, a, 21), Ok(vec![at(b)]));
    assert_eq!(world.asks(End::Ours, a, 22).unwrap()[0], at(b));
    assert_eq!(world.answers(End::Theirs, b, 22), Ok(vec![at(a)]));
    assert_eq!(world.voice(End::Ours, a), Ok(vec![at(b)]));
    assert_eq!(world.voice(End::Theirs, b), Ok(vec![at(a)]));
}

#[test]
fn who_came_first_by_guessing_gives_way_to_the_party() {
    let mut world = World::new([Some("1.1.1.77"), None]);
    let (first, second) = ("6.6.6.6:1", "6.6.6.6:2");
    // The liar is at both ports before anybody, and answers whatever it is asked.
    let _ = world.asks(End::Ours, first, 1);
    let _ = world.asks(End::Theirs, second, 2);
    let _ = world.answers(End::Ours, first, 2);
    let _ = world.answers(End::Theirs, second, 1);
    assert_eq!(world.asks(End::Theirs, B, 3).unwrap()[0], at(first), "the liar is believed so far");
    // The one that asked for the allocation comes from where it asked.
    let asked = world.asks(End::Ours, A, 4).unwrap();
    assert!(asked.contains(&at(B)) || asked.contains(&at(second)));
    let _ = world.answers(End::Theirs, second, 4);
    let asked = world.asks(End::Theirs, B, 5).unwrap();
    assert!(asked.contains(&at(A)), "{asked:?}");
    assert_eq!(world.answers(End::Ours, A, 5), Ok(vec![at(B)]));
    let asked = world.asks(End::Ours, A, 6).unwrap();
    assert!(asked.contains(&at(B)), "{asked:?}");
    assert_eq!(world.answers(End::Theirs, B, 6), Ok(vec![at(A)]));
    assert_eq!(world.voice(End::Ours, A), Ok(vec![at(B)]));
    assert_eq!(world.voice(End::Theirs, B), Ok(vec![at(A)]));
}

#[test]
fn newcomers_come_slowly_and_are_few() {
    let mut world = World::connected(A, B);
    let mut through = 0;
    for n in 0..1_000_u16 {
        let from = format!("7.7.{}.{}:7", n / 250, n % 250);
        through += usize::from(world.asks(End::Theirs, &from, 50).is_ok());
    }
    assert_eq!(through, 8, "in one moment");
    assert_eq!(world.voice(End::Ours, A), Ok(vec![at(B)]));
    // Answers of the party are still its own.
    assert_eq!(world.asks(End::Ours, A, 60).unwrap()[0], at(B));
}

#[test]
fn each_direction_has_half_of_the_rate() {
    let mut world = World::connected(A, B);
    let sent = |world: &mut World, end, from| (0..10_000).filter(|_| world.voice(end, from).is_ok()).count();
    // Two seconds of 16,000 bytes in packets of 200, less the checks.
    assert_eq!(sent(&mut world, End::Ours, A), 159);
    assert_eq!(world.voice(End::Ours, A), Err(Dropped::Rate));
    assert_eq!(sent(&mut world, End::Theirs, B), 159, "the other has its own");
    world.pass(1);
    assert_eq!(sent(&mut world, End::Ours, A), 80);
    // A call of G.711: 50 packets a second for a minute.
    world.pass(3);
    for _ in 0..3_000 {
        world.now += Duration::from_millis(20);
        assert_eq!(world.voice(End::Ours, A), Ok(vec![at(B)]));
        assert_eq!(world.voice(End::Theirs, B), Ok(vec![at(A)]));
    }
}

#[test]
fn any_bytes_from_anybody_are_borne() {
    let mut world = World::new([Some("1.1.1.1"), None]);
    let mut seed = 1_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for _ in 0..50_000 {
        world.now += Duration::from_millis(random(50));
        let end = if random(2) == 0 { End::Ours } else { End::Theirs };
        let from = format!("{}.1.1.1:{}", 1 + random(9), 1 + random(4));
        let kind = [0x0001, 0x0101, 0x0111, 0x0011][random(4) as usize];
        let mut packet = if random(3) == 0 { RTP.to_vec() } else { message(kind, random(12) as u8) };
        packet.truncate(if random(10) == 0 { random(30) as usize } else { packet.len() });
        if let Ok(targets) = world.came(end, &from, &packet) {
            assert!(targets.len() <= 1 + OTHERS && targets.iter().all(|to| places().allow(*to)));
        }
    }
}
