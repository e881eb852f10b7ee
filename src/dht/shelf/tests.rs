use super::*;
use crate::dht::{EntryError, Offers, SHARDS, Service};
use crate::identity::NodeSecret;
use crate::reachability::{Address, Transport};
use crate::wire::{AddressScope, OverlayId};

const OVERLAY: OverlayId = OverlayId([3; 32]);
const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
const RELAY: Offers = Offers { circuits: true, media: false };

fn at(ip: &str) -> Address {
    Address { ip: ip.parse().unwrap(), transport: Transport::Quic, port: 443 }
}

fn secret(n: u32) -> NodeSecret {
    NodeSecret::from_bytes(std::array::from_fn(|i| n.to_be_bytes()[i % 4] ^ i as u8))
}

fn entry(n: u32, ip: &str) -> ServiceEntry {
    ServiceEntry::sign(&secret(n), &OVERLAY, Service::Relay, RELAY, &[at(ip)], NOW).unwrap()
}

fn read(entry: &ServiceEntry, now: UnixMillis) -> Result<ServiceEntry, EntryError> {
    let key = Service::Relay.list_of(&OVERLAY, &entry.node);
    ServiceEntry::read(&entry.signed, &key, &OVERLAY, AddressScope::Global, now)
}

fn put(shelves: &mut Shelves, key: RecordKey, n: u32, ip: &str, now: UnixMillis) -> bool {
    shelves.put(key, entry(n, ip), ip.parse().unwrap(), now)
}

#[test]
fn an_entry_comes_back_as_it_went_and_is_its_owners() {
    let own = entry(1, "8.8.8.8");
    assert!(own.signed.len() <= super::super::service::MAX_ENTRY_BYTES);
    let came = read(&own, NOW).unwrap();
    assert_eq!(came, own);
    assert_eq!(came.verify(&OVERLAY), Ok(()));
    assert_eq!(came.verify(&OverlayId([4; 32])), Err(EntryError::BadSignature), "another overlay's");
    for at in 0..own.signed.len() {
        let mut bytes = own.signed.to_vec();
        bytes[at] ^= 1;
        let changed = ServiceEntry { signed: bytes.into(), ..own.clone() };
        let accepted = read(&changed, NOW).is_ok_and(|read| read.verify(&OVERLAY).is_ok());
        assert!(!accepted, "byte {at}");
    }
}

#[test]
fn an_entry_is_for_its_list_its_hour_and_its_scope() {
    let own = entry(1, "8.8.8.8");
    let lists: Vec<RecordKey> = (0..SHARDS).map(|shard| Service::Relay.list(&OVERLAY, shard)).collect();
    let fits = |key: &&RecordKey| ServiceEntry::read(&own.signed, key, &OVERLAY, AddressScope::Global, NOW).is_ok();
    assert_eq!(lists.iter().filter(fits).count(), 1);
    assert_eq!(read(&own, UnixMillis(NOW.0 + 3_600_000)), Err(EntryError::Expired));
    assert_eq!(read(&own, UnixMillis(NOW.0 - 300_001)), Err(EntryError::TooFarAhead));
    assert_eq!(read(&entry(1, "192.168.1.1"), NOW), Err(EntryError::NoAddress));
    assert_eq!(ServiceEntry::sign(&secret(1), &OVERLAY, Service::Relay, RELAY, &[], NOW), None);
    let most: Vec<Address> = (0..9).map(|n| at(&format!("2a00:{n}::1"))).collect();
    let large = ServiceEntry::sign(&secret(1), &OVERLAY, Service::Relay, RELAY, &most, NOW).unwrap();
    assert_eq!(read(&large, NOW).unwrap().addresses.len(), 4);
    assert_eq!(read(&ServiceEntry { signed: vec![0; 400].into(), ..own }, NOW), Err(EntryError::Malformed));
}

/// SECURITY §7, 26: one /16 with a thousand ids holds at most a tenth of the entries that are listed.
#[test]
fn a_thousand_ids_of_one_network_hold_a_tenth_of_the_lists() {
    for attackers_first in [true, false] {
        let mut shelves = Shelves::default();
        let mut honest = |shelves: &mut Shelves| {
            for n in 0..200_u32 {
                let key = Service::Relay.list_of(&OVERLAY, &entry(n, "8.8.8.8").node);
                assert!(put(shelves, key, n, &format!("{}.{n}.1.1", 20 + n % 60), NOW), "{n}");
            }
        };
        let attack = |shelves: &mut Shelves| {
            for n in 1_000..2_000_u32 {
                let ip = format!("81.2.{}.{}", n % 256, n / 256);
                let key = Service::Relay.list_of(&OVERLAY, &entry(n, &ip).node);
                put(shelves, key, n, &ip, NOW);
            }
        };
        if attackers_first {
            attack(&mut shelves);
        }
        honest(&mut shelves);
        attack(&mut shelves);
        let theirs = shelves.entries() - 200;
        assert!(theirs * 10 <= shelves.entries(), "{theirs} of {}", shelves.entries());
        assert!(theirs > 0, "nor is anybody shut out");
    }
}

