//! RFC 3261 §17 (with RFC 6026): one transaction each, as values. Time comes in; what to do comes out. No I/O, no
//! table: `core` keeps the transactions and carries out what they say.

use super::LegId;
use super::dialog::Dialog;
use super::flow::Flow;
use super::message::{ReplyHead, Writer};
use bytes::Bytes;
use std::time::{Duration, Instant};

/// RFC 3261 §17.1.1.1: round-trip estimate.
pub(super) const T1: Duration = Duration::from_millis(500);
/// Longest interval between retransmissions.
pub(super) const T2: Duration = Duration::from_secs(4);
/// How long a message may linger in the network.
pub(super) const T4: Duration = Duration::from_secs(5);
/// 64*T1: timers B, F, H, J, and L/M of RFC 6026.
pub(super) const T1X64: Duration = Duration::from_secs(32);

/// What a timer asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Timeout {
    Nothing,
    Resend(Bytes),
    /// Client: nothing came (B, F). Server: no ACK for our 2xx (§13.3.1.4) or for a refusal (H).
    Unanswered,
    /// The transaction can be forgotten.
    Over,
}

fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// A repeating timer that doubles up to a ceiling.
#[derive(Clone, Copy, Debug)]
struct Backoff {
    at: Instant,
    interval: Duration,
    ceiling: Duration,
}

impl Backoff {
    fn start(now: Instant, ceiling: Duration) -> Self {
        Self { at: now + T1, interval: T1, ceiling }
    }

