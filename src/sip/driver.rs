//! The SIP actor: one task that owns the UDP socket, the TCP listener, the clock and the `Core`. It never waits on
//! anyone: events that `calls` has not taken yet are kept, and while there are many of them nothing is read from the
//! network; commands are always taken, so `calls` and `sip` cannot wait for each other.

mod stream;

use super::core::{Core, Effect};
use super::flow::Flow;
use super::{
    Account, BindId, Cause, ContactId, DialTarget, LegId, Presented, SipEvent, SipStartError, SipStatus, TrunkId,
};
use crate::clock::UnixMillis;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use stream::{FromStream, Stream};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

/// Events kept for `calls` before the network has to wait.
const MANY_EVENTS: usize = 512;
/// Datagrams read in one go before anything else has its turn.
const BATCH: usize = 64;
/// How often readers of the status see a new one.
const STATUS_EVERY: Duration = Duration::from_millis(200);
/// With more accounts than this the status shows registrations less often.
const MANY_ACCOUNTS: usize = 256;
const SHOW_MANY_EVERY: Duration = Duration::from_secs(5);
/// Source addresses whose local address is remembered (only when bound to all interfaces).
const MAX_LOCALS: usize = 1_024;
/// Addresses that it takes to fill the TCP connections, and what one may have at least: an office behind one NAT.
const SHARES: usize = 8;
const MIN_SHARE: usize = 16;
/// Time for TCP peers to take their last message at shutdown.
const CLOSING: Duration = Duration::from_millis(500);

/// What the handle asks for.
#[derive(Debug)]
pub(super) enum Command {
    ConfirmBind(BindId, bool),
    Contacts(String, oneshot::Sender<Vec<ContactId>>),
    ContactIps(ContactId, oneshot::Sender<Option<(IpAddr, IpAddr)>>),
    TrunkUp(TrunkId, String, String),
    TrunkReceive(TrunkId, Bytes),
    TrunkDown(TrunkId, Cause),
    Dial(LegId, DialTarget, Presented, String, Bytes),
    Ring(LegId, u16, Option<Bytes>),
    Answer(LegId, Bytes, Option<Presented>),
    Reject(LegId, Cause),
    HangUp(LegId, Cause),
    Reoffer(LegId, Bytes),
    AnswerReoffer(LegId, Bytes),
    RejectReoffer(LegId, Cause),
    Info(LegId, String, Bytes),
    Shutdown(oneshot::Sender<()>),
}

/// The sockets of a node.
pub(super) struct Sockets {
    udp: Option<(UdpSocket, SocketAddr)>,
    tcp: Option<(TcpListener, SocketAddr)>,
}

impl Sockets {
    /// Binds. With port 0 for both, TCP takes the port that UDP got, if it is free.
    ///
    /// # Errors
    /// The address that could not be bound.
    pub(super) async fn bind(udp: Option<SocketAddr>, tcp: Option<SocketAddr>) -> Result<Self, SipStartError> {
        let failed = |address| move |source| SipStartError::Bind { address, source };
        let udp = match udp {
            Some(address) => {
                let socket = UdpSocket::bind(address).await.map_err(failed(address))?;
                let bound = socket.local_addr().map_err(failed(address))?;
                Some((socket, bound))
            }
            None => None,
        };
        let tcp = match tcp {
            Some(address) => {
                let same = udp.as_ref().filter(|_| address.port() == 0).map(|(_, bound)| bound.port());
                let wanted = SocketAddr::new(address.ip(), same.unwrap_or(address.port()));
                let listener = match TcpListener::bind(wanted).await {
                    Err(_) if wanted != address => TcpListener::bind(address).await,
                    bound => bound,
                }
                .map_err(failed(address))?;
                let bound = listener.local_addr().map_err(failed(address))?;
                Some((listener, bound))
            }
            None => None,
        };
        Ok(Self { udp, tcp })
    }

    pub(super) fn udp_address(&self) -> Option<SocketAddr> {
        self.udp.as_ref().map(|(_, bound)| *bound)
    }

