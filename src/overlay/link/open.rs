//! How a link comes up, and how it finds another stream: dialling, hellos, simultaneous opens, resumption.

use super::behaviour::Behaviour;
use super::frame::{Body, Close, CloseCode, Frame};
use super::handler::Command;
use super::hello::{Hello, Refused};
use super::pipe::CREDITS;
use super::table::{Attempt, Link, Pair, Phase, Purpose, StreamRef};
use super::{Event, Refusal};
use crate::overlay::circuits::Through;
use crate::overlay::{LinkError, LinkId};
use crate::record::VerifiedPeerUser;
use bytes::Bytes;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, ToSwarm};
use libp2p::{Multiaddr, PeerId};
use std::time::{Duration, Instant};

/// Addresses of a node that are kept for dialling. 16: two records of eight (FORMATS "What is stored").
pub(super) const MAX_ADDRESSES: usize = 16;
/// Streams being opened at once on a connection. 8: many links of two gateways come back within seconds, and none of
/// their streams is taken for a flood.
const MAX_OPENING: usize = 8;
/// Between two attempts to find a lost peer again, and after a simultaneous open until we try ourselves.
const RETRY: Duration = Duration::from_millis(500);

impl Behaviour {
    /// Does what can be done now to give a link a stream, or a better one.
    pub(super) fn advance(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get(id) else { return };
        if link.attempt.is_some() || link.retry_at.is_some_and(|at| now < at) {
            return;
        }
        let peer = self.peers.get(&link.pair.peer);
        let best = peer.and_then(|peer| peer.best(&link.tried)).map(|best| (best.id, best.relayed));
        match (link.phase, best) {
            (Phase::Up, Some((best, relayed))) => {
                let carrier = link.current.and_then(|stream| self.connection(stream));
                if link.opener && !relayed && carrier.is_some_and(|c| c.relayed) {
                    self.open_stream(id, best, now);
                }
            }
            (Phase::Opening { .. }, Some((best, _))) => self.open_stream(id, best, now),
            (Phase::Lost { .. }, Some((best, _))) if link.opener => self.open_stream(id, best, now),
            (Phase::Opening { .. }, None) if link.dial.is_none() && !link.dialled => self.dial(id, now),
            // A way around may lead there yet.
            (Phase::Opening { .. }, None) if link.detours.iter().any(|detour| detour.is_open(now)) => {}
            (Phase::Opening { .. }, None) if link.dial.is_none() => {
                let error = link.error.clone();
                self.fail(id, error);
            }
            (Phase::Lost { .. }, None) if link.dial.is_none() => self.dial(id, now),
            // The opener brings a stream; a dial is under way; nothing is better than what we have.
            (Phase::Lost { .. }, _) | (Phase::Opening { .. } | Phase::Up, None) => {}
        }
    }

    pub(super) fn dial(&mut self, id: LinkId, now: Instant) {
        self.set_out(id, now);
        let under_way = self.links.dial_for(id);
        let Some(link) = self.links.get_mut(id) else { return };
        link.dialled = true;
        link.retry_at = matches!(link.phase, Phase::Lost { .. }).then_some(now + RETRY);
        if link.addresses.is_empty() && !link.detours.is_empty() {
            return;
        }
        if under_way.is_some() {
            link.dial = under_way;
            return;
        }
        let opts = DialOpts::peer_id(link.pair.peer)
            .condition(PeerCondition::Always)
            .addresses(link.addresses.clone())
            .extend_addresses_through_behaviour();
        // From the listening port, the pair of ports of a connection that is there already would be met.
        let beside = self.peers.contains_key(&link.pair.peer);
        let opts = if beside { opts.allocate_new_port().build() } else { opts.build() };
        link.dial = Some(opts.connection_id());
        self.actions.push_back(ToSwarm::Dial { opts });
    }

