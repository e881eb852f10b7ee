//! A user's address: `sip:` + 40 self-certifying characters + `@` + the overlay's name (FORMATS, "Identity").
//! Skeleton: owned by the `record` work; signatures are the contract.

use std::{fmt, str::FromStr};

/// The 22-byte hash of a user's inception statement: who a user *is*. `Display` writes the 40-character user part.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdHash(pub [u8; 22]);

impl IdHash {
    /// The user part in 8 groups of 5, for reading aloud.
    pub fn grouped(&self) -> String {
        unimplemented!("skeleton")
    }
}

impl fmt::Display for IdHash {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        unimplemented!("skeleton")
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
impl FromStr for IdHash {
    type Err = UriError;
    fn from_str(_s: &str) -> Result<Self, UriError> {
        unimplemented!("skeleton")
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

/// Parses `sip:user@overlay` (scheme optional, URI parameters ignored).
impl FromStr for UserUri {
    type Err = UriError;
    fn from_str(_s: &str) -> Result<Self, UriError> {
        unimplemented!("skeleton")
    }
}
