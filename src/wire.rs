//! Bytes on the wire: generated protobuf types, the strict scanner that runs before them, and signatures with domain,
//! overlay and scope. Nothing here judges what the bytes mean; `record` does.

mod genesis;
pub mod scanner;
mod scope;
pub mod signature;
pub mod stun;

pub use genesis::{BUILT_IN_NAME, Genesis, GenesisError, Mode, is_overlay_name};
pub use scanner::{ScanError, scan};
pub use scope::{AddressScope, is_global};
pub use signature::{Domain, SignatureError, sign, verify};

use sha2::{Digest, Sha256};
use std::fmt;

/// Generated from `proto/peerline.proto`.
pub mod pb {
    include!(concat!(env!("OUT_DIR"), "/peerline.v1.rs"));
}

/// The hash of an overlay's genesis. In every signature but rotation and revocation; its first 8 hex digits are in
/// every protocol name.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct OverlayId(pub [u8; 32]);

impl OverlayId {
    /// `H("peerline-overlay-1" || genesis bytes)`.
    pub fn of_genesis(genesis: &[u8]) -> Self {
        Self(Sha256::new().chain_update(b"peerline-overlay-1").chain_update(genesis).finalize().into())
    }

    /// First 8 hex digits: `/peerline/<this>/...`.
    pub fn short(&self) -> String {
        self.0[..4].iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl fmt::Debug for OverlayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OverlayId({})", self.short())
    }
}
