//! The links of a node as a libp2p behaviour: what the owner may ask, and what the swarm tells. How a link comes up is in
//! `open`, what happens on one that is up in `carry`.

use super::frame::Body;
use super::handler::{Command, Handler, Report};
use super::session::Session;
use super::table::{Connection, Link, Links, Pair, Peer, Phase, Purpose, StreamRef};
use super::{Config, Event, MAX_ICE_BYTES, MAX_MESSAGE_BYTES, Refusal, peer_id_of};
use crate::identity::NodeKey;
use crate::overlay::{LinkError, LinkId, LocalUser};
use crate::record::{Judge, Pin};
use crate::uri::IdHash;
use crate::wire::{AddressScope, OverlayId};
use bytes::Bytes;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, DialFailure};
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, StreamProtocol,
    THandler, THandlerInEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use std::collections::{HashMap, VecDeque};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::time::{Interval, MissedTickBehavior};

/// How often deadlines are looked at while there are links. 200 ms: finer than any of them needs.
const TICK: Duration = Duration::from_millis(200);
/// Events that wait for the owner, beyond which refusals are dropped and no new user is let in.
const MAX_OUTBOX: usize = 4096;

type Action = ToSwarm<Event, Command>;

/// The links of this node. See the module for what passes where.
pub struct Behaviour {
    pub(super) config: Config,
    pub(super) overlay: OverlayId,
    pub(super) scope: AddressScope,
    pub(super) node: NodeKey,
    protocol: StreamProtocol,
    pub(super) served: HashMap<IdHash, LocalUser>,
    pub(super) pins: HashMap<IdHash, Pin>,
    pub(super) links: Links,
    pub(super) streams: HashMap<StreamRef, Purpose>,
    pub(super) peers: HashMap<PeerId, Peer>,
    /// How many connections of the peers are relayed.
    circuits: usize,
    next_link: u64,
    next_stream: u64,
    /// For the owner.
    outbox: VecDeque<Event>,
    pub(super) actions: VecDeque<Action>,
    paused: bool,
    tick: Option<Interval>,
    waker: Option<Waker>,
}

impl Behaviour {
    /// Links of node `node` in `overlay`; addresses in certificates are judged by `scope`.
    pub fn new(overlay: OverlayId, node: NodeKey, scope: AddressScope, config: Config) -> Self {
        let name = format!("/peerline/{}/sip/1", overlay.short());
        let protocol = StreamProtocol::try_from_owned(name).expect("the name starts with a slash");
        Self {
            config,
            overlay,
            scope,
            node,
            protocol,
            served: HashMap::new(),
            pins: HashMap::new(),
            links: Links::default(),
            streams: HashMap::new(),
            peers: HashMap::new(),
            circuits: 0,
            next_link: 1,
            next_stream: 2,
            outbox: VecDeque::new(),
            actions: VecDeque::new(),
            paused: false,
            tick: None,
            waker: None,
        }
    }

    /// Answers hellos for `user` from now on, with its bundle as proof. Called again on each publish.
    pub fn serve_user(&mut self, user: LocalUser) {
        self.served.insert(user.id, user);
    }

    /// The users that it answers for.
    pub fn served(&self) -> impl Iterator<Item = &LocalUser> {
        self.served.values()
    }

    /// Answers for `id` no more, and closes its links.
    pub fn unserve_user(&mut self, id: IdHash) {
        self.served.remove(&id);
        for link in self.links.matching(|link| link.pair.local == id) {
            self.close(link);
        }
    }

    /// Refuses certificates of `user` below `pin` from now on; never lowers a pin. `false`: the table is full.
    pub fn set_pin(&mut self, user: IdHash, pin: Pin) -> bool {
        let known = self.pins.get(&user).copied();
        if known.is_none() && self.pins.len() >= self.config.max_pins {
            return false;
        }
        self.pins.insert(user, known.map_or(pin, |known| known.max(pin)));
        true
    }

    /// The pins in force.
    pub fn pins(&self) -> &HashMap<IdHash, Pin> {
        &self.pins
    }

