use super::room::OLD_MS;
use super::*;
use crate::identity::{CertificateBytes, NodeSecret, Seed, UserIdentity};
use crate::record::{EntryDraft, UserHeader};
use crate::wire::{AddressScope, OverlayId};

mod floods;
mod repairing;

const OVERLAY: OverlayId = OverlayId([3; 32]);
const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const HOUR: u64 = 3_600_000;
/// Of an overlay so small that everything is everybody's.
const ALL: f64 = 1.0;

fn judge_at(ms: u64) -> Judge {
    Judge { overlay: OVERLAY, scope: AddressScope::Any, now: UnixMillis(NOW.0 + ms) }
}

/// A user with one device.
struct Person {
    header: UserHeader,
    id: crate::uri::IdHash,
    certificate: CertificateBytes,
    device: NodeSecret,
}

impl Person {
    fn new() -> Self {
        Self::at(NodeSecret::generate())
    }

    /// A user of a gateway.
    fn at(device: NodeSecret) -> Self {
        let user: UserIdentity = Seed::generate().identity();
        let certificate = user.certify(device.public(), &OVERLAY, 0, NOW);
        Self { header: UserHeader::from(&user), id: user.id, certificate, device }
    }

    fn keys(&self) -> [RecordKey; 4] {
        record::replica_keys(&OVERLAY, &self.id)
    }

    /// What is published `ms` after [`NOW`], good for an hour.
    fn bytes(&self, ms: u64) -> Bytes {
        self.bytes_for(ms, HOUR)
    }

    fn bytes_for(&self, ms: u64, life: u64) -> Bytes {
        let issued_at = UnixMillis(NOW.0 + ms);
        let draft = EntryDraft {
            epoch: 0,
            sequence: issued_at.0,
            issued_at,
            expires_at: UnixMillis(issued_at.0 + life),
            tombstone: false,
            priority: 0,
            addresses: vec![vec![4, 8, 8, 8, 8, 6, 1, 1]],
        };
        record::sign_bundle(&self.header, &self.certificate, &self.device, &OVERLAY, &draft).into()
    }
}

fn from(subnet: u32, node: u32) -> Publisher {
    let [a, b, c, d] = (0x0800_0000 + subnet * 256).to_be_bytes();
    let mut key = [0; 32];
    key[..4].copy_from_slice(&node.to_be_bytes());
    Publisher { node: NodeKey(key), network: Some(Network::of(std::net::IpAddr::from([a, b, c, d]))) }
}

fn lonely(node: u32) -> Publisher {
    Publisher { network: None, ..from(0, node) }
}

fn holding(records: usize) -> Holding {
    Holding::new(Position([0; 32]), Limits { records, ..Limits::default() })
}

fn put(holding: &mut Holding, person: &Person, publisher: &Publisher, ms: u64) -> Offered {
    holding.offer(&person.keys()[0], &person.bytes(ms), publisher, None, ALL, &judge_at(ms))
}

fn sound(holding: &Holding) {
    let bytes: usize = holding.held.values().map(|held| held.bytes.len()).sum();
    assert_eq!((holding.bytes, holding.by_expiry.len()), (bytes, holding.held.len()));
    let shares: std::collections::HashSet<Share> = holding.held.values().map(|held| held.share).collect();
    let weight: usize = shares.iter().map(|share| holding.shares.weight(*share)).sum();
    assert_eq!((holding.shares.len(), weight), (shares.len(), bytes + holding.len() * shares::OVERHEAD));
    assert!(holding.bytes <= holding.limits.bytes && holding.len() <= holding.limits.records);
}

