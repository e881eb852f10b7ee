//! Geneses, where records lie, charter updates and contact cards.

use super::making::{NOW, NOW_MILLIS, Person, device, judge, overlay};
use super::{hex, keep, unhex, verdict};
use ed25519_dalek::SigningKey;
use peerline::clock::UnixMillis;
use peerline::identity::{CertificateBytes, NodeKey, NodeSecret};
use peerline::record::{
    BootstrapNode, CardDraft, Charter, Judge, UserHeader, door_key, parse_card, replica_keys, sign_card, sign_charter,
    verify_charter,
};
use peerline::wire::{AddressScope, Genesis, Mode, OverlayId};
use serde::Serialize;
use std::collections::BTreeSet;

#[derive(Serialize)]
struct Place {
    user_part: String,
    door: String,
    replicas: Vec<String>,
}

#[derive(Serialize)]
struct Founded {
    name: &'static str,
    genesis: String,
    /// Of the hash of whatever bytes these are.
    overlay_id: String,
    protocol_prefix: String,
    valid: bool,
    places: Vec<Place>,
}

#[derive(Serialize)]
struct CharterVector {
    name: &'static str,
    genesis: String,
    /// The overlay that the judge is in.
    overlay_id: String,
    scope: &'static str,
    now_ms: u64,
    held_sequence: Option<u64>,
    bytes: String,
    verdict: &'static str,
}

#[derive(Serialize)]
struct CardVector {
    name: &'static str,
    overlay_id: String,
    now_ms: u64,
    text: String,
    verdict: &'static str,
    user_part: String,
    nickname: &'static str,
}

fn managed() -> (Genesis, Vec<SigningKey>) {
    let mut keys: Vec<SigningKey> = (150..153).map(device).collect();
    keys.sort_by_key(|k| k.verifying_key().to_bytes());
    let authority_keys = keys.iter().map(|k| k.verifying_key().to_bytes()).collect();
    let open = Genesis::open("example.alt", AddressScope::Global, [5; 16]);
    (Genesis { mode: Mode::Managed, authority_keys, threshold: 2, ..open }, keys)
}

fn founded(name: &'static str, genesis: &Genesis, valid: bool) -> Founded {
    let bytes = genesis.encode();
    assert_eq!(Genesis::decode(&bytes).is_ok(), valid, "{name}");
    let id = OverlayId::of_genesis(&bytes);
    let places = (1..4).map(|n| Person { overlay: id, ..Person::new(n) });
    let places = places.map(|person| Place {
        user_part: person.id().to_string(),
        door: hex(&door_key(&id, &person.id())),
        replicas: replica_keys(&id, &person.id()).iter().map(|k| hex(&k.0)).collect(),
    });
    Founded {
        name,
        genesis: hex(&bytes),
        overlay_id: hex(&id.0),
        protocol_prefix: format!("/peerline/{}/", id.short()),
        valid,
        places: if valid { places.collect() } else { Vec::new() },
    }
}

fn geneses() -> Vec<Founded> {
    let (managed, _) = managed();
    let turned = managed.authority_keys.iter().rev().copied().collect();
    vec![
        founded("built in", &Genesis::built_in(), true),
        founded("private, of the word t1", &Genesis::private(b"t1"), true),
        founded("managed", &managed, true),
        founded("threshold out of reach", &Genesis { threshold: 4, ..managed.clone() }, false),
        founded("no threshold", &Genesis { threshold: 0, ..managed.clone() }, false),
        founded("keys out of order", &Genesis { authority_keys: turned, ..managed.clone() }, false),
        founded("weak key", &Genesis { authority_keys: vec![[0; 32]], threshold: 1, ..managed.clone() }, false),
        founded("capitals in the name", &Genesis { name: "Example".into(), ..managed }, false),
    ]
}

