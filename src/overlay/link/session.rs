//! Messages exactly once and in order, over any number of streams that come and go. Pure: no clock, no I/O.
//!
//! Each message has a number from 1. It stays here until the far end acknowledges it; when another stream takes over,
//! all that the far end has not got is handed out again, and what comes twice is dropped by its number.

use super::frame::Body;
use std::collections::VecDeque;

/// Messages handed to a stream and not acknowledged. 32: a burst of signalling fits; a stream's write queue stays short.
const WINDOW: u64 = 32;
/// An acknowledgement of its own leaves after this many messages, at the latest: a quarter of the window.
const ACK_AFTER: u64 = 8;

#[derive(Debug)]
pub(super) struct Session {
    max_messages: usize,
    max_bytes: usize,
    /// Messages `acked + 1 ..= acked + waiting.len()`.
    waiting: VecDeque<Body>,
    bytes: usize,
    acked: u64,
    /// Highest number handed to the present stream, and to any stream.
    handed: u64,
    highest_handed: u64,
    flowing: bool,
    received: u64,
    acknowledged: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct QueueFull;

/// The far end does not keep to the numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// A message is missing in front of this one.
    Gap,
    /// An acknowledgement of what was never sent.
    AckAhead,
}

impl Session {
    pub fn new(max_messages: usize, max_bytes: usize) -> Self {
        Self {
            max_messages,
            max_bytes,
            waiting: VecDeque::new(),
            bytes: 0,
            acked: 0,
            handed: 0,
            highest_handed: 0,
            flowing: false,
            received: 0,
            acknowledged: 0,
        }
    }

    /// Takes a message to send.
    ///
    /// # Errors
    /// Too many messages or bytes wait already.
    pub fn push(&mut self, message: Body) -> Result<(), QueueFull> {
        if self.waiting.len() >= self.max_messages || self.bytes + message.len() > self.max_bytes {
            return Err(QueueFull);
        }
        self.bytes += message.len();
        self.waiting.push_back(message);
        Ok(())
    }

    /// The next message for the stream, with its number. Drain to `None` after each change.
    pub fn poll_send(&mut self) -> Option<(u64, Body)> {
        if !self.flowing || self.handed - self.acked >= WINDOW {
            return None;
        }
        self.hand_out()
    }

    /// As [`Session::poll_send`], without the window: the last words before a close.
    pub fn poll_last(&mut self) -> Option<(u64, Body)> {
        if self.flowing { self.hand_out() } else { None }
    }

    fn hand_out(&mut self) -> Option<(u64, Body)> {
        let index = usize::try_from(self.handed - self.acked).ok()?;
        let message = self.waiting.get(index)?.clone();
        self.handed += 1;
        self.highest_handed = self.highest_handed.max(self.handed);
        Some((self.handed, message))
    }

    /// A message came. `Ok(false)`: it was here before.
    ///
    /// # Errors
    /// One is missing in front of it.
    pub fn handle_message(&mut self, seq: u64) -> Result<bool, Broken> {
        if seq <= self.received {
            return Ok(false);
        }
        if seq != self.received + 1 {
            return Err(Broken::Gap);
        }
        self.received = seq;
        Ok(true)
    }

    /// An acknowledgement came, on any frame. Lower ones than before are old news.
    ///
    /// # Errors
    /// It is of something never sent.
    pub fn handle_ack(&mut self, ack: u64) -> Result<(), Broken> {
        if ack > self.highest_handed {
            return Err(Broken::AckAhead);
        }
        while self.acked < ack {
            let Some(message) = self.waiting.pop_front() else { return Err(Broken::AckAhead) };
            self.bytes -= message.len();
            self.acked += 1;
        }
        self.handed = self.handed.max(self.acked);
        Ok(())
    }

    /// Another stream takes over; the far end has got everything up to `received`.
    ///
    /// # Errors
    /// It claims what was never sent.
    pub fn attach(&mut self, received: u64) -> Result<(), Broken> {
        self.handle_ack(received)?;
        self.handed = self.acked;
        self.flowing = true;
        Ok(())
    }

    /// Nothing is handed out until [`Session::attach`] or [`Session::go_on`].
    pub fn pause(&mut self) {
        self.flowing = false;
    }

    /// The present stream carries on after a pause.
    pub fn go_on(&mut self) {
        self.flowing = true;
    }

    /// The number to acknowledge in a frame that leaves now.
    pub fn ack(&mut self) -> u64 {
        self.acknowledged = self.received;
        self.received
    }

    /// Highest number that the far end acknowledged.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Something was handed to the present stream that is not acknowledged.
    pub fn awaits_ack(&self) -> bool {
        self.handed > self.acked
    }

    /// Highest number received in order.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Something received is not acknowledged yet.
    pub fn owes_ack(&self) -> bool {
        self.received > self.acknowledged
    }

