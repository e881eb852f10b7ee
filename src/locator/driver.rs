//! The actor: runs the machine against store, overlay and clock. It never waits for any of them: each is asked in a task
//! of its own (one number being written and one publication per user), which reports back.

use super::announce::{self, Signed};
use super::machine::{Announcement, Effect, Publisher, Shown, Told};
use super::pins::Pins;
use super::search::Search;
use super::{BindError, Command, HostedUser, LocateError, LocatorConfig, Network, PublishedStatus, PublishedUser};
use crate::clock::UnixMillis;
use crate::overlay::{LocalUser, LookupEvent, LookupReport, OverlayStatus, PublishError, PublishReport};
use crate::record::ValidBundle;
use crate::store::{Store, Table};
use crate::telemetry::Metrics;
use crate::uri::IdHash;
use prometheus_client::metrics::counter::Counter;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio_util::task::AbortOnDropHandle;

/// Reports of tasks that wait for the actor; the tasks wait then.
const MOST_REPORTS: usize = 256;

/// Publications at once; the others wait in line.
const PUBLICATIONS: usize = 16;

/// Copies below which a publication is made again when more nodes are known: a node that publishes as it joins may know
/// one other node only.
const WANTED_COPIES: usize = 3;

/// How late the status may be after a change: it names every user, so it is not made for each of thousands.
const STATUS_AFTER: Duration = Duration::from_millis(100);

/// What a task has to say at its end (and a lookup meanwhile).
pub(super) enum Report {
    Kept {
        user: IdHash,
        sequence: u64,
        result: Result<(), String>,
    },
    Served {
        user: IdHash,
    },
    Published {
        user: IdHash,
        sequence: u64,
        result: Result<PublishReport, PublishError>,
    },
    /// What the overlay holds of a user that is hosted here.
    Own {
        bundle: ValidBundle,
    },
    Found {
        bundle: ValidBundle,
    },
    Looked {
        who: IdHash,
        report: Result<LookupReport, LocateError>,
    },
}

/// A user and what is known of its last publication.
struct Hosted {
    user: HostedUser,
    /// Merged from what we signed and what the overlay showed.
    held: Option<ValidBundle>,
    copies: usize,
    published: Option<Instant>,
    trouble: Option<String>,
    sequence: u64,
    task: Option<AbortOnDropHandle<()>>,
    hosting: Vec<oneshot::Sender<()>>,
    binding: Vec<oneshot::Sender<Result<u64, BindError>>>,
}

pub(super) struct Driver<O> {
    config: LocatorConfig,
    overlay: O,
    store: Store,
    machine: Publisher,
    hosted: HashMap<IdHash, Hosted>,
    search: Search<O>,
    shown: watch::Sender<PublishedStatus>,
    line: Arc<Semaphore>,
    reports: mpsc::Sender<Report>,
    reported: mpsc::Receiver<Report>,
    stopping: Option<oneshot::Sender<()>>,
    /// The status says less than is known.
    dirty: bool,
    published: Counter,
    failed: Counter,
}

