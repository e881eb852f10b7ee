use super::*;
use crate::dht::MAX_PEERS;
use crate::reachability::{Address, Transport};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;

const HOUR: u64 = 3_600_000;
const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

fn later(ms: u64) -> UnixMillis {
    UnixMillis(NOW.0 + ms)
}

fn card(node: NodeKey, ip: Ipv4Addr) -> (Arc<Card>, IpAddr) {
    let ip = IpAddr::from(ip);
    let card = Card {
        node,
        position: Position::of_node(&node),
        network: Network::of(ip),
        addresses: vec![Address { ip, transport: Transport::Quic, port: 4001 }],
        issued_at: NOW,
        signed: Bytes::new(),
    };
    (Arc::new(card), ip)
}

fn key(rng: &mut StdRng) -> NodeKey {
    let mut bytes = [0; 32];
    rng.fill_bytes(&mut bytes);
    NodeKey(bytes)
}

/// A server somewhere on the Internet.
fn anywhere(rng: &mut StdRng) -> (Arc<Card>, IpAddr) {
    let ip = Ipv4Addr::from(rng.random_range(0x0100_0000..0xdf00_0000_u32));
    card(key(rng), ip)
}

/// One whose position shares `bits` with `with`: a stand-in for ground keys.
fn ground(rng: &mut StdRng, with: &Position, bits: usize, ip: Ipv4Addr) -> (Arc<Card>, IpAddr) {
    let (made, ip) = card(key(rng), ip);
    let mut made = Card::clone(&made);
    let keep = !(u64::MAX >> bits);
    let bits = (head(with) & keep) | (head(&made.position) & !keep);
    made.position.0[..8].copy_from_slice(&bits.to_be_bytes());
    (Arc::new(made), ip)
}

fn overlay(n: usize, seed: u64) -> Vec<(Arc<Card>, IpAddr)> {
    let mut rng = StdRng::seed_from_u64(seed);
    (0..n).map(|_| anywhere(&mut rng)).collect()
}

fn table_of(peers: &[(Arc<Card>, IpAddr)], here: Position, at: UnixMillis) -> Table {
    let mut table = Table::new(here);
    for (card, ip) in peers {
        table.verified(card.clone(), *ip, at);
    }
    table
}

#[test]
fn two_nodes_and_a_hundred_on_one_machine_know_each_other() {
    let mut rng = StdRng::seed_from_u64(1);
    for others in [1, 9, 99, 199] {
        let peers: Vec<_> = (0..others).map(|_| card(key(&mut rng), Ipv4Addr::LOCALHOST)).collect();
        let table = table_of(&peers, Position([9; 32]), NOW);
        assert_eq!(table.len(), others);
        assert!((table.estimate().nodes - (others + 1) as f64).abs() < 1e-9);
        let answer = table.answer(&Position([77; 32]), NOW);
        assert_eq!(answer.len(), others.min(MAX_PEERS));
        let seeds = table.seeds(&Position([77; 32]), 1, &|_| false);
        assert_eq!(seeds.near.len() + seeds.random.len(), others.min(56));
    }
}

#[test]
fn a_thousand_on_one_machine_are_estimated() {
    let mut rng = StdRng::seed_from_u64(2);
    let peers: Vec<_> = (0..1_000).map(|_| card(key(&mut rng), Ipv4Addr::LOCALHOST)).collect();
    let table = table_of(&peers, Position([9; 32]), NOW);
    let nodes = table.estimate().nodes;
    assert!((500.0..2_000.0).contains(&nodes), "{nodes}");
    let near = peers.iter().filter(|(card, _)| table.get(&card.node).is_some());
    let mut sorted: Vec<_> = peers.iter().map(|(card, _)| card.position.distance(&table.here)).collect();
    sorted.sort_unstable();
    let known = near.filter(|(card, _)| card.position.distance(&table.here) <= sorted[29]).count();
    assert_eq!(known, 30, "the neighbourhood is complete");
}