#[test]
fn keeps_serves_and_forgets() {
    let mut holding = holding(100);
    let person = Person::new();
    let first = put(&mut holding, &person, &from(1, 1), 0);
    assert_eq!(first.stored, Stored::Kept { promise: PROMISE });
    assert_eq!((first.why, first.sequence), (Why::Fresher, NOW.0));
    assert_eq!(put(&mut holding, &person, &from(2, 2), 0).why, Why::Already, "pushed again by somebody");
    assert_eq!(holding.fetch(&person.keys()[0], NOW), Some(person.bytes(0)));
    assert_eq!(put(&mut holding, &person, &from(1, 1), 60_000).why, Why::Fresher);
    let stale = holding.offer(&person.keys()[0], &person.bytes(0), &from(1, 1), None, ALL, &judge_at(60_000));
    assert_eq!(stale.stored, Stored::Stale { newer: person.bytes(60_000) });
    let late = put(&mut holding, &person, &from(1, 1), 0);
    assert!(matches!(late.stored, Stored::Stale { .. }), "{late:?}");
    sound(&holding);
    let end = UnixMillis(NOW.0 + 60_000 + HOUR);
    assert_eq!(holding.fetch(&person.keys()[0], end), None, "served until it ends and not a moment longer");
    holding.expire(end);
    sound(&holding);
    assert!(holding.is_empty());
    let rows = holding.take_writes(usize::MAX);
    assert_eq!(rows, [(person.keys()[0], None)], "of all that was behind, the last word");
}

#[test]
fn is_paced_by_slot() {
    let mut holding = holding(100);
    let person = Person::new();
    put(&mut holding, &person, &from(1, 1), 0);
    let mut kept = |range: std::ops::Range<u64>| {
        range.filter(|n| put(&mut holding, &person, &from(1, 1), n * 1_000).why == Why::Fresher).count()
    };
    assert_eq!(kept(1..25), 20);
    assert!((3..=4).contains(&kept(25..125)), "one in 30 s after that");
}

#[test]
fn keeps_what_lies_near_only_but_in_a_small_overlay_everything() {
    let person = Person::new();
    let [key, ..] = person.keys();
    let Position(mut far) = Position::of_key(&key);
    far[0] ^= 0x80;
    let mut holding = Holding::new(Position(far), Limits::default());
    let mut put = |nodes: f64| {
        let region = (REGION as f64 / nodes).min(1.0);
        holding.offer(&key, &person.bytes(0), &from(1, 1), None, region, &judge_at(0)).stored
    };
    assert_eq!(put(1_000.0), Stored::NotMine);
    assert!(matches!(put(64.0), Stored::Kept { .. }));
}

#[test]
fn one_users_four_keys_are_judged_alike_and_forgeries_under_the_next_key_are_not_spared() {
    let mut holding = holding(100);
    let person = Person::new();
    let [first, second, third, fourth] = person.keys();
    let bytes = person.bytes(1_000);
    let offer = |holding: &mut Holding, key, bytes: &Bytes| {
        holding.offer(key, bytes, &from(1, 1), None, ALL, &judge_at(2_000)).why
    };
    assert_eq!(offer(&mut holding, &first, &bytes), Why::Fresher);
    for at in 0..bytes.len() {
        let mut forged = bytes.to_vec();
        forged[at] ^= 1;
        let why = offer(&mut holding, &second, &forged.into());
        assert!(matches!(why, Why::Rejected(_)), "byte {at}: {why:?}");
        // Refused as stale at most: then what was verified is kept, and nothing of what was not.
        let held = holding.fetch(&second, NOW);
        assert!(held.is_none_or(|held| held == bytes), "byte {at}");
    }
    assert!(matches!(offer(&mut holding, &second, &bytes), Why::Fresher | Why::Already));
    assert_eq!(holding.fetch(&second, NOW), Some(bytes.clone()));
    // Older under a key that has nothing yet: refused, and what is known to be fresher is kept there.
    let older = holding.offer(&third, &person.bytes(0), &from(1, 1), None, ALL, &judge_at(2_000));
    assert_eq!(older.stored, Stored::Stale { newer: bytes.clone() });
    // Newer under the last: the others learn it when they are offered anything.
    assert_eq!(offer(&mut holding, &fourth, &person.bytes(2_000)), Why::Fresher);
    assert_eq!(holding.fetch(&third, NOW), Some(bytes));
    assert_eq!(holding.fetch(&fourth, NOW), Some(person.bytes(2_000)));
    sound(&holding);
}

#[test]
fn a_gateway_brings_all_its_users_while_there_is_room() {
    let mut holding = holding(40_000);
    let device = NodeSecret::from_bytes([9; 32]);
    let gateway = Publisher { node: device.public(), ..from(1, 1) };
    let kept =
        (0..1_000).filter(|_| put(&mut holding, &Person::at(device.clone()), &gateway, 0).why == Why::Fresher).count();
    assert_eq!(kept, 1_000);
    sound(&holding);
}