    /// The peer was there and went: who waits for it may dial again, in a moment and until the deadline.
    pub(super) fn allow_another_dial(&mut self, peer: PeerId, now: Instant) {
        for id in self.links.of_peer(peer) {
            if let Some(link) = self.links.get_mut(id).filter(|link| link.is_opening()) {
                link.dialled = false;
                link.retry_at = Some(now + RETRY);
            }
        }
    }

    pub(super) fn open_stream(&mut self, id: LinkId, connection: ConnectionId, now: Instant) {
        let number = self.new_stream_number();
        if self.links.opening_on(connection) >= MAX_OPENING {
            // The next tick sees to it.
            return;
        }
        let Some(link) = self.links.get_mut(id) else { return };
        // A lost link has time for a second way within its grace.
        let lost = matches!(link.phase, Phase::Lost { .. });
        let patience =
            if lost { self.config.hello_timeout.min(self.config.grace / 2) } else { self.config.hello_timeout };
        let until = now + patience;
        let stream = StreamRef { peer: link.pair.peer, connection, number };
        link.attempt = Some(Attempt { stream, doubted_at: now + self.config.hedge, until });
        link.retry_at = None;
        self.streams.insert(stream, Purpose::Opening(id));
        self.tell(stream, Command::Open(number));
    }

    pub(super) fn handle_opened(&mut self, stream: StreamRef, now: Instant) {
        let Some(Purpose::Opening(id)) = self.streams.get(&stream).copied() else {
            return self.tell(stream, Command::Reset(stream.number));
        };
        let Some(hello) = self.own_hello(id) else {
            self.reset(stream);
            return self.fail(id, LinkError::Refused("the caller is not a user of this node".into()));
        };
        if let Some(link) = self.links.get_mut(id) {
            // From here on the far end may take this stream for the link: nothing more goes out on the old one.
            link.session.pause();
            link.spoke = now;
            link.greeted = true;
        }
        self.tell(stream, Command::Send(stream.number, Frame::hello(&hello.into_wire()).encode()));
        self.go_ahead(id, stream, now);
    }

    /// Messages follow our first hello at once, which saves a round trip, if the node is one that the user named: its key
    /// is what the channel proved, and a pin is there only of a user whose record we verified. Should the stream come to
    /// nothing, they are sent again on the next.
    fn go_ahead(&mut self, id: LinkId, stream: StreamRef, now: Instant) {
        let Some(link) = self.links.get_mut(id).filter(|link| link.is_opening()) else { return };
        let Some(pin) = self.pins.get(&link.pair.remote).copied() else { return };
        if link.session.attach(0).is_err() {
            return;
        }
        link.ahead = Some(stream);
        let user = VerifiedPeerUser { id: link.pair.remote, node: link.node, pin };
        self.announce(id, user, stream, true);
        self.pump(id, now);
    }

    fn own_hello(&self, id: LinkId) -> Option<Hello> {
        let link = self.links.get(id)?;
        let user = self.served.get(&link.pair.local)?;
        Some(Hello {
            from: link.pair.local,
            to: link.pair.remote,
            bundle: user.bundle.clone(),
            session: link.session_id,
            time: (self.config.clock)().seconds(),
            resume: !link.is_opening(),
            received: link.session.received(),
            instead_of: None,
        })
    }

    pub(super) fn handle_incoming(&mut self, stream: StreamRef, now: Instant) {
        let greeting = self.streams.values().filter(|purpose| **purpose == Purpose::Greeting).count();
        if greeting >= self.config.max_hellos {
            self.tell(stream, Command::Reset(stream.number));
            return self.note_refusal(stream.peer, Refusal::Flood, 1, now);
        }
        self.streams.insert(stream, Purpose::Greeting);
    }

