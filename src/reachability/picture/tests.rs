use super::Transport::{Quic, Tcp};
use super::*;
use proptest::prelude::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(text: &str, transport: Transport, port: u16) -> Address {
    Address { ip: ip(text), transport, port }
}

fn home(now: Instant) -> Picture {
    let mut picture = Picture::new(AddressScope::Global, false, now);
    picture.listens(&[at("192.168.1.5", Quic, 4001), at("192.168.1.5", Tcp, 4001)], now);
    picture
}

fn server(now: Instant) -> Picture {
    let mut picture = Picture::new(AddressScope::Global, false, now);
    picture.listens(&[at("9.9.9.9", Quic, 4001), at("127.0.0.1", Quic, 4001)], now);
    picture
}

#[test]
fn a_home_behind_a_nat_knows_itself_at_the_first_word() {
    let now = Instant::now();
    let mut picture = home(now);
    assert_eq!(picture.kind(now), Kind::Unknown);
    assert!(!picture.wants_relays(now + PATIENCE * 10), "nobody out there has spoken");
    picture.seen(ip("8.8.8.8"), at("7.7.7.7", Quic, 61_000), now);
    assert!(picture.kind(now) == Kind::BehindNat && picture.wants_relays(now));
    let reach = picture.reach(now);
    assert_eq!((reach.mapping, reach.seen_as), (Mapping::Unknown, vec!["7.7.7.7:61000/quic".to_owned()]));
    picture.seen(ip("6.6.6.6"), at("7.7.7.7", Quic, 61_000), now);
    assert_eq!(picture.reach(now).mapping, Mapping::One);
    assert_eq!(picture.candidates(now), [at("7.7.7.7", Quic, 61_000)], "and not the address in the house");
    assert_eq!(picture.kind(now + SEEN), Kind::Unknown, "what nobody repeats is forgotten");
}

#[test]
fn another_port_for_each_observer_is_a_symmetric_nat() {
    let now = Instant::now();
    let mut picture = home(now);
    for n in 1..5u16 {
        picture.seen(ip(&format!("8.{n}.8.8")), at("7.7.7.7", Quic, 61_000 + n), now);
    }
    assert_eq!(picture.reach(now).mapping, Mapping::PerDestination);
    assert_eq!(picture.candidates(now).len(), 4);
}

#[test]
fn one_network_does_not_make_a_public_node_and_three_do() {
    let now = Instant::now();
    let mut picture = server(now);
    for n in 0..100 {
        picture.reached(ip(&format!("8.8.{n}.8")), at("9.9.9.9", Quic, 4001), now);
    }
    assert_eq!(picture.reach(now).confirmed_by, 1);
    picture.reached(ip("8.9.1.1"), at("9.9.9.9", Quic, 4001), now);
    assert_eq!(picture.kind(now), Kind::Unknown);
    picture.reached(ip("2a00:1::1"), at("9.9.9.9", Quic, 4001), now);
    assert!(picture.reach(now).is_public() && !picture.wants_relays(now + PATIENCE));
    assert_eq!(picture.kind(now + DIALLED), Kind::Unknown);
    picture.listens(&[at("9.9.9.10", Quic, 4001)], now);
    assert_eq!(picture.kind(now), Kind::Unknown, "another address, another story");
}

#[test]
fn who_knocks_at_a_nat_confirms_nothing() {
    let now = Instant::now();
    let mut picture = home(now);
    for n in 1..9 {
        picture.seen(ip(&format!("8.{n}.8.8")), at("7.7.7.7", Quic, 61_000), now);
        picture.reached(ip(&format!("8.{n}.8.8")), at("7.7.7.7", Quic, 61_000), now);
        picture.reached(ip(&format!("8.{n}.8.8")), at("192.168.1.5", Quic, 4001), now);
    }
    assert_eq!(picture.kind(now), Kind::BehindNat);
}

#[test]
fn a_firewalled_server_finds_out_in_time_and_does_not_publish_what_is_dead() {
    let now = Instant::now();
    let mut picture = server(now);
    picture.seen(ip("8.8.8.8"), at("9.9.9.9", Quic, 4001), now);
    assert!(!picture.wants_relays(now) && picture.wants_relays(now + PATIENCE));
    picture.missed(ip("8.8.8.8"), at("9.9.9.9", Quic, 4001), now);
    assert!(picture.wants_relays(now));
    assert!(!picture.is_dead(&at("9.9.9.9", Quic, 4001), now), "one network may be cut off itself");
    picture.missed(ip("6.6.6.6"), at("9.9.9.9", Quic, 4001), now);
    assert!(picture.is_dead(&at("9.9.9.9", Quic, 4001), now));
    assert!(picture.kind(now) == Kind::Firewalled && picture.wants_relays(now));
    picture.reached(ip("5.5.5.5"), at("9.9.9.9", Quic, 4001), now);
    assert!(!picture.is_dead(&at("9.9.9.9", Quic, 4001), now));
    let mut told = Picture::new(AddressScope::Global, true, now);
    told.listens(&[at("192.168.1.5", Quic, 4001)], now);
    assert!(told.reach(now).is_public() && !told.wants_relays(now + PATIENCE), "the operator's word");
}

