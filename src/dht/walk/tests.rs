use super::super::tests::card;
use super::*;
use crate::identity::NodeKey;
use std::net::{IpAddr, Ipv4Addr};

const TARGET: Position = Position([0; 32]);
/// A hundred nodes per region.
const RADIUS: f64 = 0.01;

fn at(fraction: f64, n: u16, subnet: u32) -> Arc<Card> {
    let mut key = [0; 32];
    key[..2].copy_from_slice(&n.to_be_bytes());
    let ip: IpAddr = Ipv4Addr::from(subnet << 8 | 1).into();
    let mut card = Card::clone(&card(key, ip));
    card.position = Position(Distance::of_fraction(fraction).0);
    Arc::new(card)
}

fn member(n: u16) -> Arc<Card> {
    at(RADIUS * 0.5, n, u32::from(n) << 8)
}

fn walk(near: Vec<Arc<Card>>, config: WalkConfig, now: Instant) -> Walk {
    Walk::new(TARGET, Seeds { near, random: Vec::new() }, RADIUS, config, 1, now)
}

fn all(walk: &mut Walk, now: Instant) -> Vec<Step> {
    std::iter::from_fn(|| walk.poll(now)).collect()
}

#[test]
fn each_path_believes_only_its_own() {
    let now = Instant::now();
    let config = WalkConfig { paths: 2, parallel: 1, ..WalkConfig::default() };
    let mut walk = walk(vec![at(0.3, 1, 1), at(0.4, 2, 2), at(0.5, 3, 3)], config, now);
    let first = all(&mut walk, now);
    assert_eq!(first.iter().map(|step| step.to.node.0[1]).collect::<Vec<_>>().len(), 2);
    let (one, two) = (first.iter().find(|s| s.to.node.0[1] == 1), first.iter().find(|s| s.to.node.0[1] == 2));
    // The liar names many that are nearer; the other line goes its own way.
    let lies: Vec<Arc<Card>> = (10..40).map(|n| at(0.1, n, u32::from(n))).collect();
    walk.answered(one.unwrap().id, &lies, now);
    assert_eq!(all(&mut walk, now).len(), 1);
    walk.answered(two.unwrap().id, &[at(0.2, 50, 50), at(0.45, 51, 51)], now);
    let next = all(&mut walk, now);
    assert_eq!(next.iter().map(|step| step.to.node.0[1]).collect::<Vec<_>>(), [50], "and nothing that is farther");
}

#[test]
fn a_dead_end_takes_a_fresh_seed() {
    let now = Instant::now();
    let config = WalkConfig { paths: 1, parallel: 1, ..WalkConfig::default() };
    let mut walk = walk(vec![at(0.3, 1, 1), at(0.4, 2, 2)], config, now);
    let first = all(&mut walk, now);
    walk.answered(first[0].id, &[at(0.9, 9, 9)], now);
    let second = all(&mut walk, now);
    assert_eq!(second[0].to.node.0[1], 2);
    walk.failed(second[0].id, Failure::Unreachable, now);
    assert!(all(&mut walk, now).is_empty() && walk.is_over(now));
    assert!(!walk.press_on());
}

#[test]
fn a_lie_about_an_address_costs_only_its_card() {
    let now = Instant::now();
    let config = WalkConfig { paths: 2, parallel: 1, ..WalkConfig::default() };
    let mut walk = walk(vec![at(0.3, 1, 1), at(0.4, 2, 2)], config, now);
    let first = all(&mut walk, now);
    let honest = member(7);
    let mut wrong = Card::clone(&honest);
    wrong.addresses[0].port = 1;
    walk.answered(first[0].id, &[Arc::new(wrong)], now);
    let asked = all(&mut walk, now);
    assert_eq!(asked.len(), 1);
    walk.failed(asked[0].id, Failure::Unreachable, now);
    assert!(all(&mut walk, now).is_empty());
    walk.answered(first[1].id, std::slice::from_ref(&honest), now);
    let again = all(&mut walk, now);
    assert_eq!(again[0].to, honest);
    walk.answered(again[0].id, &[], now);
    assert_eq!(walk.region(), [honest]);
}

#[test]
fn a_later_card_does_not_wait_for_the_silence_of_an_older_one() {
    let now = Instant::now();
    let config = WalkConfig { paths: 2, parallel: 1, ..WalkConfig::default() };
    let mut walk = walk(vec![at(0.3, 1, 1), at(0.4, 2, 2)], config.clone(), now);
    let first = all(&mut walk, now);
    let honest = member(7);
    let mut old = Card::clone(&honest);
    old.addresses[0].port = 1;
    old.issued_at = crate::clock::UnixMillis(1);
    walk.answered(first[0].id, &[Arc::new(old)], now);
    let asked = all(&mut walk, now);
    walk.answered(first[1].id, std::slice::from_ref(&honest), now);
    let again = all(&mut walk, now);
    assert_eq!(again[0].to, honest);
    walk.answered(again[0].id, &[], now);
    all(&mut walk, now + config.hard);
    walk.answered(asked[0].id, &[], now);
    assert_eq!(walk.region(), [honest], "and is told once");
}

#[test]
fn who_names_ghosts_is_soon_not_followed() {
    let now = Instant::now();
    let mut walk = walk(vec![at(0.3, 1, 1)], WalkConfig::default(), now);
    let first = all(&mut walk, now);
    walk.answered(first[0].id, &(10..30).map(member).collect::<Vec<_>>(), now);
    let mut dialled = 0;
    loop {
        let asked = all(&mut walk, now);
        if asked.is_empty() {
            break;
        }
        dialled += asked.len();
        asked.iter().for_each(|step| walk.failed(step.id, Failure::Unreachable, now));
    }
    assert_eq!(dialled, 6);
}

