//! Bundles judged beside one that is held already, and bundles in a hello.

use super::making::{NOW, NOW_MILLIS, Person, device, overlay};
use super::{BundleVector, HelloVector, hex};
use peerline::wire::pb;
use prost::Message;
use sha2::{Digest, Sha256};

/// An entry of `n` in another epoch.
fn in_epoch(person: &Person, n: u8, epoch: u32, sequence: u64) -> Vec<u8> {
    let certificate = person.certificate(&device(n), |c| c.epoch = epoch);
    person.entry_under(certificate, &device(n), |e, _| (e.epoch, e.sequence) = (epoch, sequence))
}

fn envelope_hash(bundle: &[u8]) -> [u8; 32] {
    let bundle = pb::Bundle::decode(bundle).unwrap();
    let entry = pb::SignedEntry::decode(bundle.entries[0].clone()).unwrap();
    Sha256::digest(&entry.envelope).into()
}

pub fn vectors() -> Vec<BundleVector> {
    let alice = Person::new(1);
    let case =
        |name, held: &Vec<u8>, bytes, verdict| BundleVector::new(name, &alice, bytes, verdict).beside(held.clone());
    let only = |entry: Vec<u8>| alice.bundle(vec![entry], None, None);
    let ours = alice.one(|_, _| {});
    let newer = alice.one(|e, _| e.sequence += 1);
    let older = alice.one(|e, _| e.sequence -= 1);
    let (mut smaller, mut larger) = (ours.clone(), alice.one(|_, b| b.priority = 7));
    if envelope_hash(&smaller) > envelope_hash(&larger) {
        std::mem::swap(&mut smaller, &mut larger);
    }
    let renewed = {
        let certificate = alice.certificate(&device(101), |c| (c.serial, c.not_after) = (9, NOW + 60 * 86_400));
        only(alice.entry_under(certificate, &device(101), |_, _| {}))
    };
    let other_device = only(alice.entry(&device(102), |_, _| {}));
    let epoch2 = only(in_epoch(&alice, 102, 2, NOW_MILLIS));
    let short2 = only({
        let certificate = alice.certificate(&device(102), |c| c.epoch = 2);
        alice.entry_under(certificate, &device(102), |e, _| (e.epoch, e.expires_at) = (2, NOW + 60))
    });
    let eight: Vec<_> = (1..9).map(|n| alice.entry(&device(n), |_, _| {})).collect();
    let crowded = alice.bundle(eight.clone(), None, None);
    let mut waning = eight;
    waning[0] = alice.entry(&device(1), |e, _| e.expires_at = NOW + 60);
    let waning = alice.bundle(waning, None, None);
    let revoking = |change: fn(&mut pb::OwnerStatement)| alice.bundle(vec![], Some(alice.owner(change)), None);
    let dead = alice.bundle(vec![], None, Some(alice.revocation(|_| {})));
    let dead_before = alice.bundle(vec![], None, Some(alice.revocation(|r| r.issued_at = NOW - 10)));
    let rotated = alice.rotated();
    let after = rotated.one(|_, _| {});
    let fork = alice.rotated_with(|r| r.new_root_key = super::making::public(&device(77)));
    let dead_after = rotated.bundle(vec![], None, Some(rotated.revocation(|_| {})));
    let fork_alone = fork.bundle(vec![], None, Some(fork.revocation(|_| {})));
    vec![
        case("the same again", &ours, ours.clone(), "Valid"),
        case("newer", &ours, newer.clone(), "Valid"),
        case("older", &ours, older, "Stale"),
        case("another device beside it", &ours, other_device, "Valid"),
        case("newer beside something held that is older", &newer, ours.clone(), "Stale"),
        case("same sequence, smaller hash", &larger, smaller.clone(), "Valid"),
        case("same sequence, larger hash", &smaller, larger, "Equivocation"),
        case("same envelope under a renewed certificate", &ours, renewed, "Valid"),
        case("higher epoch ends the lower", &ours, epoch2.clone(), "Valid"),
        case("lower epoch", &epoch2, newer.clone(), "Stale"),
        case(
            "lower epoch, when what set the pin is over",
            &short2,
            {
                alice.one(|e, _| (e.issued_at, e.expires_at, e.sequence) = (NOW + 60, NOW + 3_660, NOW_MILLIS + 60_000))
            },
            "Stale",
        )
        .at(NOW_MILLIS + 60_000),
        case("ninth device", &crowded, only(alice.entry(&device(20), |_, _| {})), "SlotsFull"),
        case("ninth device when one is over", &waning, only(alice.entry(&device(20), |_, _| {})), "Valid")
            .at(NOW_MILLIS + 60_000),
        case("newer entry of one of eight", &crowded, only(alice.entry(&device(3), |e, _| e.sequence += 1)), "Valid"),
        case("owner statement ends an epoch", &ours, revoking(|o| o.min_epoch = 2), "Valid"),
        case("entry of an epoch that the owner ended", &revoking(|o| o.min_epoch = 2), newer.clone(), "Revoked"),
        case(
            "entry whose serial the owner revoked",
            &revoking(|o| o.revoked_serials = vec![77]),
            {
                let certificate = alice.certificate(&device(101), |c| c.serial = 77);
                only(alice.entry_under(certificate, &device(101), |_, _| {}))
            },
            "Revoked",
        ),
        case("older owner statement", &revoking(|o| o.min_epoch = 2), revoking(|o| o.sequence -= 1), "Stale"),
        case("longer chain takes all", &ours, after.clone(), "Valid"),
        case("shorter chain", &after, newer.clone(), "Stale"),
        case("revocation", &ours, dead.clone(), "Valid"),
        case("entry of a revoked user", &dead, newer, "Revoked"),
        case("revocation beats a longer chain", &after, dead.clone(), "Valid"),
        case("a longer chain does not beat a revocation", &dead, after, "Revoked"),
        case("earlier revocation", &dead, dead_before.clone(), "Valid"),
        case("later revocation", &dead_before, dead.clone(), "Stale"),
        case("revocation of a longer chain", &dead, dead_after.clone(), "Valid"),
        case("forked chain, both revoked", &dead_after, fork_alone.clone(), {
            let chain = |p: &Person| -> [u8; 32] { Sha256::digest(&p.rotations[0]).into() };
            if chain(&fork) < chain(&rotated) { "Valid" } else { "Stale" }
        }),
    ]
}