impl<O: Network> Driver<O> {
    pub(super) fn new(
        config: LocatorConfig,
        overlay: O,
        store: Store,
        pins: Pins,
        shown: watch::Sender<PublishedStatus>,
        metrics: &Metrics,
    ) -> Self {
        let (reports, reported) = mpsc::channel(MOST_REPORTS);
        let (published, failed) = (Counter::default(), Counter::default());
        let search = Search::new(overlay.clone(), pins, reports.clone());
        metrics.register("locator", |registry| {
            registry.register("published", "Bindings published", published.clone());
            registry.register("publish_failed", "Publications that failed", failed.clone());
            search.register(registry);
        });
        Self {
            machine: Publisher::new(config.ttl, config.refresh),
            config,
            overlay,
            store,
            hosted: HashMap::new(),
            search,
            shown,
            line: Arc::new(Semaphore::new(PUBLICATIONS)),
            reports,
            reported,
            stopping: None,
            dirty: false,
            published,
            failed,
        }
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Command>, addresses: Arc<Notify>) {
        let mut overlay = self.overlay.peers();
        let seen = |status: &OverlayStatus| (status.peers, status.estimate);
        let (mut peers, mut nodes) = seen(&overlay.borrow_and_update());
        let mut show = tokio::time::interval(STATUS_AFTER);
        show.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut watching = true;
        loop {
            let due = self.machine.poll_timeout().map(tokio::time::Instant::from_std);
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                Some(report) = self.reported.recv() => self.report(report),
                () = addresses.notified() => self.machine.addresses_changed(UnixMillis::now()),
                () = async { tokio::time::sleep_until(due.unwrap_or_else(far)).await }, if due.is_some() => {
                    self.machine.handle_timeout(Instant::now(), UnixMillis::now());
                }
                changed = overlay.changed(), if watching => {
                    watching = changed.is_ok();
                    let before = (peers, nodes);
                    (peers, nodes) = seen(&overlay.borrow_and_update());
                    if peers > before.0 {
                        self.machine.peers_joined(Instant::now());
                    }
                    if nodes > before.1 {
                        self.machine.nodes_found(Instant::now());
                    }
                }
                _ = show.tick(), if self.dirty => self.show(),
            }
            self.effects();
            if self.machine.all_withdrawn()
                && let Some(done) = self.stopping.take()
            {
                let _ = done.send(());
                return;
            }
            if self.stopping.as_ref().is_some_and(oneshot::Sender::is_closed) {
                return;
            }
        }
    }

    fn command(&mut self, command: Command) {
        let wall = UnixMillis::now();
        match command {
            Command::Host(user, done) => self.host(user, done, wall),
            Command::Bind(user, reply) => {
                let Some(hosted) = self.hosted.get_mut(&user) else {
                    let _ = reply.send(Err(BindError::NotHosted));
                    return;
                };
                if self.stopping.is_some() {
                    let _ = reply.send(Err(BindError::Store("stopping".into())));
                } else if let Some(sequence) = self.machine.bind(user, wall) {
                    let _ = reply.send(Ok(sequence));
                } else {
                    hosted.binding.push(reply);
                }
            }
            Command::Unbind(user, reply) => {
                let known = self.hosted.contains_key(&user);
                self.machine.unbind(user, wall);
                let _ = reply.send(if known { Ok(()) } else { Err(BindError::NotHosted) });
            }
            Command::Locate(who, answers) => self.search.locate(who, answers),
            Command::Forget(who) => self.search.forget(&who),
            Command::Shutdown(done) => {
                self.machine.unbind_all(wall);
                self.stopping = Some(done);
            }
        }
    }

    fn host(&mut self, user: HostedUser, done: oneshot::Sender<()>, wall: UnixMillis) {
        let id = user.id;
        let kept = match self.store.get(Table::Sequences, &id.0) {
            Ok(row) => row.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes),
            Err(error) => {
                // The clock stands in: it is above everything used before, unless it was set back.
                tracing::warn!(%error, "the last sequence number cannot be read");
                0
            }
        };
        match self.hosted.get_mut(&id) {
            Some(hosted) => {
                hosted.user = user;
                hosted.hosting.push(done);
            }
            None => {
                let hosted = Hosted {
                    user,
                    held: None,
                    copies: 0,
                    published: None,
                    trouble: None,
                    sequence: kept,
                    task: None,
                    hosting: vec![done],
                    binding: Vec::new(),
                };
                self.hosted.insert(id, hosted);
            }
        }
        self.machine.host(id, kept, wall);
    }

    fn report(&mut self, report: Report) {
        let (now, wall) = (Instant::now(), UnixMillis::now());
        match report {
            Report::Kept { user, sequence, result } => {
                if let (Err(why), Some(hosted)) = (&result, self.hosted.get_mut(&user)) {
                    tracing::warn!(%why, "a sequence number cannot be kept: nothing is published");
                    hosted.trouble = Some(why.clone());
                    hosted.binding.drain(..).for_each(|reply| drop(reply.send(Err(BindError::Store(why.clone())))));
                    hosted.hosting.clear();
                }
                self.machine.kept(user, sequence, result.is_ok(), now, wall);
            }
            Report::Served { user } => {
                if let Some(hosted) = self.hosted.get_mut(&user) {
                    hosted.hosting.drain(..).for_each(|done| {
                        let _ = done.send(());
                    });
                }
            }
            Report::Published { user, sequence, result } => self.told(user, sequence, &result, now),
            Report::Own { bundle } => self.own(&bundle, wall),
            Report::Found { bundle } => {
                self.own(&bundle, wall);
                self.search.found(bundle, now, wall);
            }
            Report::Looked { who, report } => self.search.looked(who, report, now),
        }
    }

    fn told(&mut self, user: IdHash, sequence: u64, result: &Result<PublishReport, PublishError>, now: Instant) {
        let told = match result {
            Ok(report) if report.copies < WANTED_COPIES => Told::Thin,
            Ok(_) => Told::Published,
            // On the way out with nobody there: no one can be told, and no one holds it.
            Err(PublishError::Alone) if self.stopping.is_some() => Told::Published,
            Err(PublishError::Alone) => Told::Alone,
            Err(PublishError::TooFew { .. } | PublishError::Invalid(_) | PublishError::Stopped) => Told::Failed,
        };
        self.machine.told(user, sequence, told, now);
        // Some may have been found since the publication counted them; this node itself is one of the estimate.
        let others = self.overlay.peers().borrow().estimate.saturating_sub(1);
        if let (Told::Thin, Ok(report)) = (told, result)
            && report.copies < others
        {
            self.machine.nodes_found(now);
        }
        let Some(hosted) = self.hosted.get_mut(&user) else { return };
        match result {
            Ok(report) => {
                self.published.inc();
                tracing::debug!(copies = report.copies, took_ms = report.took_ms, "published");
                hosted.copies = report.copies;
                hosted.published = Some(now);
                hosted.trouble = None;
            }
            Err(error) => {
                self.failed.inc();
                tracing::debug!(%error, "not published yet");
                hosted.trouble = Some(announce::trouble(error));
            }
        }
        self.dirty = true;
    }

    /// What the overlay holds of a hosted user: other devices are kept in what we publish, a number above ours is passed.
    fn own(&mut self, bundle: &ValidBundle, wall: UnixMillis) {
        let user = bundle.id();
        let Some(hosted) = self.hosted.get_mut(&user) else { return };
        hosted.held = Some(hosted.held.as_ref().map_or_else(|| bundle.clone(), |held| held.merge(bundle)));
        if let Some(sequence) = bundle.sequence_of(&self.config.device.public()) {
            self.machine.seen(user, sequence, wall);
        }
    }

    fn effects(&mut self) {
        while let Some(effect) = self.machine.poll_effect() {
            match effect {
                Effect::Keep { user, sequence } => self.keep(user, sequence),
                Effect::Announce(announcement) => self.announce(&announcement),
            }
        }
    }

    fn keep(&self, user: IdHash, sequence: u64) {
        let (store, reports) = (self.store.clone(), self.reports.clone());
        tokio::spawn(async move {
            let put = store.put(Table::Sequences, &user.0, &sequence.to_be_bytes());
            let result = match put {
                Ok(()) => store.commit().await,
                Err(error) => Err(error),
            };
            let result = result.map_err(|error| error.to_string());
            let _ = reports.send(Report::Kept { user, sequence, result }).await;
        });
    }

    fn announce(&mut self, announcement: &Announcement) {
        let user = announcement.user;
        let Some(hosted) = self.hosted.get_mut(&user) else { return };
        hosted.sequence = announcement.sequence;
        let addresses = self.overlay.publishable();
        let signed = announce::sign(&self.config, &hosted.user, announcement, addresses, hosted.held.as_ref());
        let Signed { own, merged } = match signed {
            Ok(signed) => signed,
            Err(reason) => {
                let error = announce::bind_error(reason);
                tracing::warn!(%error, %reason, "this node cannot speak for one of its users");
                hosted.trouble = Some(error.to_string());
                hosted.binding.drain(..).for_each(|reply| drop(reply.send(Err(error.clone()))));
                hosted.hosting.clear();
                self.machine.told(user, announcement.sequence, Told::Unsigned, Instant::now());
                return;
            }
        };
        hosted.held = Some(merged.clone());
        hosted.binding.drain(..).for_each(|reply| drop(reply.send(Ok(announcement.sequence))));
        if announcement.shown == Shown::Tombstone && !announcement.publish {
            hosted.trouble = None;
        }
        let (overlay, reports, line) = (self.overlay.clone(), self.reports.clone(), self.line.clone());
        let (sequence, publish) = (announcement.sequence, announcement.publish);
        // Replaces, and so ends, the task of the announcement before.
        hosted.task = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            overlay.serve_user(LocalUser { id: user, bundle: own.encode().into() }).await;
            let _ = reports.send(Report::Served { user }).await;
            if !publish {
                return;
            }
            let Ok(_turn) = line.acquire().await else { return };
            let result = overlay.publish(merged).await;
            let _ = reports.send(Report::Published { user, sequence, result }).await;
            let mut held = overlay.lookup(user);
            while let Some(event) = held.recv().await {
                if let LookupEvent::Found(bundle) = event {
                    let _ = reports.send(Report::Own { bundle }).await;
                }
            }
        })));
        self.dirty = true;
    }

    fn show(&mut self) {
        self.dirty = false;
        let shown = |hosted: &Hosted| PublishedUser {
            bound: self.machine.is_bound(&hosted.user.id),
            sequence: hosted.sequence,
            copies: hosted.copies,
            age_s: hosted.published.map(|at| at.elapsed().as_secs()),
            trouble: hosted.trouble.clone(),
        };
        let users = self.hosted.values().map(|hosted| (hosted.user.id.to_string(), shown(hosted))).collect();
        self.shown.send_replace(PublishedStatus { users });
    }
}

/// Never reached: stands in for a timer that is not set.
fn far() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(86_400)
}
