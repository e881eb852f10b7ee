//! Where users are: keeps the bindings of hosted users published, and finds those of others (cache, overlay,
//! validation, pins). Skeleton: owned by the `calls` work.

use crate::identity::{CertificateBytes, NodeSecret};
use crate::overlay::{LookupReport, Overlay};
use crate::record::{UserHeader, VerifiedBinding};
use crate::store::Store;
use crate::telemetry::Metrics;
use crate::uri::IdHash;
use crate::wire::{AddressScope, OverlayId};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// A user that this node may speak for.
#[derive(Clone)]
pub struct HostedUser {
    pub id: IdHash,
    pub header: UserHeader,
    pub certificate: CertificateBytes,
    pub epoch: u32,
}

pub struct LocatorConfig {
    pub device: NodeSecret,
    pub overlay: OverlayId,
    pub scope: AddressScope,
    /// Life of a binding (default 3,600 s) and how often it is refreshed (1,200 ± 300 s).
    pub ttl: Duration,
    pub refresh: Duration,
}

#[derive(Debug, Clone, thiserror::Error)]
pub enum BindError {
    #[error("this node does not host that user")]
    NotHosted,
    #[error("the store failed: {0}")]
    Store(String),
    #[error("the certificate of this device has ended")]
    CertificateExpired,
}

/// Comes while a user is being located; ends with `Done`.
#[derive(Debug)]
pub enum Located {
    /// Dial this now. Sent again when something fresher turned up.
    Binding {
        binding: VerifiedBinding,
        from_cache: bool,
    },
    Done(Result<LookupReport, LocateError>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LocateError {
    /// The overlay answered, and nobody holds a valid binding: not online (or never existed: nobody can tell).
    #[error("not online")]
    NotFound,
    #[error("the overlay is not reachable")]
    NoOverlay,
    #[error("the lookup took too long")]
    Timeout,
    #[error("revoked by its owner")]
    Revoked,
    #[error("stopping")]
    Stopped,
}

#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct PublishedStatus {
    /// user → (sequence, copies at last publish, seconds since, error)
    pub users: std::collections::BTreeMap<String, PublishedUser>,
}

#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct PublishedUser {
    pub bound: bool,
    pub sequence: u64,
    pub copies: usize,
    pub age_s: Option<u64>,
    pub trouble: Option<String>,
}

/// Cloneable handle.
#[derive(Clone)]
pub struct Locator {}

impl Locator {
    pub fn start(_config: LocatorConfig, _overlay: Overlay, _store: Store, _metrics: Metrics) -> Locator {
        unimplemented!("skeleton")
    }
    /// Adds or replaces a hosted user (new certificate).
    pub async fn host(&self, _user: HostedUser) {
        unimplemented!("skeleton")
    }
    /// "Reachable here": the next sequence number is on disk when this returns; publishing follows by itself.
    pub async fn bind(&self, _user: IdHash) -> Result<u64, BindError> {
        unimplemented!("skeleton")
    }
    /// No phone left: publishes a tombstone.
    pub async fn unbind(&self, _user: IdHash) -> Result<(), BindError> {
        unimplemented!("skeleton")
    }
    /// Our addresses changed: publish everything bound again, now.
    pub fn addresses_changed(&self) {
        unimplemented!("skeleton")
    }
    pub fn locate(&self, _who: IdHash) -> mpsc::Receiver<Located> {
        unimplemented!("skeleton")
    }
    pub fn status(&self) -> watch::Receiver<PublishedStatus> {
        unimplemented!("skeleton")
    }
    /// Publishes tombstones for all bound users, waiting at most `deadline`.
    pub async fn shutdown(&self, _deadline: Duration) {
        unimplemented!("skeleton")
    }
}
