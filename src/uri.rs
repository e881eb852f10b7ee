//! A user's address: `sip:` + 40 self-certifying characters + `@` + the overlay's name (docs/protocol.md "Identity").
//!
//! The user part is `base32(ver_alg || idhash || checksum)`: 25 bytes, exactly 40 characters, no padding. It names a key,
//! not a place; where the key's devices are is a record.

use data_encoding::{BASE32_NOPAD, Specification};
use sha2::{Digest, Sha256};
use std::sync::LazyLock;
use std::{fmt, str::FromStr};

/// Format 1, Ed25519: the only `ver_alg` this version knows.
pub const VER_ALG: u8 = 0x10;

/// Characters of the user part.
pub const USER_PART_CHARS: usize = 40;

static BASE32_LOWER: LazyLock<data_encoding::Encoding> = LazyLock::new(|| {
    let mut specification: Specification = BASE32_NOPAD.specification();
    specification.symbols = specification.symbols.to_ascii_lowercase();
    specification.encoding().expect("lower-case RFC 4648 base32 is a valid specification")
});

/// RFC 4648 base32, lower case, no padding.
pub fn base32(bytes: &[u8]) -> String {
    BASE32_LOWER.encode(bytes)
}

/// The inverse of [`base32`]; `None` unless the text is exactly what [`base32`] writes.
pub fn from_base32(text: &str) -> Option<Vec<u8>> {
    BASE32_LOWER.decode(text.as_bytes()).ok()
}

/// The 22-byte hash of a user's inception statement: who a user *is*. `Display` writes the 40-character user part.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdHash(pub [u8; 22]);

impl IdHash {
    /// `H("peerline-uri-1" || inception)[0..22]`.
    pub fn of_inception(inception: &[u8; 65]) -> Self {
        let digest = Sha256::new().chain_update(b"peerline-uri-1").chain_update(inception).finalize();
        let mut id = [0; 22];
        id.copy_from_slice(&digest[..22]);
        Self(id)
    }

    /// The user part in 8 groups of 5, for reading aloud.
    pub fn grouped(&self) -> String {
        let text = self.to_string();
        let groups: Vec<&str> = (0..8).map(|g| &text[g * 5..g * 5 + 5]).collect();
        groups.join(" ")
    }

    fn checksum(&self, ver_alg: u8) -> [u8; 2] {
        let digest =
            Sha256::new().chain_update(b"peerline-uri-chk-1").chain_update([ver_alg]).chain_update(self.0).finalize();
        [digest[0], digest[1]]
    }
}

impl fmt::Display for IdHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; 25];
        bytes[0] = VER_ALG;
        bytes[1..23].copy_from_slice(&self.0);
        bytes[23..].copy_from_slice(&self.checksum(VER_ALG));
        f.write_str(&base32(&bytes))
    }
}

impl fmt::Debug for IdHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a typed or dialled address is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// The right shape, but the checksum is wrong.
    #[error("mistyped: the check characters do not match")]
    Mistyped,
    /// A format or algorithm that this version does not know.
    #[error("made by a newer Peerline: update needed")]
    Newer,
    /// Not an address at all (wrong length, alphabet, or scheme).
    #[error("not a Peerline address")]
    NotAnAddress,
}

/// Parses the 40-character user part: case-insensitive, spaces and hyphens dropped.
///
/// # Errors
/// `NotAnAddress` when it is not 40 characters of base32, `Mistyped` when the checksum (over whatever version it claims)
/// is wrong, `Newer` when the checksum is right and the version unknown.
impl FromStr for IdHash {
    type Err = UriError;
    fn from_str(text: &str) -> Result<Self, UriError> {
        let plain: String = text
            .chars()
            .filter(|c| !matches!(c, ' ' | '-'))
            .take(USER_PART_CHARS + 1)
            .map(|c| c.to_ascii_lowercase())
            .collect();
        if plain.len() != USER_PART_CHARS {
            return Err(UriError::NotAnAddress);
        }
        let bytes = from_base32(&plain).ok_or(UriError::NotAnAddress)?;
        let (ver_alg, rest) = bytes.split_first().ok_or(UriError::NotAnAddress)?;
        let id = IdHash(rest[..22].try_into().map_err(|_| UriError::NotAnAddress)?);
        if rest[22..] != id.checksum(*ver_alg) {
            return Err(UriError::Mistyped);
        }
        if *ver_alg != VER_ALG {
            return Err(UriError::Newer);
        }
        Ok(id)
    }
}

/// `sip:<user part>@<overlay name>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UserUri {
    /// Who.
    pub id: IdHash,
    /// The overlay's name, lower case (`peerline.alt`).
    pub overlay: String,
}

impl fmt::Display for UserUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sip:{}@{}", self.id, self.overlay)
    }
}

/// Parses `sip:user@overlay`: scheme optional, URI parameters and headers ignored.
///
/// # Errors
/// As for [`IdHash`]; `NotAnAddress` also when the host is missing.
impl FromStr for UserUri {
    type Err = UriError;
    fn from_str(text: &str) -> Result<Self, UriError> {
        let text = text.trim();
        let rest = match text.split_at_checked(4) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("sip:") => rest,
            _ => text,
        };
        let (user, host) = rest.split_once('@').ok_or(UriError::NotAnAddress)?;
        let host = host.split([';', '?', '>']).next().unwrap_or_default();
        let named = !host.is_empty() && host.len() <= 253;
        if !named || !host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-')) {
            return Err(UriError::NotAnAddress);
        }
        Ok(Self { id: user.parse()?, overlay: host.to_ascii_lowercase() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_shown_is_what_is_parsed(id in any::<[u8; 22]>(), host in "[a-z]{1,8}\\.alt") {
            let uri = UserUri { id: IdHash(id), overlay: host };
            prop_assert_eq!(uri.to_string().parse::<UserUri>(), Ok(uri.clone()));
            prop_assert_eq!(uri.id.grouped().to_uppercase().parse::<IdHash>(), Ok(uri.id));
            prop_assert_eq!(uri.id.to_string().len(), USER_PART_CHARS);
        }

        #[test]
        fn one_wrong_character_is_mistyped_or_newer(id in any::<[u8; 22]>(), at in 0usize..40, with in 0usize..32) {
            let good = IdHash(id).to_string();
            let mut bad = good.clone().into_bytes();
            bad[at] = b"abcdefghijklmnopqrstuvwxyz234567"[with];
            let bad = String::from_utf8(bad).unwrap();
            prop_assume!(bad != good);
            // One in 65,536 passes the checksum by chance; then it names somebody else, never this user.
            if let Ok(other) = bad.parse::<IdHash>() {
                prop_assert_ne!(other, IdHash(id));
            }
        }

        #[test]
        fn parsing_never_panics(text in "\\PC{0,120}") {
            let _ = text.parse::<IdHash>();
            let _ = text.parse::<UserUri>();
        }
    }

    #[test]
    fn a_newer_version_is_not_a_typing_error() {
        let id = IdHash([7; 22]);
        let mut bytes = vec![0x20];
        bytes.extend(id.0);
        bytes.extend(id.checksum(0x20));
        assert_eq!(base32(&bytes).parse::<IdHash>(), Err(UriError::Newer));
        let mut typo = IdHash([7; 22]).to_string().into_bytes();
        typo[20] = if typo[20] == b'a' { b'b' } else { b'a' };
        assert_eq!(String::from_utf8(typo).unwrap().parse::<IdHash>(), Err(UriError::Mistyped));
    }
}
