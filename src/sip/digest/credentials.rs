//! `Digest username="...", ...`: hostile text into borrowed fields, and the proof itself (RFC 7616 §3.4).
//!
//! Values are kept exactly as they stand between the quotes: what is hashed must be what the phone hashed.

use super::hash::{Algorithm, same};

/// Longest value that is looked at; real ones are below 500 bytes.
const MAX_BYTES: usize = 2048;
/// Most parameters: RFC 7616 knows 12.
const MAX_PARAMETERS: usize = 24;

/// Unreadable, contradictory, or asking for something that was not offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// What a phone proves its password with.
#[derive(Clone, Debug)]
pub(super) struct Credentials<'a> {
    pub username: &'a str,
    pub realm: &'a str,
    pub nonce: &'a str,
    pub uri: &'a str,
    pub algorithm: Algorithm,
    /// Nonce count; `None` = RFC 2069 style, without qop.
    pub count: Option<u32>,
    /// nc as written, and cnonce, when qop is used.
    quality: Option<(&'a str, &'a str)>,
    response: &'a str,
}

impl<'a> Credentials<'a> {
    /// Parses a header value.
    ///
    /// # Errors
    /// `Malformed` for another scheme, broken quoting, a repeated or missing parameter, an algorithm or qop that was
    /// not offered, or too many bytes or parameters.
    pub fn parse(value: &'a str) -> Result<Self, Malformed> {
        let fields = parameters(value)?;
        let field = |name: &str| fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| *value);
        let quality = match field("qop") {
            None => None,
            Some(qop) if qop.eq_ignore_ascii_case("auth") => {
                Some((field("nc").ok_or(Malformed)?, field("cnonce").ok_or(Malformed)?))
            }
            Some(_) => return Err(Malformed),
        };
        let count = match quality {
            None => None,
            Some((nc, _)) if (1..=8).contains(&nc.len()) && nc.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                Some(u32::from_str_radix(nc, 16).map_err(|_| Malformed)?)
            }
            Some(_) => return Err(Malformed),
        };
        Ok(Self {
            username: field("username").ok_or(Malformed)?,
            realm: field("realm").ok_or(Malformed)?,
            nonce: field("nonce").ok_or(Malformed)?,
            uri: field("uri").ok_or(Malformed)?,
            algorithm: Algorithm::parse(field("algorithm")).ok_or(Malformed)?,
            count,
            quality,
            response: field("response").ok_or(Malformed)?,
        })
    }

    /// Whether the response could only be computed by someone who knows `ha1`.
    pub fn proves(&self, ha1: String, method: &str) -> bool {
        let expected = response(self.algorithm, &ha1, self.nonce, self.quality, method, self.uri);
        same(expected.as_bytes(), self.response.to_ascii_lowercase().as_bytes())
    }
}

/// The response of RFC 7616 §3.4.1; without `quality` (nc, cnonce) that of RFC 2069.
pub(super) fn response(
    algorithm: Algorithm,
    ha1: &str,
    nonce: &str,
    quality: Option<(&str, &str)>,
    method: &str,
    uri: &str,
) -> String {
    let ha2 = algorithm.of(&[method, uri]);
    match quality {
        Some((nc, cnonce)) => algorithm.of(&[ha1, nonce, nc, cnonce, "auth", &ha2]),
        None => algorithm.of(&[ha1, nonce, &ha2]),
    }
}

/// The parameters of a `Digest` challenge or credentials, each name once, values without their quotes.
pub(super) fn parameters(value: &str) -> Result<Vec<(&str, &str)>, Malformed> {
    let value = value.trim();
    let scheme = value.get(..7).ok_or(Malformed)?;
    if value.len() > MAX_BYTES || !scheme.eq_ignore_ascii_case("digest ") {
        return Err(Malformed);
    }
    let mut rest = value.get(7..).ok_or(Malformed)?;
    let mut found: Vec<(&str, &str)> = Vec::with_capacity(12);
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Ok(found);
        }
        let (name, after) = rest.split_once('=').ok_or(Malformed)?;
        let name = name.trim();
        let after = after.trim_start();
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted_string(quoted)?,
            None => after.find(',').map_or((after.trim(), ""), |end| (after[..end].trim(), &after[end..])),
        };
        let token =
            |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        let repeated = found.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        if !token(name) || repeated || found.len() == MAX_PARAMETERS || value.bytes().any(|b| b.is_ascii_control()) {
            return Err(Malformed);
        }
        found.push((name, value));
        rest = after.trim_start();
        if !(rest.is_empty() || rest.starts_with(',')) {
            return Err(Malformed);
        }
    }
}

/// Up to the closing quote, which a backslash can hide (RFC 3261 §25.1); the text stays escaped.
fn quoted_string(text: &str) -> Result<(&str, &str), Malformed> {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Ok((&text[..at], &text[at + 1..])),
            _ => {}
        }
    }
    Err(Malformed)
}