pub fn hellos() -> Vec<HelloVector> {
    let alice = Person::new(1);
    let bob = Person::new(2);
    let node = device(101);
    let case = |name, bytes: Vec<u8>, verdict| HelloVector {
        name,
        overlay_id: hex(&overlay().0),
        now_ms: NOW_MILLIS,
        from: alice.id().to_string(),
        channel_key: hex(node.verifying_key().as_bytes()),
        pin: None,
        bytes: hex(&bytes),
        verdict,
    };
    let good = alice.one(|_, _| {});
    let pinned = |name, pin, verdict| HelloVector { pin: Some(pin), ..case(name, good.clone(), verdict) };
    let withdrawn = alice.one(|e, b| {
        e.state = 4;
        b.addresses.clear();
    });
    let beside = alice.bundle(vec![alice.entry(&node, |_, _| {}), alice.entry(&device(102), |_, _| {})], None, None);
    let elsewhere = device(102).verifying_key();
    vec![
        case("one's own device", good.clone(), "Valid"),
        case("withdrawn, for calling out", withdrawn, "Valid"),
        case("entries of other devices do not count", beside, "Valid"),
        HelloVector {
            channel_key: hex(elsewhere.as_bytes()),
            ..case("passed on by another node", good.clone(), "NotCertified")
        },
        HelloVector { from: bob.id().to_string(), ..case("in another's name", good.clone(), "WrongKey") },
        case("no right to call", alice.one_under(|c| c.rights = 5), "NotCertified"),
        case("expired", alice.one(|e, _| (e.issued_at, e.expires_at) = (NOW - 3_600, NOW)), "Expired"),
        case("revoked", alice.bundle(vec![], None, Some(alice.revocation(|_| {}))), "Revoked"),
        pinned("at the pin", (0, 1), "Valid"),
        pinned("epoch below the pin", (0, 2), "Revoked"),
        pinned("rotation below the pin", (1, 0), "Revoked"),
    ]
}
