//! Digest authentication (RFC 2617, 7616, 8760) on raw header text: challenges, the verifier, and the phone's side.
//!
//! Not here: who may register what (`registrar`), and waiting (a slow answer is a `delay` for the driver). Nonces are
//! stateless: a sequence number and an issue time under an HMAC of this process, so that strangers who ask for
//! challenges cost no memory; only *authenticated* requests leave an entry in the bounded table of nonce counts.

mod client;
mod credentials;
mod hash;
mod nonce;
mod penalty;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use client::{Challenge, authorization};

use super::Account;
use credentials::Credentials;
use hash::Algorithm;
use nonce::{Nonces, Use};
use penalty::Penalties;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// More header values than this are not looked at: a phone sends one per realm that it knows.
const MAX_VALUES: usize = 4;

/// What the verifier looks at. All text is raw, as it came.
#[derive(Clone, Debug)]
pub(super) struct Attempt<'a> {
    pub method: &'a str,
    /// The request URI.
    pub uri: &'a str,
    /// Values of Authorization and Proxy-Authorization.
    pub authorization: &'a [&'a str],
    pub source: Option<IpAddr>,
    /// The account that the request seems to be of (To or From user): picks the algorithm of the first challenge.
    pub claimed: &'a str,
}

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The password of this account was proven.
    Account(String),
    /// Answer 401 with this WWW-Authenticate after `delay`.
    Challenge { value: String, delay: Duration, reason: Refused },
    /// Say nothing: too many failures from there.
    Silence,
}

/// Why an attempt was refused, for counting. The phone never learns more than 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Refused {
    /// No credentials for our realm: the ordinary first request of a phone.
    NoCredentials,
    /// Unreadable credentials, or a qop or algorithm that was not offered.
    Malformed,
    /// The digest URI is not the request URI.
    OtherUri,
    /// Right password, but the nonce is too old or of an earlier process.
    Stale,
    /// Right password, but this nonce count was used before.
    Replay,
    /// Unknown account or wrong password.
    Wrong,
    /// Not looked at after too many failures.
    Blocked,
}

impl Refused {
    /// The name under which it is counted; `None` for what is not a refusal but the ordinary first step.
    pub fn counted_as(self) -> Option<&'static str> {
        match self {
            Self::NoCredentials => None,
            Self::Malformed => Some("auth_malformed"),
            Self::OtherUri => Some("auth_other_uri"),
            Self::Stale => Some("auth_stale"),
            Self::Replay => Some("auth_replay"),
            Self::Wrong => Some("auth_wrong"),
            Self::Blocked => Some("auth_blocked"),
        }
    }
}

/// An account with the hash of its password computed once.
struct Secret {
    algorithm: Algorithm,
    ha1: String,
    password: String,
}

/// The verifier for one realm.
pub(super) struct Authenticator {
    realm: String,
    secrets: BTreeMap<String, Secret>,
    /// Stands in for accounts that do not exist, so that they cost the same work.
    nobody: Secret,
    any_sha256: bool,
    nonces: Nonces,
    penalties: Penalties,
}

impl Authenticator {
    /// `key`: 32 random bytes of this process, under which nonces are sealed.
    pub fn new(realm: String, accounts: &Arc<BTreeMap<String, Account>>, key: [u8; 32], now: Instant) -> Self {
        let nonces = Nonces::new(key, now);
        let password = hash::hex(&nonces.seal(b"nobody"));
        let ha1 = hash::ha1(Algorithm::Md5, "nobody", &realm, &password);
        let nobody = Secret { algorithm: Algorithm::Md5, ha1, password };
        let mut this = Self {
            realm,
            secrets: BTreeMap::new(),
            nobody,
            any_sha256: false,
            nonces,
            penalties: Penalties::default(),
        };
        this.set_accounts(accounts);
        this
    }