    fn next(self) -> Self {
        let interval = (self.interval * 2).min(self.ceiling);
        Self { at: self.at + interval, interval, ceiling: self.ceiling }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServerState {
    /// No final response yet.
    Proceeding,
    /// INVITE answered 2xx (RFC 6026 §7.1); repeats of the INVITE are absorbed here.
    Accepted { acked: bool },
    /// Final response sent.
    Completed,
    /// ACK for the refusal is here.
    Confirmed,
}

/// A request that came in.
#[derive(Debug)]
pub(super) struct ServerTx {
    pub flow: Flow,
    /// Until the final response.
    pub head: Option<ReplyHead>,
    pub leg: Option<LegId>,
    pub state: ServerState,
    invite: bool,
    last: Option<Bytes>,
    retransmit: Option<Backoff>,
    end: Option<Instant>,
}

impl ServerTx {
    pub(super) fn new(flow: Flow, head: ReplyHead, invite: bool, leg: Option<LegId>) -> Self {
        let state = ServerState::Proceeding;
        Self { flow, head: Some(head), leg, state, invite, last: None, retransmit: None, end: None }
    }

    /// Notes the response that is being sent.
    pub(super) fn responded(&mut self, status: u16, bytes: Bytes, now: Instant) {
        self.last = Some(bytes);
        if status < 200 {
            return;
        }
        self.head = None;
        let unreliable = !self.flow.is_reliable();
        if self.invite {
            self.state = if status < 300 { ServerState::Accepted { acked: false } } else { ServerState::Completed };
            // Timer G, or the 2xx retransmission of §13.3.1.4.
            self.retransmit = unreliable.then(|| Backoff::start(now, T2));
            self.end = Some(now + T1X64);
        } else {
            self.state = ServerState::Completed;
            // Timer J.
            self.end = Some(if unreliable { now + T1X64 } else { now });
        }
    }

    /// The same request came again.
    pub(super) fn repeated(&self) -> Option<Bytes> {
        match self.state {
            ServerState::Proceeding | ServerState::Completed => self.last.clone(),
            // The 2xx has its own timer; after the ACK of a refusal nothing is due.
            ServerState::Accepted { .. } | ServerState::Confirmed => None,
        }
    }

    /// The ACK that belongs to this transaction: of a refusal, or of our 2xx.
    pub(super) fn acked(&mut self, now: Instant) {
        match self.state {
            ServerState::Completed if self.invite => {
                self.state = ServerState::Confirmed;
                self.retransmit = None;
                // Timer I.
                self.end = Some(if self.flow.is_reliable() { now } else { now + T4 });
            }
            ServerState::Accepted { acked: false } => {
                self.state = ServerState::Accepted { acked: true };
                self.retransmit = None;
                if self.flow.is_reliable() {
                    self.end = Some(now);
                }
            }
            ServerState::Proceeding
            | ServerState::Accepted { acked: true }
            | ServerState::Completed
            | ServerState::Confirmed => {}
        }
    }

    pub(super) fn is_final(&self) -> bool {
        self.state != ServerState::Proceeding
    }

    pub(super) fn due(&self) -> Option<Instant> {
        earliest(self.retransmit.map(|backoff| backoff.at), self.end)
    }

    pub(super) fn timeout(&mut self, now: Instant) -> Timeout {
        if self.end.is_some_and(|end| end <= now) {
            self.end = None;
            self.retransmit = None;
            return match self.state {
                ServerState::Accepted { acked: false } => Timeout::Unanswered,
                _ => Timeout::Over,
            };
        }
        match self.retransmit {
            Some(backoff) if backoff.at <= now => {
                self.retransmit = Some(backoff.next());
                self.last.clone().map_or(Timeout::Nothing, Timeout::Resend)
            }
            _ => Timeout::Nothing,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientState {
    /// Nothing came yet (Calling, Trying).
    Waiting,
    Proceeding,
    /// INVITE answered 2xx; further 2xx belong to forks or are repeats.
    Accepted,
    Completed,
}

/// What to do with a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// For the leg.
    Pass,
    /// A repeated refusal: send this ACK again.
    AckAgain(Bytes),
    Ignore,
}

/// What a client transaction is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Invite,
    Reinvite,
    Cancel,
    Bye,
    Info,
}

/// A request that we sent.
#[derive(Debug)]
pub(super) struct ClientTx {
    pub flow: Flow,
    pub leg: LegId,
    pub purpose: Purpose,
    pub branch: String,
    pub request: Bytes,
    pub state: ClientState,
    retransmit: Option<Backoff>,
    end: Option<Instant>,
    ack: Option<Bytes>,
    /// The dialog that an INVITE is for, to acknowledge its 2xx even when the leg has ended.
    pub dialog: Option<Box<Dialog>>,
    /// To tag and ACK of the first 2xx.
    pub accepted: Option<(String, Bytes)>,
}

impl ClientTx {
    /// `patience`: timers B and F.
    pub(super) fn new(
        flow: Flow,
        leg: LegId,
        purpose: Purpose,
        branch: String,
        request: Bytes,
        patience: Duration,
        now: Instant,
    ) -> Self {
        let invite = matches!(purpose, Purpose::Invite | Purpose::Reinvite);
        // Timer A doubles without a ceiling of its own; timer E stops at T2.
        let ceiling = if invite { T1X64 } else { T2 };
        let retransmit = (!flow.is_reliable()).then(|| Backoff::start(now, ceiling));
        let end = Some(now + patience);
        Self {
            flow,
            leg,
            purpose,
            branch,
            request,
            state: ClientState::Waiting,
            retransmit,
            end,
            ack: None,
            dialog: None,
            accepted: None,
        }
    }

    fn is_invite(&self) -> bool {
        matches!(self.purpose, Purpose::Invite | Purpose::Reinvite)
    }

    /// The method of its CSeq.
    pub(super) fn method(&self) -> &'static str {
        match self.purpose {
            Purpose::Invite | Purpose::Reinvite => "INVITE",
            Purpose::Cancel => "CANCEL",
            Purpose::Bye => "BYE",
            Purpose::Info => "INFO",
        }
    }

    pub(super) fn response(&mut self, status: u16, now: Instant) -> Verdict {
        let unreliable = !self.flow.is_reliable();
        match (self.state, status) {
            (ClientState::Waiting | ClientState::Proceeding, 100..200) => {
                self.state = ClientState::Proceeding;
                if self.is_invite() {
                    // From here on the leg's own deadline counts.
                    self.retransmit = None;
                    self.end = None;
                } else if let Some(backoff) = &mut self.retransmit {
                    backoff.interval = T2;
                }
                Verdict::Pass
            }
            (ClientState::Waiting | ClientState::Proceeding, _) => {
                self.retransmit = None;
                (self.state, self.end) = match (self.is_invite(), status) {
                    (true, 200..300) => (ClientState::Accepted, Some(now + T1X64)),
                    // Timer D, timer K.
                    (true, _) => (ClientState::Completed, Some(if unreliable { now + T1X64 } else { now })),
                    (false, _) => (ClientState::Completed, Some(if unreliable { now + T4 } else { now })),
                };
                Verdict::Pass
            }
            (ClientState::Accepted, 200..300) => Verdict::Pass,
            (ClientState::Completed, 300..) if self.is_invite() => {
                self.ack.clone().map_or(Verdict::Ignore, Verdict::AckAgain)
            }
            (ClientState::Accepted | ClientState::Completed, _) => Verdict::Ignore,
        }
    }

    /// Keeps the ACK of a refusal for its repeats.
    pub(super) fn keep_ack(&mut self, ack: Bytes) {
        self.ack = Some(ack);
    }

    /// After a CANCEL the final response must come within 64*T1 (§9.1).
    pub(super) fn give_up_at(&mut self, at: Instant) {
        self.end = Some(at);
    }

    pub(super) fn due(&self) -> Option<Instant> {
        earliest(self.retransmit.map(|backoff| backoff.at), self.end)
    }

    pub(super) fn timeout(&mut self, now: Instant) -> Timeout {
        if self.end.is_some_and(|end| end <= now) {
            self.end = None;
            self.retransmit = None;
            return match self.state {
                ClientState::Waiting | ClientState::Proceeding => Timeout::Unanswered,
                ClientState::Accepted | ClientState::Completed => Timeout::Over,
            };
        }
        match self.retransmit {
            Some(backoff) if backoff.at <= now => {
                self.retransmit = Some(backoff.next());
                Timeout::Resend(self.request.clone())
            }
            _ => Timeout::Nothing,
        }
    }
}

/// The ACK of a refusal (§17.1.1.3) or the CANCEL (§9.1) of an INVITE that we wrote: same request URI, Via, Route,
/// From, Call-ID and CSeq number; `to` replaces To in an ACK.
pub(super) fn derive(invite: &[u8], method: &str, to: Option<&str>, reason: Option<&str>) -> Option<Bytes> {
    let head_end = invite.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&invite[..head_end]).ok()?;
    let mut lines = head.split("\r\n");
    let uri = lines.next()?.split(' ').nth(1)?;
    let mut out = Writer::request(method, uri);
    for line in lines {
        let (name, value) = line.split_once(": ")?;
        match name {
            "Via" | "Route" | "From" | "Call-ID" | "Max-Forwards" => out.header(name, value),
            "To" => out.header(name, to.unwrap_or(value)),
            "CSeq" => out.header(name, &format!("{} {method}", value.split(' ').next()?)),
            _ => continue,
        };
    }
    if let Some(reason) = reason {
        out.header("Reason", reason);
    }
    Some(out.finish(None))
}

#[cfg(test)]
mod tests;