    /// The first frame of an inbound stream.
    pub(super) fn handle_greeting(&mut self, stream: StreamRef, frame: Frame, now: Instant) {
        self.streams.remove(&stream);
        let hellos = self.peers.get_mut(&stream.peer).map_or(0, |peer| peer.greeted(now));
        let judged = match frame.body {
            // Each costs us some signature checks, be it ever so valid.
            Body::Hello(_) if hellos > self.config.max_hellos_per_minute => Err(Refused::new(Refusal::Flood)),
            Body::Hello(bytes) => self.judge_greeting(stream, bytes, now),
            Body::Close(_) => return self.tell(stream, Command::Reset(stream.number)),
            Body::Sip(_) | Body::Ice(_) | Body::Ping | Body::Ack => Err(Refused::new(Refusal::Malformed)),
        };
        match judged {
            Ok(()) => {}
            Err(refused) => {
                tracing::debug!(peer = %stream.peer, reason = %refused.reason, "hello refused");
                self.refuse(stream, refused.close);
                self.note_refusal(stream.peer, refused.reason, 1, now);
            }
        }
    }

    fn judge_greeting(&mut self, stream: StreamRef, bytes: Bytes, now: Instant) -> Result<(), Refused> {
        let judge = self.judge();
        let hello = Hello::read(bytes, &judge)?;
        if !self.served.contains_key(&hello.to) {
            return Err(Refused::new(Refusal::NoSuchUser));
        }
        if !hello.resume && hello.received > 0 {
            return Err(Refused::new(Refusal::Malformed));
        }
        let channel = super::node_key_of(&stream.peer).ok_or(Refused::new(Refusal::Malformed))?;
        let pin = self.pins.get(&hello.from).copied();
        let user = hello.verify(&channel, pin, &judge).map_err(|reason| Refused::new(Refusal::NotProven(reason)))?;
        let pair = Pair { local: hello.to, remote: hello.from, peer: stream.peer };
        match self.links.of_pair(&pair) {
            Some(id) => self.meet(id, stream, &hello, user, now),
            None if hello.resume => Err(Refused::new(Refusal::UnknownSession)),
            None => self.take_in(pair, stream, &hello, user, now),
        }
    }

    /// A proven hello for a pair that has a link, or is about to have one.
    fn meet(
        &mut self,
        id: LinkId,
        stream: StreamRef,
        hello: &Hello,
        user: VerifiedPeerUser,
        now: Instant,
    ) -> Result<(), Refused> {
        let Some(link) = self.links.get(id) else { return Err(Refused::new(Refusal::UnknownSession)) };
        let simultaneous = || Refused {
            reason: Refusal::UnknownSession,
            close: Close { code: CloseCode::Simultaneous, words: "the other stream goes on".into() },
        };
        if link.is_opening() {
            if hello.resume {
                return Err(Refused::new(Refusal::UnknownSession));
            }
            if link.greeted && self.node > user.node {
                // Both opened at once: the higher node key's stream goes on. No fault of the peer.
                self.refuse(stream, simultaneous().close);
                return Ok(());
            }
            return self.adopt(id, stream, hello, user, now);
        }
        if hello.session == link.session_id && !link.opener {
            return self.answer(id, stream, hello, now);
        }
        if link.abandoned == Some(hello.session) {
            self.refuse(stream, simultaneous().close);
            return Ok(());
        }
        if hello.resume || hello.session == link.session_id {
            return Err(Refused::new(Refusal::UnknownSession));
        }
        // Proven to be the same user on the same node, with nothing left of the old session: they have started anew.
        let pair = link.pair;
        self.drop_link(id, "the far end started anew");
        self.take_in(pair, stream, hello, user, now)
    }

    /// Their stream carries the link that we were about to open.
    fn adopt(
        &mut self,
        id: LinkId,
        stream: StreamRef,
        hello: &Hello,
        user: VerifiedPeerUser,
        now: Instant,
    ) -> Result<(), Refused> {
        let Some(link) = self.links.get_mut(id) else { return Ok(()) };
        link.opener = false;
        link.given_up = link.greeted.then_some(link.session_id);
        link.session_id = hello.session;
        link.remote = Some(user.clone());
        link.ahead = None;
        if let Some(attempt) = link.attempt.take() {
            self.reset(attempt.stream);
        }
        self.answer(id, stream, hello, now)?;
        self.announce(id, user, stream, true);
        Ok(())
    }

