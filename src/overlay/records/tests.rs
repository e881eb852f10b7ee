use super::*;
use crate::overlay::sample::{NOW, Person, judge};
use crate::wire::{AddressScope, OverlayId};
use data_encoding::HEXLOWER;

/// A stranger's record, with one of its keys.
fn record(addresses: usize) -> (RecordKey, Vec<u8>) {
    let person = Person::new();
    (person.keys()[0], person.bytes(0, addresses))
}

fn sound(records: &Records) {
    let bytes: usize = records.held.values().map(|held| held.bytes.len()).sum();
    assert_eq!((records.bytes, records.by_distance.len()), (bytes, records.held.len()));
    assert!(records.bytes <= records.max_bytes && records.held.len() <= records.max);
}

#[test]
fn strangers_fill_neither_the_number_nor_the_bytes_and_the_nearest_stay() {
    for (max, max_bytes) in [(8, MAX_BYTES), (usize::MAX, 4_000)] {
        let mut records = Records { max_bytes, ..Records::new(PeerId::random(), max, || NOW) };
        let (mut all, mut full) = (Vec::new(), 0);
        for n in 0..60 {
            let (key, bytes) = record(n % 3);
            match records.offer(&key.0, &bytes, &judge(), 0) {
                Ok(kept) => assert_eq!(kept, Kept::Fresher),
                Err(why) => {
                    assert_eq!(why, NotKept::Full);
                    full += 1;
                }
            }
            all.push(records.distance(&key.0));
            sound(&records);
        }
        assert!(full > 0 && records.len() > 2);
        all.sort_unstable();
        assert_eq!(records.by_distance.keys().next(), all.first(), "the nearest of all is held");
    }
}

#[test]
fn what_is_over_makes_room_and_the_bytes_are_given_back() {
    let mut records = Records::new(PeerId::random(), 1, || NOW);
    let (key, bytes) = record(0);
    records.offer(&key.0, &bytes, &judge(), 0).unwrap();
    assert_eq!(records.offer(&key.0, &bytes, &judge(), 0), Ok(Kept::Already));
    records.expire(UnixMillis(NOW.0 + 3_600_001));
    sound(&records);
    assert_eq!((records.len(), records.bytes), (0, 0));
}

#[test]
fn one_users_four_keys_are_judged_alike_and_forgeries_under_the_next_key_are_not_spared() {
    let mut records = Records::new(PeerId::random(), 100, || NOW);
    let person = Person::new();
    let bytes = person.bytes(1, 0);
    let [first, second, third, fourth] = person.keys();
    assert_eq!(records.offer(&first.0, &bytes, &judge(), 0), Ok(Kept::Fresher));
    assert_eq!(records.recent.len(), 1);
    for at in 0..bytes.len() {
        let mut forged = bytes.clone();
        forged[at] ^= 1;
        assert!(records.offer(&second.0, &forged, &judge(), 0).is_err(), "byte {at}");
        // Refused as stale at most: then what was verified is kept, and nothing of what was not.
        assert!(records.held(&second).is_none_or(|held| held.encode() == bytes), "byte {at}");
    }
    assert!(records.offer(&second.0, &bytes, &judge(), 0).is_ok());
    assert_eq!(records.held(&second).unwrap().encode(), bytes);
    // Older under a key that has nothing yet: refused, and what is known to be fresher is kept there.
    assert_eq!(records.offer(&third.0, &person.bytes(0, 0), &judge(), 0), Err(NotKept::Rejected(RejectReason::Stale)));
    // Newer under the last: the others learn it when they are offered anything.
    let newer = person.bytes(2, 0);
    assert_eq!(records.offer(&fourth.0, &newer, &judge(), 0), Ok(Kept::Fresher));
    assert_eq!(records.held(&third).unwrap().encode(), bytes);
    assert_eq!(records.held(&fourth).unwrap().encode(), newer);
    for _ in 0..MAX_RECENT * 2 {
        let (key, bytes) = record(0);
        records.offer(&key.0, &bytes, &judge(), 0).unwrap();
    }
    assert_eq!(records.recent.len(), MAX_RECENT);
}

/// The golden vectors as a node meets them: put by a peer, beside what it holds.
#[test]
fn every_forged_variant_of_the_vectors_is_refused_for_its_reason_and_changes_nothing() {
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
            let key = bytes("key").unwrap();
            let mut records = Records::new(PeerId::random(), 100, || NOW);
            if let Some(held) = bytes("held") {
                assert_eq!(records.offer(&key, &held, &judge_at("held_now_ms"), 0), Ok(Kept::Fresher), "{name}");
            }
            let kept =
                |records: &Records| records.held(&RecordKey(key[..].try_into().unwrap())).map(ValidBundle::encode);
            let before = kept(&records);
            let verdict = records.offer(&key, &bytes("bytes").unwrap(), &judge_at("now_ms"), 0);
            match (vector["verdict"].as_str().unwrap(), verdict) {
                ("Valid" | "ValidOpaque", verdict) => assert!(verdict.is_ok(), "{name}: {verdict:?}"),
                (reason, Err(NotKept::Rejected(found))) => {
                    assert_eq!(format!("{found:?}"), reason, "{name}");
                    assert_eq!(kept(&records), before, "{name}");
                    seen += 1;
                }
                (reason, verdict) => panic!("{name}: {reason} expected, {verdict:?} found"),
            }
        }
    }
    assert!(seen > 100, "{seen} forged variants");
}
