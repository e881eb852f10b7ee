//! A node: store, overlay, locator, SIP, media, calls and the local API, started together on one data directory and
//! stopped in order. Several may run in one process (tests, the demo). Not here: what people see (`cli`), and how
//! accounts and users are made (`gateway`).
//!
//! Way in: settings and a locked data directory. Way out: tombstones published, phones' calls ended, store flushed.

use crate::calls::{Calls, CallsConfig, CallsParts};
use crate::clock::UnixMillis;
use crate::config::{ChosenOverlay, CircuitSettings, OverlayChoiceError, Settings};
use crate::directory::Directory;
use crate::identity::{KeyFileError, NodeSecret};
use crate::locator::{Locator, LocatorConfig};
use crate::media::{Media, MediaConfig};
use crate::overlay::{CircuitLimits, CircuitsConfig, Limits, Overlay, OverlayConfig, OverlayStatus, StartError};
use crate::relay::{Relay, RelayStartError};
use crate::sip::{Sip, SipConfig, SipLimits, SipStartError};
use crate::store::{Store, StoreError, Table};
use crate::telemetry::Metrics;
use crate::web::{Api, ApiError, ApiParts};
use crate::wire::AddressScope;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub mod book;
pub mod dir;
mod port;
mod relaying;
pub mod run_file;
pub mod users;
mod watching;

use book::{Book, BookError};
use dir::{DataDir, DirError, DirLock};
use run_file::{RunAccount, RunInfo, RunUser};
use users::UserError;

/// How long each part may take to stop; together less than the three seconds that a person waits after Ctrl-C.
const STOP_CALLS: Duration = Duration::from_millis(500);
const STOP_LOCATOR: Duration = Duration::from_millis(1_200);
const STOP_REST: Duration = Duration::from_millis(300);
/// Sockets are bound within milliseconds; a node without any address still starts.
const TELL_ADDRESSES: Duration = Duration::from_secs(2);
/// More than any node's accounts; a bound for what is read back.
const MAX_RESTORED: usize = book::MAX_ACCOUNTS;

/// How a node is started.
pub struct NodeConfig {
    pub dir: DataDir,
    pub settings: Settings,
    /// In memory, and ports as configured (0 = any): gone with the node. For the demo and tests.
    pub temporary: bool,
    /// Opens root keys when a certificate must be made.
    pub passphrase: Option<Passphrase>,
}

/// Wiped when dropped; never shown.
#[derive(Clone)]
pub struct Passphrase(zeroize::Zeroizing<String>);