#[test]
fn a_busy_store_asks_the_heavy_for_stamps_and_lets_the_light_be() {
    let mut holding = holding(200);
    let filled = (0..200).take_while(|_| put(&mut holding, &Person::new(), &from(1, 1), 0).why == Why::Fresher).count();
    assert_eq!(filled, 99, "half of it without a word");
    let person = Person::new();
    let Stored::Stamp { bits } = put(&mut holding, &person, &from(1, 1), 0).stored else { panic!("no stamp wanted") };
    let [key, ..] = person.keys();
    let stamp = Stamp::mint(&key, bits, NOW, 0, 1 << 24).unwrap();
    let stamped = holding.offer(&key, &person.bytes(0), &from(1, 1), Some(stamp), ALL, &judge_at(0));
    assert_eq!(stamped.why, Why::Fresher);
    assert_eq!(put(&mut holding, &Person::new(), &from(2, 2), 0).why, Why::Fresher, "another network owes nothing");
    assert_eq!(put(&mut holding, &Person::new(), &lonely(3), 0).why, Why::Fresher, "nor does a neighbour");
    sound(&holding);
}

#[test]
fn a_crowded_store_lets_the_heaviest_give_way_newest_first() {
    let mut holding = holding(100);
    let region = 1e-9;
    let mut fill = |holding: &mut Holding, n: u32, publisher: &Publisher, ms: u64| -> Vec<RecordKey> {
        (0..n)
            .map(|_| {
                let person = Person::new();
                let bundle = record::validate(&person.bytes(ms), &person.keys()[0], &judge_at(ms), None).unwrap();
                let share = Share::of(publisher);
                assert!(holding.insert(person.keys()[0], &bundle, share, region, UnixMillis(NOW.0 + ms)));
                person.keys()[0]
            })
            .collect()
    };
    let heavy = fill(&mut holding, 60, &from(1, 1), 0);
    let light = fill(&mut holding, 20, &from(2, 2), 1_000);
    let mine = fill(&mut holding, 10, &from(3, 3), 2_000);
    let left = |keys: &[RecordKey]| keys.iter().filter(|key| holding.held.contains_key(key)).count();
    assert_eq!((left(&heavy), left(&light), left(&mine)), (50, 20, 10));
    let person = Person::new();
    let [key, ..] = person.keys();
    let stamp = Stamp::mint(&key, Holding::bits(holding.load_with(1, 1_000)), NOW, 0, 1 << 28);
    let refused = holding.offer(&key, &person.bytes(0), &from(1, 9), stamp, ALL, &judge_at(2_000));
    assert_eq!((refused.stored, refused.why), (Stored::Full, Why::NoRoom), "the heaviest does not push out others");
    sound(&holding);
}

#[test]
fn what_is_old_and_near_stays_unless_its_network_is_too_heavy() {
    let mut holding = holding(100);
    let day = OLD_MS;
    let mut fill = |n: usize, publisher: &Publisher, region: f64| -> usize {
        let before = holding.len();
        for _ in 0..n {
            let person = Person::new();
            let bundle = record::validate(&person.bytes(day), &person.keys()[0], &judge_at(day), None).unwrap();
            let arrived = Some(NOW);
            holding.place(person.keys()[0], &bundle, Share::of(publisher), arrived, region, UnixMillis(NOW.0 + day));
        }
        holding.len() - before
    };
    assert_eq!(fill(10, &from(1, 1), ALL), 10);
    assert_eq!(fill(70, &from(2, 2), ALL), 70);
    // Both are a day old. Those of the light network are safe; the heavy one has no old rights.
    assert_eq!(fill(5, &from(3, 3), ALL), 0);
    assert_eq!(holding.shares.newest(Share::of(&from(1, 1))).count(), 10);
    assert_eq!(holding.shares.newest(Share::of(&from(2, 2))).count(), 65);
    sound(&holding);
}

