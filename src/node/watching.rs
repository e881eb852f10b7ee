//! Keeps a running node in step with what commands write: accounts, contacts, new users, certificates that need
//! renewing. Looks at modification times once a second: two `stat` calls, and nothing to install.

use super::Passphrase;
use super::book::{Book, sip_accounts};
use super::dir::DataDir;
use super::users::{self, Certified, UserError};
use crate::clock::UnixMillis;
use crate::directory::Directory;
use crate::identity::NodeKey;
use crate::locator::Locator;
use crate::sip::Account;
use crate::uri::IdHash;
use crate::wire::OverlayId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::task::JoinHandle;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Certificates are looked at this often; they are renewed ten days before they end.
const RENEW_EVERY: Duration = Duration::from_secs(3_600);

/// What is needed to speak for users.
pub(super) struct Hosting {
    pub dir: DataDir,
    pub book: Book,
    pub overlay: OverlayId,
    pub overlay_name: String,
    pub device: NodeKey,
    pub passphrase: Option<Passphrase>,
}

impl Hosting {
    pub fn certified(&self, user: &IdHash, now: UnixMillis) -> Result<Certified, UserError> {
        let passphrase = self.passphrase.as_ref().map(Passphrase::as_str);
        users::certified(&self.dir, user, &self.overlay, self.device, passphrase, now)
    }

    fn stamps(&self) -> [Option<(SystemTime, u64)>; 2] {
        self.book.paths().map(|path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        })
    }
}

pub(super) fn spawn(
    hosting: Hosting,
    hosted: Vec<Certified>,
    locator: Locator,
    accounts: watch::Sender<Arc<BTreeMap<String, Account>>>,
    directory: watch::Sender<Arc<Directory>>,
) -> JoinHandle<()> {
    let mut watcher = Watcher {
        known: hosted.into_iter().map(|c| (c.user.id, c.not_after)).collect(),
        failed: BTreeSet::new(),
        hosting,
        locator,
        accounts,
        directory,
    };
    tokio::spawn(async move {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut renew = tokio::time::interval(RENEW_EVERY);
        renew.tick().await;
        // The first look compares with what start read: a change in between shows up as a difference of content.
        let mut seen = [None, None];
        loop {
            tokio::select! {
                _ = look.tick() => {
                    let stamps = watcher.hosting.stamps();
                    if stamps != seen {
                        seen = stamps;
                        watcher.read_again().await;
                    }
                }
                _ = renew.tick() => watcher.renew().await,
            }
        }
    })
}

struct Watcher {
    hosting: Hosting,
    known: BTreeMap<IdHash, UnixMillis>,
    /// Users whose certificate could not be made: said once, not every second.
    failed: BTreeSet<IdHash>,
    locator: Locator,
    accounts: watch::Sender<Arc<BTreeMap<String, Account>>>,
    directory: watch::Sender<Arc<Directory>>,
}

impl Watcher {
    async fn read_again(&mut self) {
        let directory = match self.hosting.book.directory(&self.hosting.overlay_name) {
            Ok(directory) => directory,
            Err(error) => {
                tracing::warn!(%error, "the phone book was not read again: the last good one stays in force");
                return;
            }
        };
        let current = self.directory.borrow().clone();
        if current.accounts == directory.accounts && current.contacts == directory.contacts {
            return;
        }
        // Users first: an account of a user that is not hosted yet could not be bound.
        let new: BTreeSet<IdHash> = directory
            .accounts
            .values()
            .filter_map(|account| account.user.parse().ok())
            .filter(|user| !self.known.contains_key(user))
            .collect();
        for user in new {
            self.host(&user).await;
        }
        tracing::info!(
            accounts = directory.accounts.len(),
            contacts = directory.contacts.len(),
            "phone book read again"
        );
        self.accounts.send_replace(Arc::new(sip_accounts(&directory)));
        self.directory.send_replace(Arc::new(directory));
    }

    async fn host(&mut self, user: &IdHash) {
        match self.hosting.certified(user, UnixMillis::now()) {
            Ok(certified) => {
                self.known.insert(*user, certified.not_after);
                self.failed.remove(user);
                self.locator.host(certified.user).await;
            }
            Err(error) => {
                if self.failed.insert(*user) {
                    tracing::warn!(%error, "this node cannot speak for one of its users");
                }
            }
        }
    }

    async fn renew(&mut self) {
        for (user, until) in self.known.clone() {
            match self.hosting.certified(&user, UnixMillis::now()) {
                Ok(certified) if certified.not_after > until => {
                    self.known.insert(user, certified.not_after);
                    self.locator.host(certified.user).await;
                    tracing::info!("a device certificate was renewed");
                }
                Ok(certified) => {
                    if let Some(notice) = certified.notice {
                        tracing::warn!("{notice}");
                    }
                }
                Err(error) => tracing::warn!(%error, "a device certificate cannot be renewed"),
            }
        }
    }
}
