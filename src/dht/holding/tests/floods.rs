//! Floods of a store (SECURITY E5) and a key that everybody asks for (E6). The short form runs with the other tests;
//! `PEERLINE_FLOOD=<identities>` and `--nocapture` give the long one.

use super::*;
use std::time::Instant;

fn size() -> usize {
    std::env::var("PEERLINE_FLOOD").ok().and_then(|n| n.parse().ok()).unwrap_or(3_000)
}

/// Resident bytes of this process.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    pages.and_then(|text| text.split(' ').nth(1)?.parse::<usize>().ok()).unwrap_or(0) * 4_096
}

fn p99(holding: &Holding, keys: &[RecordKey], now: UnixMillis) -> u128 {
    let mut took: Vec<u128> = (0..20_000)
        .map(|n| {
            let start = Instant::now();
            std::hint::black_box(holding.fetch(&keys[n % keys.len()], now));
            start.elapsed().as_nanos()
        })
        .collect();
    took.sort_unstable();
    took[took.len() * 99 / 100]
}

/// E5: a day-old honest store, then identities by the hundred thousand with valid signatures, from many networks, beside
/// bad signatures, bundles of 16 KiB and replays.
#[test]
fn a_flood_evicts_nobody_old_and_leaves_no_memory_behind() {
    let n = size();
    let day = OLD_MS;
    // A store whose size has the flood at its throat: the flood is several times what fits.
    let records = (n / 3).min(40_000);
    let mut holding = holding(records);
    let honest: Vec<Person> = (0..records / 4).map(|_| Person::new()).collect();
    let mut keys = Vec::new();
    for (n, person) in honest.iter().enumerate() {
        let [key, ..] = person.keys();
        let bundle = record::validate(&person.bytes(day), &key, &judge_at(day), None).unwrap();
        let share = Share::of(&from(1_000 + n as u32 / 8, n as u32));
        assert!(holding.place(key, &bundle, share, Some(NOW), ALL, UnixMillis(NOW.0 + day)));
        keys.push(key);
    }
    let judge = judge_at(day);
    let (before, calm) = (resident(), p99(&holding, &keys, judge.now));
    let (mut kept, mut worst) = (0, 0);
    let start = Instant::now();
    for i in 0..n {
        let person = Person::new();
        // One /24 at first, then 64 of them, then everybody another.
        let subnet = if i < n / 3 {
            0
        } else if i < 2 * n / 3 {
            i as u32 % 64
        } else {
            10_000 + i as u32 % 40_000
        };
        let publisher = from(subnet, i as u32);
        let [key, ..] = person.keys();
        let bytes = person.bytes(day);
        kept += usize::from(holding.offer(&key, &bytes, &publisher, None, ALL, &judge).why == Why::Fresher);
        let mut forged = bytes.to_vec();
        let last = forged.len() - 1;
        forged[last] ^= 1;
        let offered = holding.offer(&person.keys()[1], &forged.into(), &publisher, None, ALL, &judge);
        assert!(!matches!(offered.stored, Stored::Kept { .. }));
        let large = Bytes::from(vec![10; 16 * 1024]);
        let offered = holding.offer(&key, &large, &publisher, None, ALL, &judge);
        assert_eq!(offered.why, Why::Rejected(RejectReason::TooLarge));
        let replayed = &honest[i % honest.len()];
        holding.offer(&replayed.keys()[0], &replayed.bytes(day - 1_000), &publisher, None, ALL, &judge);
        worst = worst.max(resident().saturating_sub(before));
    }
    let took = start.elapsed();
    let lost = keys.iter().filter(|key| holding.fetch(key, judge.now).is_none()).count();
    let under = p99(&holding, &keys, judge.now);
    println!(
        "E5: {n} identities and 3 times as many bad ones in {took:?}: {kept} kept, {} held of {records} in {} KiB, {} \
         networks, {lost} of {} old honest ones lost, memory +{} MiB, p99 of fetch {calm} -> {under} ns",
        holding.len(),
        holding.bytes() / 1024,
        holding.publishers(),
        keys.len(),
        worst / 1024 / 1024,
    );
    assert_eq!(lost, 0);
    assert!(worst < 100 * 1024 * 1024, "{worst} bytes more");
    sound(&holding);
    // And there is room for an honest newcomer who brings a stamp.
    let person = Person::new();
    let [key, ..] = person.keys();
    let bits = Holding::bits(holding.load_with(1, 1_000));
    let stamp = Stamp::mint(&key, bits, judge.now, 0, 1 << 28).unwrap();
    let newcomer = holding.offer(&key, &person.bytes(day), &from(99_000, 1), Some(stamp), ALL, &judge);
    assert_eq!(newcomer.why, Why::Fresher, "{bits} bits");
}

/// E6, the pure part: what an answer to a hot key costs here.
#[test]
fn a_hot_key_costs_a_table_lookup() {
    let mut holding = holding(40_000);
    let person = Person::new();
    put(&mut holding, &person, &from(1, 1), 0);
    let [key, ..] = person.keys();
    let start = Instant::now();
    let many = 100_000;
    let found = (0..many).filter(|_| std::hint::black_box(holding.fetch(&key, NOW)).is_some()).count();
    let each = start.elapsed().as_nanos() / many;
    println!("E6: {each} ns for each of {many} fetches of one key");
    assert_eq!(found as u128, many);
    let first = holding.fetch(&key, NOW).unwrap();
    assert_eq!(first.as_ptr(), holding.fetch(&key, NOW).unwrap().as_ptr(), "the same bytes, not a copy");
}
