//! kad behind a gate. libp2p's kad answers whoever asks: no rate, no ledger, no difference between peers; a stream in
//! its hands is bounded only by 32 on a connection. This node's own questions do not use it, so nothing is lost when
//! strangers' are held to rates here, before kad sees them.
//!
//! Who asks too often is answered with nothing, which costs a few bytes, ends the question at the other end, and is
//! no acknowledgement of a put. Who goes on has its connection closed. Puts go to the intake, and are acknowledged when
//! the record is kept.

use super::address::ip_of;
use super::intake;
use super::rates::{Rates, Source};
use super::records::Records;
use crate::admission::{PerSource, Rate};
use crate::wire::AddressScope;
use libp2p::core::{Endpoint, transport::PortUse};
use libp2p::kad;
use libp2p::swarm::{
    ConnectionClosed, ConnectionDenied, ConnectionHandler, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler,
    THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::task::{Context, Poll};
use std::time::Instant;

/// Questions of all together: 50 us each, a twentieth of a core. Other implementations that live from this node are few.
const ALL: Rate = Rate { per_second: 1_000.0, burst: 1_000.0 };

/// Questions of one peer that are refused before its connection is closed.
const PATIENCE: Rate = Rate { per_second: 20.0, burst: 200.0 };

/// Peers with a patience of their own.
const MAX_SOURCES: usize = 1_024;

type Kad = kad::Behaviour<Records>;
/// kad does not name its handler's words.
type Asked = <<Kad as NetworkBehaviour>::ConnectionHandler as ConnectionHandler>::ToBehaviour;
type Told = <<Kad as NetworkBehaviour>::ConnectionHandler as ConnectionHandler>::FromBehaviour;

#[derive(Debug)]
pub(super) enum Event {
    Kad(kad::Event),
    /// A peer wants a record kept, and an acknowledgement once it is.
    Put {
        peer: PeerId,
        connection: ConnectionId,
        record: kad::Record,
        answers: Answers,
    },
    /// A question was turned away. `enough`: its connection is to be closed.
    Refused {
        peer: PeerId,
        connection: ConnectionId,
        why: &'static str,
        enough: bool,
    },
}

/// To a put: what says that it is kept, and what says nothing.
#[derive(Debug)]
pub(super) struct Answers {
    kept: Box<Told>,
    not: Box<Told>,
}

pub(super) struct Gate {
    kad: Kad,
    scope: AddressScope,
    rates: Rates,
    puts: PerSource<PeerId>,
    patience: PerSource<PeerId>,
    /// Where connections lead.
    at: HashMap<ConnectionId, IpAddr>,
    shunned: HashSet<PeerId>,
    /// Two for each word of a handler; the swarm takes them before the next one speaks.
    pending: VecDeque<ToSwarm<Event, Told>>,
}

impl Deref for Gate {
    type Target = Kad;

    fn deref(&self) -> &Kad {
        &self.kad
    }
}

impl DerefMut for Gate {
    fn deref_mut(&mut self) -> &mut Kad {
        &mut self.kad
    }
}

impl Gate {
    pub(super) fn new(kad: Kad, scope: AddressScope, now: Instant) -> Self {
        Self {
            kad,
            scope,
            rates: Rates::new(ALL, now),
            puts: PerSource::of_free_names(intake::PER_PEER, MAX_SOURCES),
            patience: PerSource::of_free_names(PATIENCE, MAX_SOURCES),
            at: HashMap::new(),
            shunned: HashSet::new(),
            pending: VecDeque::new(),
        }
    }

    /// Of the connected peers, those who are not listened to from now on.
    pub(super) fn shun(&mut self, peers: HashSet<PeerId>) {
        self.shunned = peers;
    }

    /// The address at the far end of a connection; none behind a relay.
    pub(super) fn leads_to(&self, connection: ConnectionId) -> Option<IpAddr> {
        self.at.get(&connection).copied()
    }

    /// Why a peer is not heard now.
    fn verdict(&mut self, peer: PeerId, connection: ConnectionId, asked: &Asked, now: Instant) -> Option<&'static str> {
        match asked {
            Asked::FindNodeReq { .. }
            | Asked::GetProvidersReq { .. }
            | Asked::GetRecord { .. }
            | Asked::PutRecord { .. }
            | Asked::AddProvider { .. }
                if self.shunned.contains(&peer) =>
            {
                Some("kad: peer is shunned")
            }
            // Nobody's list of providers is kept.
            Asked::AddProvider { .. } => Some("kad: provider"),
            // Judged where records are.
            Asked::PutRecord { .. } => (!self.puts.take(peer, now)).then_some("put: too often"),
            Asked::FindNodeReq { .. } | Asked::GetProvidersReq { .. } | Asked::GetRecord { .. } => {
                let from = Source::of(self.at.get(&connection).copied(), self.scope);
                match self.rates.admits(peer, from, false, now) {
                    Ok(()) => None,
                    Err("too often") => Some("kad: too often"),
                    Err(_) => Some("kad: too many"),
                }
            }
            _ => None,
        }
    }

    fn tell(&mut self, peer: PeerId, connection: ConnectionId, told: Told) {
        let handler = NotifyHandler::One(connection);
        self.pending.push_back(ToSwarm::NotifyHandler { peer_id: peer, handler, event: told });
    }

    /// Says what became of a put.
    pub(super) fn answer(&mut self, peer: PeerId, connection: ConnectionId, answers: Answers, kept: bool) {
        self.tell(peer, connection, *if kept { answers.kept } else { answers.not });
    }

    /// kad would acknowledge a put before anybody judged it (K3): it does not see any.
    fn put(&mut self, peer: PeerId, connection: ConnectionId, asked: Asked) {
        let Asked::PutRecord { record, request_id } = asked else {
            return self.kad.on_connection_handler_event(peer, connection, asked);
        };
        let (key, value) = (record.key.clone(), record.value.clone());
        let answers = Answers {
            kept: Box::new(Told::PutRecordRes { key, value, request_id }),
            not: Box::new(Told::FindNodeRes { closer_peers: Vec::new(), request_id }),
        };
        self.pending.push_back(ToSwarm::GenerateEvent(Event::Put { peer, connection, record, answers }));
    }

    fn refuse(&mut self, peer: PeerId, connection: ConnectionId, asked: Asked, why: &'static str, now: Instant) {
        if let Asked::FindNodeReq { request_id, .. }
        | Asked::GetProvidersReq { request_id, .. }
        | Asked::GetRecord { request_id, .. }
        | Asked::PutRecord { request_id, .. } = asked
        {
            self.tell(peer, connection, Told::FindNodeRes { closer_peers: Vec::new(), request_id });
        }
        let enough = !self.patience.take(peer, now);
        self.pending.push_back(ToSwarm::GenerateEvent(Event::Refused { peer, connection, why, enough }));
    }
}