#[test]
fn survives_a_restart_with_its_age_and_its_share() {
    let mut before = holding(100);
    let person = Person::new();
    let [key, other, ..] = person.keys();
    put(&mut before, &person, &from(1, 1), 0);
    put(&mut before, &person, &from(1, 1), 60_000);
    let rows = before.take_writes(usize::MAX);
    let (_, row) = rows.last().unwrap();
    let row = Row::read(&key, row.as_deref().unwrap(), &judge_at(60_000)).unwrap();
    let mut after = holding(100);
    assert!(after.restore(key, &row, ALL, UnixMillis(NOW.0 + 60_000)));
    assert_eq!(after.fetch(&key, NOW), before.fetch(&key, NOW));
    assert_eq!(after.held[&key].arrived, NOW);
    assert_eq!(after.held[&key].share, Share::of(&from(1, 1)));
    assert!(after.take_writes(usize::MAX).is_empty());
    sound(&after);
    // A bare bundle, as rows were before; and what is over, damaged or elsewhere.
    let read = |key: &RecordKey, row: &[u8], at: u64| Row::read(key, row, &judge_at(at)).map(drop);
    assert_eq!(read(&other, &person.bytes(0), 0), Ok(()));
    assert_eq!(read(&RecordKey([1; 32]), &person.bytes(0), 0), Err(Unread::Worthless));
    assert_eq!(read(&other, b"", 0), Err(Unread::Worthless));
    assert_eq!(read(&other, &[1; 17], 0), Err(Unread::Worthless));
}

#[test]
fn a_row_outlives_a_clock_that_is_wrong() {
    let person = Person::new();
    let [key, ..] = person.keys();
    let at = |now: UnixMillis| Row::read(&key, &person.bytes(0), &Judge { now, ..judge_at(0) }).map(drop);
    let days = |n: u64| n * 24 * HOUR;
    assert_eq!(at(UnixMillis(NOW.0 + HOUR + HOUR / 2)), Err(Unread::NotNow), "just over");
    assert_eq!(at(UnixMillis(NOW.0 + 3 * HOUR)), Err(Unread::Worthless));
    assert_eq!(at(UnixMillis(NOW.0 + days(100))), Err(Unread::Worthless), "it was switched off for long");
    assert_eq!(at(UnixMillis(NOW.0 + days(3_650))), Err(Unread::NotNow), "a clock that is years ahead");
    assert_eq!(at(UnixMillis(3_600_000)), Err(Unread::NotNow), "1970");
    assert_eq!(at(UnixMillis(NOW.0 - days(2))), Err(Unread::NotNow), "two days behind");
}

#[test]
fn a_slow_store_gets_the_last_word_and_every_removal() {
    let mut holding = holding(20_000);
    let people: Vec<Person> = (0..200).map(|_| Person::new()).collect();
    for person in &people {
        put(&mut holding, person, &from(1, 1), 0);
        put(&mut holding, person, &from(1, 1), 60_000);
    }
    // Nobody has taken anything; half of it ends meanwhile.
    for person in &people[..100] {
        holding.forget(&person.keys()[0], NOW);
    }
    assert_eq!(holding.behind.len(), 200);
    let mut rows: HashMap<RecordKey, Option<Vec<u8>>> = HashMap::new();
    while holding.is_behind() {
        let some = holding.take_writes(64);
        assert!(some.len() <= 64);
        rows.extend(some);
    }
    for (n, person) in people.iter().enumerate() {
        let row = rows[&person.keys()[0]].as_deref();
        assert_eq!(row.is_some(), n >= 100);
        if let Some(row) = row {
            let read = Row::read(&person.keys()[0], row, &judge_at(60_000)).unwrap();
            assert_eq!(Some(read.bundle.encode()), holding.fetch(&person.keys()[0], NOW).map(Vec::from));
        }
    }
    // Without end it does not grow, and what is lost is counted.
    for n in 0..3 * MAX_BEHIND {
        holding.write(RecordKey(std::array::from_fn(|i| n.to_le_bytes()[i % 8])));
    }
    assert_eq!(holding.behind.len(), 2 * MAX_BEHIND);
    assert_eq!(holding.take_unwritten(), MAX_BEHIND as u64);
}