    fn take_in(
        &mut self,
        pair: Pair,
        stream: StreamRef,
        hello: &Hello,
        user: VerifiedPeerUser,
        now: Instant,
    ) -> Result<(), Refused> {
        // A quarter is for those whom we call ourselves: strangers cannot take every place.
        let for_strangers = self.config.max_links - self.config.max_links / 4;
        if self.is_full(pair.peer) || self.links.len() >= for_strangers {
            return Err(Refused::new(Refusal::Full));
        }
        let mut link = Link::new(self.new_link_id(), pair, user.node, hello.session, self.new_session(), now);
        link.remote = Some(user.clone());
        let id = link.id;
        self.links.insert(link);
        self.answer(id, stream, hello, now)?;
        self.announce(id, user, stream, false);
        Ok(())
    }

    /// Says our hello on their stream, and carries the link on it from now on.
    fn answer(&mut self, id: LinkId, stream: StreamRef, hello: &Hello, now: Instant) -> Result<(), Refused> {
        let own = self.own_hello(id).ok_or(Refused::new(Refusal::NoSuchUser))?;
        let instead_of = self.links.get(id).and_then(|link| link.given_up);
        let own = Hello { instead_of, resume: hello.resume, ..own };
        self.tell(stream, Command::Send(stream.number, Frame::hello(&own.into_wire()).encode()));
        self.settle(id, stream, hello.received, now).map_err(|()| Refused::new(Refusal::Malformed))
    }

    /// The first frame of a stream that we opened: their hello, or why not.
    pub(super) fn handle_answer(&mut self, id: LinkId, stream: StreamRef, frame: Frame, now: Instant) {
        let bytes = match frame.body {
            Body::Hello(bytes) => bytes,
            Body::Close(close) => return self.handle_turned_down(id, stream, close, now),
            Body::Sip(_) | Body::Ice(_) | Body::Ping | Body::Ack => {
                return self.handle_fault(stream, Refusal::Malformed, now);
            }
        };
        match self.judge_answer(id, bytes) {
            Ok((hello, user)) => {
                let Some(link) = self.links.get_mut(id) else { return };
                let first = link.is_opening();
                link.attempt = None;
                link.abandoned = hello.instead_of.or(link.abandoned);
                self.streams.remove(&stream);
                link.remote = Some(user.clone());
                if self.settle(id, stream, hello.received, now).is_err() {
                    self.handle_fault(stream, Refusal::Malformed, now);
                    return self.fail(id, LinkError::Refused(Refusal::Malformed.to_string()));
                }
                if first {
                    self.announce(id, user, stream, true);
                }
            }
            Err((refused, error)) => {
                self.note_refusal(stream.peer, refused.reason, 1, now);
                if let Some(link) = self.links.get_mut(id) {
                    link.attempt = None;
                }
                self.streams.remove(&stream);
                self.refuse(stream, refused.close);
                self.fail(id, error);
            }
        }
    }

    fn judge_answer(&self, id: LinkId, bytes: Bytes) -> Result<(Hello, VerifiedPeerUser), (Refused, LinkError)> {
        let told = |refused: Refused| {
            let words = format!("its hello was refused here: {}", refused.close.words);
            (refused, LinkError::Refused(words))
        };
        let judge = self.judge();
        let hello = Hello::read(bytes, &judge).map_err(told)?;
        let link = self.links.get(id).ok_or_else(|| told(Refused::new(Refusal::UnknownSession)))?;
        if hello.to != link.pair.local || hello.session != link.session_id {
            return Err(told(Refused::new(Refusal::Malformed)));
        }
        let not_proven = |reason| (Refused::new(Refusal::NotProven(reason)), LinkError::NotProven(reason));
        if hello.from != link.pair.remote {
            return Err(not_proven(crate::record::RejectReason::WrongKey));
        }
        let pin = self.pins.get(&hello.from).copied();
        let user = hello.verify(&link.node, pin, &judge).map_err(not_proven)?;
        Ok((hello, user))
    }