#[test]
fn estimates_by_its_neighbourhood() {
    for n in [100, 250, 1_000, 10_000] {
        let peers = overlay(n, 3);
        let mut ratios: Vec<f64> = (0..20_u8)
            .map(|who| table_of(&peers, Position([who * 12 + 3; 32]), NOW).estimate().nodes / n as f64)
            .collect();
        ratios.sort_unstable_by(f64::total_cmp);
        println!("{n}: {ratios:.2?}");
        assert!(ratios[0] > 0.5 && ratios[19] < 2.0, "{n}: {ratios:?}");
        assert!((0.8..1.25).contains(&ratios[10]), "{n}: {ratios:?}");
    }
}

#[test]
fn a_cluster_beside_us_does_not_fool_the_estimate() {
    let mut rng = StdRng::seed_from_u64(4);
    let here = Position([0x5a; 32]);
    let mut table = table_of(&overlay(10_000, 5), here, NOW);
    let before = table.estimate().nodes;
    for n in 0..200_u32 {
        // Diverse and next to us, then any number from one network.
        let (card, ip) = ground(&mut rng, &here, 24, Ipv4Addr::from(0x2000_0000 + (n << 17)));
        table.verified(card, ip, later(1));
        for host in 0..20 {
            let (card, ip) = ground(&mut rng, &here, 8, Ipv4Addr::new(99, 1, 1, host));
            table.verified(card, ip, later(1));
        }
    }
    let after = table.estimate().nodes;
    assert!((0.7..1.5).contains(&(after / before)), "{before} {after}");
    // Evenly over all of the neighbourhood: there the other places have the word.
    for n in 0..200_u32 {
        let (card, ip) = ground(&mut rng, &here, 9, Ipv4Addr::from(0x2000_0000 + (n << 17) + 7));
        table.verified(card, ip, later(2));
    }
    for _ in 0..8 {
        let region: Vec<_> = (0..10).map(|_| anywhere(&mut rng).0).collect();
        table.observed(&region, 0.001);
    }
    let after = table.estimate().nodes;
    assert!((9_000.0..11_000.0).contains(&after), "{after}");
}

#[test]
fn seniors_survive_floods() {
    let here = Position([0x33; 32]);
    let honest = overlay(3_000, 6);
    let mut table = table_of(&honest, here, NOW);
    // The first twenty of each bucket and all neighbours; who is over is a guest.
    let promised = |bucket: &Bucket| bucket.members.iter().take(K).map(|entry| entry.card.node).collect::<Vec<_>>();
    let mut seniors: HashSet<NodeKey> = table.buckets.iter().flat_map(promised).collect();
    let near = |entry: &&Entry| entry.head ^ table.head <= table.near;
    seniors.extend(table.entries().filter(near).map(|entry| entry.card.node));
    let mut rng = StdRng::seed_from_u64(7);
    for n in 0..10_000_u32 {
        let ip = Ipv4Addr::from(0x2d07_0000 | (n & 0xffff));
        let (card, ip) = if n % 2 == 0 { card(key(&mut rng), ip) } else { ground(&mut rng, &here, 9, ip) };
        table.verified(card, ip, later(HOUR));
    }
    let left = seniors.iter().filter(|node| table.get(node).is_some()).count();
    let wide = Network::of("45.7.0.1".parse().unwrap()).wide;
    let flood = table.entries().filter(|entry| entry.network.wide == wide).count();
    println!("{} seniors, {left} left, flood {flood} of {}", seniors.len(), table.len());
    assert_eq!(left, seniors.len());
    assert!(flood <= 16.max(table.len() / 4), "{flood} of {}", table.len());
    let answer = table.answer(&here, later(HOUR));
    let liars = answer.iter().filter(|card| card.network.wide == wide).count();
    assert!(liars <= 7, "{liars}");
}

