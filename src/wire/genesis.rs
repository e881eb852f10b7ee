//! Which overlay: the genesis, whose hash is in every signature, so that nothing carries over from one to another.

use super::scanner::{Field, Kind, Shape};
use super::signature::usable;
use super::{AddressScope, OverlayId, ScanError, pb, scan};
use prost::Message;
use prost::bytes::Bytes;
use sha2::{Digest, Sha256};

/// The overlay that the program ships with. `.alt` is reserved for names outside DNS (RFC 9476).
pub const BUILT_IN_NAME: &str = "peerline.alt";
/// Makes the built-in overlay's id differ from any other of the same name.
const BUILT_IN_NONCE: [u8; 16] = *b"peerline.alt/001";
/// Of a private overlay for tests and the demo.
const PRIVATE_NAME: &str = "test.alt";
/// Of an encoded genesis.
const MAX_GENESIS_BYTES: usize = 512;
/// Of a name.
const MAX_NAME_BYTES: usize = 64;

const fn field(number: u32, kind: Kind, at_most: usize) -> Field {
    Field { number, kind, at_most }
}

static GENESIS: Shape = Shape {
    fields: &[
        field(1, Kind::Text { max: MAX_NAME_BYTES }, 1),
        field(2, Kind::U32, 1),
        field(3, Kind::Bytes { min: 32, max: 32 }, 8),
        field(4, Kind::U32, 1),
        field(5, Kind::U32, 1),
        field(6, Kind::Bytes { min: 16, max: 16 }, 1),
    ],
    unknown_allowed: true,
};

/// Who may join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Open,
    Managed,
}

/// An overlay as it was founded. What may change later is in charter updates (`record::charter`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genesis {
    pub name: String,
    pub mode: Mode,
    /// At most 8, ascending.
    pub authority_keys: Vec<[u8; 32]>,
    /// How many of them sign a charter update: at least 1 when there are any, else 0.
    pub threshold: u32,
    pub scope: AddressScope,
    pub nonce: [u8; 16],
}

/// Why a genesis founds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenesisError {
    #[error("not a genesis: {0}")]
    Shape(#[from] ScanError),
    #[error("the name: lower-case letters, digits, dots and hyphens, at most 64, a letter or digit at both ends")]
    Name,
    #[error("a mode or address scope of a newer version")]
    Unsupported,
    #[error("authority keys: at most 8 different usable keys, ascending, and a threshold that they can reach")]
    Authority,
}

impl Genesis {
    /// `peerline.alt`: open, global addresses, no authority.
    pub fn built_in() -> Self {
        Self::open(BUILT_IN_NAME, AddressScope::Global, BUILT_IN_NONCE)
    }

    /// An open overlay without an authority.
    pub fn open(name: &str, scope: AddressScope, nonce: [u8; 16]) -> Self {
        Self { name: name.to_owned(), mode: Mode::Open, authority_keys: Vec::new(), threshold: 0, scope, nonce }
    }

    /// `test.alt` with addresses of any kind and a nonce made of `seed`: tests and the demo, never the real overlay.
    pub fn private(seed: &[u8]) -> Self {
        let digest = Sha256::digest(seed);
        let mut nonce = [0; 16];
        nonce.copy_from_slice(&digest[..16]);
        Self::open(PRIVATE_NAME, AddressScope::Any, nonce)
    }

    pub fn id(&self) -> OverlayId {
        OverlayId::of_genesis(&self.encode())
    }

    /// The bytes that are hashed.
    pub fn encode(&self) -> Vec<u8> {
        pb::Genesis {
            name: self.name.clone(),
            mode: if self.mode == Mode::Managed { 2 } else { 1 },
            authority_keys: self.authority_keys.iter().map(|key| Bytes::copy_from_slice(key)).collect(),
            threshold: self.threshold,
            address_scope: if self.scope == AddressScope::Any { 2 } else { 1 },
            nonce: Bytes::copy_from_slice(&self.nonce),
        }
        .encode_to_vec()
    }

