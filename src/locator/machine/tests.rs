use super::*;
use proptest::prelude::*;

const USER: IdHash = IdHash([7; 22]);
const TTL: Duration = Duration::from_secs(3600);
const REFRESH: Duration = Duration::from_secs(1200);

fn publisher() -> Publisher {
    Publisher::new(TTL, REFRESH)
}

/// Confirms everything that wants to be kept; returns the announcements.
fn settle(publisher: &mut Publisher, now: Instant, wall: UnixMillis) -> Vec<Announcement> {
    let mut announced = Vec::new();
    while let Some(effect) = publisher.poll_effect() {
        match effect {
            Effect::Keep { user, sequence } => publisher.kept(user, sequence, true, now, wall),
            Effect::Announce(announcement) => announced.push(announcement),
        }
    }
    announced
}

#[test]
fn a_hosted_user_is_served_but_not_published_until_bound() {
    let (mut publisher, now) = (publisher(), Instant::now());
    publisher.host(USER, 0, UnixMillis(1_000));
    let first = settle(&mut publisher, now, UnixMillis(1_000));
    assert_eq!((first[0].shown, first[0].publish, first[0].sequence), (Shown::Tombstone, false, 1_000));
    assert_eq!(publisher.bind(USER, UnixMillis(1_000)), None);
    let second = settle(&mut publisher, now, UnixMillis(1_000));
    assert_eq!((second[0].shown, second[0].publish, second[0].sequence), (Shown::Reachable, true, 1_001));
    assert_eq!(second[0].expires_at.0 - second[0].issued_at.0, 3_600_000);
    assert_eq!(publisher.bind(USER, UnixMillis(9_000)), Some(1_001), "a phone's refresh changes nothing");
}

#[test]
fn what_has_too_few_copies_is_published_again_when_more_nodes_are_known() {
    let (mut publisher, now) = (publisher(), Instant::now());
    publisher.host(USER, 0, UnixMillis(1_000));
    publisher.bind(USER, UnixMillis(1_000));
    let bound = settle(&mut publisher, now, UnixMillis(1_000)).pop().unwrap();
    publisher.nodes_found(now);
    publisher.told(USER, bound.sequence, Told::Thin, now);
    assert!(publisher.poll_timeout().unwrap() >= now + REFRESH / 2, "nobody new: no hurry");
    publisher.nodes_found(now);
    let due = publisher.poll_timeout().unwrap();
    assert_eq!(due, now + AFTER_JOINING);
    publisher.handle_timeout(due, UnixMillis(2_000));
    let again = settle(&mut publisher, due, UnixMillis(2_000)).pop().unwrap();
    assert!(again.publish && again.sequence > bound.sequence);
    publisher.told(USER, again.sequence, Told::Published, due);
    publisher.nodes_found(due);
    assert!(publisher.poll_timeout().unwrap() >= due + REFRESH / 2, "enough copies: nothing more to do");
}

#[test]
fn nothing_is_announced_before_its_number_is_kept() {
    let (mut publisher, now) = (publisher(), Instant::now());
    publisher.host(USER, 5_000, UnixMillis(1_000));
    assert_eq!(publisher.poll_effect(), Some(Effect::Keep { user: USER, sequence: 5_001 }));
    assert_eq!(publisher.bind(USER, UnixMillis(1_000)), None);
    assert_eq!(publisher.poll_effect(), None, "one number at a time");
    publisher.kept(USER, 5_001, false, now, UnixMillis(1_000));
    assert_eq!(publisher.poll_effect(), None);
    let due = publisher.poll_timeout().unwrap();
    assert_eq!(due, now + FIRST_RETRY);
    publisher.handle_timeout(due, UnixMillis(1_000));
    assert_eq!(settle(&mut publisher, due, UnixMillis(1_000))[0].sequence, 5_002);
}

#[test]
fn refreshes_within_a_quarter_of_the_interval() {
    let (mut publisher, now) = (publisher(), Instant::now());
    publisher.host(USER, 0, UnixMillis(1_000));
    publisher.bind(USER, UnixMillis(1_000));
    let bound = settle(&mut publisher, now, UnixMillis(1_000)).pop().unwrap();
    publisher.told(USER, bound.sequence, Told::Published, now);
    let due = publisher.poll_timeout().unwrap();
    assert!((Duration::from_secs(900)..=Duration::from_secs(1_501)).contains(&(due - now)), "{:?}", due - now);
    publisher.handle_timeout(due, UnixMillis(1_200_000));
    let again = settle(&mut publisher, due, UnixMillis(1_200_000));
    assert_eq!((again[0].sequence, again[0].shown), (1_200_000, Shown::Reachable));
}

#[test]
fn tries_again_when_somebody_joins_and_backs_off_otherwise() {
    let (mut publisher, now) = (publisher(), Instant::now());
    publisher.host(USER, 0, UnixMillis(1));
    publisher.bind(USER, UnixMillis(1));
    let mut sequence = settle(&mut publisher, now, UnixMillis(1)).pop().unwrap().sequence;
    let mut waits = Vec::new();
    let mut at = now;
    for _ in 0..10 {
        publisher.told(USER, sequence, Told::Alone, at);
        let due = publisher.poll_timeout().unwrap();
        waits.push((due - at).as_secs());
        at = due;
        publisher.handle_timeout(at, UnixMillis(1));
        sequence = settle(&mut publisher, at, UnixMillis(1)).pop().unwrap().sequence;
    }
    assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    publisher.told(USER, sequence, Told::Alone, at);
    publisher.peers_joined(at);
    assert_eq!(publisher.poll_timeout(), Some(at + AFTER_JOINING));
}