#[test]
fn caps_hold_where_there_is_a_choice() {
    let mut rng = StdRng::seed_from_u64(8);
    // A quarter of all servers in one /16, a tenth in one /24.
    let peers: Vec<_> = (0..6_000)
        .map(|n| match n % 20 {
            0..5 => card(key(&mut rng), Ipv4Addr::from(0x5000_0000 | rng.random_range(0..0xffff_u32))),
            5..7 => card(key(&mut rng), Ipv4Addr::new(90, 1, 1, rng.random())),
            _ => anywhere(&mut rng),
        })
        .collect();
    let table = table_of(&peers, Position([0x11; 32]), NOW);
    let (mut subnets, mut systems) = (HashMap::new(), HashMap::new());
    for (index, bucket) in table.buckets.iter().enumerate() {
        let (mut subnet, mut wide) = (HashMap::new(), HashMap::new());
        for entry in bucket.members.iter().filter(|entry| entry.standing == Standing::Diverse) {
            for (counts, key) in [(&mut subnet, entry.network.subnet), (&mut wide, entry.network.wide)] {
                *counts.entry(key).or_insert(0) += 1;
            }
            *subnets.entry(entry.network.subnet).or_insert(0) += 1;
            *systems.entry(entry.network.system).or_insert(0) += 1;
        }
        assert!(subnet.values().all(|count| *count <= 2), "{index}");
        assert!(wide.values().all(|count| *count <= 3), "{index}");
        assert!(bucket.waiting.len() <= bucket::WAITING);
    }
    assert!(subnets.values().all(|count| *count <= TABLE_SUBNET));
    assert!(systems.values().all(|count| *count <= TABLE_SYSTEM_FLOOR.max(table.len() / TABLE_SYSTEM_SHARE)));
    assert!(table.len() <= ROOM + 64, "{}", table.len());
}

#[test]
fn diverse_ones_displace_crowds_later() {
    let mut rng = StdRng::seed_from_u64(9);
    let office: Vec<_> = (0..2_000).map(|_| card(key(&mut rng), Ipv4Addr::new(10, 1, 1, 1))).collect();
    let mut table = table_of(&office, Position([0x77; 32]), NOW);
    let before = table.len();
    for (card, ip) in overlay(5_000, 10) {
        table.verified(card, ip, later(1));
    }
    let crowd = table.entries().filter(|entry| entry.network == Network::of("10.1.1.1".parse().unwrap())).count();
    assert!(before >= 150 && crowd < table.len() / 4, "{before} {crowd} {}", table.len());
}

#[test]
fn answers_are_bounded_old_first_and_repeatable() {
    let mut rng = StdRng::seed_from_u64(11);
    let here = Position([0x42; 32]);
    let mut table = Table::new(here);
    for (n, (card, ip)) in overlay(2_000, 12).into_iter().enumerate() {
        table.verified(card, ip, later(n as u64 * 1_000));
    }
    let now = later(HOUR);
    for _ in 0..200 {
        let target = Position(key(&mut rng).0);
        let answer = table.answer(&target, now);
        assert!(answer.len() <= MAX_PEERS && answer.len() >= 10);
        let nodes: HashSet<_> = answer.iter().map(|card| card.node).collect();
        assert_eq!(nodes.len(), answer.len());
        let subnets: HashSet<_> = answer.iter().map(|card| card.network.subnet).collect();
        assert_eq!(subnets.len(), answer.len());
        assert_eq!(answer, table.answer(&target, now));
        assert!(answer[..10].is_sorted_by_key(|card| card.position.distance(&target)));
        let first_seen: HashMap<_, _> = table.iter().map(|(card, at)| (card.node, at)).collect();
        assert!(answer[10..].is_sorted_by_key(|card| first_seen[&card.node]));
        let seeds = table.seeds(&target, 5, &|node| *node == answer[0].node);
        assert_eq!(seeds.near, table.seeds(&target, 5, &|node| *node == answer[0].node).near);
        assert_eq!((seeds.near.len(), seeds.random.len()), (40, 16));
        assert!(seeds.near.iter().all(|card| card.node != answer[0].node));
        let all: HashSet<_> = seeds.near.iter().chain(&seeds.random).map(|card| card.node).collect();
        assert_eq!(all.len(), 56);
    }
    assert!(table.answer(&here, later(30 * HOUR)).is_empty(), "nobody was heard of for a day");
}

#[test]
fn three_failures_put_out_and_the_next_comes_in() {
    let here = Position([0x21; 32]);
    let mut table = table_of(&overlay(5_000, 13), here, NOW);
    let full = table.buckets.iter().position(|bucket| bucket.members.len() >= K && bucket.waiting.len() > 1).unwrap();
    let first = table.buckets[full].members[0].card.node;
    let before = table.buckets[full].members.len();
    let other = table.buckets[full + 1].members[0].card.clone();
    for n in 1..=5 {
        // At once: one failure.
        table.failed(&first, later(n * 100));
    }
    assert!(table.get(&first).is_some());
    assert!(table.answer(&Position::of_node(&first), later(600)).iter().all(|card| card.node != first));
    table.verified(other, "9.9.9.9".parse().unwrap(), later(60_000));
    table.failed(&first, later(70_000));
    table.failed(&first, later(80_000));
    assert!(table.get(&first).is_none());
    assert_eq!(table.buckets[full].members.len(), before);
    assert!(table.buckets[full].waiting.iter().all(|entry| entry.card.node != first));
}