    /// # Errors
    /// When the bytes found no overlay that this version can join.
    pub fn decode(bytes: &[u8]) -> Result<Self, GenesisError> {
        if bytes.len() > MAX_GENESIS_BYTES {
            return Err(ScanError::Length.into());
        }
        scan(bytes, &GENESIS)?;
        let genesis = pb::Genesis::decode(bytes).map_err(|_| ScanError::CutShort)?;
        if !is_overlay_name(&genesis.name) {
            return Err(GenesisError::Name);
        }
        let mode = match genesis.mode {
            1 => Mode::Open,
            2 => Mode::Managed,
            _ => return Err(GenesisError::Unsupported),
        };
        let scope = match genesis.address_scope {
            1 => AddressScope::Global,
            2 => AddressScope::Any,
            _ => return Err(GenesisError::Unsupported),
        };
        let keys = genesis.authority_keys.iter().map(|key| <[u8; 32]>::try_from(&key[..]));
        let authority_keys = keys.collect::<Result<Vec<_>, _>>().map_err(|_| GenesisError::Authority)?;
        let reachable = usize::try_from(genesis.threshold).is_ok_and(|t| t <= authority_keys.len());
        let ordered = authority_keys.is_sorted_by(|a, b| a < b);
        let needless = (genesis.threshold == 0) != authority_keys.is_empty();
        if !reachable || needless || !ordered || authority_keys.iter().any(|key| usable(key).is_err()) {
            return Err(GenesisError::Authority);
        }
        let nonce = genesis.nonce[..].try_into().map_err(|_| ScanError::Length)?;
        Ok(Self { name: genesis.name, mode, authority_keys, threshold: genesis.threshold, scope, nonce })
    }
}

/// Whether `name` can be an overlay's: 1 to 64 of `a-z 0-9 . -`, a letter or digit at both ends.
pub fn is_overlay_name(name: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = name.as_bytes();
    bytes.len() <= MAX_NAME_BYTES
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;

    fn managed() -> Genesis {
        let mut authority_keys: Vec<_> =
            (1..4).map(|n| SigningKey::from_bytes(&[n; 32]).verifying_key().to_bytes()).collect();
        authority_keys.sort_unstable();
        Genesis { mode: Mode::Managed, authority_keys, threshold: 2, ..Genesis::built_in() }
    }

    #[test]
    fn reads_what_it_wrote() {
        for genesis in [Genesis::built_in(), Genesis::private(b"x"), managed()] {
            assert_eq!(Genesis::decode(&genesis.encode()), Ok(genesis));
        }
    }

    #[test]
    fn the_built_in_overlay_never_changes() {
        let id: String = Genesis::built_in().id().0.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(id, "32551b17615656af9edf2fd3c53a6d4b90a34d73820c20ec2361ef56822341cc");
        assert_ne!(Genesis::private(b"a").id(), Genesis::private(b"b").id());
    }

    #[test]
    fn refuses_what_founds_nothing() {
        let error = |g: Genesis| Genesis::decode(&g.encode()).unwrap_err();
        assert_eq!(error(Genesis { name: "Peerline".into(), ..managed() }), GenesisError::Name);
        assert_eq!(error(Genesis { name: "-a".into(), ..managed() }), GenesisError::Name);
        assert_eq!(error(Genesis { threshold: 4, ..managed() }), GenesisError::Authority);
        assert_eq!(error(Genesis { threshold: 0, ..managed() }), GenesisError::Authority);
        assert_eq!(error(Genesis { threshold: 1, ..Genesis::built_in() }), GenesisError::Authority);
        let mut turned = managed();
        turned.authority_keys.reverse();
        assert_eq!(error(turned), GenesisError::Authority);
        let weak = Genesis { authority_keys: vec![[0; 32]], threshold: 1, ..managed() };
        assert_eq!(error(weak), GenesisError::Authority);
        assert_eq!(Genesis::decode(&[]), Err(GenesisError::Name));
        assert_eq!(Genesis::decode(&[0; 600]), Err(ScanError::Length.into()));
    }
}
