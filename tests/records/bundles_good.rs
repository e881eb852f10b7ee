//! Bundles that are valid, judged alone.

use super::BundleVector;
use super::making::{NOW, NOW_MILLIS, PRIVATE_ADDRESS, Person, device};
use peerline::record::replica_keys;
use peerline::wire::pb;
use prost::Message;
use prost::bytes::Bytes;

/// An unknown field with number 100: `payload` as a newer version may sign it.
pub fn extended(mut payload: Vec<u8>) -> Vec<u8> {
    payload.extend([0xa2, 0x06, 3, b'n', b'e', b'w']);
    payload
}

fn with_address(person: &Person, address: &[u8]) -> Vec<u8> {
    person.one(|_, b| b.addresses = vec![Bytes::copy_from_slice(address)])
}

pub fn vectors() -> Vec<BundleVector> {
    let alice = Person::new(1);
    let valid = |name, bytes| BundleVector::new(name, &alice, bytes, "Valid");
    let keys = replica_keys(&alice.overlay, &alice.id());
    let eight = (1..9).map(|n| {
        alice.entry(&device(n), |e, b| {
            e.sequence += u64::from(n);
            b.priority = u32::from(n) * 100;
        })
    });
    let short = |n: u8, ends: u64| {
        alice.entry(&device(n), move |e, _| {
            e.issued_at = NOW - 3_600;
            e.expires_at = ends;
        })
    };
    let mut dns = vec![53, 17];
    dns.extend(b"relay.example.org");
    dns.extend([6, 0x01, 0xbb, 0xdd, 0x03]);
    let mut ip6 = vec![41];
    ip6.extend("2a00:1450:4001::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
    ip6.extend([6, 0x0f, 0xa1]);
    let mut circuit = vec![4, 93, 184, 216, 34, 6, 0x0f, 0xa1, 0xa5, 0x03, 38, 0, 36, 8, 1, 18, 32];
    circuit.extend(device(200).verifying_key().as_bytes());
    circuit.extend([0xa2, 0x02]);
    let caveats = pb::Caveats { max_ttl: 3_600, max_priority: 500, forward_only: false };
    let forwarder = alice.certificate(&device(101), |c| {
        c.caveats = Some(pb::Caveats { max_ttl: 0, max_priority: 0, forward_only: true });
    });
    let forward = |e: &mut pb::Envelope, b: &mut pb::Body| {
        (e.state, b.forward_to) = (3, format!("sip:{}@peerline.alt", Person::new(2).id()));
        b.addresses.clear();
    };
    let certified_by_a_newer_version = {
        let signed = pb::Signed::decode(&alice.certificate(&device(101), |_| {})[..]).unwrap();
        alice.sign_certificate(extended(signed.payload.to_vec()))
    };
    vec![
        valid("one device", alice.one(|_, _| {})),
        valid("under the last replica key", alice.one(|_, _| {})).under(keys[3]),
        valid("eight devices", alice.bundle(eight.collect(), None, None)),
        valid("no address: reached by peer id", alice.one(|_, b| b.addresses.clear())),
        valid("no body at all", alice.one(|_, b| *b = pb::Body::default())),
        valid("do not disturb", alice.one(|e, _| e.state = 2)),
        valid(
            "tombstone",
            alice.one(|e, b| {
                e.state = 4;
                b.addresses.clear();
            }),
        ),
        valid("forward", alice.one(forward)),
        valid("forward under a forward-only certificate", {
            alice.bundle(vec![alice.entry_under(forwarder, &device(101), forward)], None, None)
        }),
        valid("shortest life", alice.one(|e, _| e.expires_at = NOW + 60)),
        valid("longest life", alice.one(|e, _| e.expires_at = NOW + 10_800)),
        valid("issued 300 s ahead", alice.one(|e, _| (e.issued_at, e.expires_at) = (NOW + 300, NOW + 900))),
        valid("sequence 300 s ahead", alice.one(|e, _| e.sequence = NOW_MILLIS + 300_000)),
        valid("last second", alice.one(|e, _| (e.issued_at, e.expires_at) = (NOW - 3_599, NOW + 1))),
        valid("certificate of 90 days and an hour", alice.one_under(|c| c.not_after = NOW + 90 * 86_400)),
        valid("epoch 0", {
            let certificate = alice.certificate(&device(101), |c| c.epoch = 0);
            alice.bundle(vec![alice.entry_under(certificate, &device(101), |e, _| e.epoch = 0)], None, None)
        }),
        valid("within its caveats", alice.one_under(|c| c.caveats = Some(caveats))),
        valid("unknown field in the certificate", {
            let entry = alice.entry_under(certified_by_a_newer_version, &device(101), |_, _| {});
            alice.bundle(vec![entry], None, None)
        }),
        valid("unknown field in the body", alice.one(|e, b| e.body = extended(b.encode_to_vec()).into())),
        valid("unknown rights", alice.one_under(|c| c.rights = 0xffff_ffff)),
        valid("address: ip6 tcp", with_address(&alice, &ip6)),
        valid("address: dns tcp ws", with_address(&alice, &dns)),
        valid("address: through a relay", with_address(&alice, &circuit)),
        valid("address: private, where any is allowed", with_address(&alice, PRIVATE_ADDRESS)).any_scope(),
        valid("one rotation", alice.rotated().one(|_, _| {})),
        valid("eight rotations", (0..8).fold(alice.clone(), |a, _| a.rotated()).one(|_, _| {})),
        valid("owner statement alone", alice.bundle(vec![], Some(alice.owner(|_| {})), None)),
        valid("owner statement beside an entry", {
            let owner = alice.owner(|o| o.revoked_serials = vec![3, 1, 2]);
            alice.bundle(vec![alice.entry(&device(101), |_, _| {})], Some(owner), None)
        }),
        valid("owner statement of the rotation before is left out", {
            let rotated = alice.rotated();
            let entry = rotated.entry(&device(101), |_, _| {});
            rotated.bundle(vec![entry], Some(alice.owner(|_| {})), None)
        }),
        valid("revocation", alice.bundle(vec![], None, Some(alice.revocation(|_| {})))),
        valid("revocation empties the bundle", {
            let entry = alice.entry(&device(101), |_, _| {});
            alice.bundle(vec![entry], Some(alice.owner(|_| {})), Some(alice.revocation(|_| {})))
        }),
        valid("revocation after a rotation", {
            let rotated = alice.rotated();
            rotated.bundle(vec![], None, Some(rotated.revocation(|_| {})))
        }),
        valid("an expired entry is left out", alice.bundle(vec![short(1, NOW), short(2, NOW + 60)], None, None)),
        valid("an entry of the wrong epoch is left out", {
            let certificate = alice.certificate(&device(2), |c| c.epoch = 2);
            let newer = alice.entry_under(certificate, &device(2), |e, _| e.epoch = 2);
            alice.bundle(vec![alice.entry(&device(1), |_, _| {}), newer], None, None)
        }),
        valid("a revoked serial is left out", {
            let certificate = alice.certificate(&device(1), |c| c.serial = 77);
            let stolen = alice.entry_under(certificate, &device(1), |_, _| {});
            let owner = alice.owner(|o| o.revoked_serials = vec![77]);
            alice.bundle(vec![stolen, alice.entry(&device(2), |_, _| {})], Some(owner), None)
        }),
        BundleVector::new("state of a newer version", &alice, alice.one(|e, _| e.state = 5), "ValidOpaque"),
        BundleVector::new(
            "ver of a newer version: the body is not read",
            &alice,
            alice.one(|e, _| (e.ver, e.body) = (1, Bytes::from_static(&[0xff, 0xff]))),
            "ValidOpaque",
        ),
    ]
}