fn charters() -> Vec<CharterVector> {
    let (genesis, keys) = managed();
    let id = genesis.id();
    let charter = Charter {
        sequence: NOW_MILLIS,
        bootstrap: vec![BootstrapNode {
            node: NodeKey(device(160).verifying_key().to_bytes()),
            addresses: vec![super::making::PUBLIC_ADDRESS.to_vec()],
        }],
        max_bundle_bytes: 8_192,
        max_ttl: 3_600,
        directories: vec![device(161).verifying_key().to_bytes()],
        min_version: 1,
        valid_until: UnixMillis::from_seconds(NOW + 86_400),
    };
    let by = |charter: &Charter, which: &[u32]| {
        let which: Vec<_> = which.iter().map(|n| (*n, &keys[*n as usize])).collect();
        sign_charter(charter, &id, &which)
    };
    let case = |name, bytes: Vec<u8>, verdict| CharterVector {
        name,
        genesis: hex(&genesis.encode()),
        overlay_id: hex(&id.0),
        scope: "global",
        now_ms: NOW_MILLIS,
        held_sequence: None,
        bytes: hex(&bytes),
        verdict,
    };
    let good = by(&charter, &[0, 2]);
    let mut flipped = good.clone();
    let last = flipped.len() - 1;
    flipped[last] ^= 0x10;
    let private = Charter {
        bootstrap: vec![BootstrapNode {
            addresses: vec![super::making::PRIVATE_ADDRESS.to_vec()],
            ..charter.bootstrap[0].clone()
        }],
        ..charter.clone()
    };
    let weak =
        Charter { bootstrap: vec![BootstrapNode { node: NodeKey([0; 32]), addresses: Vec::new() }], ..charter.clone() };
    let over = Charter { valid_until: UnixMillis::from_seconds(NOW), ..charter.clone() };
    let ahead = Charter { sequence: NOW_MILLIS + 300_001, ..charter.clone() };
    let foreign = sign_charter(&charter, &overlay(), &[(0, &keys[0]), (2, &keys[2])]);
    let swapped = sign_charter(&charter, &id, &[(0, &keys[2]), (2, &keys[0])]);
    let stranger = sign_charter(&charter, &id, &[(0, &keys[0]), (3, &keys[2])]);
    vec![
        case("two of three", good.clone(), "Valid"),
        case("all three", by(&charter, &[0, 1, 2]), "Valid"),
        case("private address, where any is allowed", by(&private, &[0, 1]), "Valid").any_scope(),
        CharterVector { held_sequence: Some(NOW_MILLIS - 1), ..case("newer than held", good.clone(), "Valid") },
        CharterVector { held_sequence: Some(NOW_MILLIS), ..case("as old as held", good.clone(), "Stale") },
        case("one of three", by(&charter, &[1]), "NotCertified"),
        case("nobody", by(&charter, &[]), "NotCertified"),
        case("one authority twice", by(&charter, &[1, 1]), "Malformed"),
        case("an authority that is not there", stranger, "Malformed"),
        case("of another overlay", foreign, "WrongOverlay"),
        CharterVector { overlay_id: hex(&overlay().0), ..case("judged elsewhere", good, "WrongOverlay") },
        case("signatures swapped", swapped, "BadSignature"),
        case("bit flipped", flipped, "BadSignature"),
        case("over", by(&over, &[0, 1]), "Expired"),
        case("sequence ahead", by(&ahead, &[0, 1]), "TooFarAhead"),
        case("private address", by(&private, &[0, 1]), "AddressPolicy"),
        case("weak node key", by(&weak, &[0, 1]), "WeakKey"),
        case("nothing", Vec::new(), "Malformed"),
        case("larger than 16 KiB", vec![0; 16 * 1024 + 1], "TooLarge"),
    ]
}

impl CharterVector {
    fn any_scope(mut self) -> Self {
        self.scope = "any";
        self
    }
}

