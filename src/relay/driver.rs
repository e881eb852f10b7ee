//! The relay's thread: commands in, sockets and tasks by what the desk decides, the month's account kept in the store.

use super::answers::{self, Answers};
use super::counts::Counts;
use super::desk::{Asker, Desk, Granted, Key};
use super::forward::Forward;
use super::pair::Pair;
use super::places::Places;
use super::ports::Ports;
use super::socket::Socket;
use super::{Ask, CallId, From, Given, Refusal, RelayConfig, RelayStartError, RelayStatus};
use crate::admission::Subnet;
use crate::clock::UnixMillis;
use crate::store::{Store, Table};
use crate::telemetry::Metrics;
use crate::wire::{AddressScope, is_global};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// What has been sent is told to the desk, and ends are seen, this often.
const TICK: Duration = Duration::from_secs(1);

/// The account is kept this often while it changes: what a crash forgives.
const KEEP: Duration = Duration::from_secs(10);

/// The log says this often what was given, if anything was.
const TELL: Duration = Duration::from_secs(3_600);

/// The account's row.
const ROW: &[u8] = b"month";

type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

pub(super) enum Command {
    Allocate { ask: Ask, reply: Reply<Given> },
    Renew { from: From, call: CallId, seconds: u32, reply: Reply<Duration> },
    Release { from: From, call: CallId, reply: Reply<()> },
    Stop(oneshot::Sender<()>),
}

/// An allocation with its task; ends when dropped.
struct Running {
    given: Given,
    ports: [u16; 2],
    sent: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Driver {
    config: RelayConfig,
    desk: Desk,
    ports: Ports,
    running: HashMap<Key, Running>,
    counts: Counts,
    stun: Option<u16>,
    store: Store,
    kept: (Instant, u64),
    told: (Instant, u64, u64),
    status: watch::Sender<RelayStatus>,
}

/// Starts the thread. It ends when `inbox` closes.
pub(super) fn start(
    config: RelayConfig,
    store: Store,
    metrics: &Metrics,
    inbox: mpsc::Receiver<Command>,
) -> Result<(watch::Receiver<RelayStatus>, Option<u16>), RelayStartError> {
    let listening = config.stun.map(listen).transpose()?;
    let stun = listening.as_ref().and_then(|socket| socket.local_addr().ok()).map(|address| address.port());
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(RelayStartError::Thread)?;
    let (now, wall) = (Instant::now(), UnixMillis::now());
    let row = store.get(Table::Relay, ROW).unwrap_or_else(|error| {
        tracing::warn!(%error, "what was relayed in this month is not known: counting from nothing");
        None
    });
    let (status, receiver) = watch::channel(RelayStatus::default());
    let driver = Driver {
        desk: Desk::new(config.media, config.limits, row.as_deref(), wall),
        ports: Ports::new(config.ports.clone()),
        running: HashMap::new(),
        counts: Counts::new(metrics),
        stun,
        store,
        kept: (now, 0),
        told: (now, 0, 0),
        status,
        config,
    };
    driver.show();
    std::thread::Builder::new()
        .name("relay".into())
        .spawn(move || runtime.block_on(driver.run(inbox, listening)))
        .map_err(RelayStartError::Thread)?;
    Ok((receiver, stun))
}

/// On all interfaces of both families, where there are both.
fn listen(port: u16) -> Result<UdpSocket, RelayStartError> {
    let everywhere = |port| {
        UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))
    };
    let any = |error: std::io::Error| {
        if error.kind() != std::io::ErrorKind::AddrInUse {
            return Err(error);
        }
        tracing::warn!(port, "another program has the UDP port for STUN: any other is taken");
        everywhere(0)
    };
    everywhere(port).or_else(any).map_err(|source| RelayStartError::Stun { port, source })
}

