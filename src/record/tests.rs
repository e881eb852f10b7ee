mod card;
mod merge;

use super::*;
use crate::identity::{Grant, NodeSecret, Seed, UserIdentity};

const OVERLAY: OverlayId = OverlayId([3; 32]);
const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

fn judge() -> Judge {
    Judge { overlay: OVERLAY, scope: AddressScope::Any, now: NOW }
}

fn user(n: u8) -> UserIdentity {
    Seed::from_bytes([n; 32]).identity()
}

fn device(n: u8) -> NodeSecret {
    NodeSecret::from_bytes([n; 32])
}

fn draft(sequence: u64) -> EntryDraft {
    EntryDraft {
        epoch: 1,
        sequence,
        issued_at: NOW,
        expires_at: UnixMillis(NOW.0 + 3_600_000),
        tombstone: false,
        priority: 500,
        addresses: vec![vec![4, 127, 0, 0, 1, 6, 0x0f, 0xa1]],
    }
}

fn bundle(user: &UserIdentity, device: &NodeSecret, draft: &EntryDraft) -> Vec<u8> {
    let certificate = user.certify(device.public(), &OVERLAY, draft.epoch, NOW);
    sign_bundle(&user.into(), &certificate, device, &OVERLAY, draft)
}

fn key(user: &UserIdentity) -> RecordKey {
    replica_keys(&OVERLAY, &user.id)[2]
}

#[test]
fn what_a_device_signs_is_valid_and_names_it() {
    let (alice, node) = (user(1), device(9));
    let bytes = bundle(&alice, &node, &draft(NOW.0));
    let valid = validate(&bytes, &key(&alice), &judge(), None).unwrap();
    assert_eq!(valid.encode(), bytes);
    let binding = valid.binding(NOW);
    assert_eq!((binding.id, binding.devices[0].node, binding.pin.epoch), (alice.id, node.public(), 1));
    assert!(valid.binding(UnixMillis(NOW.0 + 3_600_000)).devices.is_empty());
    assert_eq!(validate(&bytes, &key(&user(2)), &judge(), None), Err(RejectReason::WrongKey));
    let elsewhere = Judge { overlay: OverlayId([4; 32]), ..judge() };
    assert_eq!(validate(&bytes, &key(&alice), &elsewhere, None), Err(RejectReason::WrongKey));
}

/// The device does not sign its certificate: a stranger can put another one of its certificates beside an envelope.
#[test]
fn an_older_certificate_beside_the_same_envelope_takes_nothing_away() {
    let (alice, node) = (user(1), device(9));
    let envelope_with = |serial, life| {
        let grant = Grant { serial, life, ..Grant::device(1) };
        let certificate = alice.certify_with(node.public(), &OVERLAY, grant, NOW);
        sign_bundle(&(&alice).into(), &certificate, &node, &OVERLAY, &draft(NOW.0))
    };
    let judged = |bytes: &[u8], held: Option<&ValidBundle>| validate(bytes, &key(&alice), &judge(), held);
    // Whatever the bytes are: one of the two serials gives the smaller ones.
    for (revoked, current) in [(1, 2), (2, 1)] {
        let statement = sign_owner_statement(&alice, &OVERLAY, 1, &[revoked], NOW.0, UnixMillis(NOW.0 + 86_400_000));
        for revoked_life in [86_400, 50 * 86_400] {
            let (old, new) = (envelope_with(revoked, revoked_life), envelope_with(current, 30 * 86_400));
            let held = judged(&new, Some(&judged(&statement, None).unwrap())).unwrap();
            assert_eq!(judged(&old, Some(&held)), Err(RejectReason::Revoked));
            assert_eq!(held.merge(&judged(&old, None).unwrap()), held);
        }
    }
    let (old, new) = (envelope_with(1, 86_400), envelope_with(2, 30 * 86_400));
    let (old, new) = (judged(&old, None).unwrap(), judged(&new, None).unwrap());
    assert_eq!((old.merge(&new), new.merge(&old)), (new.clone(), new));
}