impl Passphrase {
    pub fn new(text: String) -> Self {
        Self(zeroize::Zeroizing::new(text))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a node does not start. One line each, with what to do.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Dir(#[from] DirError),
    #[error(transparent)]
    Key(#[from] KeyFileError),
    #[error(transparent)]
    User(#[from] UserError),
    #[error(transparent)]
    Book(#[from] BookError),
    #[error(transparent)]
    Overlay(#[from] OverlayChoiceError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{}; {}", .0, advice(.0))]
    Listen(StartError),
    #[error(transparent)]
    Relay(#[from] RelayStartError),
    #[error("{0}; choose another with --sip")]
    Sip(SipStartError),
    #[error(transparent)]
    Api(#[from] ApiError),
}

fn advice(error: &StartError) -> &'static str {
    match error {
        StartError::Address(_) => "look at --listen, --bootstrap, --external and the settings file",
        StartError::Listen { .. } | StartError::Other(_) => "choose another with --listen",
    }
}

/// A running node.
pub struct Node {
    dir: DataDir,
    info: RunInfo,
    notices: Vec<String>,
    parts: Parts,
    directory: watch::Receiver<Arc<Directory>>,
    api: Option<Api>,
    watcher: JoinHandle<()>,
    // Last: released when everything else is gone.
    _lock: DirLock,
}

/// The machines and use cases of a running node, for who reads them.
#[derive(Clone)]
pub struct Parts {
    pub store: Store,
    pub overlay: Overlay,
    pub locator: Locator,
    pub sip: Sip,
    pub media: Media,
    pub calls: Calls,
    /// Where the settings ask for one.
    pub relay: Option<Relay>,
    pub metrics: Metrics,
}

impl Node {
    /// Starts everything; keys and certificates that are missing are made. Joining goes on in the background.
    ///
    /// # Errors
    /// See [`NodeError`]; what had been started is stopped again.
    pub async fn start(config: NodeConfig) -> Result<Self, NodeError> {
        let NodeConfig { dir, settings, temporary, passphrase } = config;
        let lock = dir.lock()?;
        RunInfo::remove(&dir);
        let chosen = ChosenOverlay::choose(&settings.overlay)?;
        let secret = NodeSecret::load_or_create(dir.path())?;
        let book = Book::new(&dir);
        let directory = book.directory(&chosen.name)?;
        let mut notices = Vec::new();

        let store = open_store(&dir, temporary, &mut notices)?;
        let restored = restore(&store)?;
        let metrics = Metrics::default();

        let hosting = watching::Hosting {
            dir: dir.clone(),
            book,
            overlay: chosen.id,
            overlay_name: chosen.name.clone(),
            device: secret.public(),
            passphrase,
        };
        let now = UnixMillis::now();
        let mut hosted = Vec::new();
        for id in users::list(&dir)? {
            let certified = hosting.certified(&id, now)?;
            notices.extend(certified.notice.clone());
            hosted.push(certified);
        }

        let listen = if temporary {
            settings.overlay.listen.clone()
        } else {
            port::addresses(&settings.overlay.listen, port::kept(&dir)?)
        };
        let relay = relaying::start(&settings.relay, chosen.scope, &store, &metrics)?;
        let overlay_config = overlay_config(&settings, &chosen, secret.clone(), listen, relay.clone());
        let (overlay, overlay_events) =
            Overlay::start(overlay_config, store.clone(), metrics.clone()).await.map_err(NodeError::Listen)?;
        let locator_config = LocatorConfig {
            device: secret,
            overlay: chosen.id,
            scope: chosen.scope,
            ttl: settings.binding.ttl,
            refresh: settings.binding.refresh,
        };
        let locator = Locator::start(locator_config, overlay.clone(), store.clone(), metrics.clone());
        for certified in &hosted {
            locator.host(certified.user.clone()).await;
        }

        let (accounts, accounts_seen) = watch::channel(Arc::new(book::sip_accounts(&directory)));
        let (directory, directory_seen) = watch::channel(Arc::new(directory));
        let registered: Vec<String> = restored.iter().map(|(account, _)| account.clone()).collect();
        let sip_config = sip_config(&settings, &chosen.name, accounts_seen, restored);
        let (sip, sip_events) = match Sip::start(sip_config, metrics.clone()).await {
            Ok(started) => started,
            Err(error) => {
                overlay.shutdown().await;
                return Err(NodeError::Sip(error));
            }
        };
        let media_config = MediaConfig { ports: settings.media.ports.range(), max_legs: settings.media.max_legs };
        let media = Media::start(media_config, metrics.clone());
        let calls_config = CallsConfig {
            directory: directory_seen.clone(),
            ring_timeout: settings.calls.ring_timeout,
            max_calls: settings.calls.max_calls,
        };
        let calls = Calls::start(
            calls_config,
            CallsParts {
                sip: sip.clone(),
                sip_events,
                media: media.clone(),
                overlay: overlay.clone(),
                overlay_events,
                locator: locator.clone(),
                store: store.clone(),
                metrics: metrics.clone(),
            },
        );
        let parts = Parts { store, overlay, locator, sip, media, calls, relay, metrics };
        parts.bind_restored(&registered, &directory_seen.borrow()).await;

        let api = match parts.start_api(&dir, &settings, &directory_seen).await {
            Ok(api) => api,
            Err(error) => {
                parts.stop().await;
                return Err(error);
            }
        };
        parts.listening().await;
        let info = run_info(&settings, &chosen, &parts, &directory_seen.borrow(), &hosted, api.as_ref());
        let watcher = watching::spawn(hosting, hosted, parts.locator.clone(), accounts, directory);
        info.write(&dir)?;
        Ok(Self { dir, info, notices, parts, directory: directory_seen, api, watcher, _lock: lock })
    }

    /// Where it can be reached.
    pub fn info(&self) -> &RunInfo {
        &self.info
    }
    /// What the user should be told, in plain words.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }
    pub fn parts(&self) -> &Parts {
        &self.parts
    }
    pub fn data_dir(&self) -> &DataDir {
        &self.dir
    }
    pub fn directory(&self) -> Arc<Directory> {
        self.directory.borrow().clone()
    }

    /// Waits until at least `wanted` other nodes are connected; calls `progress` with each change.
    /// Cancel safe.
    pub async fn joined(&self, wanted: usize, mut progress: impl FnMut(&OverlayStatus)) {
        let mut status = self.parts.overlay.status();
        loop {
            let peers = {
                let now = status.borrow_and_update();
                progress(&now);
                now.peers
            };
            if peers >= wanted || status.changed().await.is_err() {
                return;
            }
        }
    }

    /// Ends calls, withdraws bindings, closes everything; at most about three seconds.
    pub async fn stop(self) {
        self.watcher.abort();
        drop(self.api);
        self.parts.stop().await;
        RunInfo::remove(&self.dir);
    }
}

impl Parts {
    /// Phones that were registered before the restart are still there: say so again.
    async fn bind_restored(&self, accounts: &[String], directory: &Directory) {
        let mut bound = std::collections::BTreeSet::new();
        for account in accounts {
            let Some(user) = directory.accounts.get(account).and_then(|a| a.user.parse().ok()) else { continue };
            if self.sip.contacts(account).await.is_empty() || !bound.insert(user) {
                continue;
            }
            if let Err(error) = self.locator.bind(user).await {
                tracing::warn!(%error, "a registration was restored but cannot be published");
            }
        }
    }

    /// Waits a moment until the swarm has told its addresses, so that `run.json` can name them.
    async fn listening(&self) {
        let mut status = self.overlay.status();
        let told = status.wait_for(|s| !s.listen.is_empty());
        let _ = timeout(TELL_ADDRESSES, told).await;
    }

    async fn start_api(
        &self,
        dir: &DataDir,
        settings: &Settings,
        directory: &watch::Receiver<Arc<Directory>>,
    ) -> Result<Option<Api>, NodeError> {
        let token = dir.read_or_create("api.token", || dir::random_hex(16))?;
        let Some(address) = settings.api.listen.address() else { return Ok(None) };
        let parts = ApiParts {
            role: settings.role.to_string(),
            overlay: self.overlay.clone(),
            locator: self.locator.clone(),
            sip: self.sip.clone(),
            media: self.media.clone(),
            calls: self.calls.clone(),
            relay: self.relay.clone(),
            directory: directory.clone(),
            metrics: self.metrics.clone(),
            token,
        };
        Ok(Some(Api::start(address, parts).await?))
    }

    async fn stop(&self) {
        let late = |part: &'static str| move |_| tracing::warn!(part, "did not stop in time");
        let _ = timeout(STOP_CALLS, self.calls.shutdown()).await.map_err(late("calls"));
        let locator = self.locator.shutdown(STOP_LOCATOR);
        let _ = timeout(STOP_LOCATOR + STOP_REST, locator).await.map_err(late("locator"));
        let _ = timeout(STOP_REST, self.sip.shutdown()).await.map_err(late("sip"));
        let _ = timeout(STOP_REST, self.overlay.shutdown()).await.map_err(late("overlay"));
        if let Some(relay) = &self.relay {
            let _ = timeout(STOP_REST, relay.shutdown()).await.map_err(late("relay"));
        }
        match timeout(STOP_REST, self.store.commit()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last writes may be lost"),
            Err(elapsed) => late("store")(elapsed),
        }
    }
}

fn open_store(dir: &DataDir, temporary: bool, notices: &mut Vec<String>) -> Result<Store, StoreError> {
    if temporary {
        return Store::temporary();
    }
    let opened = Store::open(&dir.file("store"))?;
    if let Some(aside) = opened.set_aside {
        notices.push(format!(
            "the store was damaged: it is kept at {} and a fresh one was started (keys and accounts are not in it)",
            aside.display()
        ));
    }
    Ok(opened.store)
}

fn restore(store: &Store) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
    let rows = store.scan(Table::Registrations, MAX_RESTORED)?;
    Ok(rows.into_iter().filter_map(|(name, bytes)| Some((String::from_utf8(name).ok()?, bytes))).collect())
}

fn overlay_config(
    settings: &Settings,
    chosen: &ChosenOverlay,
    secret: NodeSecret,
    listen: Vec<String>,
    relay: Option<Relay>,
) -> OverlayConfig {
    let overlay = &settings.overlay;
    // In a private overlay everybody may well sit on one machine: only the total counts there.
    let share = |limit: u32| if chosen.scope == AddressScope::Any { overlay.max_connections } else { limit };
    OverlayConfig {
        secret,
        overlay: chosen.id,
        scope: chosen.scope,
        listen,
        bootstrap: overlay.bootstrap.clone(),
        mdns: overlay.mdns,
        map_ports: overlay.map_ports,
        external: overlay.external.clone(),
        server: overlay.serve.forced(),
        circuits: circuits_config(&settings.circuits),
        relay,
        limits: Limits {
            max_connections: overlay.max_connections,
            max_connections_per_ip: share(overlay.max_connections_per_ip),
            max_connections_per_subnet: share(overlay.max_connections_per_subnet),
            max_links: overlay.max_links,
            max_records: overlay.max_records,
        },
    }
}

fn circuits_config(settings: &CircuitSettings) -> CircuitsConfig {
    CircuitsConfig {
        serve: settings.serve.forced(),
        reserve: settings.reserve.forced(),
        limits: CircuitLimits {
            reservations: settings.max_reservations,
            reservations_per_subnet: settings.max_reservations_per_subnet,
            circuits: settings.max_circuits,
            circuits_per_source: settings.max_circuits_per_source,
            duration: settings.max_duration,
            bytes: settings.max_bytes,
        },
    }
}

fn sip_config(
    settings: &Settings,
    realm: &str,
    accounts: watch::Receiver<Arc<std::collections::BTreeMap<String, crate::sip::Account>>>,
    restored: Vec<(String, Vec<u8>)>,
) -> SipConfig {
    let sip = &settings.sip;
    SipConfig {
        udp: sip.udp.address(),
        tcp: sip.tcp.address(),
        realm: realm.to_owned(),
        accounts,
        restored,
        limits: SipLimits {
            max_legs: sip.max_legs,
            max_contacts_per_account: sip.max_contacts_per_account,
            max_tcp_connections: sip.max_tcp_connections,
            requests_per_second: sip.requests_per_second,
            request_burst: sip.request_burst,
        },
    }
}

fn run_info(
    settings: &Settings,
    chosen: &ChosenOverlay,
    parts: &Parts,
    directory: &Directory,
    hosted: &[users::Certified],
    api: Option<&Api>,
) -> RunInfo {
    let overlay = parts.overlay.status().borrow().clone();
    let sip = parts.sip.status().borrow().clone();
    let suffix = format!("/p2p/{}", overlay.peer_id);
    let listen =
        overlay.listen.iter().map(|a| if a.contains("/p2p/") { a.clone() } else { format!("{a}{suffix}") }).collect();
    let users = hosted
        .iter()
        .map(|certified| {
            let number = certified.user.id.to_string();
            let accounts = directory
                .accounts_of(&certified.user.id)
                .into_iter()
                .map(|a| RunAccount { name: a.name.clone(), extension: a.extension.clone() })
                .collect();
            RunUser { uri: format!("sip:{number}@{}", chosen.name), number, accounts }
        })
        .collect();
    RunInfo {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        role: settings.role,
        overlay: chosen.name.clone(),
        peer_id: overlay.peer_id.clone(),
        listen,
        sip_udp: sip.udp,
        sip_tcp: sip.tcp,
        api: api.map(Api::address),
        users,
    }
}

#[cfg(test)]
mod tests;
