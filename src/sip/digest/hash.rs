//! The two hash algorithms of digest, as the lower-case hex text that the formulas of RFC 7616 §3.4 are made of.

use md5::Md5;
use sha2::{Digest as _, Sha256};

/// What an account is challenged with. MD5 is the default because widespread phones fail on any other challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Md5,
    Sha256,
}

impl Algorithm {
    pub fn name(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
        }
    }

    /// Of the `algorithm` parameter; absent means MD5 (RFC 7616 §3.3). The `-sess` variants are not offered.
    pub fn parse(name: Option<&str>) -> Option<Self> {
        match name {
            None => Some(Self::Md5),
            Some(name) if name.eq_ignore_ascii_case("MD5") => Some(Self::Md5),
            Some(name) if name.eq_ignore_ascii_case("SHA-256") => Some(Self::Sha256),
            Some(_) => None,
        }
    }

    /// The hash of `parts` joined with colons, in hex.
    pub fn of(self, parts: &[&str]) -> String {
        let text = parts.join(":");
        match self {
            Self::Md5 => hex(&Md5::digest(text.as_bytes())),
            Self::Sha256 => hex(&Sha256::digest(text.as_bytes())),
        }
    }
}

/// H(username:realm:password).
pub(super) fn ha1(algorithm: Algorithm, username: &str, realm: &str, password: &str) -> String {
    algorithm.of(&[username, realm, password])
}

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

/// HMAC-SHA-256 (RFC 2104) for keys of 32 bytes.
pub(super) fn hmac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    let pad = |byte: u8| {
        let mut block = [byte; 64];
        block.iter_mut().zip(key).for_each(|(block, key)| *block ^= key);
        block
    };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

/// Equal, in a time that does not tell where they differ.
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    let difference = a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b));
    a.len() == b.len() && std::hint::black_box(difference) == 0
}