#[test]
fn one_word_causes_few_requests() {
    let now = Instant::now();
    let mut walk = walk(vec![at(0.3, 1, 1)], WalkConfig::default(), now);
    let first = all(&mut walk, now);
    walk.answered(first[0].id, &(10..40).map(member).collect::<Vec<_>>(), now);
    let asked = all(&mut walk, now);
    assert_eq!(asked.len(), 2);
    walk.answered(asked[0].id, &[], now);
    assert_eq!(all(&mut walk, now).len(), 2, "one that was true earns one more");
}

#[test]
fn networks_are_asked_in_turn_and_filled_up_at_the_end() {
    let now = Instant::now();
    let mut walk = walk(vec![at(0.3, 1, 1), at(0.31, 2, 2)], WalkConfig::default(), now);
    for step in all(&mut walk, now) {
        let peers: Vec<_> = (0..20).map(|n| at(RADIUS * 0.9, u16::from(step.to.node.0[1]) * 100 + n, 77)).collect();
        walk.answered(step.id, &peers, now);
    }
    let mut rounds = Vec::new();
    while rounds.len() < 40 {
        let asked = all(&mut walk, now);
        if asked.is_empty() {
            break;
        }
        rounds.push(asked.len());
        asked.iter().for_each(|step| walk.answered(step.id, &[], now));
    }
    assert_eq!((rounds[0], walk.region().len()), (2, 2 * REGION), "two of one /24, then up to twice the expected");
    assert!(!walk.is_crowded());
}

#[test]
fn a_crowd_widens_the_quota() {
    let now = Instant::now();
    let mut walk = walk((0..8).map(|n| at(0.3, n, n.into())).collect(), WalkConfig::default(), now);
    let mut next = 100;
    loop {
        let asked = all(&mut walk, now);
        if asked.is_empty() {
            break;
        }
        for step in asked {
            let peers: Vec<_> = (next..next + 20).map(member).collect();
            next += 20;
            walk.answered(step.id, &peers, now);
        }
    }
    assert!(walk.is_crowded());
    assert_eq!(walk.region().len(), 256);
}

#[test]
fn around_a_crowd_the_surroundings_are_searched() {
    let now = Instant::now();
    let config = WalkConfig { paths: 2, first: 2, parallel: 1, ..WalkConfig::default() };
    let mut walk = walk(vec![at(0.3, 1, 1), at(0.31, 2, 2)], config, now);
    let beside = at(RADIUS * 3.0, 5_000, 5_000);
    let (mut next, mut asked_beside) = (100, 0);
    loop {
        let asked = all(&mut walk, now);
        if asked.is_empty() {
            break;
        }
        for step in asked {
            asked_beside += usize::from(step.to == beside);
            assert!(step.to != beside || walk.is_crowded());
            let mut peers: Vec<_> = (next..next + 10).map(member).collect();
            next += 10;
            if step.to.position.distance(&walk.target) <= Distance::of_fraction(RADIUS) {
                peers.push(beside.clone());
            }
            walk.answered(step.id, &peers, now);
        }
    }
    assert_eq!(asked_beside, 1);
    assert!(walk.region().contains(&beside));
}

#[test]
fn where_a_region_is_silent_its_surroundings_are_searched() {
    let now = Instant::now();
    let mut walk = walk((0..40).map(|n| at(0.3, n, n.into())).collect(), WalkConfig::default(), now);
    let beside = at(RADIUS * 3.0, 5_000, 5_000);
    let (mut next, mut silent, mut found) = (100, 0, false);
    loop {
        let asked = all(&mut walk, now);
        if asked.is_empty() {
            break;
        }
        for step in asked {
            if step.to == beside {
                assert!(silent >= 2 * REGION, "{silent}");
                found = true;
                walk.answered(step.id, &[], now);
            } else if step.to.position.distance(&walk.target) <= Distance::of_fraction(RADIUS) {
                silent += 1;
                walk.failed(step.id, Failure::Unreachable, now);
            } else {
                let mut peers: Vec<_> = (next..next + 3).map(member).collect();
                next += 3;
                peers.push(beside.clone());
                walk.answered(step.id, &peers, now);
            }
        }
    }
    assert!(found && !walk.is_crowded());
    assert_eq!(walk.region(), [beside]);
}

#[test]
fn half_of_the_paths_wait_for_doubt() {
    let now = Instant::now();
    let mut walk = walk((0..40).map(|n| at(0.3, n, n.into())).collect(), WalkConfig::default(), now);
    assert_eq!(all(&mut walk, now).len(), 8, "four paths of two lines");
    assert!(walk.press_on());
    assert_eq!(all(&mut walk, now).len(), 8, "and four more");
}

#[test]
fn silence_frees_the_line_and_ends() {
    let now = Instant::now();
    let config = WalkConfig { paths: 1, parallel: 1, ..WalkConfig::default() };
    let mut walk = walk(vec![at(0.3, 1, 1), at(0.4, 2, 2)], config.clone(), now);
    assert_eq!(all(&mut walk, now).len(), 1);
    assert_eq!(walk.poll_timeout(), Some(now + config.soft));
    let soft = now + config.soft;
    let second = all(&mut walk, soft);
    assert_eq!(second.len(), 1);
    assert_eq!(walk.take_observations(), [(NodeKey(at(0.3, 1, 1).node.0), Observation::Silent)]);
    walk.failed(second[0].id, Failure::Unreachable, soft);
    assert!(all(&mut walk, soft).is_empty());
    assert!(walk.is_idle(soft) && !walk.is_over(soft));
    let hard = now + config.hard;
    assert_eq!(walk.poll_timeout(), Some(hard));
    assert!(all(&mut walk, hard).is_empty() && walk.is_over(hard));
}