#[test]
fn our_own_outage_loses_nobody() {
    let peers = overlay(30, 14);
    let mut table = table_of(&peers, Position([0x21; 32]), NOW);
    for minute in 1..=10 {
        for (card, _) in &peers {
            table.failed(&card.node, later(minute * 60_000));
        }
    }
    assert_eq!(table.len(), 0);
    let again = table.probes(later(HOUR), 100);
    assert_eq!(again.len(), 30, "they are tried again");
    for card in again {
        assert_eq!(table.verified(card.clone(), card.addresses[0].ip, later(HOUR)), Admission::In);
    }
    assert_eq!(table.len(), 30);
    assert!(table.iter().all(|(_, first_seen)| first_seen == NOW), "old friends still");
}

#[test]
fn a_clock_that_was_ahead_keeps_no_dead_peers() {
    let peers = overlay(30, 14);
    let mut table = table_of(&peers, Position([0x21; 32]), later(1_000 * HOUR));
    let (dead, alive) = (&peers[0].0, &peers[1].0);
    // Set right.
    assert!(table.answer(&dead.position, NOW).is_empty(), "nobody is known to be alive");
    assert_eq!(table.probes(NOW, 100).len(), 30, "all are asked");
    for seconds in [1, 30, 60] {
        table.failed(&dead.node, later(seconds * 1_000));
        table.verified(alive.clone(), "8.8.8.8".parse().unwrap(), later(seconds * 1_000));
    }
    assert!(table.get(&dead.node).is_none());
    assert_eq!(table.answer(&dead.position, later(60_000)), std::slice::from_ref(alive));
}

#[test]
fn probes_keep_to_the_budget() {
    for (pace, most) in [(Pace::Server, 6_000.0), (Pace::Client, 700.0)] {
        let mut table = table_of(&overlay(20_000, 15), Position([0x21; 32]), NOW);
        table.set_pace(pace);
        let mut probes = 0;
        for minute in 1..=24 * 60 {
            let now = later(minute * 60_000);
            for card in table.probes(now, 30) {
                let ip = card.addresses[0].ip;
                table.verified(card, ip, now);
                probes += 1;
            }
        }
        let bits = f64::from(probes) * 5_000.0 * 8.0 / 86_400.0;
        println!("{pace:?}: {} peers, {probes} probes a day, {bits:.0} bit/s", table.len());
        assert!(bits < most, "{bits}");
    }
}

#[test]
fn refresh_goes_where_peers_are_missing() {
    let here = Position([0xa5; 32]);
    let mut table = table_of(&overlay(3_000, 16), here, NOW);
    let nodes: Vec<_> = table.buckets[2].members.iter().map(|entry| entry.card.node).collect();
    for node in &nodes {
        table.buckets[2].waiting.clear();
        table.remove(node);
    }
    table.buckets[2].waiting.clear();
    for salt in [1, 3, 5] {
        assert_eq!(table.refresh_target(salt).distance(&here).shared_bits(), 2);
    }
    assert_ne!(table.refresh_target(2), table.refresh_target(4));
}

#[test]
fn is_small_and_fast() {
    assert!(size_of::<Entry>() <= 72, "{}", size_of::<Entry>());
    let peers = overlay(20_000, 17);
    let started = std::time::Instant::now();
    let table = table_of(&peers, Position([0x21; 32]), NOW);
    let each = started.elapsed() / 20_000;
    let started = std::time::Instant::now();
    for (card, _) in &peers[..2_000] {
        assert!(table.answer(&card.position, NOW).len() >= 10);
    }
    println!("{} peers, insert {each:?}, answer {:?}", table.len(), started.elapsed() / 2_000);
}