    pub(super) fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().map(|(_, bound)| *bound)
    }
}

/// What the actor talks to.
pub(super) struct Ports {
    pub commands: mpsc::Receiver<Command>,
    pub events: mpsc::Sender<SipEvent>,
    pub status: watch::Sender<SipStatus>,
    pub accounts: watch::Receiver<Arc<BTreeMap<String, Account>>>,
}

pub(super) struct Driver {
    core: Core,
    sockets: Sockets,
    ports: Ports,
    pending: VecDeque<SipEvent>,
    streams: HashMap<u64, Stream>,
    tasks: JoinSet<()>,
    max_streams: usize,
    next_connection: u64,
    to_me: mpsc::Sender<FromStream>,
    from_streams: mpsc::Receiver<FromStream>,
    locals: HashMap<IpAddr, IpAddr>,
    changed: bool,
    show_again: Instant,
    accounts_gone: bool,
}

impl Driver {
    /// `first_connection`: connection numbers start there; a number of an earlier run must not come again.
    pub(super) fn new(core: Core, sockets: Sockets, ports: Ports, max_streams: usize, first_connection: u64) -> Self {
        let (to_me, from_streams) = mpsc::channel(256);
        Self {
            core,
            sockets,
            ports,
            pending: VecDeque::new(),
            streams: HashMap::new(),
            tasks: JoinSet::new(),
            max_streams,
            next_connection: first_connection,
            to_me,
            from_streams,
            locals: HashMap::new(),
            changed: true,
            show_again: Instant::now(),
            accounts_gone: false,
        }
    }

