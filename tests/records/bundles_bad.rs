//! Bundles that are refused, judged alone. One fault each.

use super::BundleVector;
use super::bundles_good::extended;
use super::making::{NOW, NOW_MILLIS, PRIVATE_ADDRESS, PUBLIC_ADDRESS, Person, device, signed};
use ed25519_dalek::{Signer, SigningKey};
use peerline::wire::signature::NONE;
use peerline::wire::{Domain, OverlayId, pb, sign};
use prost::Message;
use prost::bytes::Bytes;

/// A point of order 4.
const WEAK: [u8; 32] = [0; 32];
/// `y = 2^255 - 19 + 3`: a point of large order, but 3 has a shorter spelling.
const NOT_CANONICAL: [u8; 32] = {
    let mut key = [0xff; 32];
    (key[0], key[31]) = (0xf0, 0x7f);
    key
};

fn entry_changed(person: &Person, change: impl FnOnce(&mut pb::SignedEntry)) -> Vec<u8> {
    let mut entry = pb::SignedEntry::decode(&person.entry(&device(101), |_, _| {})[..]).unwrap();
    change(&mut entry);
    person.bundle_as_is(vec![entry.encode_to_vec()], None, None)
}

fn flipped(bytes: &Bytes, at: usize) -> Bytes {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes.into()
}

/// `S + L`: the same signature to a lax verifier.
fn malleated(signature: &Bytes) -> Bytes {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let (mut bytes, mut carry) = (signature.to_vec(), 0u16);
    for (byte, order) in bytes[32..].iter_mut().zip(ORDER) {
        carry += u16::from(*byte) + u16::from(order);
        *byte = (carry & 0xff) as u8;
        carry >>= 8;
    }
    bytes.into()
}

fn signed_otherwise(person: &Person, domain: Domain, overlay: &OverlayId, scope: [u8; 32]) -> Vec<u8> {
    entry_changed(person, |e| {
        e.signature = Bytes::copy_from_slice(&sign(&device(101), domain, Some(overlay), &scope, &e.envelope));
    })
}

fn weak_device(person: &Person, key: [u8; 32]) -> Vec<u8> {
    let certificate = person.certificate(&device(101), |c| c.device_key = Bytes::copy_from_slice(&key));
    person.bundle_as_is(vec![person.entry_under(certificate, &device(101), |_, _| {})], None, None)
}

