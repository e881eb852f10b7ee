//! The laws of merging, over histories of an owner who plays by the rules: at most 8 devices at a time, and owner
//! statements that say at least what the one before them said, and the newest epoch.

use super::*;
use crate::identity::Grant;
use proptest::prelude::*;
use std::sync::LazyLock;

const DEVICES: u8 = 6;
const EPOCHS: u32 = 3;

/// One thing that the owner or a device once published.
fn publish(user: &UserIdentity, what: (u8, u32, u64, u8)) -> Vec<u8> {
    let (who, epoch, step, kind) = what;
    let sequence = NOW.0 + step;
    match kind {
        // An owner statement about the epoch that it follows from.
        0 => {
            let revoked: Vec<u64> = (0..=epoch).map(|e| serial(0, e)).collect();
            let until = UnixMillis(NOW.0 + 90 * 86_400_000);
            sign_owner_statement(user, &OVERLAY, epoch, &revoked, NOW.0 + u64::from(epoch), until)
        }
        _ => {
            let grant = Grant { serial: serial(who, epoch), ..Grant::device(epoch) };
            let node = device(40 + who);
            let certificate = user.certify_with(node.public(), &OVERLAY, grant, NOW);
            // The last bit makes two entries of one sequence: equivocation.
            let draft = EntryDraft { epoch, priority: u32::from(kind & 1), tombstone: kind == 5, ..draft(sequence) };
            let draft = if kind == 5 { EntryDraft { addresses: Vec::new(), ..draft } } else { draft };
            sign_bundle(&user.into(), &certificate, &node, &OVERLAY, &draft)
        }
    }
}

fn serial(who: u8, epoch: u32) -> u64 {
    1 + u64::from(who) + 100 * u64::from(epoch)
}

/// All that there is to publish, judged once: signatures are slow, merging is not.
static PUBLISHED: LazyLock<Vec<ValidBundle>> = LazyLock::new(|| {
    let seed = Seed::from_bytes([1; 32]);
    let born = seed.identity();
    let mut all = Vec::new();
    for user in [born.clone(), seed.rotate(&born)] {
        for epoch in 0..EPOCHS {
            for who in 0..DEVICES {
                for step in 0..2 {
                    for kind in [2, 3, 5] {
                        all.push(publish(&user, (who, epoch, step, kind)));
                    }
                }
            }
            all.push(publish(&user, (0, epoch, 0, 0)));
        }
    }
    for n in 0..2 {
        all.push(sign_revocation(&(&born).into(), &seed.recovery_key(0), UnixMillis(NOW.0 + n * 1_000)));
    }
    let rotated = seed.rotate(&born);
    all.push(sign_revocation(&(&rotated).into(), &seed.recovery_key(1), NOW));
    all.iter().map(|bytes| validate(bytes, &key(&born), &judge(), None).unwrap()).collect()
});

/// Something that a store may hold: several of those, joined in some order. Revocations end everything, so few.
fn held() -> impl Strategy<Value = ValidBundle> {
    let usual = 0..PUBLISHED.len() - 3;
    let any = 0..PUBLISHED.len();
    prop_oneof![9 => proptest::collection::vec(usual, 1..6), 1 => proptest::collection::vec(any, 1..6)].prop_map(
        |picked| {
            let mut all = picked.iter().map(|i| &PUBLISHED[*i]);
            let first = all.next().unwrap().clone();
            all.fold(first, |joined, next| joined.merge(next))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn merging_is_commutative_associative_and_idempotent(a in held(), b in held(), c in held()) {
        prop_assert_eq!(a.merge(&b), b.merge(&a));
        prop_assert_eq!(a.merge(&b).merge(&c), a.merge(&b.merge(&c)));
        prop_assert_eq!(a.merge(&a), a.clone());
        prop_assert_eq!(a.merge(&b).merge(&b), a.merge(&b));
    }

    #[test]
    fn a_merge_is_valid_and_never_goes_back(a in held(), b in held()) {
        let merged = a.merge(&b);
        if !merged.is_empty() {
            let key = replica_keys(&OVERLAY, &merged.id())[0];
            prop_assert_eq!(&validate(&merged.encode(), &key, &judge(), None).unwrap(), &merged);
        }
        prop_assert!(merged.is_revoked() || merged.pin() >= a.pin().max(b.pin()));
        prop_assert_eq!(merged.is_revoked(), a.is_revoked() || b.is_revoked());
        for device in (0..DEVICES).map(|n| device(40 + n).public()) {
            let both = merged.sequence_of(&device).zip(a.sequence_of(&device));
            prop_assert!(a.pin() != merged.pin() || both.is_none_or(|(new, old)| new >= old));
        }
    }

    /// Judging with something held is judging and then merging, or a reason.
    #[test]
    fn judging_beside_what_is_held_is_merging(a in held(), b in held()) {
        if !b.is_empty() {
            let key = replica_keys(&OVERLAY, &b.id())[0];
            match validate(&b.encode(), &key, &judge(), Some(&a)) {
                Ok(merged) => prop_assert_eq!(merged, a.merge(&b)),
                Err(reason) => {
                    use RejectReason::{Equivocation, Revoked, Stale};
                    prop_assert!(matches!(reason, Equivocation | Revoked | Stale), "{}", reason);
                    prop_assert_eq!(a.merge(&b), a);
                }
            }
        }
    }

    #[test]
    fn a_sequence_number_never_goes_back(times in proptest::collection::vec(any::<u64>(), 1..20), seen: Option<u64>) {
        let mut last = None;
        for now in times {
            let next = next_sequence(UnixMillis(now), last, seen);
            prop_assert!(next >= now && seen.is_none_or(|s| next > s || s == u64::MAX));
            prop_assert!(last.is_none_or(|l| next > l || l == u64::MAX));
            last = Some(next);
        }
    }

    #[test]
    fn judging_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..400) {
        let alice = user(1);
        let _ = validate(&bytes, &key(&alice), &judge(), None);
        let mut good = bundle(&alice, &device(9), &draft(NOW.0));
        good.truncate(cut);
        good.append(&mut bytes);
        let _ = validate(&good, &key(&alice), &judge(), None);
        let _ = verify_card(&good, &judge());
    }

    #[test]
    fn what_is_signed_is_read_again(
        sequence in NOW.0 - 1_000_000..=NOW.0 + 300_000,
        life in 60_000u64..=10_800_000,
        priority in 0u32..=1_000,
        ports in proptest::collection::vec(1u16.., 0..=8),
        tombstone: bool,
    ) {
        let (alice, node) = (user(1), device(9));
        let addresses = ports.iter().map(|p| [&[4, 127, 0, 0, 1, 6][..], &p.to_be_bytes()].concat());
        let addresses: Vec<_> = if tombstone { Vec::new() } else { addresses.collect() };
        let expires_at = UnixMillis(NOW.0 + life / 1_000 * 1_000);
        let said = EntryDraft { sequence, expires_at, priority, addresses, tombstone, ..draft(0) };
        let valid = validate(&bundle(&alice, &node, &said), &key(&alice), &judge(), None).unwrap();
        prop_assert_eq!(valid.sequence_of(&node.public()), Some(sequence));
        prop_assert_eq!(validate(&valid.encode(), &key(&alice), &judge(), Some(&valid)), Ok(valid.clone()));
        let devices = valid.binding(NOW).devices;
        prop_assert_eq!(devices.is_empty(), tombstone);
        for found in devices {
            prop_assert_eq!((found.priority, found.addresses), (said.priority, said.addresses.clone()));
            prop_assert_eq!(found.expires_at, said.expires_at);
        }
    }
}