fn cards() -> Vec<CardVector> {
    let alice = Person::new(1);
    let draft = |nickname: &str, hints: &[u8]| CardDraft {
        overlay_name: "peerline.alt".into(),
        nickname: nickname.into(),
        node_hints: hints.iter().map(|n| NodeKey(device(*n).verifying_key().to_bytes())).collect(),
    };
    let card = |person: &Person, certificate: Vec<u8>, signer: u8, draft: &CardDraft| {
        let header = UserHeader { inception: person.inception, rotations: person.rotations.clone() };
        let secret = NodeSecret::from_bytes(device(signer).to_bytes());
        sign_card(&header, &CertificateBytes(certificate), &secret, &person.overlay, draft).unwrap()
    };
    let case = |name, text: String, verdict| CardVector {
        name,
        overlay_id: hex(&overlay().0),
        now_ms: NOW_MILLIS,
        text,
        verdict,
        user_part: alice.id().to_string(),
        nickname: if verdict == "Valid" { "Alice" } else { "" },
    };
    let usual = |p: &Person| p.certificate(&device(101), |_| {});
    let full = card(&alice, usual(&alice), 101, &draft("Alice", &[1, 2]));
    let elsewhere = Person { overlay: OverlayId([7; 32]), ..alice.clone() };
    let bob = Person::new(2);
    let bare = draft("Alice", &[]);
    let mut flipped = full.clone().into_bytes();
    let middle = flipped.len() - 20;
    flipped[middle] = if flipped[middle] == b'a' { b'b' } else { b'a' };
    let years = CardVector { now_ms: NOW_MILLIS + 94_608_000_000, ..case("years later", full.clone(), "Valid") };
    vec![
        case("with nickname and hints", full.clone(), "Valid"),
        case("in capitals", full.to_uppercase(), "Valid"),
        years,
        case("after a rotation", card(&alice.rotated(), usual(&alice.rotated()), 101, &bare), "Valid"),
        case("of another overlay", card(&elsewhere, usual(&elsewhere), 101, &bare), "WrongOverlay"),
        case("certificate of somebody else", card(&alice, usual(&bob), 101, &bare), "BadCertificate"),
        case("signed by another device", card(&alice, usual(&alice), 102, &bare), "BadSignature"),
        case("changed", String::from_utf8(flipped).unwrap(), "BadSignature"),
        case(
            "no right to publish",
            card(&alice, alice.certificate(&device(101), |c| c.rights = 2), 101, &bare),
            "NotCertified",
        ),
        case(
            "certificate not yet valid",
            card(&alice, alice.certificate(&device(101), |c| c.not_before = NOW + 301), 101, &bare),
            "NotYetValid",
        ),
        case("certified before the rotation", card(&alice.rotated(), usual(&alice), 101, &bare), "NotCertified"),
        case("cut short", full[..full.len() - 8].to_owned(), "Malformed"),
        case("another scheme", full.replace("peerline:", "sip:"), "Malformed"),
        case("too large", format!("peerline:card/{}", "a".repeat(968)), "TooLarge"),
    ]
}

pub fn check() -> BTreeSet<&'static str> {
    keep("overlays.json", &geneses());
    let charters = charters();
    for vector in &charters {
        let genesis = Genesis::decode(&unhex(&vector.genesis)).unwrap();
        let scope = if vector.scope == "any" { AddressScope::Any } else { AddressScope::Global };
        let overlay = OverlayId(unhex(&vector.overlay_id).try_into().unwrap());
        let judge = Judge { overlay, scope, now: UnixMillis(vector.now_ms) };
        let judged = verify_charter(&unhex(&vector.bytes), &genesis, &judge, vector.held_sequence);
        assert_eq!(verdict(&judged, |_| false), vector.verdict, "{}", vector.name);
    }
    keep("charters.json", &charters);
    let cards = cards();
    for vector in &cards {
        let judge = Judge { now: UnixMillis(vector.now_ms), ..judge() };
        let judged = parse_card(&vector.text, &judge);
        assert_eq!(verdict(&judged, |_| false), vector.verdict, "{}", vector.name);
        if let Ok(card) = judged {
            assert_eq!((card.id.to_string(), &card.said.nickname[..]), (vector.user_part.clone(), vector.nickname));
        }
    }
    keep("cards.json", &cards);
    charters.iter().map(|v| v.verdict).chain(cards.iter().map(|v| v.verdict)).collect()
}