fn wire() -> Vec<BundleVector> {
    let alice = Person::new(1);
    let bad = |name, bytes| BundleVector::new(name, &alice, bytes, "Malformed");
    let good = alice.one(|_, _| {});
    let entry = |n: u8| alice.entry(&device(n), |_, _| {});
    let mut sorted: Vec<_> = [1, 2].map(entry).to_vec();
    sorted.sort_by_key(|e| super::making::device_key(e));
    let swapped: Vec<_> = sorted.iter().rev().cloned().collect();
    let twice = vec![entry(1), entry(1)];
    // Field 1 of the bundle is its first 67 bytes: tag, length, inception.
    let (head, tail) = (good[..67].to_vec(), good[67..].to_vec());
    let envelope = |change: fn(Vec<u8>) -> Vec<u8>| {
        // Signed as it is, so that only the scanner can refuse it.
        entry_changed(&alice, |e| {
            let bytes = change(e.envelope.to_vec());
            let door = peerline::record::door_key(&alice.overlay, &alice.id());
            let signature = sign(&device(101), Domain::Location, Some(&alice.overlay), &door, &bytes);
            (e.envelope, e.signature) = (bytes.into(), Bytes::copy_from_slice(&signature));
        })
    };
    vec![
        BundleVector::new("larger than 12 KiB", &alice, vec![0; 12 * 1024 + 1], "TooLarge"),
        bad("nothing", Vec::new()),
        bad("cut short", good[..good.len() - 1].to_vec()),
        bad("one byte left over", [good.clone(), vec![0]].concat()),
        bad("fields out of order", [tail.clone(), head.clone()].concat()),
        bad("inception twice", [head.clone(), head.clone(), tail.clone()].concat()),
        bad("inception missing", tail.clone()),
        bad("length not minimal", [vec![0x0a, 0xc1, 0x00], good[2..].to_vec()].concat()),
        bad("tag not minimal", [vec![0x8a, 0x00, 0x41], good[2..].to_vec()].concat()),
        bad("wrong wire type", [vec![0x08, 0x41], tail.clone()].concat()),
        bad("a group", [head.clone(), vec![0x1b, 0x1c]].concat()),
        bad("field number 0", [vec![0x02, 0x00], good.clone()].concat()),
        bad("unknown field in the bundle", extended(good.clone())),
        bad("unknown field in the entry", {
            alice.bundle_as_is(vec![extended(alice.entry(&device(101), |_, _| {}))], None, None)
        }),
        bad("unknown field beside the certificate", {
            entry_changed(&alice, |e| e.certificate = extended(e.certificate.to_vec()).into())
        }),
        bad("inception of 64 bytes", [vec![0x0a, 0x40], good[2..66].to_vec(), tail.clone()].concat()),
        bad("inception of 66 bytes", [vec![0x0a, 0x42], good[2..67].to_vec(), vec![0], tail].concat()),
        bad("signature of 63 bytes", entry_changed(&alice, |e| e.signature.truncate(63))),
        bad("nine entries", alice.bundle((1..10).map(entry).collect(), None, None)),
        bad("entries out of order", alice.bundle_as_is(swapped, None, None)),
        bad("two entries of one device", alice.bundle_as_is(twice, None, None)),
        bad("unknown field in the envelope, out of order", envelope(|e| [vec![0xa0, 0x06, 1], e].concat())),
        bad(
            "state of 33 bits",
            envelope(|e| {
                let mut e = pb::Envelope::decode(&e[..]).unwrap();
                (e.state, e.body) = (0, Bytes::new());
                [e.encode_to_vec(), vec![0x38, 0x81, 0x80, 0x80, 0x80, 0x10]].concat()
            }),
        ),
        bad(
            "expires_at twice",
            envelope(|e| {
                let mut e = pb::Envelope::decode(&e[..]).unwrap();
                (e.state, e.body) = (0, Bytes::new());
                let bytes = e.encode_to_vec();
                let last = bytes[bytes.len() - 6..].to_vec();
                [bytes, last, vec![0x38, 1]].concat()
            }),
        ),
    ]
}