#[test]
fn a_key_that_moves_to_another_network_is_a_newcomer_there() {
    let (mut rng, here) = (StdRng::seed_from_u64(60), Position([9; 32]));
    let peers: Vec<_> = (0..40).map(|_| anywhere(&mut rng)).collect();
    let mut table = table_of(&peers, here, NOW);
    let since = |table: &Table, node: &NodeKey| table.iter().find(|(card, _)| card.node == *node).unwrap().1;
    let (sold, _) = &peers[0];
    let day = later(12 * HOUR);
    // Another host of its /16: that is the same place.
    let IpAddr::V4(old) = peers[0].1 else { unreachable!() };
    let beside = Ipv4Addr::from(u32::from(old) ^ 0x0000_0100);
    table.verified(card(sold.node, beside).0, beside.into(), day);
    assert_eq!(since(&table, &sold.node), NOW);
    let elsewhere = Ipv4Addr::from(u32::from(old) ^ 0x0001_0000);
    table.verified(card(sold.node, elsewhere).0, elsewhere.into(), day);
    assert_eq!(since(&table, &sold.node), day);
    let bucket = &table.buckets[table.index(&sold.position)];
    let entry = bucket.members.last().unwrap();
    assert_eq!((entry.card.node, entry.network), (sold.node, Network::of(elsewhere.into())), "the youngest now");
    assert_eq!(table.len(), 40);
    // Met at its IPv6 address, it is still where its IPv4 address says, if it still says so.
    let (peer, ip) = &peers[1];
    let mut both = Card::clone(peer);
    let v6: IpAddr = "2a00:1:2::3".parse().unwrap();
    both.addresses.push(Address { ip: v6, transport: Transport::Quic, port: 4001 });
    table.verified(Arc::new(both.clone()), v6, day);
    assert_eq!(since(&table, &peer.node), NOW);
    let index = table.index(&peer.position);
    let entry = find(&mut table.buckets[index].members, &peer.position).unwrap();
    assert_eq!(entry.network, Network::of(*ip));
    both.addresses.remove(0);
    both.issued_at = day;
    table.verified(Arc::new(both), v6, day);
    assert_eq!(since(&table, &peer.node), day);
}

#[test]
fn a_clock_that_was_wrong_makes_nobody_old() {
    let mut rng = StdRng::seed_from_u64(61);
    let [early, late, known] = [anywhere(&mut rng), anywhere(&mut rng), anywhere(&mut rng)];
    let since =
        |table: &Table, peer: &(Arc<Card>, IpAddr)| table.iter().find(|(card, _)| card.node == peer.0.node).unwrap().1;
    for wrong in [UnixMillis(3_600_000), UnixMillis(NOW.0 + 3_650 * 24 * HOUR)] {
        let mut table = Table::new(Position([9; 32]));
        let before = UnixMillis(NOW.0 - 30 * 24 * HOUR);
        table.restored(known.0.clone(), known.1, before, wrong);
        table.verified(early.0.clone(), early.1, wrong);
        let an_hour_later = UnixMillis(wrong.0 + HOUR);
        table.verified(known.0.clone(), known.1, an_hour_later);
        table.verified(early.0.clone(), early.1, an_hour_later);
        // The time comes from the network.
        table.verified(late.0.clone(), late.1, NOW);
        assert_eq!(since(&table, &known), before);
        assert_eq!(since(&table, &early), UnixMillis(NOW.0 - HOUR), "as long before as it was");
        assert_eq!(since(&table, &late), NOW);
    }
}

#[test]
fn failures_of_one_moment_are_one_also_of_who_waits() {
    let peers = overlay(30, 14);
    let mut table = table_of(&peers, Position([0x21; 32]), NOW);
    let (lost, alive) = (&peers[0].0, &peers[1]);
    // A machine wakes up: its connections seem to be there, and nobody answers.
    for second in [0, 1, 2, 6, 12] {
        table.failed(&lost.node, later(second * 1_000));
    }
    assert!(table.get(&lost.node).is_none() && table.card(&lost.node).is_some(), "kept in mind");
    table.verified(alive.0.clone(), alive.1, later(20_000));
    (0..5).for_each(|_| table.failed(&lost.node, later(13_000)));
    assert!(table.card(&lost.node).is_some());
    let (card, ip) = &peers[0];
    assert_eq!(table.verified(card.clone(), *ip, later(60_000)), Admission::In);
    let since = table.iter().find(|(card, _)| card.node == lost.node).unwrap().1;
    assert_eq!(since, NOW, "with its years");
}
