use super::super::tests::{Kind, User, World};
use super::*;
use crate::dht::{Observation, walk};

/// What a lookup said, and after how long it first held the newest.
fn look(world: &mut World, caller: usize, user: &User, salt: u64) -> (Option<Duration>, Outcome, usize) {
    let mut lookup = world.lookup(caller, user, salt);
    let newest = user.valid(1);
    let (mut found, mut outcome, mut told) = (None, None, 0);
    world.asked.clear();
    world.run(&mut lookup, |lookup, after| {
        while let Some(progress) = lookup.poll_progress() {
            match progress {
                Progress::Found(bundle) => {
                    told += 1;
                    if bundle == newest {
                        found.get_or_insert(after);
                    }
                }
                Progress::Done(done) => outcome = Some(done),
            }
        }
    });
    (found, outcome.expect("it is done"), told)
}

#[test]
fn finds_in_overlays_of_all_sizes() {
    for count in [2, 3, 10, 40, 100, 300] {
        for one_subnet in [true, false] {
            let mut world = World::new(count, one_subnet, 1, |_| Kind::Honest);
            let user = User::new(1);
            world.place(&user, 1);
            let (found, outcome, told) = look(&mut world, 0, &user, 9);
            assert!(found.is_some_and(|after| after < Duration::from_secs(1)), "{count} {one_subnet} {found:?}");
            assert_eq!(told, 1, "equal copies are no news");
            assert!(outcome.refused.is_empty() && outcome.stale.is_empty() && !outcome.crowded);
            if count <= walk::EVERYBODY {
                let others = count - 1;
                assert_eq!((outcome.requests, outcome.holders.len()), (others, others), "each is asked once");
            } else {
                assert!(outcome.holders.len() >= 4, "{count} {one_subnet} {outcome:?}");
            }
        }
    }
}

/// A caller that started a moment ago knows three nodes, and takes them for all there are.
#[test]
fn a_newcomer_finds_in_an_overlay_that_is_larger_than_it_seems() {
    for (count, hostile) in [(100, 0), (600, 0), (600, 3)] {
        let kind = |i: usize| if i % 10 < hostile { Kind::Misroute } else { Kind::Honest };
        for salt in 0..2 {
            let mut world = World::new(count, false, 1 + salt, kind);
            let user = User::new(1);
            world.place(&user, 1);
            let known: Vec<Arc<Card>> = [5, 16, 27].map(|i| world.nodes[i].card.clone()).into();
            let seeds = [0; 4].map(|_| Seeds { near: known.clone(), random: Vec::new() });
            world.seeds(4, &user.keys, salt);
            let mut lookup = Lookup::new(user.keys, seeds, 1.0, WalkConfig::default(), salt, world.now);
            let (mut found, mut done) = (None, None);
            world.run(&mut lookup, |lookup, after| {
                while let Some(progress) = lookup.poll_progress() {
                    match progress {
                        Progress::Found(_) => _ = found.get_or_insert(after),
                        Progress::Done(outcome) => done = Some(outcome),
                    }
                }
            });
            let done = done.unwrap();
            println!("{count} {hostile}: {found:?}, {} requests, {} holders", done.requests, done.holders.len());
            assert!(found.is_some_and(|after| after < Duration::from_secs(3)), "{count} {hostile} {salt}: {done:?}");
        }
    }
}

#[test]
fn alone_it_is_done_at_once() {
    let mut world = World::new(1, true, 1, |_| Kind::Honest);
    let (found, outcome, _) = look(&mut world, 0, &User::new(1), 1);
    assert_eq!((found, outcome.requests), (None, 0));
}

#[test]
fn the_same_salt_asks_the_same() {
    let mut world = World::new(200, false, 3, |i| if i % 4 == 3 { Kind::Dead } else { Kind::Honest });
    let user = User::new(1);
    world.place(&user, 1);
    let mut runs = [5, 5, 6].map(|salt| {
        look(&mut world, 0, &user, salt);
        world.asked.clone()
    });
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2]);
    runs.iter_mut().for_each(|run| run.retain(|_, count| *count > 4));
    assert!(runs.iter().all(BTreeMap::is_empty), "once for each key at most");
}

#[test]
fn finds_among_liars_of_every_kind() {
    for kind in [Kind::Dead, Kind::Misroute, Kind::Ghosts, Kind::Forger] {
        let mut world = World::new(200, false, 7, |i| if i % 3 == 1 { kind } else { Kind::Honest });
        for n in 0..3 {
            let user = User::new(n);
            world.place(&user, 1);
            let (found, outcome, _) = look(&mut world, usize::from(n) * 3, &user, n.into());
            assert!(found.is_some_and(|after| after < Duration::from_secs(3)), "{kind:?} {n} {found:?} {outcome:?}");
            assert!(outcome.holders.len() >= 8, "{kind:?} {n} {outcome:?}");
        }
    }
}

#[test]
fn the_freshest_wins_and_the_stale_are_repaired() {
    let mut world = World::new(300, false, 7, |i| if i % 3 == 1 { Kind::Stale } else { Kind::Honest });
    let user = User::new(3);
    world.place(&user, 0);
    world.place(&user, 1);
    // An honest holder that was away.
    let key = user.keys[2];
    let away = world.nodes.iter_mut().find(|node| node.kind == Kind::Honest && node.holds.contains_key(&key)).unwrap();
    away.holds.insert(key, user.versions[0].clone());
    let away = away.card.node;
    let (found, outcome, told) = look(&mut world, 0, &user, 1);
    assert!(found.is_some_and(|after| after < Duration::from_secs(3)));
    assert!((1..=2).contains(&told));
    assert!(outcome.stale.contains(&away) || !outcome.holders.contains(&away));
    let stale = outcome.stale.len();
    assert!(stale > 0 && outcome.holders.len() > stale, "{outcome:?}");
}

#[test]
fn repairs_those_who_have_nothing() {
    let mut world = World::new(100, false, 7, |_| Kind::Honest);
    let user = User::new(3);
    world.place(&user, 1);
    let holders: Vec<usize> = (0..100).filter(|i| world.nodes[*i].holds.contains_key(&user.keys[1])).collect();
    for emptied in &holders[..2] {
        world.nodes[*emptied].holds.clear();
    }
    let (_, outcome, _) = look(&mut world, 50, &user, 1);
    for emptied in &holders[..2] {
        let node = &world.nodes[*emptied];
        assert!(outcome.empty.contains(&node.card.node) && !node.holds.is_empty(), "{outcome:?}");
    }
}

#[test]
fn says_who_named_ghosts() {
    let mut world = World::new(100, false, 7, |i| if i % 10 == 1 { Kind::Ghosts } else { Kind::Honest });
    let user = User::new(3);
    world.place(&user, 1);
    let mut lookup = world.lookup(0, &user, 1);
    let mut facts = Vec::new();
    world.run(&mut lookup, |lookup, _| facts.append(&mut lookup.take_observations()));
    let noted: Vec<Kind> = facts
        .iter()
        .filter(|(_, fact)| *fact == Observation::Ghosts)
        .map(|(node, _)| world.node(node).unwrap().kind)
        .collect();
    assert!(!noted.is_empty() && noted.iter().all(|kind| *kind == Kind::Ghosts), "{noted:?}");
    assert!(facts.iter().any(|(_, fact)| *fact == Observation::Useful));
}
