//! The phone's side: a challenge read, and its answer written (for the softphone).

use super::credentials::{parameters, response};
use super::hash::{Algorithm, ha1};

/// What a server asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Challenge {
    pub realm: String,
    pub nonce: String,
    /// The last nonce was too old: not a wrong password.
    pub stale: bool,
    algorithm: Algorithm,
    opaque: Option<String>,
    auth: bool,
}

impl Challenge {
    /// Reads a WWW-Authenticate value; `None` when it is not one that we can answer.
    pub fn parse(value: &str) -> Option<Self> {
        let fields = parameters(value).ok()?;
        let field = |name: &str| fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| *value);
        let offers = field("qop");
        let auth = offers.is_some_and(|all| all.split(',').any(|one| one.trim().eq_ignore_ascii_case("auth")));
        if offers.is_some() && !auth {
            return None;
        }
        Some(Self {
            realm: field("realm")?.to_owned(),
            nonce: field("nonce")?.to_owned(),
            stale: field("stale").is_some_and(|stale| stale.eq_ignore_ascii_case("true")),
            algorithm: Algorithm::parse(field("algorithm"))?,
            opaque: field("opaque").map(str::to_owned),
            auth,
        })
    }
}

/// The Authorization value for a request. `count`: how often this nonce was used, this time included; `cnonce`: fresh
/// random text.
pub(crate) fn authorization(
    challenge: &Challenge,
    username: &str,
    password: &str,
    method: &str,
    uri: &str,
    (count, cnonce): (u32, &str),
) -> String {
    let Challenge { realm, nonce, algorithm, opaque, auth, .. } = challenge;
    let nc = format!("{count:08x}");
    let quality = auth.then_some((nc.as_str(), cnonce));
    let ha1 = ha1(*algorithm, username, realm, password);
    let response = response(*algorithm, &ha1, nonce, quality, method, uri);
    let algorithm = algorithm.name();
    let mut value = format!(
        "Digest username=\"{username}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", response=\"{response}\", algorithm={algorithm}"
    );
    if let Some((nc, cnonce)) = quality {
        value.push_str(&format!(", qop=auth, nc={nc}, cnonce=\"{cnonce}\""));
    }
    if let Some(opaque) = opaque {
        value.push_str(&format!(", opaque=\"{opaque}\""));
    }
    value
}