fn meaning() -> Vec<BundleVector> {
    let alice = Person::new(1);
    let bob = Person::new(2);
    let bad = |name, bytes, verdict| BundleVector::new(name, &alice, bytes, verdict);
    let mut foreign_algorithm = alice.one(|_, _| {});
    foreign_algorithm[2] = 0x11;
    let nine = (0..9).fold(alice.clone(), |a, _| a.rotated());
    let elsewhere = Person { overlay: OverlayId([7; 32]), ..alice.clone() };
    let caveat = {
        // Field 4 of Caveats.
        let plain = pb::Signed::decode(&alice.certificate(&device(101), |_| {})[..]).unwrap();
        alice.sign_certificate([plain.payload.to_vec(), vec![0x4a, 2, 0x20, 1]].concat())
    };
    let with_caveats = |caveats: pb::Caveats| alice.one_under(move |c| c.caveats = Some(caveats));
    let long = pb::Caveats { max_ttl: 3_599, max_priority: 0, forward_only: false };
    let high = pb::Caveats { max_ttl: 0, max_priority: 499, forward_only: false };
    let forward = pb::Caveats { max_ttl: 0, max_priority: 0, forward_only: true };
    vec![
        bad("inception of a newer algorithm", foreign_algorithm, "Unsupported"),
        bad(
            "a caveat of a newer version",
            alice.bundle(vec![alice.entry_under(caveat, &device(101), |_, _| {})], None, None),
            "Unsupported",
        ),
        bad("header alone", alice.bundle(vec![], None, None), "Expired"),
        bad("nine rotations", nine.one(|_, _| {}), "Malformed"),
        bad("under somebody else's key", alice.one(|_, _| {}), "WrongKey").under(bob.key()),
        bad("under the key of another overlay", alice.one(|_, _| {}), "WrongKey").under(elsewhere.key()),
        bad("somebody else's envelope", alice.one(|e, _| e.idhash = Bytes::copy_from_slice(&bob.id().0)), "WrongKey"),
        bad("state 0", alice.one(|e, _| e.state = 0), "Malformed"),
        bad("life of 59 s", alice.one(|e, _| e.expires_at = NOW + 59), "Malformed"),
        bad("life of 10,801 s", alice.one(|e, _| e.expires_at = NOW + 10_801), "Malformed"),
        bad("ends before it begins", alice.one(|e, _| e.expires_at = NOW - 1), "Malformed"),
        bad("priority 1,001", alice.one(|_, b| b.priority = 1_001), "Malformed"),
        bad("tombstone with an address", alice.one(|e, _| e.state = 4), "Malformed"),
        bad("forward to nowhere", alice.one(|e, _| e.state = 3), "Malformed"),
        bad("nine addresses", alice.one(|_, b| b.addresses = vec![Bytes::from_static(PUBLIC_ADDRESS); 9]), "Malformed"),
        bad("address of 129 bytes", alice.one(|_, b| b.addresses = vec![vec![4; 129].into()]), "Malformed"),
        bad("expired", alice.one(|e, _| (e.issued_at, e.expires_at) = (NOW - 3_600, NOW)), "Expired"),
        bad("certificate expired", alice.one_under(|c| c.not_after = NOW), "Expired"),
        bad(
            "issued 301 s ahead",
            alice.one(|e, _| (e.issued_at, e.expires_at) = (NOW + 301, NOW + 900)),
            "NotYetValid",
        ),
        bad("certificate begins 301 s ahead", alice.one_under(|c| c.not_before = NOW + 301), "NotYetValid"),
        bad("sequence 300.001 s ahead", alice.one(|e, _| e.sequence = NOW_MILLIS + 300_001), "TooFarAhead"),
        bad("no right to publish", alice.one_under(|c| c.rights = 6), "NotCertified"),
        bad(
            "no right to withdraw",
            {
                let certificate = alice.certificate(&device(101), |c| c.rights = 3);
                let entry = alice.entry_under(certificate, &device(101), |e, b| {
                    e.state = 4;
                    b.addresses.clear();
                });
                alice.bundle(vec![entry], None, None)
            },
            "NotCertified",
        ),
        bad("lives longer than its caveat", with_caveats(long), "NotCertified"),
        bad("higher than its caveat", with_caveats(high), "NotCertified"),
        bad("may only forward", with_caveats(forward), "NotCertified"),
        bad(
            "certified by a rotation that is not there",
            {
                Person { rotations: Vec::new(), ..alice.rotated() }.bundle(
                    vec![alice.rotated().entry(&device(101), |_, _| {})],
                    None,
                    None,
                )
            },
            "NotCertified",
        ),
        bad(
            "certified by the root before the rotation",
            alice.rotated().bundle(vec![alice.entry(&device(101), |_, _| {})], None, None),
            "Stale",
        ),
        bad(
            "certificate of somebody else",
            {
                let certificate = bob.certificate(&device(101), |_| {});
                alice.bundle(vec![alice.entry_under(certificate, &device(101), |_, _| {})], None, None)
            },
            "BadCertificate",
        ),
        bad(
            "certificate signed by somebody else",
            {
                let certificate = bob.certificate(&device(101), |c| c.idhash = Bytes::copy_from_slice(&alice.id().0));
                alice.bundle(vec![alice.entry_under(certificate, &device(101), |_, _| {})], None, None)
            },
            "BadCertificate",
        ),
        bad(
            "certificate for another overlay",
            {
                let certificate = elsewhere.certificate(&device(101), |_| {});
                alice.bundle(vec![alice.entry_under(certificate, &device(101), |_, _| {})], None, None)
            },
            "BadCertificate",
        ),
        bad(
            "certificate of a day too long",
            alice.one_under(|c| c.not_after = NOW + 90 * 86_400 + 1),
            "BadCertificate",
        ),
        bad("certificate ends before it begins", alice.one_under(|c| c.not_before = c.not_after + 1), "BadCertificate"),
        bad("epoch differs from the certificate's", alice.one(|e, _| e.epoch = 2), "BadCertificate"),
    ]
}