    /// Replaces the accounts; names are compared in lower case.
    pub fn set_accounts(&mut self, accounts: &Arc<BTreeMap<String, Account>>) {
        let secret = |account: &Account| {
            let name = account.name.to_ascii_lowercase();
            let algorithm = if account.sha256 { Algorithm::Sha256 } else { Algorithm::Md5 };
            let ha1 = hash::ha1(algorithm, &name, &self.realm, &account.password);
            (name, Secret { algorithm, ha1, password: account.password.clone() })
        };
        self.secrets = accounts.values().map(secret).collect();
        self.any_sha256 = self.secrets.values().any(|secret| secret.algorithm == Algorithm::Sha256);
    }

    /// Checks one request.
    pub fn verify(&mut self, attempt: &Attempt<'_>, now: Instant) -> Verdict {
        let ours = attempt.authorization.iter().take(MAX_VALUES).filter_map(|value| Credentials::parse(value).ok());
        let Some(credentials) = ours.into_iter().find(|credentials| credentials.realm == self.realm) else {
            let unreadable = attempt.authorization.iter().take(MAX_VALUES).any(|v| Credentials::parse(v).is_err());
            let reason = if unreadable { Refused::Malformed } else { Refused::NoCredentials };
            return self.challenge(attempt.claimed, false, reason, Duration::ZERO, now);
        };
        let name = credentials.username.to_ascii_lowercase();
        if self.penalties.blocked(attempt.source, &name, now) {
            return Verdict::Silence;
        }
        let secret = self.secrets.get(&name);
        let known = secret.is_some();
        let secret = secret.unwrap_or(&self.nobody);
        let offered = credentials.algorithm == if known { secret.algorithm } else { self.algorithm_of(&name) };
        if !offered {
            return self.challenge(&name, false, Refused::Malformed, Duration::ZERO, now);
        }
        let proven = credentials.proves(secret_ha1(secret, known, &name, &credentials, &self.realm), attempt.method);
        if !(proven && known) {
            let delay = self.penalties.failed(attempt.source, &name, now);
            return self.challenge(&name, false, Refused::Wrong, delay, now);
        }
        if credentials.uri != attempt.uri {
            return self.challenge(&name, false, Refused::OtherUri, Duration::ZERO, now);
        }
        match self.nonces.spend(credentials.nonce, credentials.count, now) {
            Use::First => {
                self.penalties.proven(attempt.source, &name, now);
                Verdict::Account(name)
            }
            Use::Stale => self.challenge(&name, true, Refused::Stale, Duration::ZERO, now),
            Use::Again => self.challenge(&name, true, Refused::Replay, Duration::ZERO, now),
        }
    }

    /// An account that does not exist is challenged like one that does: when some accounts here use SHA-256, by a
    /// keyed coin, so that the algorithm does not tell which names exist.
    fn algorithm_of(&self, name: &str) -> Algorithm {
        match self.secrets.get(name) {
            Some(secret) => secret.algorithm,
            None if self.any_sha256 && self.nonces.seal(name.as_bytes())[0] & 1 == 1 => Algorithm::Sha256,
            None => Algorithm::Md5,
        }
    }

    fn challenge(&mut self, name: &str, stale: bool, reason: Refused, delay: Duration, now: Instant) -> Verdict {
        let algorithm = self.algorithm_of(&name.to_ascii_lowercase()).name();
        let nonce = self.nonces.issue(now);
        let stale = if stale { ", stale=true" } else { "" };
        let realm = &self.realm;
        let value = format!("Digest realm=\"{realm}\", nonce=\"{nonce}\", algorithm={algorithm}, qop=\"auth\"{stale}");
        Verdict::Challenge { value, delay, reason }
    }
}

/// HA1 for the user name as the phone wrote it: the kept one when the case is ours, else (and for nobody) computed.
fn secret_ha1(secret: &Secret, known: bool, name: &str, credentials: &Credentials<'_>, realm: &str) -> String {
    let computed = hash::ha1(credentials.algorithm, credentials.username, realm, &secret.password);
    if known && credentials.username == name { secret.ha1.clone() } else { computed }
}
