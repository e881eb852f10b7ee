use super::super::tests::{Kind, User, World};
use super::*;

struct Report {
    good: bool,
    copies: usize,
    requests: usize,
    newer: usize,
    holders: [Vec<Arc<Card>>; 4],
    goods: usize,
}

fn run(world: &mut World, mut publish: Publish) -> Report {
    let mut report = Report { good: false, copies: 0, requests: 0, newer: 0, holders: Default::default(), goods: 0 };
    world.run(&mut publish, |publish, _| {
        while let Some(progress) = publish.poll_progress() {
            match progress {
                Published::Good { .. } => report.goods += 1,
                Published::Newer(_) => report.newer += 1,
                Published::Done { good, copies, requests, .. } => {
                    (report.good, report.copies, report.requests) = (good, copies, requests);
                }
            }
        }
    });
    report.holders = publish.holders().clone();
    report
}

fn held(world: &World, user: &User, version: usize) -> usize {
    let holds = |node: &&super::super::tests::Node| {
        user.keys.iter().any(|key| node.holds.get(key) == Some(&user.versions[version]))
    };
    world.nodes.iter().filter(holds).count()
}

#[test]
fn reaches_everybody_in_small_overlays_and_the_regions_in_large_ones() {
    for (count, one_subnet, at_least) in [(2, true, 1), (10, true, 9), (10, false, 9), (64, true, 50), (300, false, 25)]
    {
        let mut world = World::new(count, one_subnet, 5, |_| Kind::Honest);
        let user = User::new(2);
        let publish = world.publish(0, &user, 1, 3);
        let report = run(&mut world, publish);
        assert!(report.good && report.goods == 1, "{count}");
        assert!(held(&world, &user, 1) >= at_least, "{count}: {}", held(&world, &user, 1));
        let mut lookup = world.lookup(count / 2, &user, 4);
        let mut found = false;
        world.run(&mut lookup, |lookup, _| found |= lookup.poll_progress().is_some());
        assert!(found);
    }
}

/// Who started a moment ago knows three nodes, and takes them for all there are.
#[test]
fn a_newcomer_reaches_the_four_regions_of_a_large_overlay() {
    for hostile in [0, 3] {
        let kind = |i: usize| if i % 10 < hostile { Kind::Misroute } else { Kind::Honest };
        let mut world = World::new(600, false, 5, kind);
        let user = User::new(2);
        let known: Vec<Arc<Card>> = [5, 16, 27].map(|i| world.nodes[i].card.clone()).into();
        let seeds = [0; 4].map(|_| Seeds { near: known.clone(), random: Vec::new() });
        world.seeds(4, &user.keys, 1);
        let config = WalkConfig::default();
        let publish =
            Publish::new(user.valid(1), user.keys, Default::default(), seeds, 1.0, true, config, 1, world.now);
        let report = run(&mut world, publish);
        let copies = report.holders.each_ref().map(Vec::len);
        println!("{hostile}: {copies:?} copies, {} requests", report.requests);
        assert!(report.good && copies.iter().all(|copies| *copies >= 4), "{copies:?}");
    }
}

#[test]
fn alone_it_is_not_good() {
    let mut world = World::new(1, true, 5, |_| Kind::Honest);
    let publish = world.publish(0, &User::new(2), 1, 3);
    let report = run(&mut world, publish);
    assert_eq!((report.good, report.copies, report.requests), (false, 0, 0));
}

#[test]
fn tells_of_a_newer_one() {
    let mut world = World::new(30, true, 5, |_| Kind::Honest);
    let user = User::new(2);
    world.place(&user, 1);
    let publish = world.publish(0, &user, 0, 3);
    let report = run(&mut world, publish);
    assert_eq!((report.newer, report.good, held(&world, &user, 1)), (1, false, 30));
}

#[test]
fn a_refresh_asks_the_holders_and_searches_when_they_are_gone() {
    let mut world = World::new(300, false, 5, |_| Kind::Honest);
    let user = User::new(2);
    let publish = world.publish(0, &user, 0, 3);
    let first = run(&mut world, publish);
    let refresh = |world: &World| {
        let (seeds, holders) = (world.seeds(0, &user.keys, 8), first.holders.clone());
        let config = WalkConfig::default();
        Publish::new(user.valid(1), user.keys, holders, seeds, world.radius(), false, config, 8, world.now)
    };
    let publish = refresh(&world);
    let second = run(&mut world, publish);
    assert!(second.good);
    assert_eq!((second.copies, second.requests), (first.copies, first.copies));
    for gone in first.holders.iter().flatten().step_by(2) {
        let at = world.nodes.iter().position(|node| node.card.node == gone.node).unwrap();
        world.nodes[at].kind = Kind::Dead;
    }
    let publish = refresh(&world);
    let third = run(&mut world, publish);
    assert!(third.good && third.requests > second.requests);
}

#[test]
fn is_good_among_liars() {
    for kind in [Kind::Misroute, Kind::Ghosts, Kind::Dead, Kind::Forger] {
        let mut world = World::new(300, false, 11, |i| if i % 3 == 1 { kind } else { Kind::Honest });
        let user = User::new(4);
        let publish = world.publish(0, &user, 1, 3);
        assert!(run(&mut world, publish).good, "{kind:?}");
        let honest = |node: &&super::super::tests::Node| node.kind == Kind::Honest && !node.holds.is_empty();
        let copies = world.nodes.iter().filter(honest).count();
        assert!(copies >= 15, "{kind:?} {copies}");
    }
}
