//! The one task that owns the swarm: takes commands, turns the swarm's events into ours, keeps the replies that are
//! due. It waits for nobody: not for the store (written behind), not for who reads the events (links are paused).

use super::answering::Answering;
use super::asking::{Asking, Outcome};
use super::behaviour::Behaviour;
use super::cards::Cards;
use super::dialling::Dialling;
use super::meter::Meter;
use super::operations::Operation;
use super::peers::Peers;
use super::port_mapping::PortMapping;
use super::process::Processes;
use super::publish::Remembered;
use super::records::Write;
use super::*;
use crate::clock::UnixMillis;
use crate::dht::{Card, Flapping, Position, Promotion, Repair, Table, Voice};
use crate::ledger::Ledger;
use crate::reachability::Address;
use crate::record::Judge;
use futures::StreamExt;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId, StreamProtocol, Swarm};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Instant;

/// Events that wait for their reader until links are paused, and at most: what links hand out in one poll still fits.
const PAUSE_LINKS_AT: usize = 256;

/// Links get this long to say goodbye, and the last rows to be written.
const FAREWELL: Duration = Duration::from_millis(500);
const LAST_WRITES: Duration = Duration::from_secs(5);

/// Time passes in the first steps while the status is behind. Operations say when they are to be woken.
const SHOW_TICK: Duration = Duration::from_millis(100);
const IDLE_TICK: Duration = Duration::from_secs(1);

/// What comes down through the handle.
pub(super) enum Command {
    Publish { bundle: Box<ValidBundle>, reply: oneshot::Sender<Result<PublishReport, PublishError>> },
    Lookup { who: IdHash, events: mpsc::Sender<LookupEvent> },
    Serve(LocalUser),
    Unserve(IdHash),
    Connect { to: Target, reply: oneshot::Sender<Result<LinkId, LinkError>> },
    Send { link: LinkId, message: Bytes },
    SendIce { link: LinkId, bytes: Bytes },
    MediaPipe { node: NodeKey, reply: oneshot::Sender<Pipe> },
    Hold { link: LinkId, held: bool },
    Close(LinkId),
    Peers(oneshot::Sender<Vec<PeerReport>>),
    Relay(relaying::Want),
    Shutdown(oneshot::Sender<()>),
}

/// Where a link is to lead.
pub(super) struct Target {
    pub(super) local: IdHash,
    pub(super) remote: IdHash,
    pub(super) node: NodeKey,
    pub(super) addresses: Vec<Vec<u8>>,
    pub(super) deadline: Duration,
}