#[test]
fn no_flipped_bit_is_accepted() {
    let (alice, node) = (user(1), device(9));
    let bytes = bundle(&alice, &node, &draft(NOW.0));
    for at in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[at / 8] ^= 1 << (at % 8);
        assert!(validate(&bad, &key(&alice), &judge(), None).is_err(), "bit {at}");
    }
}

#[test]
fn older_newer_and_equivocating_entries() {
    let (alice, node) = (user(1), device(9));
    let held = validate(&bundle(&alice, &node, &draft(NOW.0)), &key(&alice), &judge(), None).unwrap();
    let check = |d: &EntryDraft| validate(&bundle(&alice, &node, d), &key(&alice), &judge(), Some(&held));
    assert_eq!(check(&draft(NOW.0 - 1)), Err(RejectReason::Stale));
    assert_eq!(check(&draft(NOW.0 + 1)).unwrap().sequence_of(&node.public()), Some(NOW.0 + 1));
    assert_eq!(check(&draft(NOW.0 + 300_001)), Err(RejectReason::TooFarAhead));
    let other = EntryDraft { priority: 1, ..draft(NOW.0) };
    let taken = check(&other);
    let smaller = validate(&bundle(&alice, &node, &other), &key(&alice), &judge(), None).unwrap();
    match taken {
        Ok(merged) => assert_eq!(merged, held.merge(&smaller)),
        Err(reason) => assert_eq!(reason, RejectReason::Equivocation),
    }
}

#[test]
fn the_owner_and_the_recovery_key_have_the_last_word() {
    let (alice, node) = (user(1), device(9));
    let held = validate(&bundle(&alice, &node, &draft(NOW.0)), &key(&alice), &judge(), None).unwrap();
    let until = UnixMillis(NOW.0 + 90 * 86_400_000);
    let word = sign_owner_statement(&alice, &OVERLAY, 2, &[], 1, until);
    let after = validate(&word, &key(&alice), &judge(), Some(&held)).unwrap();
    assert!(after.binding(NOW).devices.is_empty());
    let again = validate(&bundle(&alice, &node, &draft(NOW.0 + 1)), &key(&alice), &judge(), Some(&after));
    assert_eq!(again, Err(RejectReason::Revoked));
    let newer = EntryDraft { epoch: 2, ..draft(NOW.0 + 1) };
    let renewed = validate(&bundle(&alice, &node, &newer), &key(&alice), &judge(), Some(&after)).unwrap();
    assert_eq!(renewed.binding(NOW).devices.len(), 1);

    let seed = Seed::from_bytes([1; 32]);
    let gone = sign_revocation(&(&alice).into(), &seed.recovery_key(0), NOW);
    let dead = validate(&gone, &key(&alice), &judge(), Some(&renewed)).unwrap();
    assert!(dead.is_revoked() && dead.binding(NOW).devices.is_empty());
    let late = validate(&bundle(&alice, &node, &newer), &key(&alice), &judge(), Some(&dead));
    assert_eq!(late, Err(RejectReason::Revoked));
}

#[test]
fn a_rotation_outlives_a_stolen_root() {
    let (alice, node) = (user(1), device(9));
    let rotated = Seed::from_bytes([1; 32]).rotate(&alice);
    let old = validate(&bundle(&alice, &node, &draft(NOW.0)), &key(&alice), &judge(), None).unwrap();
    let new = validate(&bundle(&rotated, &node, &draft(NOW.0)), &key(&alice), &judge(), Some(&old)).unwrap();
    assert_eq!(new.pin().rotation, 1);
    let restored = Seed::from_bytes([1; 32]).identity_after(rotated.rotations.clone());
    assert!(validate(&bundle(&restored, &node, &draft(NOW.0 + 1)), &key(&alice), &judge(), Some(&new)).is_ok());
    assert_eq!(old.merge(&new), new.merge(&old));
    let thief = bundle(&alice, &device(7), &draft(NOW.0 + 5));
    assert!(validate(&thief, &key(&alice), &judge(), Some(&new)).is_err());
}

