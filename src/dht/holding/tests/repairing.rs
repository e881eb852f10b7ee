use super::*;
use crate::dht::Card;
use crate::reachability::{Address, Transport};
use std::sync::Arc;

fn server(n: u32) -> Arc<Card> {
    let Publisher { node, .. } = from(n, n);
    let ip = std::net::IpAddr::from((0x0800_0000 + n * 256).to_be_bytes());
    Arc::new(Card {
        node,
        position: Position::of_node(&node),
        network: Network::of(ip),
        addresses: vec![Address { ip, transport: Transport::Quic, port: 4001 }],
        issued_at: NOW,
        signed: Bytes::new(),
    })
}

/// All servers hold all records of `people`; what each passes on in `minutes` after the change.
fn passed_on(before: &[u32], after: &[u32], records: usize, minutes: u64) -> Vec<(u32, RecordKey, NodeKey)> {
    let people: Vec<Person> = (0..records).map(|_| Person::new()).collect();
    let mut pushes = Vec::new();
    for here in before.iter().filter(|n| after.contains(n)) {
        let mut holding = holding(1_000);
        people.iter().for_each(|person| {
            put(&mut holding, person, &from(1, 1), 0);
        });
        let mut repair = Repair::new(server(*here).node);
        let mut poll = |who: &[u32], ms: u64| {
            let cards: Vec<Arc<Card>> = who.iter().map(|n| server(*n)).collect();
            repair.poll(&holding, cards.iter().map(|card| (card, UnixMillis(NOW.0 + ms))), UnixMillis(NOW.0 + ms))
        };
        assert!(poll(before, 0).is_empty());
        for tick in 1..=minutes * 6 {
            let now = poll(after, tick * 10_000);
            pushes.extend(now.into_iter().map(|(key, card)| (*here, key, card.node)));
        }
    }
    pushes
}

#[test]
fn a_newcomer_gets_the_records_of_its_regions_from_two_each() {
    let before: Vec<u32> = (0..30).collect();
    let after: Vec<u32> = (0..31).collect();
    let pushes = passed_on(&before, &after, 40, 6);
    let newcomer = server(30).node;
    assert!(pushes.iter().all(|(_, _, to)| *to == newcomer));
    let mut keys: Vec<RecordKey> = pushes.iter().map(|(_, key, _)| *key).collect();
    keys.sort_unstable();
    let copies = keys.len();
    keys.dedup();
    // It is in a third of the regions.
    assert!((5..=25).contains(&keys.len()), "{}", keys.len());
    assert_eq!(copies, keys.len() * 2);
}

#[test]
fn who_moves_up_for_one_that_left_gets_them_too() {
    let before: Vec<u32> = (0..30).collect();
    let after: Vec<u32> = (1..30).collect();
    let pushes = passed_on(&before, &after, 40, 6);
    let keys: std::collections::BTreeSet<RecordKey> = pushes.iter().map(|(_, key, _)| *key).collect();
    assert!((5..=25).contains(&keys.len()), "{}", keys.len());
    assert!(pushes.iter().all(|(from, key, to)| {
        let at = Position::of_key(key);
        let nearer = after.iter().filter(|n| server(**n).position.distance(&at) < Position::of_node(to).distance(&at));
        server(*from).node != *to && nearer.count() == REGION - 1
    }));
}

#[test]
fn is_slow_and_spares_who_flaps() {
    let before: Vec<u32> = (0..4).collect();
    let after: Vec<u32> = (0..5).collect();
    assert!(passed_on(&before, &after, 40, 1).is_empty(), "not settled yet");
    let first = passed_on(&before[..1], &after, 200, 3).len();
    assert!(first <= 60, "{first} within a minute");
    assert!(passed_on(&before, &before, 40, 6).is_empty());
}

#[test]
fn a_clock_that_is_set_back_holds_nothing_up() {
    // All by a clock that is ten minutes ahead, which is put right in between; records live for an hour.
    let person = Person::new();
    let mut holding = holding(1_000);
    let keys = person.keys();
    for key in keys {
        let judge = judge_at(600_000);
        assert_eq!(holding.offer(&key, &person.bytes(600_000), &from(1, 1), None, ALL, &judge).why, Why::Fresher);
    }
    let mut repair = Repair::new(server(0).node);
    let mut poll = |who: std::ops::Range<u32>, ms: u64| {
        let cards: Vec<Arc<Card>> = who.map(server).collect();
        let now = UnixMillis(NOW.0 + ms);
        repair.poll(&holding, cards.iter().map(|card| (card, now)), now)
    };
    assert!(poll(0..2, 600_000).is_empty());
    assert!(poll(0..3, 610_000).is_empty(), "a newcomer, not settled yet");
    let passed: usize = (0..12).map(|tick| poll(0..3, tick * 10_000).len()).sum();
    assert_eq!(passed, keys.len(), "within two minutes");
}
