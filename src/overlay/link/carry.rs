//! What happens on a link that is up: frames, heartbeats, loss of its stream, its end.

use super::behaviour::Behaviour;
use super::frame::{Body, CloseCode, Frame};
use super::handler::Command;
use super::pipe::{CREDITS, Ended};
use super::table::{Link, Phase, Purpose, StreamRef};
use super::{Config, Event, Refusal};
use crate::overlay::{LinkError, LinkId};
use libp2p::swarm::{CloseConnection, ToSwarm};
use std::time::{Duration, Instant};

/// How long the end that did not open the session waits until it dials itself.
const OTHER_SIDE_FIRST: Duration = Duration::from_secs(1);
/// A link that has had no stream for this long is reported lost, and again after the other: most come back at once.
const TOLD_AFTER: Duration = Duration::from_secs(1);
const TOLD_AGAIN: Duration = Duration::from_secs(5);

impl Behaviour {
    pub(super) fn handle_frame(&mut self, stream: StreamRef, frame: Frame, now: Instant) {
        match self.streams.get(&stream).copied() {
            Some(Purpose::Greeting) => self.handle_greeting(stream, frame, now),
            Some(Purpose::Opening(id)) => self.handle_answer(id, stream, frame, now),
            Some(Purpose::Carrying(id)) => self.handle_carried(id, stream, frame, now),
            // A stream that was let go of; what it still brings comes again on another.
            None => {}
        }
    }

    fn handle_carried(&mut self, id: LinkId, stream: StreamRef, frame: Frame, now: Instant) {
        let Some(link) = self.links.get_mut(id) else { return };
        link.heard = now;
        let before = link.session.acked();
        if link.session.handle_ack(frame.ack).is_err() {
            return self.handle_fault(stream, Refusal::Malformed, now);
        }
        if link.session.acked() > before {
            link.waiting_since = now;
            link.dialled = false;
        }
        match frame.body {
            Body::Sip(message) => {
                return self.handle_numbered(stream, frame.seq, Event::LinkMessage { link: id, message }, now);
            }
            Body::Ice(bytes) => {
                return self.handle_numbered(stream, frame.seq, Event::LinkIce { link: id, bytes }, now);
            }
            Body::Ping | Body::Ack => {}
            Body::Close(close) => {
                self.drop_link(id, &close.words);
                return;
            }
            Body::Hello(_) => return self.handle_fault(stream, Refusal::Malformed, now),
        }
        self.tell(stream, Command::Credit(stream.number, 1));
        self.pump(id, now);
    }

    /// A message of either kind: to the owner, if it was not here before.
    fn handle_numbered(&mut self, stream: StreamRef, seq: u64, event: Event, now: Instant) {
        let Some(&Purpose::Carrying(id)) = self.streams.get(&stream) else { return };
        let Some(link) = self.links.get_mut(id) else { return };
        match link.session.handle_message(seq) {
            Ok(true) => {
                link.last_message = now;
                link.untaken += 1;
                // The owner takes it, then the next is read.
                self.emit(event);
            }
            Ok(false) => self.tell(stream, Command::Credit(stream.number, 1)),
            Err(_) => return self.handle_fault(stream, Refusal::Malformed, now),
        }
        self.pump(id, now);
    }

    /// The owner took a message: another may be read, on whatever stream carries the link by now.
    pub(super) fn handle_taken(&mut self, id: LinkId) {
        let Some(link) = self.links.get_mut(id) else { return };
        link.untaken = link.untaken.saturating_sub(1);
        if let Some(stream) = link.current {
            self.tell(stream, Command::Credit(stream.number, 1));
        }
    }

    /// Hands the stream what it may have, and acknowledges what should not wait.
    pub(super) fn pump(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get_mut(id) else { return };
        let Some(stream) = link.outlet() else { return };
        if !link.session.awaits_ack() {
            link.waiting_since = now;
        }
        let mut frames = Vec::new();
        while let Some((seq, body)) = link.session.poll_send() {
            frames.push(Frame { seq, ack: link.session.ack(), body });
        }
        if frames.is_empty() && link.session.ack_is_due() {
            frames.push(Frame::ack(link.session.ack()));
        }
        if !frames.is_empty() {
            link.spoke = now;
        }
        for frame in frames {
            self.tell(stream, Command::Send(stream.number, frame.encode()));
        }
    }