fn signatures() -> Vec<BundleVector> {
    let alice = Person::new(1);
    let bob = Person::new(2);
    let bad = |name, bytes| BundleVector::new(name, &alice, bytes, "BadSignature");
    let door = peerline::record::door_key(&alice.overlay, &alice.id());
    let bobs = peerline::record::door_key(&alice.overlay, &bob.id());
    let weak = |name, bytes| BundleVector::new(name, &alice, bytes, "WeakKey");
    let by = |key: &SigningKey, overlay: Option<&OverlayId>, domain, payload: &[u8]| {
        let payload = pb::Signed::decode(payload).unwrap().payload;
        signed(payload.to_vec(), sign(key, domain, overlay, &NONE, &payload))
    };
    let revoked = alice.revocation(|_| {});
    let rotated = alice.rotated();
    vec![
        bad("bit of R flipped", entry_changed(&alice, |e| e.signature = flipped(&e.signature, 3))),
        bad("bit of S flipped", entry_changed(&alice, |e| e.signature = flipped(&e.signature, 40))),
        bad("S + L", entry_changed(&alice, |e| e.signature = malleated(&e.signature))),
        bad("signature of zeros", entry_changed(&alice, |e| e.signature = Bytes::from_static(&[0; 64]))),
        bad(
            "bit of the body flipped",
            entry_changed(&alice, |e| e.envelope = flipped(&e.envelope, e.envelope.len() - 1)),
        ),
        bad("signed by another device", {
            let certificate = alice.certificate(&device(101), |_| {});
            alice.bundle(vec![alice.entry_under(certificate, &device(102), |_, _| {})], None, None)
        }),
        bad("signed for another overlay", signed_otherwise(&alice, Domain::Location, &OverlayId([7; 32]), door)),
        bad("signed for another user's door", signed_otherwise(&alice, Domain::Location, &alice.overlay, bobs)),
        bad("signed without a scope", signed_otherwise(&alice, Domain::Location, &alice.overlay, NONE)),
        bad("signed for another domain", signed_otherwise(&alice, Domain::Card, &alice.overlay, door)),
        bad(
            "signed without domain",
            entry_changed(&alice, |e| {
                e.signature = Bytes::copy_from_slice(&device(101).sign(&e.envelope).to_bytes());
            }),
        ),
        bad("rotation by somebody else's recovery key", {
            let key = bob.recovery();
            let mut thief = rotated.clone();
            thief.rotations[0] = by(&key, None, Domain::Rotation, &rotated.rotations[0]);
            thief.one(|_, _| {})
        }),
        bad("rotation that reveals another recovery key", {
            alice.rotated_with(|r| r.recovery_key = super::making::public(&bob.recovery())).one(|_, _| {})
        }),
        bad("owner statement by somebody else", {
            let owner = by(&bob.root(), Some(&alice.overlay), Domain::Owner, &alice.owner(|_| {}));
            alice.bundle(vec![], Some(owner), None)
        }),
        bad("owner statement by a device", {
            let owner = by(&device(101), Some(&alice.overlay), Domain::Owner, &alice.owner(|_| {}));
            alice.bundle(vec![], Some(owner), None)
        }),
        bad("revocation by the root key", {
            alice.bundle(vec![], None, Some(by(&alice.root(), None, Domain::Revocation, &revoked)))
        }),
        bad("revocation by the recovery key before the rotation", rotated.bundle(vec![], None, Some(revoked.clone()))),
        bad("revocation bound to an overlay", {
            let bound = by(&alice.recovery(), Some(&alice.overlay), Domain::Revocation, &revoked);
            alice.bundle(vec![], None, Some(bound))
        }),
        weak("device key of small order", weak_device(&alice, WEAK)),
        weak("device key not canonical", weak_device(&alice, NOT_CANONICAL)),
        weak("device key not on the curve", weak_device(&alice, [2; 32])),
        weak("root of small order", {
            let mut weak = alice.clone();
            weak.inception[1..33].copy_from_slice(&WEAK);
            return_bundle(&weak)
        })
        .under({
            let mut weak = alice.clone();
            weak.inception[1..33].copy_from_slice(&WEAK);
            weak.key()
        }),
        weak("new root of small order", {
            alice.rotated_with(|r| r.new_root_key = Bytes::from_static(&WEAK)).one(|_, _| {})
        }),
    ]
}

fn return_bundle(person: &Person) -> Vec<u8> {
    person.bundle(vec![person.entry(&device(101), |_, _| {})], None, None)
}