#[test]
fn a_hello_needs_the_certified_device() {
    let (alice, node) = (user(1), device(9));
    let bytes = bundle(&alice, &node, &draft(NOW.0));
    let who = verify_hello_user(&alice.id, &bytes, &node.public(), None, &judge()).unwrap();
    assert_eq!((who.id, who.pin), (alice.id, Pin { rotation: 0, epoch: 1 }));
    let wrong = verify_hello_user(&alice.id, &bytes, &device(8).public(), None, &judge());
    assert_eq!(wrong, Err(RejectReason::NotCertified));
    let other = verify_hello_user(&user(2).id, &bytes, &node.public(), None, &judge());
    assert_eq!(other, Err(RejectReason::WrongKey));
    let pinned = verify_hello_user(&alice.id, &bytes, &node.public(), Some(Pin { rotation: 0, epoch: 2 }), &judge());
    assert_eq!(pinned, Err(RejectReason::Revoked));
}

#[test]
fn a_longer_chain_does_not_bring_a_revoked_user_back() {
    let (seed, node) = (Seed::from_bytes([1; 32]), device(9));
    let alice = seed.identity();
    let gone = sign_revocation(&(&alice).into(), &seed.recovery_key(0), NOW);
    let dead = validate(&gone, &key(&alice), &judge(), None).unwrap();
    let rotated = bundle(&seed.rotate(&alice), &node, &draft(NOW.0));
    let back = validate(&rotated, &key(&alice), &judge(), None).unwrap();
    assert_eq!(validate(&rotated, &key(&alice), &judge(), Some(&dead)), Err(RejectReason::Revoked));
    assert!(validate(&gone, &key(&alice), &judge(), Some(&back)).unwrap().is_revoked());
    assert!(dead.merge(&back).is_revoked() && back.merge(&dead).is_revoked());
}

#[test]
fn a_lower_epoch_is_refused_also_when_what_set_the_pin_is_over() {
    let (alice, node) = (user(1), device(9));
    let high = EntryDraft { epoch: 2, ..draft(NOW.0) };
    let held = validate(&bundle(&alice, &node, &high), &key(&alice), &judge(), None).unwrap();
    let thief = bundle(&alice, &device(7), &draft(NOW.0 + 5));
    assert_eq!(validate(&thief, &key(&alice), &judge(), Some(&held)), Err(RejectReason::Stale));
    let later = Judge { now: UnixMillis(NOW.0 + 3_600_000), ..judge() };
    let late = EntryDraft { issued_at: later.now, expires_at: UnixMillis(later.now.0 + 60_000), ..draft(later.now.0) };
    let thief = bundle(&alice, &device(7), &late);
    assert_eq!(validate(&thief, &key(&alice), &later, Some(&held)), Err(RejectReason::Stale));
}

#[test]
fn what_is_over_takes_no_slot() {
    let alice = user(1);
    let mut held: Option<ValidBundle> = None;
    for n in 10..18 {
        let short = EntryDraft { expires_at: UnixMillis(NOW.0 + 60_000), ..draft(NOW.0) };
        let d = if n == 10 { short } else { draft(NOW.0) };
        held = Some(validate(&bundle(&alice, &device(n), &d), &key(&alice), &judge(), held.as_ref()).unwrap());
    }
    let ninth = bundle(&alice, &device(30), &draft(NOW.0));
    assert_eq!(validate(&ninth, &key(&alice), &judge(), held.as_ref()), Err(RejectReason::SlotsFull));
    let later = Judge { now: UnixMillis(NOW.0 + 60_000), ..judge() };
    assert!(validate(&ninth, &key(&alice), &later, held.as_ref()).is_ok());
}