    /// Lets go of a stream without a word.
    pub(super) fn reset(&mut self, stream: StreamRef) {
        self.streams.remove(&stream);
        self.tell(stream, Command::Reset(stream.number));
    }

    /// The far end broke the protocol on this stream: what hangs on it ends, with the reason.
    pub(super) fn handle_fault(&mut self, stream: StreamRef, reason: Refusal, now: Instant) {
        let purpose = self.streams.remove(&stream);
        self.refuse(stream, super::hello::Refused::new(reason).close);
        self.note_refusal(stream.peer, reason, 1, now);
        match purpose {
            Some(Purpose::Opening(id)) => {
                if let Some(link) = self.links.get_mut(id) {
                    link.attempt = None;
                }
                self.fail(id, LinkError::Refused(reason.to_string()));
            }
            Some(Purpose::Carrying(id)) => self.drop_link(id, &format!("the far end sent {reason}")),
            Some(Purpose::Greeting) | None => {}
        }
    }

    pub(super) fn handle_ended(&mut self, stream: StreamRef, why: Ended, now: Instant) {
        let ours = matches!(self.streams.get(&stream), Some(Purpose::Opening(_)));
        match why {
            // No answer to our hello is no answer, not bad manners.
            Ended::Fault(Refusal::HelloTimeout) if ours => {
                self.tell(stream, Command::Reset(stream.number));
                self.handle_gone(stream, now);
            }
            Ended::Fault(reason) => self.handle_fault(stream, reason, now),
            Ended::NotSpoken => self.handle_not_spoken(stream, now),
            Ended::Closed => self.handle_gone(stream, now),
        }
    }

    fn handle_not_spoken(&mut self, stream: StreamRef, now: Instant) {
        if let Some(Purpose::Opening(id)) = self.streams.get(&stream)
            && let Some(link) = self.links.get_mut(*id)
        {
            link.error = LinkError::Refused("the node takes no calls in this overlay".into());
        }
        self.handle_gone(stream, now);
    }

    /// A stream ended by itself: perhaps there is another way.
    pub(super) fn handle_gone(&mut self, stream: StreamRef, now: Instant) {
        let (id, carried) = match self.streams.remove(&stream) {
            Some(Purpose::Opening(id)) => (id, false),
            Some(Purpose::Carrying(id)) => (id, true),
            Some(Purpose::Greeting) | None => return,
        };
        let Some(link) = self.links.get_mut(id) else { return };
        if carried {
            tracing::debug!(link = id.0, "link lost its stream");
            link.current = None;
            link.session.pause();
            let grace = if link.held { self.config.held_grace } else { self.config.grace };
            link.phase = Phase::Lost { until: now + grace };
            link.tell_lost_at = now + TOLD_AFTER;
            // The opener knows the way better; dial from here only if it does not come.
            link.retry_at = (!link.opener).then_some(now + OTHER_SIDE_FIRST);
        } else {
            link.attempt = None;
            link.stay_back();
            link.tried.push(stream.connection);
            if link.phase == Phase::Up {
                link.session.go_on();
            }
        }
        self.pump(id, now);
        self.advance(id, now);
    }

    /// A link cannot be had, or cannot be had again.
    pub(super) fn fail(&mut self, id: LinkId, error: LinkError) {
        if self.links.get(id).is_some_and(|link| !link.is_opening()) {
            return self.drop_link(id, &error.to_string());
        }
        if let Some(link) = self.links.remove(id) {
            if let Some(attempt) = link.attempt {
                self.reset(attempt.stream);
            }
            self.emit(if link.announced {
                tracing::debug!(link = id.0, %error, "link down before it was answered");
                Event::LinkDown { link: id, reason: error.to_string(), never: Some(error) }
            } else {
                Event::ConnectFailed { link: id, error }
            });
        }
    }

    /// Ends a link that was up, at once.
    pub(super) fn drop_link(&mut self, id: LinkId, reason: &str) {
        let Some(link) = self.links.remove(id) else { return };
        for stream in link.current.into_iter().chain(link.attempt.map(|attempt| attempt.stream)) {
            if self.streams.remove(&stream).is_some() {
                self.tell(stream, Command::Reset(stream.number));
            }
        }
        tracing::debug!(link = id.0, reason, "link down");
        self.emit(Event::LinkDown { link: id, reason: reason.to_owned(), never: None });
    }

