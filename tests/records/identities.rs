//! From words to a number, and how numbers are read.

use super::{hex, keep};
use peerline::identity::Seed;
use peerline::uri::{UriError, base32};
use serde::Serialize;
use sha2::{Digest, Sha256};

#[derive(Serialize)]
struct Identity {
    words: String,
    seed: String,
    root_0: String,
    root_1: String,
    recovery_0: String,
    recovery_1: String,
    inception: String,
    idhash: String,
    user_part: String,
    grouped: String,
}

#[derive(Serialize)]
struct Typed {
    text: String,
    /// `Ok`, `Mistyped`, `Newer` or `NotAnAddress`.
    verdict: &'static str,
}

#[derive(Serialize)]
struct File {
    identities: Vec<Identity>,
    typed: Vec<Typed>,
}

fn identity(seed: [u8; 32]) -> Identity {
    let seed_bytes = seed;
    let seed = Seed::from_bytes(seed);
    let user = seed.identity();
    let public = |key: ed25519_dalek::SigningKey| hex(key.verifying_key().as_bytes());
    Identity {
        words: seed.words(),
        seed: hex(&seed_bytes),
        root_0: public(seed.root_key(0)),
        root_1: public(seed.root_key(1)),
        recovery_0: public(seed.recovery_key(0)),
        recovery_1: public(seed.recovery_key(1)),
        inception: hex(&user.inception),
        idhash: hex(&user.id.0),
        user_part: user.id.to_string(),
        grouped: user.id.grouped(),
    }
}

fn number(ver_alg: u8, id: [u8; 22], spoil: u8) -> String {
    let chk = Sha256::new().chain_update(b"peerline-uri-chk-1").chain_update([ver_alg]).chain_update(id).finalize();
    let mut bytes = vec![ver_alg];
    bytes.extend(id);
    bytes.extend([chk[0], chk[1] ^ spoil]);
    base32(&bytes)
}

pub fn check() {
    let sum = |text: &str| -> [u8; 32] { Sha256::digest(text.as_bytes()).into() };
    let identities: Vec<_> = [[0; 32], [1; 32], [0xff; 32], sum("a"), sum("b")].into_iter().map(identity).collect();
    for identity in &identities {
        assert_eq!(Seed::from_words(&identity.words).unwrap().identity().id.to_string(), identity.user_part);
    }
    let good = number(0x10, [9; 22], 0);
    let typed = |text: &str, verdict| Typed { text: text.to_owned(), verdict };
    let typed = vec![
        typed(&good, "Ok"),
        typed(&good.to_uppercase(), "Ok"),
        typed(&identities[1].grouped, "Ok"),
        typed(&identities[1].grouped.replace(' ', "-"), "Ok"),
        typed(&number(0x10, [9; 22], 1), "Mistyped"),
        typed(&number(0x20, [9; 22], 0), "Newer"),
        typed(&number(0x11, [9; 22], 0), "Newer"),
        typed(&number(0x20, [9; 22], 1), "Mistyped"),
        typed(&good[1..], "NotAnAddress"),
        typed(&format!("{good}a"), "NotAnAddress"),
        typed(&good.replacen(|c: char| c.is_ascii_alphabetic(), "1", 1), "NotAnAddress"),
        typed("", "NotAnAddress"),
    ];
    for typed in &typed {
        let verdict = match typed.text.parse::<peerline::uri::IdHash>() {
            Ok(_) => "Ok",
            Err(UriError::Mistyped) => "Mistyped",
            Err(UriError::Newer) => "Newer",
            Err(UriError::NotAnAddress) => "NotAnAddress",
        };
        assert_eq!(verdict, typed.verdict, "{}", typed.text);
    }
    keep("identities.json", &File { identities, typed });
}