#[test]
fn weight_moves_to_the_device_that_publishes() {
    let mut holding = holding(100);
    let person = Person::new();
    let owner = Publisher { node: person.device.public(), ..from(2, 2) };
    put(&mut holding, &person, &from(1, 1), 0);
    put(&mut holding, &person, &from(3, 3), 1_000);
    assert_eq!(holding.held[&person.keys()[0]].share, Share::of(&from(1, 1)), "who only passes it on changes nothing");
    put(&mut holding, &person, &owner, 2_000);
    assert_eq!(holding.held[&person.keys()[0]].share, Share::of(&owner));
    sound(&holding);
}

/// The golden vectors as a holder meets them: put by a peer, beside what it holds.
#[test]
fn every_forged_variant_of_the_vectors_is_refused_for_its_reason_and_changes_nothing() {
    use data_encoding::HEXLOWER;
    let mut seen = 0;
    for file in [
        include_str!("../../../tests/vectors/bundles-good.json"),
        include_str!("../../../tests/vectors/bundles-bad.json"),
        include_str!("../../../tests/vectors/bundles-held.json"),
    ] {
        let vectors: serde_json::Value = serde_json::from_str(file).unwrap();
        for vector in vectors.as_array().unwrap() {
            let name = vector["name"].as_str().unwrap();
            let bytes = |field: &str| vector[field].as_str().map(|hex| HEXLOWER.decode(hex.as_bytes()).unwrap());
            let judge_at = |field: &str| Judge {
                overlay: OverlayId(bytes("overlay_id").unwrap().try_into().unwrap()),
                scope: if vector["scope"] == "any" { AddressScope::Any } else { AddressScope::Global },
                now: UnixMillis(vector[field].as_u64().unwrap()),
            };
            let key = RecordKey(bytes("key").unwrap().try_into().unwrap());
            let mut holding = holding(100);
            let offer = |holding: &mut Holding, bytes: Vec<u8>, judge: &Judge| {
                holding.offer(&key, &bytes.into(), &from(1, 1), None, ALL, judge)
            };
            if let Some(held) = bytes("held") {
                assert_eq!(offer(&mut holding, held, &judge_at("held_now_ms")).why, Why::Fresher, "{name}");
            }
            let before = holding.held.get(&key).map(|held| held.bytes.clone());
            let verdict = offer(&mut holding, bytes("bytes").unwrap(), &judge_at("now_ms")).why;
            match (vector["verdict"].as_str().unwrap(), verdict) {
                ("Valid" | "ValidOpaque", verdict) => {
                    assert!(matches!(verdict, Why::Fresher | Why::Already), "{name}: {verdict:?}");
                }
                (reason, Why::Rejected(found)) => {
                    assert_eq!(format!("{found:?}"), reason, "{name}");
                    let held = holding.held.get(&key).map(|held| held.bytes.clone());
                    assert!(held == before || (held.is_none() && before.is_some()), "{name}");
                    seen += 1;
                }
                (reason, verdict) => panic!("{name}: {reason} expected, {verdict:?} found"),
            }
            sound(&holding);
        }
    }
    assert!(seen > 100, "{seen} forged variants");
}

/// Or a receipt and a later "nothing here" would prove an honest holder guilty, and an owner could bring that about.
#[test]
fn what_was_promised_and_goes_is_told() {
    let mut holding = holding(100);
    let (person, key) = (Person::new(), |person: &Person| person.keys()[0]);
    put(&mut holding, &person, &from(1, 1), 0);
    put(&mut holding, &person, &from(1, 1), 60_000);
    assert!(!holding.take_lost(NOW), "a fresher one is no loss");
    let short = person.bytes_for(120_000, 60_000);
    let offered = holding.offer(&key(&person), &short, &from(1, 1), None, ALL, &judge_at(120_000));
    assert_eq!(offered.stored, Stored::Kept { promise: 60 });
    holding.expire(UnixMillis(NOW.0 + 181_000));
    let end = UnixMillis(NOW.0 + 181_000);
    assert!(holding.take_lost(end) && !holding.take_lost(end), "the owner let it end within the promise");
    // What ends when it was promised to is none.
    let other = Person::new();
    put(&mut holding, &other, &from(2, 2), 0);
    let end = UnixMillis(NOW.0 + HOUR);
    holding.expire(end);
    assert!(holding.is_empty() && !holding.take_lost(end));
    // A clock that leaps ahead for a moment ends everything; when it is right again, the promises are not over.
    assert!(holding.take_lost(NOW) && !holding.take_lost(NOW));
}