#[test]
fn the_tombstone_outlives_what_was_published_and_a_new_bind_goes_above_it() {
    let (mut publisher, now) = (publisher(), Instant::now());
    publisher.host(USER, 0, UnixMillis(1_000));
    publisher.bind(USER, UnixMillis(1_000));
    let bound = settle(&mut publisher, now, UnixMillis(1_000)).pop().unwrap();
    publisher.told(USER, bound.sequence, Told::Published, now);
    publisher.unbind(USER, UnixMillis(1_000));
    let gone = settle(&mut publisher, now, UnixMillis(1_000)).pop().unwrap();
    assert_eq!((gone.shown, gone.publish), (Shown::Tombstone, true));
    assert!(gone.sequence > bound.sequence && gone.expires_at >= bound.expires_at);
    assert!(!publisher.all_withdrawn());
    publisher.told(USER, gone.sequence, Told::Published, now);
    assert!(publisher.all_withdrawn());
    publisher.bind(USER, UnixMillis(1_000));
    let back = settle(&mut publisher, now, UnixMillis(1_000)).pop().unwrap();
    assert!(back.sequence > gone.sequence && back.shown == Shown::Reachable);
}

#[test]
fn goes_above_a_number_that_it_never_used() {
    let (mut publisher, now) = (publisher(), Instant::now());
    publisher.host(USER, 0, UnixMillis(1_000));
    publisher.bind(USER, UnixMillis(1_000));
    settle(&mut publisher, now, UnixMillis(1_000));
    publisher.seen(USER, 80_000, UnixMillis(2_000));
    assert_eq!(settle(&mut publisher, now, UnixMillis(2_000))[0].sequence, 80_001);
    publisher.seen(USER, 80_001, UnixMillis(2_000));
    assert!(settle(&mut publisher, now, UnixMillis(2_000)).is_empty(), "our own number is no news");
}

#[test]
fn a_late_result_of_an_older_announcement_says_nothing() {
    let (mut publisher, now) = (publisher(), Instant::now());
    publisher.host(USER, 0, UnixMillis(1_000));
    publisher.bind(USER, UnixMillis(1_000));
    let bound = settle(&mut publisher, now, UnixMillis(1_000)).pop().unwrap();
    publisher.unbind(USER, UnixMillis(1_000));
    settle(&mut publisher, now, UnixMillis(1_000));
    publisher.told(USER, bound.sequence, Told::Published, now);
    assert!(!publisher.all_withdrawn(), "the tombstone is still owed");
}

/// What may happen to a node; `Kill` forgets everything that is not on disk.
#[derive(Clone, Debug)]
enum Step {
    Bind,
    Unbind,
    Addresses,
    KeepOk,
    KeepFails,
    Seen(u64),
    Told,
    Wait(u64),
    ClockBack(u64),
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => Just(Step::Bind),
        1 => Just(Step::Unbind),
        1 => Just(Step::Addresses),
        3 => Just(Step::KeepOk),
        1 => Just(Step::KeepFails),
        1 => (0..200_000u64).prop_map(Step::Seen),
        1 => Just(Step::Told),
        1 => (0..2_000_000u64).prop_map(Step::Wait),
        1 => (0..100_000u64).prop_map(Step::ClockBack),
        1 => Just(Step::Kill),
    ]
}

proptest! {
    #[test]
    fn a_sequence_number_never_goes_back(steps in proptest::collection::vec(step(), 1..80)) {
        let (mut disk, mut highest) = (0u64, 0u64);
        let (mut now, mut wall) = (Instant::now(), UnixMillis(100_000));
        let mut machine = publisher();
        machine.host(USER, disk, wall);
        let mut writing = VecDeque::new();
        let mut current = 0;
        for step in steps {
            match step {
                Step::Bind => drop(machine.bind(USER, wall)),
                Step::Unbind => machine.unbind(USER, wall),
                Step::Addresses => machine.addresses_changed(wall),
                Step::KeepOk => if let Some(sequence) = writing.pop_front() {
                    disk = disk.max(sequence);
                    machine.kept(USER, sequence, true, now, wall);
                },
                Step::KeepFails => if let Some(sequence) = writing.pop_front() {
                    machine.kept(USER, sequence, false, now, wall);
                },
                Step::Seen(sequence) => machine.seen(USER, sequence, wall),
                Step::Told => machine.told(USER, current, Told::Published, now),
                Step::Wait(ms) => {
                    now += Duration::from_millis(ms);
                    wall.0 += ms;
                    machine.handle_timeout(now, wall);
                }
                Step::ClockBack(ms) => wall.0 = wall.0.saturating_sub(ms),
                Step::Kill => {
                    machine = publisher();
                    writing.clear();
                    machine.host(USER, disk, wall);
                }
            }
            while let Some(effect) = machine.poll_effect() {
                match effect {
                    Effect::Keep { sequence, .. } => writing.push_back(sequence),
                    Effect::Announce(announcement) => {
                        prop_assert!(announcement.sequence > highest, "{} after {highest}", announcement.sequence);
                        prop_assert!(announcement.sequence <= disk, "announced before it was on disk");
                        highest = announcement.sequence;
                        current = highest;
                    }
                }
            }
            prop_assert!(writing.len() <= 1);
        }
    }
}
