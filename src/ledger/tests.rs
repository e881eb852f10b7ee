use super::*;
use crate::clock::UnixMillis;

const DAY: Duration = GOOD_HALF_LIFE;
const WALL: UnixMillis = UnixMillis(1_800_000_000_000);

fn many(ledger: &mut Ledger<u32>, peer: u32, fact: Fact, times: usize, now: Instant) {
    (0..times).for_each(|_| ledger.note(peer, fact, now));
}

#[test]
fn shuns_a_forger_and_forgives_in_time() {
    let now = Instant::now();
    let mut ledger = Ledger::default();
    for _ in 0..10 {
        assert!(!ledger.shuns(&1, now));
        ledger.note(1, Fact::Forged, now);
    }
    assert!(ledger.shuns(&1, now));
    assert!(!ledger.shuns(&2, now));
    assert!(!ledger.shuns(&1, now + DAY), "a little below again");
    many(&mut ledger, 1, Fact::Forged, 1_000, now);
    assert!(ledger.shuns(&1, now + 23 * DAY));
    assert!(!ledger.shuns(&1, now + 24 * DAY));
}

#[test]
fn a_proof_weighs_a_month_and_half_of_a_week_on_the_network() {
    let now = Instant::now();
    let mut ledger = Ledger::default();
    ledger.met(1, Some(7), now);
    ledger.met(2, Some(7), now);
    many(&mut ledger, 2, Fact::Forged, 5, now);
    assert!(!ledger.shuns(&2, now));
    ledger.note(1, Fact::Proven, now);
    assert!(ledger.shuns(&2, now), "whose network has a liar has less patience");
    ledger.note(1, Fact::Forged, now);
    assert!(ledger.shuns(&1, now + 30 * DAY));
    assert!(!ledger.shuns(&1, now + 33 * DAY));
    let rows = ledger.take_changes(now, WALL);
    let mut again = Ledger::default();
    for (peer, row) in rows {
        assert!(again.restore(peer, &row.unwrap(), now, WALL));
    }
    assert!(again.shuns(&1, now + 30 * DAY) && !again.shuns(&1, now + 33 * DAY));
}

#[test]
fn silence_is_no_crime() {
    let now = Instant::now();
    let mut ledger = Ledger::default();
    many(&mut ledger, 1, Fact::Silent, 10_000, now);
    assert!(!ledger.shuns(&1, now));
    assert!(ledger.avoids(&1, now));
    assert!(!ledger.avoids(&1, now + 9 * DAY));
    many(&mut ledger, 2, Fact::Useful, 20, now);
    many(&mut ledger, 2, Fact::Silent, 20, now);
    assert!(!ledger.avoids(&2, now), "lossy, but there");
    assert!(!ledger.avoids(&3, now), "newcomers are neither");
}

#[test]
fn refusals_alone_take_a_hundred() {
    let now = Instant::now();
    let mut ledger = Ledger::default();
    many(&mut ledger, 1, Fact::Refused, 99, now);
    assert!(!ledger.shuns(&1, now));
    ledger.note(1, Fact::Useful, now);
    assert_eq!(ledger.of(&1, now), Sums { good: 1.0, slow: 0.0, bad: 99.0 });
}

#[test]
fn a_traitor_lives_on_its_merits_no_longer_than_anybody() {
    let now = Instant::now();
    let mut ledger = Ledger::default();
    many(&mut ledger, 1, Fact::Useful, 100_000, now);
    many(&mut ledger, 1, Fact::Forged, 10, now);
    assert!(ledger.shuns(&1, now));
    many(&mut ledger, 2, Fact::Useful, 100_000, now);
    many(&mut ledger, 2, Fact::Silent, 54, now);
    assert!(ledger.avoids(&2, now));
}

#[test]
fn a_network_answers_for_its_peers_halfway() {
    let now = Instant::now();
    let mut ledger = Ledger::default();
    for liar in 0..100 {
        ledger.met(liar, Some(7), now);
        many(&mut ledger, liar, Fact::Forged, 10, now);
    }
    ledger.met(200, Some(7), now);
    ledger.met(201, Some(8), now);
    assert!(!ledger.shuns(&200, now), "an honest neighbour");
    many(&mut ledger, 200, Fact::Forged, 5, now);
    many(&mut ledger, 201, Fact::Forged, 5, now);
    assert!(ledger.shuns(&200, now), "who begins to lie there is known sooner");
    assert!(!ledger.shuns(&201, now));
}

#[test]
fn is_bounded_and_keeps_the_worst() {
    let now = Instant::now();
    let mut ledger = Ledger::default();
    ledger.met(u32::MAX, Some(1), now);
    many(&mut ledger, u32::MAX, Fact::Forged, 10, now);
    for peer in 0..20_000_u32 {
        ledger.met(peer, Some(u64::from(peer) + 2), now);
        ledger.note(peer, Fact::Refused, now);
    }
    assert!(ledger.accounts.len() <= MAX_PEERS);
    assert!(ledger.networks.len() <= MAX_NETWORKS);
    assert!(ledger.shuns(&u32::MAX, now));
    ledger.take_changes(now, WALL);
    assert!(ledger.changed.is_empty());
}

#[test]
fn survives_a_restart_and_fades_meanwhile() {
    let now = Instant::now();
    let mut before = Ledger::default();
    before.met(1, Some(9), now);
    many(&mut before, 1, Fact::Forged, 20, now);
    many(&mut before, 2, Fact::Useful, 8, now);
    before.note(3, Fact::Late, now);
    let rows = before.take_changes(now, WALL);
    let row = |peer: u32| rows.iter().find(|(other, _)| *other == peer).unwrap().1;
    assert_eq!(row(3), None, "says nothing");
    let later = UnixMillis(WALL.0 + 24 * 3_600_000);
    let mut after = Ledger::default();
    assert!(after.restore(1, &row(1).unwrap(), now, later));
    assert!(after.restore(2, &row(2).unwrap(), now, later));
    assert!((after.of(&2, now).good - 4.0).abs() < 1e-9);
    assert!((after.of(&1, now).bad - 200.0 * 0.5_f64.powf(1.0 / 7.0)).abs() < 1e-9);
    assert!(after.shuns(&1, now));
    assert!(after.take_changes(now, WALL).is_empty());
    let year = UnixMillis(WALL.0 + 365 * 86_400_000);
    assert!(!Ledger::default().restore(1, &row(1).unwrap(), now, year), "nothing is left");
    for damaged in [&[0_u8; 39][..], &[0xff; 40], &[0x7f; 40], b""] {
        assert!(!Ledger::default().restore(1, damaged, now, WALL));
    }
    assert!(after.restore(1, &row(1).unwrap(), now, UnixMillis(0)), "a clock that went back");
}
