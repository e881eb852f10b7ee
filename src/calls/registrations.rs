//! What phones register: kept on disk, then bound, then confirmed. One task, so events of an account stay in order; what
//! waits together shares one flush.

use crate::directory::Directory;
use crate::locator::Locator;
use crate::sip::{BindId, Sip};
use crate::store::{Store, StoreError, Table};
use crate::uri::IdHash;
use futures::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Registrations that share a flush at most: some 30 ms of 8,000 a second.
const BATCH: usize = 256;

/// Rows read at start (more than `Table::Registrations` holds).
const ALL: usize = 1 << 20;

/// The contacts of an account changed.
pub(super) struct Changed {
    pub account: String,
    pub bind: Option<BindId>,
    /// Empty when no contact is left.
    pub snapshot: Vec<u8>,
}

pub(super) struct Registrations {
    pub sip: Sip,
    pub store: Store,
    pub locator: Locator,
    pub directory: watch::Receiver<Arc<Directory>>,
    /// Accounts that have a phone, and whose they are.
    phones: BTreeMap<String, IdHash>,
}

impl Registrations {
    pub(super) fn new(sip: Sip, store: Store, locator: Locator, directory: watch::Receiver<Arc<Directory>>) -> Self {
        let mut registrations = Self { sip, store, locator, directory, phones: BTreeMap::new() };
        for (account, _) in registrations.store.scan(Table::Registrations, ALL).unwrap_or_default() {
            let Ok(account) = String::from_utf8(account) else { continue };
            if let Some(user) = registrations.user_of(&account) {
                registrations.phones.insert(account, user);
            }
        }
        registrations
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Changed>) {
        let mut batch = Vec::with_capacity(BATCH);
        while inbox.recv_many(&mut batch, BATCH).await > 0 {
            self.settle(std::mem::take(&mut batch)).await;
        }
    }

    async fn settle(&mut self, batch: Vec<Changed>) {
        let stored = self.keep(&batch).await;
        if let Err(error) = &stored {
            tracing::warn!(%error, "registrations cannot be kept: the phones are told to try again");
        }
        let users = self.touched(&batch);
        let has_phone: BTreeSet<IdHash> = self.phones.values().copied().collect();
        let locator = &self.locator;
        let bound = join_all(users.into_iter().map(|user| {
            let reachable = has_phone.contains(&user);
            async move {
                let result = if reachable { locator.bind(user).await.map(drop) } else { locator.unbind(user).await };
                if let Err(error) = &result {
                    tracing::warn!(%error, "a phone registered and its number cannot be published");
                }
                (user, result.is_ok())
            }
        }));
        let bound: BTreeMap<IdHash, bool> = bound.await.into_iter().collect();
        for Changed { account, bind, .. } in batch {
            let Some(bind) = bind else { continue };
            let user = self.phones.get(&account).copied().or_else(|| self.user_of(&account));
            let kept = stored.is_ok() && user.is_some_and(|user| bound.get(&user).copied().unwrap_or(false));
            self.sip.confirm_bind(bind, kept).await;
        }
    }

    async fn keep(&self, batch: &[Changed]) -> Result<(), StoreError> {
        for Changed { account, snapshot, .. } in batch {
            if snapshot.is_empty() {
                self.store.remove(Table::Registrations, account.as_bytes())?;
            } else {
                self.store.put(Table::Registrations, account.as_bytes(), snapshot)?;
            }
        }
        self.store.commit().await
    }

    /// Whose accounts changed; an account that is gone from the directory was its last user's.
    fn touched(&mut self, batch: &[Changed]) -> BTreeSet<IdHash> {
        let mut users = BTreeSet::new();
        for Changed { account, snapshot, .. } in batch {
            let now = self.user_of(account);
            let before = match now {
                Some(user) if !snapshot.is_empty() => self.phones.insert(account.clone(), user),
                Some(_) | None => self.phones.remove(account),
            };
            users.extend(before.into_iter().chain(now));
        }
        users
    }

    fn user_of(&self, account: &str) -> Option<IdHash> {
        self.directory.borrow().accounts.get(account)?.user.parse().ok()
    }
}