    /// Opens the one link from the user `local` served here to `remote` at `node`, or finds it: then the id is that of
    /// the link that exists, and [`Behaviour::is_up`] says whether it can be used at once. Otherwise
    /// [`Event::LinkUp`] or [`Event::ConnectFailed`] follows within `deadline`.
    pub fn connect(
        &mut self,
        local: IdHash,
        remote: IdHash,
        node: NodeKey,
        addresses: Vec<Multiaddr>,
        deadline: Duration,
    ) -> LinkId {
        let now = Instant::now();
        let until = now + deadline;
        let Some(peer) = peer_id_of(&node).filter(|_| node != self.node) else {
            return self.fail_at_once(LinkError::Unreachable);
        };
        // Nobody reaches itself around itself.
        let here = peer_id_of(&self.node).unwrap_or(peer);
        let pair = Pair { local, remote, peer };
        if let Some(id) = self.links.of_pair(&pair) {
            if let Some(link) = self.links.get_mut(id) {
                if let Phase::Opening { until: earlier } = &mut link.phase {
                    *earlier = until.max(*earlier);
                }
                let addresses = super::detour::sort_out(addresses, &mut link.detours, &[peer, here]);
                let news: Vec<_> = addresses.into_iter().filter(|a| !link.addresses.contains(a)).collect();
                let lost = matches!(link.phase, Phase::Lost { .. });
                let again = link.dialled && !news.is_empty();
                // The newest first: they push out what led nowhere.
                link.addresses.splice(0..0, news);
                link.addresses.truncate(super::open::MAX_ADDRESSES);
                if again {
                    link.dial = None;
                    self.dial(id, now);
                    self.wake();
                } else if lost {
                    // Other relays, perhaps.
                    self.set_out(id, now);
                    self.wake();
                }
            }
            return id;
        }
        if !self.served.contains_key(&local) {
            return self.fail_at_once(LinkError::Refused("the caller is not a user of this node".into()));
        }
        let mut session_id = [0; 16];
        if self.is_full(peer) || getrandom::fill(&mut session_id).is_err() {
            return self.fail_at_once(LinkError::Full);
        }
        let mut link = Link::new(self.new_link_id(), pair, node, session_id, self.new_session(), now);
        link.opener = true;
        link.phase = Phase::Opening { until };
        link.addresses = super::detour::sort_out(addresses, &mut link.detours, &[peer, here]);
        link.addresses.truncate(super::open::MAX_ADDRESSES);
        let id = link.id;
        self.links.insert(link);
        self.advance(id, now);
        self.wake();
        id
    }

    /// Whether it may be used: [`Event::LinkUp`] was told. True also while a lost stream is being replaced.
    pub fn is_up(&self, link: LinkId) -> bool {
        self.links.get(link).is_some_and(|link| link.announced)
    }

    /// Whether there is a link with `peer`.
    pub fn is_linked(&self, peer: PeerId) -> bool {
        self.links.is_linked(peer)
    }

    /// Links that are up or on the way.
    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// Whether there is no link.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Queues one message, at most [`MAX_MESSAGE_BYTES`]. Never waits.
    ///
    /// # Errors
    /// `Full`: the far end does not keep up; `Unreachable`: there is no such link, or it is not up yet; `Refused`: too long.
    pub fn send(&mut self, link: LinkId, message: Bytes) -> Result<(), LinkError> {
        if message.len() > MAX_MESSAGE_BYTES {
            return Err(LinkError::Refused(format!("a message may have {MAX_MESSAGE_BYTES} bytes")));
        }
        self.queue(link, Body::Sip(message))
    }

    /// Queues paths of a call, at most [`MAX_ICE_BYTES`], in one order with the messages. Never waits.
    ///
    /// # Errors
    /// As [`Behaviour::send`].
    pub fn send_ice(&mut self, link: LinkId, bytes: Bytes) -> Result<(), LinkError> {
        if bytes.len() > MAX_ICE_BYTES {
            return Err(LinkError::Refused(format!("a description of paths may have {MAX_ICE_BYTES} bytes")));
        }
        self.queue(link, Body::Ice(bytes))
    }

