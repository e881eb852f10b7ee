//! The part of a link that lives on one connection: opens and takes in streams, and passes frames between them and the
//! behaviour. Holds no session: streams come and go, a session stays.

use super::frame::Frame;
use super::pipe::{Ended, Out, Pipe};
use bytes::Bytes;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{ConnectionHandler, ConnectionHandlerEvent, Stream, StreamProtocol, SubstreamProtocol};
use std::collections::{BTreeMap, VecDeque};
use std::task::{Context, Poll};
use std::time::Duration;

/// Inbound streams of one connection that have not said hello. 16: twice what an end that keeps to `MAX_OPENING` opens.
const MAX_GREETING: usize = 16;
/// Streams of one connection. 80: the links of one peer (64 by default), and moves under way.
const MAX_STREAMS: usize = 80;

/// A stream on its connection. Even: ours, numbered by the behaviour. Odd: theirs, numbered here.
pub type StreamNumber = u64;

#[derive(Debug)]
pub enum Command {
    Open(StreamNumber),
    /// An encoded frame.
    Send(StreamNumber, Bytes),
    /// So many more frames may be read from it.
    Credit(StreamNumber, u32),
    /// Write what waits, then end. No `Ended` follows.
    Finish(StreamNumber),
    /// End now. No `Ended` follows.
    Reset(StreamNumber),
}

#[derive(Debug)]
pub enum Report {
    Opened(StreamNumber),
    Incoming(StreamNumber),
    NotOpened(StreamNumber),
    Frame(StreamNumber, Frame),
    Ended(StreamNumber, Ended),
    /// So many streams were turned away since the last report.
    TurnedAway(u32),
}

pub struct Handler {
    protocol: StreamProtocol,
    hello_timeout: Duration,
    pipes: BTreeMap<StreamNumber, Slot>,
    /// Outbound streams asked for and not there yet; gone from here if they are reset before.
    opening: VecDeque<StreamNumber>,
    requests: VecDeque<StreamNumber>,
    next_inbound: StreamNumber,
    reports: VecDeque<Report>,
    turned_away: u32,
    /// Where the round over the pipes goes on, so that a busy one does not starve the others.
    turn: StreamNumber,
}

struct Slot {
    pipe: Pipe<Stream>,
    /// The behaviour has let go of it.
    forgotten: bool,
}

impl Handler {
    pub(super) fn new(protocol: StreamProtocol, hello_timeout: Duration) -> Self {
        Self {
            protocol,
            hello_timeout,
            pipes: BTreeMap::new(),
            opening: VecDeque::new(),
            requests: VecDeque::new(),
            next_inbound: 1,
            reports: VecDeque::new(),
            turned_away: 0,
            turn: 0,
        }
    }

    fn handle_inbound(&mut self, stream: Stream) {
        let greeting = self.pipes.iter().filter(|(number, slot)| *number % 2 == 1 && slot.pipe.is_greeting()).count();
        if greeting >= MAX_GREETING || self.pipes.len() >= MAX_STREAMS {
            self.turned_away = self.turned_away.saturating_add(1);
            return;
        }
        let number = self.next_inbound;
        self.next_inbound += 2;
        self.pipes.insert(number, Slot { pipe: Pipe::new(stream, self.hello_timeout), forgotten: false });
        self.reports.push_back(Report::Incoming(number));
    }

    fn handle_outbound(&mut self, number: StreamNumber, stream: Stream) {
        let wanted = self.opening.iter().position(|n| *n == number);
        if wanted.and_then(|at| self.opening.remove(at)).is_some() {
            self.pipes.insert(number, Slot { pipe: Pipe::new(stream, self.hello_timeout), forgotten: false });
            self.reports.push_back(Report::Opened(number));
        }
    }

    /// The next report of any pipe, each in its turn.
    fn poll_pipes(&mut self, cx: &mut Context<'_>) -> Poll<Report> {
        let numbers: Vec<StreamNumber> =
            self.pipes.range(self.turn..).chain(self.pipes.range(..self.turn)).map(|(number, _)| *number).collect();
        for number in numbers {
            let Some(slot) = self.pipes.get_mut(&number) else { continue };
            match slot.pipe.poll(cx) {
                Poll::Pending => {}
                Poll::Ready(Out::Frame(frame)) => {
                    self.turn = number + 1;
                    return Poll::Ready(Report::Frame(number, frame));
                }
                Poll::Ready(Out::Ended(why)) => {
                    let forgotten = slot.forgotten;
                    slot.forgotten = true;
                    if matches!(why, Ended::Closed | Ended::NotSpoken) {
                        self.pipes.remove(&number);
                    }
                    if !forgotten {
                        return Poll::Ready(Report::Ended(number, why));
                    }
                }
            }
        }
        Poll::Pending
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Command;
    type ToBehaviour = Report;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = StreamNumber;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), ()).with_timeout(self.hello_timeout)
    }

    fn on_behaviour_event(&mut self, command: Command) {
        match command {
            Command::Open(number) => {
                self.opening.push_back(number);
                self.requests.push_back(number);
            }
            Command::Send(number, frame) => {
                if let Some(slot) = self.pipes.get_mut(&number) {
                    slot.pipe.send(frame);
                }
            }
            Command::Credit(number, frames) => {
                if let Some(slot) = self.pipes.get_mut(&number) {
                    slot.pipe.credit(frames);
                }
            }
            Command::Finish(number) => {
                self.opening.retain(|n| *n != number);
                if let Some(slot) = self.pipes.get_mut(&number) {
                    slot.forgotten = true;
                    slot.pipe.finish();
                }
            }
            Command::Reset(number) => {
                self.opening.retain(|n| *n != number);
                self.pipes.remove(&number);
            }
        }
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<Self::InboundProtocol, Self::OutboundProtocol, (), StreamNumber>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) => {
                self.handle_inbound(protocol);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info }) => {
                self.handle_outbound(info, protocol);
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, .. }) => {
                self.opening.retain(|n| *n != info);
                self.reports.push_back(Report::NotOpened(info));
            }
            // Whether the far end speaks the protocol is known when a stream is used; addresses are the behaviour's.
            ConnectionEvent::ListenUpgradeError(_)
            | ConnectionEvent::AddressChange(_)
            | ConnectionEvent::LocalProtocolsChange(_)
            | ConnectionEvent::RemoteProtocolsChange(_) => {}
            // The enum is open-ended.
            _ => {}
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, StreamNumber, Report>> {
        if let Some(number) = self.requests.pop_front() {
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), number);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                protocol: protocol.with_timeout(self.hello_timeout),
            });
        }
        if let Some(report) = self.reports.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(report));
        }
        if self.turned_away > 0 {
            let count = std::mem::take(&mut self.turned_away);
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(Report::TurnedAway(count)));
        }
        self.poll_pipes(cx).map(ConnectionHandlerEvent::NotifyBehaviour)
    }
}