pub(super) struct Actor {
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) here: PeerId,
    pub(super) secret: NodeSecret,
    pub(super) node: NodeKey,
    pub(super) position: Position,
    pub(super) overlay: OverlayId,
    pub(super) scope: AddressScope,
    pub(super) joining: super::joining::WayIn,
    /// Bootstrap nodes that the DNS names.
    pub(super) lists: mpsc::Receiver<listed::Listed>,
    pub(super) promotion: Promotion,
    pub(super) flapping: Flapping,
    pub(super) bootstrap: Vec<(Multiaddr, Option<PeerId>)>,
    pub(super) external: Vec<Address>,
    pub(super) listen: HashSet<Multiaddr>,
    pub(super) kad_protocol: StreamProtocol,
    /// Where inbound connections come from.
    pub(super) inbound: HashMap<ConnectionId, Multiaddr>,
    pub(super) visitors: visitors::Visitors,
    /// Users that links are answered for.
    pub(super) served: HashSet<IdHash>,
    pub(super) store: Store,
    /// Rows to be written behind, and the task that writes them.
    pub(super) writer: mpsc::Sender<Vec<Write>>,
    pub(super) writing: tokio::task::JoinHandle<()>,
    pub(super) loaded: mpsc::Receiver<super::disk::Loaded>,
    pub(super) dialling: Dialling,
    pub(super) peers: Peers,
    /// The servers that are known; kad's buckets are fed from it.
    pub(super) table: Table,
    pub(super) cards: Cards,
    /// This node's own, while it serves.
    pub(super) card: Option<Card>,
    pub(super) voice: Voice,
    pub(super) answering: Answering,
    pub(super) asking: Asking,
    /// What came of questions, for their operations.
    pub(super) outcomes: VecDeque<Outcome>,
    /// Who keeps the records of this node's users.
    pub(super) remembered: Remembered,
    pub(super) processes: Processes,
    pub(super) ledger: Ledger<PeerId>,
    pub(super) repair: Repair,
    pub(super) paying: paying::Paying,
    pub(super) minted: mpsc::Receiver<paying::Minted>,
    pub(super) auditing: auditing::Auditing,
    pub(super) proving: proving::Proving,
    pub(super) answers_to_audits: mpsc::Receiver<auditing::Audited>,
    pub(super) intake: intake::Intake,
    pub(super) meter: Meter,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) events: mpsc::Sender<OverlayEvent>,
    pub(super) unread: VecDeque<OverlayEvent>,
    pub(super) publishable: watch::Sender<Vec<Vec<u8>>>,
    pub(super) status: watch::Sender<OverlayStatus>,
    pub(super) running: BTreeMap<u64, Operation>,
    pub(super) waiting: VecDeque<Operation>,
    pub(super) next_operation: u64,
    /// When operations are looked at again, whatever happens until then.
    pub(super) operations_at: Instant,
    pub(super) connecting: HashMap<LinkId, oneshot::Sender<Result<LinkId, LinkError>>>,
    /// Connections that were opened only to see whether they can be: closed once the far end is known.
    pub(super) feelers: feelers::Feelers,
    pub(super) slots: slots::Slots,
    pub(super) circuits: circuits::Circuits,
    pub(super) reaching: reaching::Reaching,
    pub(super) port_mapping: Option<PortMapping>,
    /// Where the router says that it lets others through.
    pub(super) opened: watch::Receiver<Vec<Address>>,
    pub(super) clocks: super::clocks::Clocks,
    pub(super) listing: listing::Listing,
    pub(super) relaying: relaying::Relaying,
    pub(super) relay_replies: mpsc::Receiver<relaying::Ready>,
    pub(super) upkeep: upkeep::Upkeep,
}