    fn queue(&mut self, link: LinkId, message: Body) -> Result<(), LinkError> {
        let found = self.links.get_mut(link).filter(|link| link.announced).ok_or(LinkError::Unreachable)?;
        found.session.push(message).map_err(|_| LinkError::Full)?;
        let now = Instant::now();
        found.last_message = now;
        self.pump(link, now);
        self.wake();
        Ok(())
    }

    /// Closes a link after what is queued; [`Event::LinkDown`] (or `ConnectFailed`) follows.
    pub fn close(&mut self, link: LinkId) {
        self.say_goodbye(link, "closed here");
        self.wake();
    }

    /// While held, a link is not closed for being idle, and waits longer for another stream when it has lost one: a call is
    /// going on, and heard.
    pub fn hold(&mut self, link: LinkId, held: bool) {
        let (now, grace) = (Instant::now(), self.config.grace);
        let Some(link) = self.links.get_mut(link) else { return };
        link.held = held;
        link.last_message = now;
        if let Phase::Lost { until } = &mut link.phase
            && !held
        {
            *until = (*until).min(now + grace);
        }
    }

    /// While paused, no event is handed out, and soon the streams are not read either: back-pressure up to the peers.
    /// For an owner whose own consumer is slow.
    pub fn set_paused(&mut self, paused: bool) {
        if self.paused != paused {
            self.paused = paused;
            self.wake();
        }
    }

    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn fail_at_once(&mut self, error: LinkError) -> LinkId {
        let link = self.new_link_id();
        self.emit(Event::ConnectFailed { link, error });
        self.wake();
        link
    }

    pub(super) fn new_link_id(&mut self) -> LinkId {
        let id = LinkId(self.next_link);
        self.next_link += 1;
        id
    }

    pub(super) fn new_stream_number(&mut self) -> u64 {
        let number = self.next_stream;
        self.next_stream += 2;
        number
    }

    pub(super) fn new_session(&self) -> Session {
        Session::new(self.config.max_queued_messages, self.config.max_queued_bytes)
    }

    pub(super) fn judge(&self) -> Judge {
        Judge { overlay: self.overlay, scope: self.scope, now: (self.config.clock)() }
    }

    pub(super) fn is_full(&self, peer: PeerId) -> bool {
        self.links.len() >= self.config.max_links
            || self.outbox.len() >= MAX_OUTBOX
            || self.links.of_peer(peer).len() >= self.config.max_links_per_peer
    }

    pub(super) fn emit(&mut self, event: Event) {
        self.outbox.push_back(event);
    }

    /// It is said again soon, so a slow owner may miss one.
    pub(super) fn emit_lost(&mut self, link: LinkId) {
        if self.outbox.len() < MAX_OUTBOX {
            self.emit(Event::LinkLost { link });
        }
    }

    pub(super) fn connection(&self, stream: StreamRef) -> Option<&Connection> {
        self.peers.get(&stream.peer)?.connection(stream.connection)
    }

    pub(super) fn tell(&mut self, stream: StreamRef, event: Command) {
        let handler = NotifyHandler::One(stream.connection);
        self.actions.push_back(ToSwarm::NotifyHandler { peer_id: stream.peer, handler, event });
    }

    /// Counts a refusal, tells the owner, and parts with a peer that has had too many.
    pub(super) fn note_refusal(&mut self, peer: PeerId, reason: Refusal, count: u32, now: Instant) {
        if self.outbox.len() < MAX_OUTBOX {
            self.emit(Event::Refused { peer, reason });
        }
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let before = known.refused(0, now);
        let after = known.refused(count, now);
        if before <= self.config.max_refusals_per_minute && after > self.config.max_refusals_per_minute {
            tracing::debug!(%peer, "too many refusals, connections closed");
            self.actions.push_back(ToSwarm::CloseConnection { peer_id: peer, connection: CloseConnection::All });
        }
    }

