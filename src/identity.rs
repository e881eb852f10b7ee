//! Keys: the seed and what grows from it, the inception statement, device certificates, and the files they live in.
//! Skeleton: owned by the `record` work; signatures are the contract.

use crate::clock::UnixMillis;
use crate::uri::IdHash;
use crate::wire::OverlayId;
use std::path::Path;

/// A node's Ed25519 public key. A device *is* a node, so this is also the key of a slot and what a libp2p peer id is
/// made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeKey(pub [u8; 32]);

/// A node's secret key. Signs entries and hellos; libp2p is built on it.
#[derive(Clone)]
pub struct NodeSecret(/* ed25519 signing key */ pub(crate) [u8; 32]);

impl NodeSecret {
    pub fn generate() -> Self {
        unimplemented!("skeleton")
    }
    pub fn public(&self) -> NodeKey {
        unimplemented!("skeleton")
    }
    /// The raw 32-byte Ed25519 seed, for building the libp2p keypair.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0
    }
    /// Loads `node.key` from `dir`, or creates it (0600, fsynced, atomically renamed).
    pub fn load_or_create(_dir: &Path) -> Result<Self, KeyFileError> {
        unimplemented!("skeleton")
    }
}

/// 32 bytes from which the root and recovery keys of every rotation are derived. Paper, not disk.
#[derive(Clone)]
pub struct Seed(pub(crate) [u8; 32]);

impl Seed {
    pub fn generate() -> Self {
        unimplemented!("skeleton")
    }
    /// The 24 BIP-39 words.
    pub fn words(&self) -> String {
        unimplemented!("skeleton")
    }
    pub fn from_words(_words: &str) -> Result<Self, KeyFileError> {
        unimplemented!("skeleton")
    }
    /// A new identity at rotation 0.
    pub fn identity(&self) -> UserIdentity {
        unimplemented!("skeleton")
    }
}

/// A user as the first device holds it: the public header and the current root secret.
#[derive(Clone)]
pub struct UserIdentity {
    /// 65 bytes: ver_alg, root_0 public key, recovery commitment.
    pub inception: [u8; 65],
    pub id: IdHash,
    /// Encoded `Rotation`s, oldest first.
    pub rotations: Vec<Vec<u8>>,
    pub(crate) root: [u8; 32],
}

/// A device certificate as it travels (`SignedCertificate` bytes, FORMATS "What is stored").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateBytes(pub Vec<u8>);

impl UserIdentity {
    /// Certifies `device` with the default rights (PUBLISH | CALL | TOMBSTONE) for 30 days.
    pub fn certify(&self, _device: NodeKey, _overlay: &OverlayId, _epoch: u32, _now: UnixMillis) -> CertificateBytes {
        unimplemented!("skeleton")
    }
    /// Writes the identity file `path` (0600, fsynced, atomically renamed), the root key encrypted when a passphrase is given.
    pub fn save(&self, _path: &Path, _passphrase: Option<&str>) -> Result<(), KeyFileError> {
        unimplemented!("skeleton")
    }
    /// Reads an identity file.
    pub fn load(_path: &Path, _passphrase: Option<&str>) -> Result<Self, KeyFileError> {
        unimplemented!("skeleton")
    }
}

/// What can be wrong with a key on disk or on paper.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error("{path} is readable by others (mode {mode:o}): run `chmod 600 {path}`")]
    Mode { path: String, mode: u32 },
    #[error("{path} is damaged: {what}")]
    Damaged { path: String, what: &'static str },
    #[error("{path} is protected by a passphrase")]
    PassphraseNeeded { path: String },
    #[error("wrong passphrase for {path}")]
    WrongPassphrase { path: String },
    #[error("these are not 24 recovery words: {0}")]
    Words(String),
}
