//! The node's phone book and what a dialled string means. Pure. Skeleton: owned by the `sip-registrar` work.

use crate::uri::IdHash;
use std::collections::BTreeMap;

/// A SIP account that a phone registers with: belongs to a user hosted on this node.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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
    /// Resolves the user part (and host, when it is not this node) of a dialled URI, or a bare name.
    pub fn resolve(&self, _dialled: &str) -> Result<Route, DialError> {
        unimplemented!("skeleton")
    }
    /// The accounts whose phones ring for `user`.
    pub fn accounts_of(&self, _user: &IdHash) -> Vec<&PhoneAccount> {
        unimplemented!("skeleton")
    }
}