impl NetworkBehaviour for Gate {
    type ConnectionHandler = <Kad as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = Event;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.kad.handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let handler = self.kad.handle_established_inbound_connection(connection, peer, local, remote)?;
        self.at.extend(ip_of(remote).map(|ip| (connection, ip)));
        Ok(handler)
    }

    /// kad would add every address that it ever heard to every dial: this node dials where it means to.
    fn handle_pending_outbound_connection(
        &mut self,
        _connection: ConnectionId,
        _peer: Option<PeerId>,
        _addresses: &[Multiaddr],
        _role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let handler = self.kad.handle_established_outbound_connection(connection, peer, address, role, port)?;
        self.at.extend(ip_of(address).map(|ip| (connection, ip)));
        Ok(handler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) => {
                self.at.remove(&connection_id);
            }
            // A later behaviour denied it.
            FromSwarm::DialFailure(failure) => {
                self.at.remove(&failure.connection_id);
            }
            FromSwarm::ListenFailure(failure) => {
                self.at.remove(&failure.connection_id);
            }
            _ => {}
        }
        self.kad.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, event: THandlerOutEvent<Self>) {
        let now = Instant::now();
        match self.verdict(peer, connection, &event, now) {
            Some(why) => self.refuse(peer, connection, event, why, now),
            None => self.put(peer, connection, event),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        match self.pending.pop_front() {
            Some(event) => Poll::Ready(event),
            None => self.kad.poll(cx).map(|event| event.map_out(Event::Kad)),
        }
    }
}