#[test]
fn a_full_list_makes_room_for_a_network_that_has_less_of_it() {
    let (mut shelves, key) = (Shelves::default(), Service::Relay.list(&OVERLAY, 0));
    let mut n = 0;
    let mut come = |shelves: &mut Shelves, ip: String| {
        n += 1;
        put(shelves, key, n, &ip, UnixMillis(NOW.0 + u64::from(n)))
    };
    // 30 networks come again and again until nothing fits.
    for round in 0..8_u32 {
        (0..30_u32).for_each(|wide| _ = come(&mut shelves, format!("60.{wide}.{round}.1")));
    }
    assert_eq!(shelves.entries(), MOST);
    assert!(!come(&mut shelves, "60.1.99.1".into()), "it has its share");
    assert!((0..34_u32).all(|wide| come(&mut shelves, format!("70.{wide}.1.1"))), "newcomers get in");
    assert!(!come(&mut shelves, "70.99.1.1".into()), "until each network has one");
    assert_eq!(shelves.entries(), MOST);
    let oldest = shelves.lists[&key].iter().filter(|kept| kept.since.0 <= NOW.0 + 30).count();
    assert_eq!(oldest, 30, "the youngest gave way");
    let later = UnixMillis(NOW.0 + 10_000);
    let named = shelves.some(&key, 7, later);
    assert_eq!(named.len(), MAX_ENTRIES);
    assert_ne!(named, shelves.some(&key, 8, later), "by lot");
}

#[test]
fn an_answer_names_a_network_once_and_nobody_whose_hour_is_over() {
    let (mut shelves, key) = (Shelves::default(), Service::Relay.list(&OVERLAY, 0));
    for n in 0..64_u32 {
        put(&mut shelves, key, n, &format!("8.{}.{}.1", n % 4, n), NOW);
    }
    assert!(shelves.some(&key, 1, NOW).len() <= 4);
    assert!(shelves.some(&key, 1, UnixMillis(NOW.0 + 3_600_000)).is_empty());
    shelves.expire(UnixMillis(NOW.0 + 3_600_000));
    assert_eq!(shelves.entries(), 0);
    assert!(shelves.some(&key, 1, NOW).is_empty());
}

#[test]
fn an_office_without_the_internet_lists_all_of_its_own() {
    let (mut shelves, key) = (Shelves::default(), Service::Relay.list(&OVERLAY, 0));
    for n in 0..8_u32 {
        assert!(put(&mut shelves, key, n, &format!("192.168.1.{n}"), NOW));
    }
    assert_eq!(shelves.some(&key, 1, NOW).len(), 8);
}

#[test]
fn an_owner_is_listed_once_by_its_latest_entry() {
    let (mut shelves, key) = (Shelves::default(), Service::Relay.list(&OVERLAY, 0));
    assert!(put(&mut shelves, key, 1, "8.8.8.8", NOW));
    let later = UnixMillis(NOW.0 + 1_000);
    let newer = ServiceEntry::sign(&secret(1), &OVERLAY, Service::Relay, RELAY, &[at("8.8.8.8")], later).unwrap();
    assert!(shelves.found_lately(&key, &newer, 3_600_000, later));
    assert!(!shelves.found_lately(&key, &newer, 500, later), "long ago");
    assert!(!shelves.found_lately(&key, &entry(1, "8.8.9.9"), 3_600_000, later), "it has moved");
    shelves.renew(&key, newer.clone());
    shelves.renew(&key, entry(1, "8.8.8.8"));
    assert_eq!(shelves.some(&key, 1, NOW), vec![newer.signed.clone()]);
    assert!(put(&mut shelves, key, 1, "8.8.8.8", NOW), "its own place is no obstacle");
    assert_eq!(shelves.some(&key, 1, NOW), [newer.signed]);
}

#[test]
fn lists_are_bounded() {
    let mut shelves = Shelves::default();
    for n in 0..100_u32 {
        put(&mut shelves, RecordKey([n as u8; 32]), n, "8.8.8.8", NOW);
    }
    assert_eq!(shelves.lists.len(), MAX_LISTS);
}