impl Actor {
    /// Runs until told to stop or until the last handle is gone.
    pub(super) async fn run(mut self) {
        let done = loop {
            let tick = Instant::now() + if self.upkeep.is_due() { SHOW_TICK } else { IDLE_TICK };
            let wake = if self.running.is_empty() { tick } else { tick.min(self.operations_at) };
            tokio::select! {
                // A flood from the network must not starve the handle.
                biased;
                command = self.commands.recv() => match command {
                    Some(Command::Shutdown(done)) => break Some(done),
                    Some(command) => self.command(command),
                    None => break None,
                },
                permit = self.events.clone().reserve_owned(), if !self.unread.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(event) = self.unread.pop_front() {
                            // The sender that comes back is one of many.
                            drop(permit.send(event));
                        }
                    }
                    // Nobody reads: a node that only serves the overlay.
                    Err(_) => self.unread.clear(),
                },
                Some(records) = self.loaded.recv() => self.load(records),
                Some(listed) = self.lists.recv() => self.listed(listed),
                Some(ready) = self.relay_replies.recv() => self.relay_reply(ready),
                Some(minted) = self.minted.recv() => self.minted(minted),
                Ok(()) = self.opened.changed() => self.ports_opened(Instant::now()),
                Some(audited) = self.answers_to_audits.recv() => self.audited(audited),
                event = self.swarm.select_next_some() => self.swarm_event(event),
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            self.advance();
        };
        self.stop().await;
        if let Some(done) = done {
            // Who asked may have gone.
            let _ = done.send(());
        }
    }

    fn command(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Publish { bundle, reply } => self.publish(*bundle, reply, now),
            Command::Lookup { who, events } => self.lookup(who, events, now),
            Command::Serve(user) => {
                self.served.insert(user.id);
                self.swarm.behaviour_mut().link.serve_user(user);
            }
            Command::Unserve(id) => {
                self.served.remove(&id);
                self.swarm.behaviour_mut().link.unserve_user(id);
            }
            Command::Connect { to, reply } => self.connect(to, reply),
            Command::Send { link, message } => {
                let links = &mut self.swarm.behaviour_mut().link;
                if let Err(LinkError::Full) = links.send(link, message) {
                    // The sender has gone on believing that it was queued: an honest end is better than a gap.
                    tracing::debug!(?link, "the far end does not keep up: link closed");
                    links.close(link);
                }
            }
            Command::SendIce { link, bytes } => {
                // A call finds its way without it, or is as it was: nothing to end a link for.
                if let Err(error) = self.swarm.behaviour_mut().link.send_ice(link, bytes) {
                    tracing::debug!(?link, %error, "paths of a call were not told");
                }
            }
            Command::MediaPipe { node, reply } => {
                if let Some(peer) = link::peer_id_of(&node) {
                    self.swarm.behaviour_mut().framed.open(peer, reply);
                }
            }
            Command::Hold { link, held } => self.swarm.behaviour_mut().link.hold(link, held),
            Command::Close(link) => self.swarm.behaviour_mut().link.close(link),
            Command::Peers(reply) => {
                // Who asked may have gone.
                let _ = reply.send(self.peer_reports());
            }
            Command::Relay(want) => self.relay_wanted(want, now),
            Command::Shutdown(_) => {}
        }
    }

    fn connect(&mut self, to: Target, reply: oneshot::Sender<Result<LinkId, LinkError>>) {
        let mut addresses: Vec<_> =
            to.addresses.into_iter().filter_map(|bytes| Multiaddr::try_from(bytes).ok()).collect();
        addresses.extend(self.ways_known(&addresses));
        let now = Instant::now();
        // A host is tried once by QUIC and once by TCP: it may be one that never asked for it.
        let mut tried = HashSet::new();
        let mut once = |address: &Multiaddr| {
            address::to_plain(address).is_none_or(|plain| tried.insert((plain.ip.to_canonical(), plain.transport)))
        };
        let mut may = |address: &Multiaddr| {
            // A circuit is as good as its relay's address.
            let through = circuits::Through::read(address);
            let place = through.as_ref().map_or(address, |through| &through.at);
            let first = through.is_some() || once(address);
            // Nobody is dialled for a circuit through a relay that is connected: many calls may go through one.
            let there = through.as_ref().is_some_and(|through| self.swarm.is_connected(&through.relay));
            first && self.may_dial(place) && (there || self.dialling.call(place, now))
        };
        addresses.retain(|address| may(address));
        let links = &mut self.swarm.behaviour_mut().link;
        let link = links.connect(to.local, to.remote, to.node, addresses, to.deadline);
        if links.is_up(link) {
            // Who dropped the future still gets the link's events.
            let _ = reply.send(Ok(link));
        } else if let Some(other) = self.connecting.insert(link, reply) {
            // Two calls for one link, of which the later asks for it now: the earlier one shares its fate.
            self.share(link, other);
        }
    }

    /// Two waiters for one link: answers both when the first is answered.
    fn share(&mut self, link: LinkId, other: oneshot::Sender<Result<LinkId, LinkError>>) {
        let Some(newer) = self.connecting.remove(&link) else { return };
        let (both, answer) = oneshot::channel();
        self.connecting.insert(link, both);
        tokio::spawn(async move {
            let result = answer.await.unwrap_or(Err(LinkError::Stopped));
            let _ = other.send(result.clone());
            let _ = newer.send(result);
        });
    }

    /// Under scope `global` a record or a peer must not send us into our own LAN. What a bootstrap list or mDNS says is
    /// not asked here.
    pub(super) fn may_dial(&self, address: &Multiaddr) -> bool {
        match address::to_plain(address) {
            Some(plain) => self.scope == AddressScope::Any || crate::wire::is_global(plain.ip),
            None => false,
        }
    }

    pub(super) fn judge(&self) -> Judge {
        Judge { overlay: self.overlay, scope: self.scope, now: UnixMillis::now() }
    }

    /// Hands an event up, or keeps it while the reader is slow.
    pub(super) fn tell(&mut self, event: OverlayEvent) {
        if self.unread.is_empty() {
            match self.events.try_send(event) {
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
                Err(mpsc::error::TrySendError::Full(event)) => self.unread.push_back(event),
            }
        } else {
            self.unread.push_back(event);
        }
    }

    /// A stream for packets of a call: only from who has a link with us, which names the call.
    pub(super) fn pipe_opened(&mut self, framed::Incoming { peer, pipe }: framed::Incoming) {
        let behaviour = self.swarm.behaviour();
        let node = link::node_key_of(&peer).filter(|_| behaviour.link.is_linked(peer));
        if !node.is_some_and(|node| behaviour.framed.hear(pipe, node, self.events.clone())) {
            self.meter.refuse("media: no link, or too many streams".into());
        }
    }

    pub(super) fn link_event(&mut self, event: link::Event) {
        match event {
            link::Event::LinkUp { link, local, remote, outbound, local_ip, remote_ip } => {
                // Whom our users call, not who calls them: strangers choose no way in for us.
                if outbound {
                    self.called(remote.id, remote.node, UnixMillis::now());
                }
                self.tell(OverlayEvent::LinkUp { link, local, remote, outbound, local_ip, remote_ip });
                if let Some(reply) = self.connecting.remove(&link) {
                    let _ = reply.send(Ok(link));
                }
            }
            link::Event::LinkMessage { link, message } => self.tell(OverlayEvent::LinkMessage { link, message }),
            link::Event::LinkIce { link, bytes } => self.tell(OverlayEvent::LinkIce { link, bytes }),
            link::Event::LinkLost { link } => self.tell(OverlayEvent::LinkLost { link }),
            link::Event::LinkDown { link, reason, never } => self.tell(OverlayEvent::LinkDown { link, reason, never }),
            link::Event::ConnectFailed { link, error } => {
                if let Some(reply) = self.connecting.remove(&link) {
                    let _ = reply.send(Err(error));
                }
            }
            link::Event::Refused { peer, reason } => {
                self.meter.refuse(format!("link: {reason}"));
                let fact = match reason {
                    link::Refusal::NotProven(_) | link::Refusal::Malformed => crate::ledger::Fact::Forged,
                    link::Refusal::Flood | link::Refusal::TooLarge => crate::ledger::Fact::Flood,
                    link::Refusal::HelloTimeout
                    | link::Refusal::NoSuchUser
                    | link::Refusal::Clock
                    | link::Refusal::Version
                    | link::Refusal::UnknownSession
                    | link::Refusal::Full => crate::ledger::Fact::Refused,
                };
                self.ledger.note(peer, fact, Instant::now());
            }
        }
    }

    /// After every event: operations go on, back-pressure is set, upkeep is done when due.
    fn advance(&mut self) {
        let now = Instant::now();
        self.operations(now);
        let paused = self.unread.len() >= PAUSE_LINKS_AT;
        self.swarm.behaviour_mut().link.set_paused(paused);
        self.write_behind();
        self.upkeep(now);
    }

    /// Says goodbye on the links, tells who waits, and leaves on disk what the next life needs.
    async fn stop(mut self) {
        let ports = self.port_mapping.take().map(PortMapping::stop);
        for (_, reply) in self.connecting.drain() {
            let _ = reply.send(Err(LinkError::Stopped));
        }
        for user in std::mem::take(&mut self.served) {
            self.swarm.behaviour_mut().link.unserve_user(user);
        }
        let farewell = async {
            while !self.swarm.behaviour().link.is_empty() {
                self.swarm.select_next_some().await;
            }
        };
        // Whoever does not answer the goodbye notices the closed connection.
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
        if tokio::time::timeout(LAST_WRITES, self.write_all()).await.is_err() {
            tracing::warn!("the last records were not written");
        }
        let (rows, accounts, store) = (self.peer_rows(), self.ledger_rows(), self.store.clone());
        drop(self.swarm);
        drop(self.writer);
        if tokio::time::timeout(LAST_WRITES, self.writing).await.is_err() {
            tracing::warn!("the last records were not written");
        }
        if let Some(ports) = ports {
            ports.ended().await;
        }
        let peers = store.clone();
        // A panic of the database is told by the commit as well.
        let last = tokio::task::spawn_blocking(move || {
            joining::write_rows(&peers, &rows);
            keeping::write(&peers, &accounts);
        });
        let _ = last.await;
        if let Err(error) = store.commit().await {
            tracing::warn!(%error, "the last rows may be lost");
        }
    }
}
