//! The golden vectors in `tests/vectors/*.json`: made from fixed seeds, held against the files, and judged. The verdicts
//! are written down here by hand; `tests/vectors/verify.py` reproduces them from `docs/protocol.md` alone.
//!
//! `PEERLINE_WRITE_VECTORS=1 cargo test --test vectors` writes the files anew. After the first release that is only
//! right for *new* vectors.

#[allow(dead_code)]
#[path = "records/making.rs"]
mod making;

#[path = "records/bundles_bad.rs"]
mod bundles_bad;
#[path = "records/bundles_good.rs"]
mod bundles_good;
#[path = "records/bundles_held.rs"]
mod bundles_held;
#[path = "records/identities.rs"]
mod identities;
#[path = "records/overlays.rs"]
mod overlays;

use data_encoding::HEXLOWER;
use making::{NOW_MILLIS, judge};
use peerline::clock::UnixMillis;
use peerline::record::{Judge, RecordKey, RejectReason, ValidBundle, validate, verify_hello_user};
use peerline::wire::AddressScope;
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::PathBuf;

pub fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

pub fn unhex(text: &str) -> Vec<u8> {
    HEXLOWER.decode(text.as_bytes()).unwrap()
}

/// Bytes to be judged as a bundle found under a key.
#[derive(Serialize)]
pub struct BundleVector {
    pub name: &'static str,
    pub overlay_id: String,
    pub scope: &'static str,
    pub now_ms: u64,
    pub key: String,
    /// Judged alone at `held_now_ms`, then held.
    pub held: Option<String>,
    pub held_now_ms: u64,
    pub bytes: String,
    /// `Valid`, `ValidOpaque` or the reason.
    pub verdict: &'static str,
    /// What is held afterwards, when valid.
    pub result: Option<String>,
}

impl BundleVector {
    pub fn new(name: &'static str, who: &making::Person, bytes: Vec<u8>, verdict: &'static str) -> Self {
        Self {
            name,
            overlay_id: hex(&who.overlay.0),
            scope: "global",
            now_ms: NOW_MILLIS,
            key: hex(&who.key().0),
            held: None,
            held_now_ms: NOW_MILLIS,
            bytes: hex(&bytes),
            verdict,
            result: None,
        }
    }

    pub fn any_scope(mut self) -> Self {
        self.scope = "any";
        self
    }

    pub fn at(mut self, now_ms: u64) -> Self {
        self.now_ms = now_ms;
        self
    }

    pub fn under(mut self, key: RecordKey) -> Self {
        self.key = hex(&key.0);
        self
    }

    pub fn beside(mut self, held: Vec<u8>) -> Self {
        self.held = Some(hex(&held));
        self
    }

    fn judge(&self, now_ms: u64) -> Judge {
        let scope = if self.scope == "any" { AddressScope::Any } else { AddressScope::Global };
        let overlay = peerline::wire::OverlayId(unhex(&self.overlay_id).try_into().unwrap());
        Judge { overlay, scope, now: UnixMillis(now_ms) }
    }

    fn judged(&self) -> Result<ValidBundle, RejectReason> {
        let key = RecordKey(unhex(&self.key).try_into().unwrap());
        let held = self.held.as_ref().map(|held| {
            validate(&unhex(held), &key, &self.judge(self.held_now_ms), None).expect("what is held was valid")
        });
        validate(&unhex(&self.bytes), &key, &self.judge(self.now_ms), held.as_ref())
    }
}

/// A bundle shown in a `sip/1` hello.
#[derive(Serialize)]
pub struct HelloVector {
    pub name: &'static str,
    pub overlay_id: String,
    pub now_ms: u64,
    /// The user part.
    pub from: String,
    pub channel_key: String,
    /// `[rotation, epoch]`
    pub pin: Option<(u32, u32)>,
    pub bytes: String,
    pub verdict: &'static str,
}

pub fn verdict<T>(result: &Result<T, RejectReason>, opaque: impl Fn(&T) -> bool) -> String {
    match result {
        Ok(valid) if opaque(valid) => "ValidOpaque".to_owned(),
        Ok(_) => "Valid".to_owned(),
        Err(reason) => format!("{reason:?}"),
    }
}

/// Holds `vectors` against the file, or writes it.
pub fn keep<T: Serialize>(file: &str, vectors: &T) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(file);
    let text = serde_json::to_string_pretty(vectors).unwrap() + "\n";
    if std::env::var_os("PEERLINE_WRITE_VECTORS").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text, "{file} is not what this version makes: a format has changed");
}

fn check(file: &str, mut vectors: Vec<BundleVector>) -> BTreeSet<&'static str> {
    let mut names = BTreeSet::new();
    let mut faults = Vec::new();
    for vector in &mut vectors {
        assert!(names.insert(vector.name), "two vectors are called {}", vector.name);
        let judged = vector.judged();
        let found = verdict(&judged, ValidBundle::needs_update);
        if found != vector.verdict {
            faults.push(format!("{}: {} expected, {found} found", vector.name, vector.verdict));
        }
        vector.result = judged.ok().map(|valid| hex(&valid.encode()));
    }
    assert!(faults.is_empty(), "{faults:#?}");
    keep(file, &vectors);
    vectors.iter().map(|v| v.verdict).collect()
}

#[test]
fn bundles_are_judged_as_written_down() {
    let mut seen = check("bundles-good.json", bundles_good::vectors());
    seen.extend(check("bundles-bad.json", bundles_bad::vectors()));
    seen.extend(check("bundles-held.json", bundles_held::vectors()));
    seen.extend(overlays::check());
    for reason in [
        "Valid",
        "ValidOpaque",
        "TooLarge",
        "Malformed",
        "WrongKey",
        "WrongOverlay",
        "Expired",
        "NotYetValid",
        "TooFarAhead",
        "Stale",
        "Equivocation",
        "BadCertificate",
        "NotCertified",
        "Revoked",
        "BadSignature",
        "WeakKey",
        "AddressPolicy",
        "SlotsFull",
        "Unsupported",
    ] {
        assert!(seen.contains(reason), "no vector for {reason}");
    }
}

#[test]
fn hellos_are_judged_as_written_down() {
    let vectors = bundles_held::hellos();
    for vector in &vectors {
        let pin = vector.pin.map(|(rotation, epoch)| peerline::record::Pin { rotation, epoch });
        let judge = Judge { now: UnixMillis(vector.now_ms), ..judge() };
        let channel = peerline::identity::NodeKey(unhex(&vector.channel_key).try_into().unwrap());
        let judged = verify_hello_user(&vector.from.parse().unwrap(), &unhex(&vector.bytes), &channel, pin, &judge);
        assert_eq!(verdict(&judged, |_| false), vector.verdict, "{}", vector.name);
    }
    keep("hellos.json", &vectors);
}

#[test]
fn identities_are_derived_as_written_down() {
    identities::check();
}