fn statements() -> Vec<BundleVector> {
    let alice = Person::new(1);
    let bob = Person::new(2);
    let bad = |name, bytes, verdict| BundleVector::new(name, &alice, bytes, verdict);
    let owner = |change: fn(&mut pb::OwnerStatement)| alice.bundle(vec![], Some(alice.owner(change)), None);
    let revocation = |change: fn(&mut pb::Revocation)| alice.bundle(vec![], None, Some(alice.revocation(change)));
    let rotated = |change: fn(&mut pb::Rotation)| alice.rotated_with(change).one(|_, _| {});
    let bobs = Bytes::copy_from_slice(&bob.id().0);
    vec![
        bad("owner statement over", owner(|o| o.valid_until = NOW), "Expired"),
        bad("owner statement for 367 days", owner(|o| o.valid_until = NOW + 367 * 86_400), "TooFarAhead"),
        bad("owner statement's sequence ahead", owner(|o| o.sequence = NOW_MILLIS + 300_001), "TooFarAhead"),
        bad("owner statement of a later rotation", owner(|o| o.rotation = 1), "Malformed"),
        bad("owner statement with 17 serials", owner(|o| o.revoked_serials = (1..18).collect()), "Malformed"),
        bad(
            "owner statement of somebody else",
            alice.bundle(vec![], Some(alice.owner(|o| o.idhash = bobs.clone())), None),
            "Malformed",
        ),
        bad("revocation 301 s ahead", revocation(|r| r.issued_at = NOW + 301), "NotYetValid"),
        bad("revocation a year old", revocation(|r| r.issued_at = NOW - 365 * 86_400), "Expired"),
        bad(
            "revocation of somebody else",
            alice.bundle(vec![], None, Some(alice.revocation(|r| r.idhash = bobs.clone()))),
            "Malformed",
        ),
        bad("rotation numbered 2", rotated(|r| r.n = 2), "Malformed"),
        bad("rotation of somebody else", alice.rotated_with(|r| r.idhash = bobs.clone()).one(|_, _| {}), "Malformed"),
    ]
}

fn addresses() -> Vec<BundleVector> {
    let alice = Person::new(1);
    let tcp = |ip: [u8; 4]| [&[4][..], &ip, &[6, 0x0f, 0xa1]].concat();
    let tcp6 = |ip: &str| {
        let ip = ip.parse::<std::net::Ipv6Addr>().unwrap().octets();
        [&[41][..], &ip, &[6, 0x0f, 0xa1]].concat()
    };
    let dns = |name: &str| [&[53, name.len() as u8], name.as_bytes(), &[6, 0x0f, 0xa1]].concat();
    let with = |name, address: Vec<u8>| {
        let bytes = alice.one(|_, b| b.addresses.push(address.into()));
        BundleVector::new(name, &alice, bytes, "AddressPolicy")
    };
    vec![
        with("address: private", PRIVATE_ADDRESS.to_vec()),
        with("address: 10/8", tcp([10, 0, 0, 1])),
        with("address: loopback", tcp([127, 0, 0, 1])),
        with("address: link-local", tcp([169, 254, 1, 1])),
        with("address: shared", tcp([100, 64, 0, 1])),
        with("address: multicast", tcp([224, 0, 0, 1])),
        with("address: documentation", tcp([203, 0, 113, 5])),
        with("address: benchmarking", tcp([198, 18, 0, 1])),
        with("address: this network", tcp([0, 0, 0, 0])),
        with("address: reserved", tcp([240, 0, 0, 1])),
        with("address: ip6 loopback", tcp6("::1")),
        with("address: ip6 link-local", tcp6("fe80::1")),
        with("address: ip6 unique local", tcp6("fd00::1")),
        with("address: ip6 documentation", tcp6("2001:db8::1")),
        with("address: 6to4", tcp6("2002:a00:1::1")),
        with("address: Teredo", tcp6("2001::1")),
        with("address: ip4 private in ip6", tcp6("::ffff:10.0.0.1")),
        with("address: localhost by name", dns("localhost")),
        with("address: .local by name", dns("nas.local")),
        with("address: not a name", dns("a b.example")),
        with("address: port 0", vec![4, 93, 184, 216, 34, 6, 0, 0]),
        with("address: udp without quic", PUBLIC_ADDRESS[..9].to_vec()),
        with("address: cut short", PUBLIC_ADDRESS[..10].to_vec()),
        with("address: unknown protocol", vec![0x84, 0x02, 1, 2]),
        with("address: more than there should be", [PUBLIC_ADDRESS, &[0x91, 0x02, 1, 1]].concat()),
        with("address: not an address, where any is allowed", vec![1]).any_scope(),
    ]
}

pub fn vectors() -> Vec<BundleVector> {
    [wire(), meaning(), signatures(), statements(), addresses()].into_iter().flatten().collect()
}