    /// So much is not acknowledged that it should not wait.
    pub fn ack_is_due(&self) -> bool {
        self.received - self.acknowledged >= ACK_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    /// Of both kinds, which share one order.
    fn message(n: u64) -> Body {
        let bytes = Bytes::copy_from_slice(&n.to_be_bytes());
        if n % 3 == 2 { Body::Ice(bytes) } else { Body::Sip(bytes) }
    }

    #[test]
    fn refuses_more_than_it_may_hold() {
        let mut session = Session::new(2, 20);
        assert_eq!(session.push(Body::Sip(Bytes::from_static(&[0; 21]))), Err(QueueFull));
        session.push(message(1)).unwrap();
        session.push(message(2)).unwrap();
        assert_eq!(session.push(Body::Sip(Bytes::new())), Err(QueueFull));
        session.attach(0).unwrap();
        while session.poll_send().is_some() {}
        session.handle_ack(2).unwrap();
        assert_eq!(session.push(message(3)), Ok(()));
    }

    #[test]
    fn refuses_a_gap_and_an_ack_of_nothing() {
        let mut session = Session::new(8, 800);
        assert_eq!(session.handle_message(1), Ok(true));
        assert_eq!(session.handle_message(1), Ok(false));
        assert_eq!(session.handle_message(3), Err(Broken::Gap));
        session.push(message(1)).unwrap();
        assert_eq!(session.handle_ack(1), Err(Broken::AckAhead), "queued is not sent");
        assert_eq!(session.attach(1), Err(Broken::AckAhead));
    }

    #[test]
    fn at_most_a_window_is_on_the_way() {
        let mut session = Session::new(100, 8000);
        (0..100).for_each(|n| session.push(message(n)).unwrap());
        assert_eq!(session.poll_send(), None, "no stream yet");
        session.attach(0).unwrap();
        assert_eq!(std::iter::from_fn(|| session.poll_send()).count(), 32);
        session.handle_ack(10).unwrap();
        assert_eq!(std::iter::from_fn(|| session.poll_send()).count(), 10);
        assert_eq!(std::iter::from_fn(|| session.poll_last()).count(), 58);
    }

    /// What happens on the way: one frame arrives in either direction, or the stream breaks, or both speak again.
    #[derive(Clone, Debug)]
    enum Step {
        Say(bool),
        Arrive(bool),
        Acknowledge(bool),
        /// Another stream; the old one may still deliver this many frames before it is let go.
        Move(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => any::<bool>().prop_map(Step::Say),
            6 => any::<bool>().prop_map(Step::Arrive),
            2 => any::<bool>().prop_map(Step::Acknowledge),
            1 => any::<u8>().prop_map(Step::Move),
        ]
    }

    /// (seq or 0, ack, message)
    type Wire = VecDeque<(u64, u64, Body)>;

    fn pump(session: &mut Session, wire: &mut Wire) {
        while let Some((seq, bytes)) = session.poll_send() {
            let ack = session.ack();
            wire.push_back((seq, ack, bytes));
        }
    }

    fn arrive(session: &mut Session, wire: &mut Wire, heard: &mut Vec<Body>) {
        if let Some((seq, ack, bytes)) = wire.pop_front() {
            session.handle_ack(ack).unwrap();
            if seq > 0 && session.handle_message(seq).unwrap() {
                heard.push(bytes);
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_is_lost_all_comes_once_and_in_order(steps in prop::collection::vec(step(), 0..400)) {
            let mut ends = [Session::new(1000, 100_000), Session::new(1000, 100_000)];
            let mut wires = [Wire::new(), Wire::new()];
            let mut said = [vec![], vec![]];
            let mut heard = [vec![], vec![]];
            ends.iter_mut().for_each(|end| end.attach(0).unwrap());
            for step in steps.into_iter().chain([Step::Move(0)]).chain((0..5000).map(|n| if n % 3 == 2 { Step::Acknowledge(n % 2 == 0) } else { Step::Arrive(n % 2 == 0) })) {
                match step {
                    Step::Say(who) => {
                        let who = usize::from(who);
                        let bytes = message(said[who].len() as u64);
                        ends[who].push(bytes.clone()).unwrap();
                        said[who].push(bytes);
                        pump(&mut ends[who], &mut wires[who]);
                    }
                    Step::Arrive(from) => {
                        let (from, to) = (usize::from(from), usize::from(!from));
                        arrive(&mut ends[to], &mut wires[from], &mut heard[to]);
                        pump(&mut ends[to], &mut wires[to]);
                    }
                    Step::Acknowledge(who) => {
                        let who = usize::from(who);
                        let ack = ends[who].ack();
                        wires[who].push_back((0, ack, Body::Ack));
                    }
                    Step::Move(late) => {
                        // The opener (0) says what it has; frames of the old stream still come in before the answer.
                        let told = ends[0].received();
                        ends[0].pause();
                        for _ in 0..late % 8 {
                            arrive(&mut ends[0], &mut wires[1], &mut heard[0]);
                            arrive(&mut ends[1], &mut wires[0], &mut heard[1]);
                            pump(&mut ends[1], &mut wires[1]);
                        }
                        let answered = ends[1].received();
                        wires = [Wire::new(), Wire::new()];
                        ends[1].attach(told).unwrap();
                        pump(&mut ends[1], &mut wires[1]);
                        ends[0].attach(answered).unwrap();
                        pump(&mut ends[0], &mut wires[0]);
                    }
                }
            }
            prop_assert_eq!(&heard[0], &said[1]);
            prop_assert_eq!(&heard[1], &said[0]);
        }
    }
}