    fn handle_established(&mut self, event: ConnectionEstablished<'_>, now: Instant) {
        let mut connection = Connection::new(event.connection_id, event.endpoint);
        self.place_towards_relay(&mut connection, event.endpoint);
        let relayed = connection.relayed;
        self.circuits += usize::from(relayed);
        self.peers.entry(event.peer_id).or_default().connections.push(connection);
        self.detours_connected(event.peer_id, event.connection_id, relayed);
        for id in self.links.of_peer(event.peer_id) {
            if let Some(link) = self.links.get_mut(id) {
                if link.dial == Some(event.connection_id) {
                    link.dial = None;
                }
                link.retry_at = None;
            }
            self.take_over(id, event.connection_id, now);
            self.advance(id, now);
        }
    }

    fn handle_closed(&mut self, event: ConnectionClosed<'_>, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&event.peer_id) {
            let gone = peer.connections.extract_if(.., |c| c.id == event.connection_id);
            self.circuits -= gone.filter(|c| c.relayed).count();
            if peer.connections.is_empty() {
                self.peers.remove(&event.peer_id);
                self.allow_another_dial(event.peer_id, now);
            }
        }
        let gone: Vec<StreamRef> =
            self.streams.keys().filter(|stream| stream.connection == event.connection_id).copied().collect();
        for stream in gone {
            self.handle_gone(stream, now);
        }
    }

    fn handle_dial_failure(&mut self, connection: ConnectionId, now: Instant) {
        for id in self.links.matching(|link| link.dial == Some(connection)) {
            if let Some(link) = self.links.get_mut(id) {
                link.dial = None;
            }
            self.advance(id, now);
        }
        for id in self.detours_failed(connection) {
            self.advance(id, now);
        }
    }

    fn poll_tick(&mut self, cx: &mut Context<'_>) {
        if self.links.is_empty() && self.circuits == 0 {
            self.tick = None;
            return;
        }
        let tick = self.tick.get_or_insert_with(|| {
            let mut tick = tokio::time::interval(TICK);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            tick
        });
        let mut due = false;
        while tick.poll_tick(cx).is_ready() {
            due = true;
        }
        if due {
            self.handle_timeout(Instant::now());
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.protocol.clone(), self.config.hello_timeout))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.protocol.clone(), self.config.hello_timeout))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        let now = Instant::now();
        match event {
            FromSwarm::ConnectionEstablished(event) => self.handle_established(event, now),
            FromSwarm::ConnectionClosed(event) => self.handle_closed(event, now),
            FromSwarm::DialFailure(DialFailure { connection_id, .. }) => self.handle_dial_failure(connection_id, now),
            FromSwarm::AddressChange(event) => {
                let changed = Connection::new(event.connection_id, event.new);
                if let Some(peer) = self.peers.get_mut(&event.peer_id) {
                    peer.connections.iter_mut().filter(|c| c.id == changed.id).for_each(|c| *c = changed.clone());
                }
            }
            // Listeners and external addresses are the owner's; links need none.
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, report: Report) {
        let now = Instant::now();
        let stream = |number| StreamRef { peer, connection, number };
        match report {
            Report::Opened(number) => self.handle_opened(stream(number), now),
            Report::Incoming(number) => self.handle_incoming(stream(number), now),
            Report::NotOpened(number) => self.handle_gone(stream(number), now),
            Report::Frame(number, frame) => self.handle_frame(stream(number), frame, now),
            Report::Ended(number, why) => self.handle_ended(stream(number), why, now),
            Report::TurnedAway(count) => self.note_refusal(peer, Refusal::Flood, count, now),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        self.poll_tick(cx);
        if let Some(action) = self.actions.pop_front() {
            return Poll::Ready(action);
        }
        if !self.paused
            && let Some(event) = self.outbox.pop_front()
        {
            if let Event::LinkMessage { link, .. } | Event::LinkIce { link, .. } = event {
                self.handle_taken(link);
            }
            return Poll::Ready(ToSwarm::GenerateEvent(event));
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
