//! Where users are: keeps the bindings of hosted users published, and finds those of others (cache, overlay,
//! validation, pins). It knows no phone and no call.
//!
//! ```text
//! bind ──▶ machine ──▶ number to the store ──▶ sign, validate, serve ──▶ publish ──▶ refresh        (driver, announce)
//! locate ──▶ cache ──▶ one lookup for all who ask ──▶ pins ──▶ who asked                            (search)
//! ```

mod announce;
mod cache;
mod driver;
mod machine;
mod pins;
mod search;
#[cfg(test)]
mod tests;

use crate::identity::{CertificateBytes, NodeSecret};
use crate::overlay::{LocalUser, LookupEvent, LookupReport, Overlay, OverlayStatus, PublishError, PublishReport};
use crate::record::{UserHeader, ValidBundle, VerifiedBinding, VerifiedPeerUser};
use crate::store::Store;
use crate::telemetry::Metrics;
use crate::uri::IdHash;
use crate::wire::{AddressScope, OverlayId};
use pins::Pins;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};

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

/// Commands that wait for the actor; more callers wait their turn.
const MOST_COMMANDS: usize = 256;

/// Answers that wait for one who locates: a lookup gives fewer.
const MOST_ANSWERS: usize = 16;

/// Cloneable handle. The actor ends with the last one, or after [`Locator::shutdown`].
#[derive(Clone)]
pub struct Locator {
    commands: mpsc::Sender<Command>,
    addresses: Arc<Notify>,
    status: watch::Receiver<PublishedStatus>,
    pins: Pins,
}

enum Command {
    Host(HostedUser, oneshot::Sender<()>),
    Bind(IdHash, oneshot::Sender<Result<u64, BindError>>),
    Unbind(IdHash, oneshot::Sender<Result<(), BindError>>),
    Locate(IdHash, mpsc::Sender<Located>),
    Forget(IdHash),
    Shutdown(oneshot::Sender<()>),
}

impl Locator {
    pub fn start(config: LocatorConfig, overlay: Overlay, store: Store, metrics: Metrics) -> Locator {
        Self::over(config, overlay, store, metrics)
    }

    fn over<O: Network>(config: LocatorConfig, overlay: O, store: Store, metrics: Metrics) -> Locator {
        let (commands, inbox) = mpsc::channel(MOST_COMMANDS);
        let (shown, status) = watch::channel(PublishedStatus::default());
        let addresses = Arc::new(Notify::new());
        let pins = Pins::new(store.clone());
        let driver = driver::Driver::new(config, overlay, store, pins.clone(), shown, &metrics);
        tokio::spawn(driver.run(inbox, addresses.clone()));
        Locator { commands, addresses, status, pins }
    }

    /// Adds or replaces a hosted user (new certificate). From when this returns the user can call out from here.
    pub async fn host(&self, user: HostedUser) {
        let (done, hosted) = oneshot::channel();
        if self.commands.send(Command::Host(user, done)).await.is_ok() {
            let _ = hosted.await;
        }
    }

    /// "Reachable here": the next sequence number is on disk when this returns; publishing follows by itself. A user who
    /// is bound already keeps the current number, and nothing is published again.
    /// Cancel safe: dropping the future drops the answer, not the binding.
    ///
    /// # Errors
    /// See [`BindError`].
    pub async fn bind(&self, user: IdHash) -> Result<u64, BindError> {
        let (reply, answer) = oneshot::channel();
        let stopped = || BindError::Store("stopping".into());
        self.commands.send(Command::Bind(user, reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// No phone left: publishes a tombstone, in its own time.
    ///
    /// # Errors
    /// [`BindError::NotHosted`].
    pub async fn unbind(&self, user: IdHash) -> Result<(), BindError> {
        let (reply, answer) = oneshot::channel();
        let stopped = || BindError::Store("stopping".into());
        self.commands.send(Command::Unbind(user, reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Our addresses changed: publish everything bound again, now.
    pub fn addresses_changed(&self) {
        self.addresses.notify_one();
    }

    /// Finds a user: the first valid binding at once (from the cache, if there is one), fresher ones as they come,
    /// [`Located::Done`] at the end. Whoever asks for the same user at the same time shares one lookup. Dropping the
    /// receiver ends the interest, not the lookup: its result is kept.
    pub fn locate(&self, who: IdHash) -> mpsc::Receiver<Located> {
        let (answers, located) = mpsc::channel(MOST_ANSWERS);
        if let Err(refused) = self.commands.try_send(Command::Locate(who, answers)) {
            let (error, command) = match refused {
                mpsc::error::TrySendError::Full(command) => (LocateError::Timeout, command),
                mpsc::error::TrySendError::Closed(command) => (LocateError::Stopped, command),
            };
            if let Command::Locate(_, answers) = command {
                let _ = answers.try_send(Located::Done(Err(error)));
            }
        }
        located
    }

    /// A device of this user did not answer where the cache said: the next [`Locator::locate`] looks it up.
    pub fn forget(&self, who: IdHash) {
        // When the queue is full, the cache entry just ages.
        let _ = self.commands.try_send(Command::Forget(who));
    }

    /// False when `user` proved itself with an older key or certificate generation than was seen before.
    pub fn admits(&self, user: &VerifiedPeerUser) -> bool {
        self.pins.admits_stranger(&user.id, user.pin)
    }

    pub fn status(&self) -> watch::Receiver<PublishedStatus> {
        self.status.clone()
    }

    /// Publishes tombstones for all bound users, waiting at most `deadline`.
    pub async fn shutdown(&self, deadline: Duration) {
        let (done, stopped) = oneshot::channel();
        if self.commands.send(Command::Shutdown(done)).await.is_ok() {
            let _ = tokio::time::timeout(deadline, stopped).await;
        }
    }
}

/// What the locator needs of the overlay; the tests have a small one of their own.
trait Network: Clone + Send + Sync + 'static {
    fn publishable(&self) -> Vec<Vec<u8>>;
    fn peers(&self) -> watch::Receiver<OverlayStatus>;
    fn publish(&self, bundle: ValidBundle) -> impl Future<Output = Result<PublishReport, PublishError>> + Send;
    fn lookup(&self, who: IdHash) -> mpsc::Receiver<LookupEvent>;
    fn serve_user(&self, user: LocalUser) -> impl Future<Output = ()> + Send;
}

impl Network for Overlay {
    fn publishable(&self) -> Vec<Vec<u8>> {
        Overlay::publishable(self)
    }
    fn peers(&self) -> watch::Receiver<OverlayStatus> {
        self.status()
    }
    async fn publish(&self, bundle: ValidBundle) -> Result<PublishReport, PublishError> {
        Overlay::publish(self, bundle).await
    }
    fn lookup(&self, who: IdHash) -> mpsc::Receiver<LookupEvent> {
        Overlay::lookup(self, who)
    }
    async fn serve_user(&self, user: LocalUser) {
        Overlay::serve_user(self, user).await;
    }
}