impl Driver {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>, listening: Option<UdpSocket>) {
        if let Some(socket) = listening {
            // Where any address counts, a laboratory on one machine is answered too.
            let here = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            let places = Places::new(self.config.scope, &here, self.config.ports.clone());
            match Socket::new(socket) {
                Ok(socket) => {
                    drop(tokio::spawn(answers::run(socket, Answers::new(places, Instant::now()), self.counts.clone())));
                }
                Err(error) => tracing::warn!(%error, "STUN is not answered"),
            }
        }
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let done = loop {
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(Command::Stop(done)) => break Some(done),
                    Some(command) => self.command(command),
                    None => break None,
                },
                _ = ticks.tick() => self.tick(Instant::now(), UnixMillis::now()),
            }
        };
        self.settle(UnixMillis::now());
        self.running.clear();
        self.keep();
        if let Some(done) = done {
            // Who asked may have gone.
            let _ = done.send(());
        }
    }

    fn command(&mut self, command: Command) {
        let (now, wall) = (Instant::now(), UnixMillis::now());
        // Who asked may have gone: what it was given ends with its time.
        let _ = match command {
            Command::Allocate { ask, reply } => reply.send(self.counted(|it| it.allocate(&ask, now, wall))).is_ok(),
            Command::Renew { from, call, seconds, reply } => {
                reply.send(self.counted(|it| it.renew(&from, call, seconds, now, wall))).is_ok()
            }
            Command::Release { from, call, reply } => {
                reply.send(self.counted(|it| it.release(&from, call, now, wall))).is_ok()
            }
            Command::Stop(done) => done.send(()).is_ok(),
        };
    }

    fn counted<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Refusal>) -> Result<T, Refusal> {
        let result = work(self);
        if let Err(why) = &result {
            self.counts.refuse(*why);
        }
        result
    }

    /// Who asks, if it may ask at all.
    fn asker(&mut self, from: &From, now: Instant) -> Result<Asker, Refusal> {
        let ip = from.ip.filter(|ip| is_global(*ip));
        // Over somebody else's relay: nobody knows whose share it would be.
        if ip.is_none() && self.config.scope == AddressScope::Global {
            return Err(Refusal::NotEntitled);
        }
        let asker = Asker { node: from.node, network: ip.map(Subnet::of), member: from.member };
        self.desk.knock(&asker, now).map(|()| asker)
    }

    fn allocate(&mut self, ask: &Ask, now: Instant, wall: UnixMillis) -> Result<Given, Refusal> {
        let asker = self.asker(&ask.from, now)?;
        let public = public(&ask.public, self.config.scope);
        if public.is_empty() {
            return Err(Refusal::NotPublic);
        }
        let key = (asker.node, ask.call);
        let time = match self.desk.allocate(&asker, ask.call, ask.seconds, now, wall)? {
            Granted::New(time) => time,
            Granted::Again(time) => {
                let running = self.running.get(&key).ok_or(Refusal::Unknown)?;
                return Ok(Given { time, ..running.given.clone() });
            }
        };
        match self.open(ask, &public, now) {
            Some((given, running)) => {
                self.running.insert(key, running);
                self.counts.granted.inc();
                Ok(Given { time, ..given })
            }
            None => {
                self.desk.release(&key);
                Err(Refusal::NoPorts)
            }
        }
    }

    fn open(&mut self, ask: &Ask, public: &[IpAddr], now: Instant) -> Option<(Given, Running)> {
        let sockets = self.ports.pair(public)?;
        let ports = sockets.each_ref().map(|socket| socket.local_addr().map(|address| address.port()));
        let [Ok(ours), Ok(theirs)] = ports else {
            sockets.iter().for_each(|socket| self.ports.give_back(socket));
            return None;
        };
        let [Ok(first), Ok(second)] = sockets.map(Socket::new) else {
            [ours, theirs].into_iter().for_each(|port| self.ports.free(port));
            return None;
        };
        let rate = self.config.limits.bits_per_second;
        let sent = Arc::new(AtomicU64::new(0));
        let forward = Forward {
            sockets: [first, second],
            pair: Pair::new([ask.from.ip, ask.far], rate, now),
            places: Arc::new(Places::new(self.config.scope, public, self.config.ports.clone())),
            counts: self.counts.clone(),
            sent: sent.clone(),
        };
        let at = |port: u16| public.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
        let given = Given { ours: at(ours), theirs: at(theirs), time: Duration::ZERO, bits_per_second: rate };
        let task = tokio::spawn(forward.run());
        Some((given.clone(), Running { given, ports: [ours, theirs], sent, task }))
    }

    fn renew(
        &mut self,
        from: &From,
        call: CallId,
        seconds: u32,
        now: Instant,
        wall: UnixMillis,
    ) -> Result<Duration, Refusal> {
        let asker = self.asker(from, now)?;
        let time = self.desk.renew(&(asker.node, call), seconds, now, wall)?;
        self.counts.renewed.inc();
        Ok(time)
    }

    fn release(&mut self, from: &From, call: CallId, now: Instant, wall: UnixMillis) -> Result<(), Refusal> {
        let asker = self.asker(from, now)?;
        let key = (asker.node, call);
        if self.end(&key, wall) { Ok(()) } else { Err(Refusal::Unknown) }
    }

    /// False if there is no such.
    fn end(&mut self, key: &Key, wall: UnixMillis) -> bool {
        if let Some(running) = self.running.remove(key) {
            self.desk.sent(key, running.sent.swap(0, Ordering::Relaxed), wall);
            running.ports.into_iter().for_each(|port| self.ports.free(port));
        }
        self.desk.release(key)
    }

    fn tick(&mut self, now: Instant, wall: UnixMillis) {
        self.settle(wall);
        for key in self.desk.over(now) {
            self.end(&key, wall);
        }
        if now >= self.kept.0 + KEEP {
            self.kept.0 = now;
            self.keep();
        }
        if now >= self.told.0 + TELL {
            self.tell(now);
        }
        self.show();
    }

    /// What was sent since the last time is told to the desk.
    fn settle(&mut self, wall: UnixMillis) {
        for (key, running) in &self.running {
            let sent = running.sent.swap(0, Ordering::Relaxed);
            if sent > 0 {
                self.desk.sent(key, sent, wall);
            }
        }
    }

    fn keep(&mut self) {
        let spent = self.desk.budget().spent();
        if spent != self.kept.1 {
            self.kept.1 = spent;
            if let Err(error) = self.store.put(Table::Relay, ROW, &self.desk.budget().row()) {
                tracing::warn!(%error, "what was relayed in this month is not kept");
            }
        }
    }

    fn tell(&mut self, now: Instant) {
        let (granted, bytes) = (self.counts.granted.get(), self.counts.bytes.get());
        let (before, sent) = (self.told.1, self.told.2);
        self.told = (now, granted, bytes);
        let (nodes, networks) = self.desk.holders();
        if granted > before || bytes > sent {
            tracing::info!(
                granted = granted - before,
                megabytes = (bytes - sent) / 1_000_000,
                month_megabytes = self.desk.budget().spent() / 1_000_000,
                running = self.desk.len(),
                nodes,
                networks,
                "media relayed since the last hour"
            );
        }
    }

    fn show(&self) {
        let (nodes, networks) = self.desk.holders();
        let budget = self.desk.budget();
        let [refused, dropped] = self.counts.reasons();
        let now = RelayStatus {
            media: self.config.media,
            allocations: self.desk.len(),
            nodes,
            networks,
            granted: self.counts.granted.get(),
            renewed: self.counts.renewed.get(),
            packets: self.counts.packets.get(),
            bytes: self.counts.bytes.get(),
            month_bytes: budget.spent(),
            month_limit: self.config.limits.bytes_per_month,
            month_promised: budget.promised(),
            refused,
            dropped,
            stun_port: self.stun,
            stun_answered: self.counts.answered.get(),
            stun_refused: self.counts.unanswered.get(),
        };
        self.counts.allocations.set(i64::try_from(now.allocations).unwrap_or(i64::MAX));
        self.counts.month.set(i64::try_from(now.month_bytes).unwrap_or(i64::MAX));
        self.status.send_if_modified(|shown| {
            let changed = *shown != now;
            *shown = now;
            changed
        });
    }
}

/// One address of each family, IPv4 first.
fn public(all: &[IpAddr], scope: AddressScope) -> Vec<IpAddr> {
    let counts = |ip: &IpAddr| scope == AddressScope::Any || is_global(*ip);
    let of = |v6: bool| all.iter().map(IpAddr::to_canonical).find(|ip| ip.is_ipv6() == v6 && counts(ip));
    [of(false), of(true)].into_iter().flatten().collect()
}