    pub(super) async fn run(mut self) {
        let mut buffer = vec![0; 65_536];
        let mut status = tokio::time::interval(STATUS_EVERY);
        status.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.core.registrar_changes();
        let events = self.ports.events.clone();
        loop {
            self.flush();
            let room = self.pending.len() < MANY_EVENTS;
            let wake = self.core.poll_timeout().map(tokio::time::Instant::from_std);
            tokio::select! {
                command = self.ports.commands.recv() => match command {
                    Some(Command::Shutdown(done)) => {
                        self.close().await;
                        let _ = done.send(());
                        return;
                    }
                    Some(command) => self.command(command),
                    None => return self.close().await,
                },
                permit = events.reserve(), if !self.pending.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(event) = self.pending.pop_front() {
                            permit.send(event);
                        }
                    }
                    // Nobody listens any more: the node is going down.
                    Err(_) => return self.close().await,
                },
                received = receive(self.sockets.udp.as_ref(), &mut buffer), if room && self.sockets.udp.is_some() => {
                    self.datagrams(received, &mut buffer);
                }
                accepted = accept(self.sockets.tcp.as_ref()), if room && self.sockets.tcp.is_some() => self.accepted(accepted),
                Some(message) = self.from_streams.recv(), if room => self.stream_said(message),
                () = sleep_until(wake), if wake.is_some() => {
                    self.core.handle_timeout(Instant::now(), UnixMillis::now());
                    self.changed = true;
                }
                more = self.ports.accounts.changed(), if !self.accounts_gone => {
                    self.accounts_gone = more.is_err();
                    let accounts = self.ports.accounts.borrow_and_update().clone();
                    self.core.registrar.set_accounts(accounts, Instant::now());
                    self.core.registrar_changes();
                    self.changed = true;
                }
                _ = status.tick() => self.publish(),
                Some(_) = self.tasks.join_next() => {}
            }
        }
    }

    fn command(&mut self, command: Command) {
        self.changed = true;
        let core = self.core.at(Instant::now());
        match command {
            Command::ConfirmBind(bind, kept) => core.confirm_bind(bind, kept),
            // Whoever asked may have gone away.
            Command::Contacts(account, reply) => drop(reply.send(core.contacts(&account))),
            Command::ContactIps(contact, reply) => drop(reply.send(core.contact_ips(contact))),
            Command::TrunkUp(trunk, local, remote) => core.trunk_up(trunk, &local, &remote),
            Command::TrunkReceive(trunk, message) => {
                core.trunk_receive(trunk, &message, Instant::now(), UnixMillis::now())
            }
            Command::TrunkDown(trunk, cause) => core.trunk_down(trunk, &cause),
            Command::Dial(leg, target, from, to, offer) => core.dial(leg, &target, &from, &to, &offer),
            Command::Ring(leg, status, sdp) => core.ring(leg, status, sdp.as_ref()),
            Command::Answer(leg, sdp, connected) => core.answer(leg, &sdp, connected.as_ref()),
            Command::Reject(leg, cause) => core.reject(leg, &cause),
            Command::HangUp(leg, cause) => core.hang_up(leg, cause),
            Command::Reoffer(leg, offer) => core.reoffer(leg, &offer),
            Command::AnswerReoffer(leg, sdp) => core.answer_reoffer(leg, &sdp),
            Command::RejectReoffer(leg, cause) => core.reject_reoffer(leg, &cause),
            Command::Info(leg, content_type, body) => core.info(leg, &content_type, &body),
            Command::Shutdown(_) => {}
        }
    }

    /// Carries out what the core wants.
    fn flush(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Event(event) => self.pending.push_back(event),
                Effect::Send { flow: Flow::Udp { remote, .. }, bytes } => {
                    // A full socket buffer is a lost packet; timers repeat it.
                    if let Some((socket, _)) = &self.sockets.udp
                        && socket.try_send_to(&bytes, remote).is_err()
                    {
                        self.core.counts.refuse("udp-send");
                    }
                }
                Effect::Send { flow: Flow::Tcp { connection, .. }, bytes } => {
                    let lost = self.streams.get(&connection).is_some_and(|stream| !stream.send(bytes));
                    if lost {
                        self.core.counts.refuse("slow-stream");
                        self.drop_stream(connection);
                    }
                }
                // The core sends on trunks by events.
                Effect::Send { flow: Flow::Trunk(_), .. } => {}
                Effect::Close { connection } => self.drop_stream(connection),
            }
        }
        // Most of the time the channel has room; the select arm is for when it has not.
        while let Some(event) = self.pending.pop_front() {
            if let Err(error) = self.ports.events.try_send(event) {
                self.pending.push_front(error.into_inner());
                break;
            }
        }
    }

    fn datagrams(&mut self, first: io::Result<(usize, SocketAddr)>, buffer: &mut [u8]) {
        self.changed = true;
        let mut received = first;
        for _ in 0..BATCH {
            match received {
                Ok((length, remote)) => self.datagram(&buffer[..length], remote),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // ICMP errors of earlier sends come up here.
                Err(_) => self.core.counts.refuse("udp-receive"),
            }
            self.flush();
            if self.pending.len() >= MANY_EVENTS {
                return;
            }
            let Some((socket, _)) = &self.sockets.udp else { return };
            received = socket.try_recv_from(buffer);
        }
    }

    fn datagram(&mut self, bytes: &[u8], remote: SocketAddr) {
        let Some((_, bound)) = self.sockets.udp else { return };
        let local = SocketAddr::new(self.local_ip(bound.ip(), remote), bound.port());
        let flow = Flow::Udp { local, remote };
        self.core.receive(flow, &Bytes::copy_from_slice(bytes), Instant::now(), UnixMillis::now());
    }

    /// Our address as `remote` sees it, when bound to all interfaces: what the routing table says.
    fn local_ip(&mut self, bound: IpAddr, remote: SocketAddr) -> IpAddr {
        if !bound.is_unspecified() {
            return bound;
        }
        if let Some(known) = self.locals.get(&remote.ip()) {
            return *known;
        }
        let routed = std::net::UdpSocket::bind(SocketAddr::new(bound, 0))
            .and_then(|probe| probe.connect(remote).and_then(|()| probe.local_addr()))
            .map_or(bound, |address| address.ip());
        if self.locals.len() >= MAX_LOCALS {
            self.locals.clear();
        }
        self.locals.insert(remote.ip(), routed);
        routed
    }

    fn accepted(&mut self, accepted: io::Result<(TcpStream, SocketAddr)>) {
        self.changed = true;
        let Ok((socket, remote)) = accepted else { return self.core.counts.refuse("tcp-accept") };
        let Ok(local) = socket.local_addr() else { return };
        if self.streams.len() >= self.max_streams {
            return self.core.counts.refuse("tcp-full");
        }
        // One host of a network must not take every place; phones of this machine all have one address.
        let share = (self.max_streams / SHARES).max(MIN_SHARE);
        if !remote.ip().is_loopback() && self.core.connections_from(remote.ip()) >= share {
            return self.core.counts.refuse("tcp-per-address");
        }
        let connection = self.next_connection;
        self.next_connection += 1;
        let flow = Flow::Tcp { connection, local, remote };
        let (stream, task) = stream::serve(socket, connection, flow, self.to_me.clone());
        self.streams.insert(connection, stream);
        self.tasks.spawn(task);
        self.core.connection_opened(connection, flow);
    }

    fn stream_said(&mut self, message: FromStream) {
        self.changed = true;
        match message {
            // What was queued by a connection that was closed meanwhile is not looked at.
            FromStream::Message { connection, flow, bytes } if self.streams.contains_key(&connection) => {
                self.core.receive(flow, &bytes, Instant::now(), UnixMillis::now());
            }
            FromStream::Broken { connection, flow, bytes, refused } if self.streams.contains_key(&connection) => {
                self.core.stream_broken(flow, &bytes, refused, Instant::now());
            }
            FromStream::Message { .. } | FromStream::Broken { .. } => {}
            FromStream::Closed { connection } => self.drop_stream(connection),
        }
    }

    /// Dropping the stream lets its task write what is queued and end.
    fn drop_stream(&mut self, connection: u64) {
        if self.streams.remove(&connection).is_some() {
            self.core.connection_closed(connection, Instant::now());
        }
    }

    fn publish(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let now = Instant::now();
        // Writing out many registrations costs more than it tells.
        let registered = (now >= self.show_again).then(|| self.core.registrar.shown(now));
        if let Some(registered) = &registered {
            let many = registered.len() > MANY_ACCOUNTS;
            self.show_again = now + if many { SHOW_MANY_EVERY } else { Duration::ZERO };
            let count: usize = registered.values().map(Vec::len).sum();
            self.core.counts.registrations.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let mut refused: BTreeMap<String, u64> = BTreeMap::new();
        for (reason, count) in self.core.counts.refused().iter().chain(self.core.registrar.refusals()) {
            *refused.entry((*reason).to_owned()).or_default() += count;
        }
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let counts = &self.core.counts;
        counts.legs.set(gauge(self.core.leg_count()));
        counts.transactions.set(gauge(self.core.transaction_count()));
        counts.connections.set(gauge(self.streams.len()));
        let (legs, transactions) = (self.core.leg_count(), self.core.transaction_count());
        let connections = self.streams.len();
        self.ports.status.send_modify(|status| {
            if let Some(registered) = registered {
                status.registered = registered;
            }
            status.legs = legs;
            status.transactions = transactions;
            status.connections = connections;
            status.refused = refused;
        });
    }

    /// Ends the legs, lets TCP peers have their last message, closes everything.
    async fn close(&mut self) {
        let cause = Cause { status: 503, words: "The Node Is Going Down".into() };
        self.core.at(Instant::now()).end_all(&cause);
        self.flush();
        self.publish();
        self.streams.clear();
        let drained = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(CLOSING, drained).await.is_err() {
            self.tasks.shutdown().await;
        }
        self.sockets.udp = None;
        self.sockets.tcp = None;
    }
}

async fn receive(socket: Option<&(UdpSocket, SocketAddr)>, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    match socket {
        Some((socket, _)) => socket.recv_from(buffer).await,
        None => std::future::pending().await,
    }
}

async fn accept(listener: Option<&(TcpListener, SocketAddr)>) -> io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some((listener, _)) => listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