    /// Ends a link after its last words.
    pub(super) fn say_goodbye(&mut self, id: LinkId, reason: &str) {
        let Some(link) = self.links.get_mut(id) else { return };
        if link.is_opening() {
            return self.fail(id, LinkError::Refused(reason.to_owned()));
        }
        if let Some(stream) = link.current {
            let mut frames = Vec::new();
            link.session.go_on();
            while let Some((seq, body)) = link.session.poll_last() {
                frames.push(Frame { seq, ack: link.session.ack(), body });
            }
            frames.push(Frame::close(CloseCode::Done, "closed by the far end"));
            for frame in frames {
                self.tell(stream, Command::Send(stream.number, frame.encode()));
            }
            self.streams.remove(&stream);
            self.tell(stream, Command::Finish(stream.number));
        }
        self.drop_link(id, reason);
    }

    /// Looks at every deadline.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.close_spare();
        for id in self.links.matching(|_| true) {
            self.check_attempt(id, now);
            let Some(link) = self.links.get(id) else { continue };
            match link.phase {
                Phase::Opening { until } if now >= until => self.fail(id, LinkError::Timeout),
                Phase::Lost { until } if now >= until => self.drop_link(id, "the connection was lost"),
                Phase::Opening { .. } | Phase::Lost { .. } => {
                    self.tell_lost(id, now);
                    self.go_around(id, now);
                    self.advance(id, now);
                }
                Phase::Up => {
                    if link.is_doubted() {
                        self.go_around(id, now);
                    }
                    self.check_up(id, now);
                }
            }
        }
    }

    fn tell_lost(&mut self, id: LinkId, now: Instant) {
        let lost = |link: &&mut Link| link.opener && matches!(link.phase, Phase::Lost { .. });
        let Some(link) = self.links.get_mut(id).filter(lost) else { return };
        if now >= link.tell_lost_at {
            link.tell_lost_at = now + TOLD_AGAIN;
            self.emit_lost(id);
        }
    }

    fn check_attempt(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get(id) else { return };
        let Some(attempt) = link.attempt else { return };
        if now >= attempt.until {
            self.tell(attempt.stream, Command::Reset(attempt.stream.number));
            self.handle_gone(attempt.stream, now);
        } else if now >= attempt.doubted_at {
            self.dial_beside(id, now);
        }
    }

    fn check_up(&mut self, id: LinkId, now: Instant) {
        let Config { heartbeat, silence, idle, answer, doubt, .. } = self.config;
        let Some(link) = self.links.get_mut(id) else { return };
        let Some(stream) = link.current else { return };
        if link.untaken >= CREDITS {
            // We do not read, so silence says nothing about the far end.
            link.heard = now;
            link.waiting_since = now;
        }
        if link.is_unanswered(answer, now) {
            // Perhaps only the stream hangs: another one shows whether the far end is there.
            tracing::debug!(link = id.0, "a message is not acknowledged, stream given up");
            self.tell(stream, Command::Reset(stream.number));
            return self.handle_gone(stream, now);
        }
        if now.saturating_duration_since(link.heard) >= silence {
            // The connection is dead for everything else, too.
            tracing::debug!(link = id.0, "nothing heard, connection closed");
            let connection = CloseConnection::One(stream.connection);
            self.actions.push_back(ToSwarm::CloseConnection { peer_id: stream.peer, connection });
            link.tried.push(stream.connection);
            self.tell(stream, Command::Reset(stream.number));
            return self.handle_gone(stream, now);
        }
        if !link.held && now.saturating_duration_since(link.last_message) >= idle {
            return self.say_goodbye(id, "idle");
        }
        if link.is_unanswered(doubt, now) {
            self.dial_beside(id, now);
        }
        let Some(link) = self.links.get_mut(id) else { return };
        let frame = if now.saturating_duration_since(link.spoke) >= heartbeat {
            Frame::ping(link.session.ack())
        } else if link.session.owes_ack() {
            Frame::ack(link.session.ack())
        } else {
            return self.advance(id, now);
        };
        link.spoke = now;
        self.tell(stream, Command::Send(stream.number, frame.encode()));
        self.advance(id, now);
    }
}