    fn handle_turned_down(&mut self, id: LinkId, stream: StreamRef, close: Close, now: Instant) {
        self.reset(stream);
        let Some(link) = self.links.get_mut(id) else { return };
        link.attempt = None;
        link.stay_back();
        if close.code == CloseCode::Simultaneous && link.is_opening() {
            // Theirs is on its way; should it not come, ours is tried again.
            link.retry_at = Some(now + RETRY);
            return;
        }
        if close.code == CloseCode::UnknownSession && !link.is_opening() {
            return self.drop_link(id, "the far end knows it no more");
        }
        if link.phase == Phase::Up {
            link.session.go_on();
            link.tried.push(stream.connection);
            return self.pump(id, now);
        }
        self.fail(id, LinkError::Refused(close.words));
    }

    /// A stream is agreed upon by both: it carries the link, and what was on the way is sent again.
    fn settle(&mut self, id: LinkId, stream: StreamRef, received: u64, now: Instant) -> Result<(), ()> {
        let carrier = self.peers.get_mut(&stream.peer).and_then(|peer| peer.connection_mut(stream.connection));
        let dialled = carrier.and_then(|carrier| {
            carrier.carried = true;
            carrier.dialled.clone()
        });
        let Some(link) = self.links.get_mut(id) else { return Err(()) };
        // What went ahead on this very stream is on its way.
        let taken = match link.ahead.take() {
            Some(ahead) if ahead == stream => link.session.handle_ack(received),
            _ => link.session.attach(received),
        };
        taken.map_err(drop)?;
        // Known to work: where to look first when the connection is lost.
        let direct = |address: &Multiaddr| Through::read(address).is_none() && !link.addresses.contains(address);
        if let Some(address) = dialled.filter(direct) {
            link.addresses.insert(0, address);
            link.addresses.truncate(MAX_ADDRESSES);
        }
        let old = link.current.replace(stream);
        link.phase = Phase::Up;
        link.dialled = false;
        link.tried.clear();
        link.retry_at = None;
        link.heard = now;
        link.spoke = now;
        link.waiting_since = now;
        // What the owner has not taken yet counts against the new stream, too.
        let credits = CREDITS.saturating_sub(link.untaken);
        if let Some(old) = old {
            self.reset(old);
        }
        self.streams.insert(stream, Purpose::Carrying(id));
        self.tell(stream, Command::Credit(stream.number, credits));
        self.pump(id, now);
        for waiting in self.links.matching(|link| link.pair.peer == stream.peer && link.is_waiting()) {
            self.advance(waiting, now);
        }
        Ok(())
    }

    /// `LinkUp`, once.
    fn announce(&mut self, id: LinkId, remote: VerifiedPeerUser, stream: StreamRef, outbound: bool) {
        let Some(carrier) = self.connection(stream) else { return };
        let (local_ip, remote_ip, relayed) = (carrier.local_ip, carrier.remote_ip, carrier.relayed);
        let Some(link) = self.links.get_mut(id).filter(|link| !link.announced) else { return };
        link.announced = true;
        let local = link.pair.local;
        tracing::debug!(link = id.0, outbound, relayed, ahead = link.is_opening(), "link up");
        self.emit(Event::LinkUp { link: id, local, remote, outbound, local_ip, remote_ip });
    }

    /// Says why, and ends the stream.
    pub(super) fn refuse(&mut self, stream: StreamRef, close: Close) {
        let frame = Frame { seq: 0, ack: 0, body: Body::Close(close) }.encode();
        self.tell(stream, Command::Send(stream.number, frame));
        self.tell(stream, Command::Finish(stream.number));
    }
}