#[test]
fn udp_is_blocked_when_tcp_works_and_quic_does_not() {
    let now = Instant::now();
    let mut picture = home(now);
    for n in 1..4 {
        let to = ip(&format!("8.{n}.8.8"));
        assert!(!picture.reach(now).udp_blocked);
        picture.dialled(to, Tcp, now);
        picture.unanswered(to, now);
    }
    assert!(picture.reach(now).udp_blocked);
    picture.dialled(ip("8.1.8.8"), Quic, now);
    assert!(!picture.reach(now).udp_blocked);
}

#[test]
fn private_observers_count_only_where_records_may_name_them() {
    let now = Instant::now();
    let mut picture = home(now);
    picture.seen(ip("192.168.1.9"), at("192.168.1.77", Quic, 4001), now);
    picture.seen(ip("8.8.8.8"), at("10.0.0.1", Quic, 4001), now);
    assert_eq!(picture.size(), 0);
    let mut laboratory = Picture::new(AddressScope::Any, false, now);
    laboratory.listens(&[at("127.0.0.1", Quic, 4001)], now);
    laboratory.seen(ip("127.0.0.1"), at("127.0.0.1", Quic, 4001), now);
    assert!(!laboratory.wants_relays(now + PATIENCE));
    laboratory.reached(ip("127.0.0.1"), at("127.0.0.1", Quic, 4001), now);
    assert!(laboratory.reach(now).is_public());
}

proptest! {
    /// Whatever is said by however many: bounded, and whatever is offered counts in this scope.
    #[test]
    fn remembers_little_and_offers_no_private_address(
        words in proptest::collection::vec((any::<[u8; 4]>(), any::<[u8; 4]>(), any::<u16>(), 0u8..6), 0..1_000),
    ) {
        let now = Instant::now();
        let mut picture = home(now);
        for (by, seen, port, what) in words {
            let (by, seen) = (IpAddr::from(by), Address { ip: seen.into(), transport: Quic, port });
            match what {
                0 => picture.reached(by, seen, now),
                1 => picture.missed(by, seen, now),
                2 => picture.dialled(by, Tcp, now),
                3 => picture.unanswered(by, now),
                _ => picture.seen(by, seen, now),
            }
        }
        prop_assert!(picture.size() <= MAX_VIEWS + 4 * MAX_VOICES);
        let candidates = picture.candidates(now);
        prop_assert!(candidates.len() <= MAX_CANDIDATES);
        prop_assert!(candidates.iter().all(|c| is_global(c.ip) && c.port != 0));
        prop_assert!(picture.reach(now).seen_as.len() <= MAX_CANDIDATES);
    }
}

#[test]
fn a_router_that_opens_ports_is_believed_once_others_came_through() {
    let now = Instant::now();
    let mut picture = home(now);
    picture.seen(ip("8.8.8.8"), at("7.7.7.7", Quic, 61_000), now);
    let open = at("7.7.7.7", Quic, 4001);
    picture.opened(&[open, at("192.168.0.9", Tcp, 4001)]);
    assert_eq!(picture.to_be_tried().collect::<Vec<_>>(), [open], "another router above it helps nobody");
    assert_eq!((picture.open(now).count(), picture.candidates(now)), (0, vec![at("7.7.7.7", Quic, 61_000), open]));
    picture.reached(ip("6.6.6.6"), open, now);
    assert_eq!(picture.open(now).collect::<Vec<_>>(), [open]);
    assert_eq!(picture.reach(now).open, ["7.7.7.7:4001/quic"]);
    assert!(picture.wants_relays(now), "the router may forget it at any moment");
    picture.opened(&[]);
    assert_eq!(picture.open(now).count(), 0);
    picture.opened(&vec![open; 99]);
    assert_eq!(
        (picture.open(now).count(), picture.to_be_tried().count()),
        (0, MAX_OPENED),
        "and what was confirmed is void"
    );
}

#[test]
fn another_interface_does_not_cost_a_home_its_relays() {
    let now = Instant::now();
    let mut picture = home(now);
    picture.seen(ip("8.8.8.8"), at("7.7.7.7", Quic, 61_000), now);
    assert!(picture.wants_relays(now));
    let both = [at("192.168.1.5", Quic, 4001), at("10.44.3.50", Quic, 4001)];
    picture.listens(&both, now);
    assert!(picture.kind(now) == Kind::Unknown && picture.wants_relays(now), "what others said was of the old network");
    picture.listens(&both[1..], now);
    assert!(picture.wants_relays(now));
    let public = at("9.9.9.9", Quic, 4001);
    picture.listens(&[public], now);
    for by in ["8.8.8.8", "8.9.1.1", "8.10.1.1"] {
        picture.reached(ip(by), public, now);
    }
    assert!(!picture.wants_relays(now), "it is known to need none");
}
