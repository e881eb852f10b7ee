//! The node's phone book and what a dialled string means. Pure.
//!
//! Not here: the files that the phone book is kept in (the edges load and save them), who is online (`locator`), and
//! what the phone hears when a string leads nowhere (`calls`).

#[cfg(test)]
mod tests;

use crate::uri::{IdHash, UriError};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// The name under which each node answers itself.
pub const ECHO: &str = "echo";
/// Longest name of a contact or account: short enough never to be taken for a number of 40 characters.
pub const MAX_NAME_BYTES: usize = 32;
/// Longest string that is looked at. A full URI with a grouped number has about 80 bytes.
const MAX_DIALLED_BYTES: usize = 256;
/// Length of a number without spaces and hyphens.
const NUMBER_LENGTH: usize = 40;

/// Whether a contact or account may be called so: `[a-z0-9._-]{1,32}`, with a letter or digit, and not `echo`.
pub fn is_valid_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.bytes().all(allowed)
        && name.bytes().any(|byte| byte.is_ascii_alphanumeric())
        && name != ECHO
}

/// Whether phones may dial this short number: 1 to 8 digits, `*` or `#`.
pub fn is_valid_extension(extension: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_digit() || b"*#".contains(&byte);
    (1..=8).contains(&extension.len()) && extension.bytes().all(allowed)
}

/// A SIP account that a phone registers with: belongs to a user hosted on this node.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PhoneAccount {
    /// SIP user name, `[a-z0-9._-]{1,32}`.
    pub name: String,
    pub password: String,
    /// Challenge with SHA-256 instead of MD5 (RFC 8760).
    #[serde(default)]
    pub sha256: bool,
    /// Whose phone it is (40-character user part in the file).
    pub user: String,
    /// Short number other phones of this node may dial.
    #[serde(default)]
    pub extension: Option<String>,
    /// Shown as display name to the called side (never as identity).
    #[serde(default)]
    pub display: Option<String>,
}

/// Without the password.
impl fmt::Debug for PhoneAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PhoneAccount({})", self.name)
    }
}

/// A snapshot of everything a dialled string can mean on this node.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    pub overlay_name: String,
    pub accounts: BTreeMap<String, PhoneAccount>,
    /// Short name → user.
    pub contacts: BTreeMap<String, IdHash>,
}

/// Where a dialled string leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// A user: of this node if an account has it, else of the overlay.
    User(IdHash),
    /// One account's phones on this node, by extension or account name.
    Account(String),
    /// The echo service of this node.
    Echo,
}

/// Why a dialled string leads nowhere. Mapped to 404/484/... in `calls::cause` only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    #[error("the number is mistyped")]
    Mistyped,
    #[error("the number was made by a newer Peerline: update needed")]
    Newer,
    #[error("the address belongs to another overlay")]
    OtherOverlay,
    #[error("no contact, extension or number of that name")]
    Unknown,
}

impl Directory {
    /// Resolves a dialled URI or a bare name, without regard to case. In this order: `echo`, an extension, a contact, an
    /// account, a number. The host must be this overlay's name or say nothing (an IP address or `localhost`: how
    /// phones write the node that they are registered with).
    ///
    /// # Errors
    /// `DialError`, told apart as people need it: a slip of the finger is not an unknown user.
    pub fn resolve(&self, dialled: &str) -> Result<Route, DialError> {
        let dialled = dialled.trim();
        if dialled.len() > MAX_DIALLED_BYTES {
            return Err(DialError::Unknown);
        }
        let (user, host) = parts(dialled)?;
        if host.is_some_and(|host| !self.is_here(host)) {
            return Err(DialError::OtherOverlay);
        }
        let user = unescaped(user);
        let name = user.trim().to_ascii_lowercase();
        if name == ECHO {
            return Ok(Route::Echo);
        }
        let extension = |account: &&PhoneAccount| account.extension.as_deref() == Some(name.as_str());
        if let Some(account) = self.accounts.values().find(extension) {
            return Ok(Route::Account(account.name.clone()));
        }
        if let Some(user) = self.contacts.get(&name) {
            return Ok(Route::User(*user));
        }
        if let Some(account) = self.accounts.get(&name) {
            return Ok(Route::Account(account.name.clone()));
        }
        number(&name).map(Route::User)
    }

    /// The accounts whose phones ring for `user`, by name.
    pub fn accounts_of(&self, user: &IdHash) -> Vec<&PhoneAccount> {
        let number = user.to_string();
        self.accounts.values().filter(|account| account.user.eq_ignore_ascii_case(&number)).collect()
    }

    fn is_here(&self, host: &str) -> bool {
        let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
        ip || host.eq_ignore_ascii_case("localhost")
            || host.trim_end_matches('.').eq_ignore_ascii_case(&self.overlay_name)
    }
}

/// User and host, without brackets, scheme, password, port, parameters and headers.
fn parts(dialled: &str) -> Result<(&str, Option<&str>), DialError> {
    let bare = match dialled.split_once('<') {
        Some((_, rest)) => rest.split_once('>').ok_or(DialError::Unknown)?.0,
        None => dialled,
    };
    let scheme = |name: &str| {
        let (head, rest) = bare.split_at_checked(name.len())?;
        head.eq_ignore_ascii_case(name).then_some(rest)
    };
    if let Some(number) = scheme("tel:") {
        let number = number.split(';').next().unwrap_or(number);
        return Ok((number.strip_prefix('+').unwrap_or(number), None));
    }
    let rest = scheme("sips:").or_else(|| scheme("sip:")).unwrap_or(bare);
    match rest.rsplit_once('@') {
        None => {
            let user = rest.split([';', '?']).next().unwrap_or(rest);
            // `sip:host` names nobody; a bare word is a name.
            if rest.len() < bare.len() && user.contains('.') { Err(DialError::Unknown) } else { Ok((user, None)) }
        }
        Some((user, host)) => {
            let user = user.split([':', ';']).next().unwrap_or(user);
            let host = host.split([';', '?']).next().unwrap_or(host);
            let host = match host.find(']') {
                Some(end) => &host[..=end],
                None => host.split(':').next().unwrap_or(host),
            };
            Ok((user, Some(host)))
        }
    }
}

fn number(name: &str) -> Result<IdHash, DialError> {
    name.parse().map_err(|error| match error {
        UriError::Mistyped => DialError::Mistyped,
        UriError::Newer => DialError::Newer,
        UriError::NotAnAddress if almost_a_number(name) => DialError::Mistyped,
        UriError::NotAnAddress => DialError::Unknown,
    })
}

/// A few characters too many, too few, or outside the alphabet: nothing else here is as long.
fn almost_a_number(name: &str) -> bool {
    let letters = name.chars().filter(|letter| !matches!(letter, ' ' | '-')).count();
    letters.abs_diff(NUMBER_LENGTH) <= 4
}

/// Percent-decoding of what phones send (`%20`, `%23`); what does not decode stays.
fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| byte == b'%').and_then(|code| std::str::from_utf8(code).ok());
        let digits = code.filter(|code| code.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match digits.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).map_or(Cow::Borrowed(text), Cow::Owned)
}
