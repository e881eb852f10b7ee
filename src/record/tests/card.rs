//! Cards and charter updates.

use super::*;
use crate::wire::{Genesis, Mode};
use ed25519_dalek::SigningKey;

fn said() -> CardDraft {
    CardDraft {
        overlay_name: "peerline.alt".into(),
        nickname: "Älice".into(),
        node_hints: vec![device(4).public(), device(5).public()],
    }
}

fn card(user: &UserIdentity, device: &NodeSecret, draft: &CardDraft) -> String {
    let certificate = user.certify(device.public(), &OVERLAY, 1, NOW);
    sign_card(&user.into(), &certificate, device, &OVERLAY, draft).unwrap()
}

#[test]
fn a_card_is_read_again_also_when_its_certificate_is_over() {
    let (alice, node) = (user(1), device(9));
    let text = card(&alice, &node, &said());
    let read = parse_card(&format!(" {} ", text.to_uppercase()), &judge()).unwrap();
    assert_eq!((read.id, &read.said, read.header.id()), (alice.id, &said(), alice.id));
    let years = Judge { now: UnixMillis(NOW.0 + 3 * 365 * 86_400_000), ..judge() };
    assert!(parse_card(&text, &years).is_ok());
    let elsewhere = Judge { overlay: OverlayId([4; 32]), ..judge() };
    assert_eq!(parse_card(&text, &elsewhere), Err(RejectReason::WrongOverlay));
}

#[test]
fn a_card_of_a_rotated_user_fits_without_hints() {
    let rotated = Seed::from_bytes([1; 32]).rotate(&user(1));
    let bare = CardDraft { nickname: String::new(), node_hints: Vec::new(), ..said() };
    assert_eq!(parse_card(&card(&rotated, &device(9), &bare), &judge()).unwrap().id, rotated.id);
    let certificate = rotated.certify(device(9).public(), &OVERLAY, 1, NOW);
    let full = sign_card(&(&rotated).into(), &certificate, &device(9), &OVERLAY, &said());
    assert_eq!(full, Err(RejectReason::TooLarge));
}

#[test]
fn no_changed_character_of_a_card_is_accepted() {
    let text = card(&user(1), &device(9), &said());
    for at in CARD_PREFIX.len()..text.len() {
        let mut bad = text.clone().into_bytes();
        bad[at] = if bad[at] == b'a' { b'b' } else { b'a' };
        assert!(parse_card(&String::from_utf8(bad).unwrap(), &judge()).is_err(), "character {at}");
    }
    for text in ["", "peerline:card/", "peerline:card/1", "sip:x", &format!("{CARD_PREFIX}{}", "a".repeat(2_000))] {
        assert!(parse_card(text, &judge()).is_err());
    }
}

fn authorities() -> (Genesis, Vec<SigningKey>) {
    let mut keys: Vec<SigningKey> = (20..23).map(|n| SigningKey::from_bytes(&[n; 32])).collect();
    keys.sort_by_key(|k| k.verifying_key().to_bytes());
    let authority_keys = keys.iter().map(|k| k.verifying_key().to_bytes()).collect();
    (Genesis { mode: Mode::Managed, authority_keys, threshold: 2, ..Genesis::private(b"charter") }, keys)
}

#[test]
fn a_charter_needs_its_threshold_its_overlay_and_a_newer_sequence() {
    let (genesis, keys) = authorities();
    let overlay = genesis.id();
    let judge = Judge { overlay, ..judge() };
    let charter = Charter {
        sequence: NOW.0,
        bootstrap: vec![BootstrapNode { node: device(7).public(), addresses: vec![vec![4, 127, 0, 0, 1, 6, 15, 161]] }],
        max_bundle_bytes: 0,
        max_ttl: 0,
        directories: vec![[5; 32]],
        min_version: 1,
        valid_until: UnixMillis(NOW.0 + 86_400_000),
    };
    let two = sign_charter(&charter, &overlay, &[(2, &keys[2]), (0, &keys[0])]);
    assert_eq!(verify_charter(&two, &genesis, &judge, None), Ok(charter.clone()));
    assert_eq!(verify_charter(&two, &genesis, &judge, Some(NOW.0 - 1)), Ok(charter.clone()));
    assert_eq!(verify_charter(&two, &genesis, &judge, Some(NOW.0)), Err(RejectReason::Stale));
    let check = |bytes: &[u8]| verify_charter(bytes, &genesis, &judge, None);
    let one = sign_charter(&charter, &overlay, &[(0, &keys[0])]);
    assert_eq!(check(&one), Err(RejectReason::NotCertified));
    let twice = sign_charter(&charter, &overlay, &[(0, &keys[0]), (0, &keys[0])]);
    assert_eq!(check(&twice), Err(RejectReason::Malformed));
    let swapped = sign_charter(&charter, &overlay, &[(0, &keys[1]), (1, &keys[0])]);
    assert_eq!(check(&swapped), Err(RejectReason::BadSignature));
    let foreign = sign_charter(&charter, &OVERLAY, &[(0, &keys[0]), (1, &keys[1])]);
    assert_eq!(check(&foreign), Err(RejectReason::WrongOverlay));
    let global = Judge { scope: AddressScope::Global, ..judge };
    assert_eq!(verify_charter(&two, &genesis, &global, None), Err(RejectReason::AddressPolicy));
    let late = Judge { now: charter.valid_until, ..judge };
    assert_eq!(verify_charter(&two, &genesis, &late, None), Err(RejectReason::Expired));
    for at in 0..two.len() * 8 {
        let mut bad = two.clone();
        bad[at / 8] ^= 1 << (at % 8);
        assert!(check(&bad).is_err(), "bit {at}");
    }
    let nobody = Genesis::private(b"open");
    let judge = Judge { overlay: nobody.id(), ..judge };
    let free = sign_charter(&charter, &nobody.id(), &[]);
    assert_eq!(verify_charter(&free, &nobody, &judge, None), Err(RejectReason::NotCertified));
}
