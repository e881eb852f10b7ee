//! The paths of one stream between two nodes over the life of a call: candidates out and in, checks, the path in use,
//! another one when it falls silent, and a new start when there is none. Sans-IO: packets, messages and the time come
//! in, effects go out.

mod choosing;
mod restart;

use super::CallId;
use super::agent::{Agent, Proof, Transmit};
use super::gather::Gather;
use super::guard::Guard;
use super::message::{self, Candidate, Kind, MAX_CANDIDATES, Message};
use super::pair::Pair;
use bytes::Bytes;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// How long the checks of a new start have, and those of the first one, which the far end may begin later.
const CHANCE: Duration = Duration::from_secs(4);
const FIRST_CHANCE: Duration = Duration::from_secs(10);
/// Starts that find nothing for long have more and more time, up to so many times as much: half a minute.
const MOST_PATIENCE: u32 = 8;
/// How long UDP has until packets are carried on a stream of bytes, and between two attempts at that. Checks that get
/// through at all have mostly done so by then, and who answers at once is heard at once.
const PIPE_AFTER: Duration = Duration::from_millis(400);
const PIPE_AGAIN: Duration = Duration::from_secs(1);
/// How long a relay waits for a direct path to be found before it is asked for.
const RELAY_AFTER: Duration = Duration::from_millis(150);
/// How long a relay has until something comes through it, and how many are given up in a call: where no UDP gets out, none
/// of them is to blame.
const RELAY_CHANCE: Duration = Duration::from_secs(3);
const MOST_GIVEN_UP: u32 = 3;
/// How often the path in use is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Starts of one call: more than hours of bad luck need.
const MOST_GENERATIONS: u32 = 1_000;

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Send(Transmit),
    Tell(Bytes),
    /// Packets of the stream go this way from now on; `None`: there is no way that is known to work.
    Choose(Option<Chosen>),
    /// Two ports of a relay would help.
    AskRelay,
    /// They are no longer needed.
    ReleaseRelay,
    /// Nothing comes through them.
    GiveUpRelay,
    /// A stream of bytes would help: this end opens it.
    AskPipe,
}

/// The way of the packets of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::media) struct Chosen {
    /// Our socket.
    pub(in crate::media) local: SocketAddr,
    pub(in crate::media) remote: SocketAddr,
    /// Over a relay, ours or theirs.
    pub(in crate::media) relayed: bool,
}

pub(super) struct Machine {
    call: CallId,
    controlling: bool,
    loopback: bool,
    generation: u32,
    agent: Agent,
    /// Of the generation before, as long as the path in use is kept up by it alone.
    before: Option<Agent>,
    guard: Guard,
    gather: Gather,
    servers: Vec<SocketAddr>,
    locals: Vec<SocketAddr>,
    /// Where the far end is behind the relay that we asked, and what we told it.
    relay: Option<(SocketAddr, Vec<SocketAddr>)>,
    /// Told in this generation, to be told, and whether that was all.
    told: Vec<SocketAddr>,
    untold: Vec<Candidate>,
    greeted: bool,
    done: bool,
    /// Of the far end in this generation.
    named: Vec<Candidate>,
    paths: Vec<Pair>,
    chosen: Option<Chosen>,
    /// Since when.
    chosen_at: Instant,
    relay_due: Option<Instant>,
    /// When a relay is given up that has led nowhere, and how often that was.
    relay_doubt: Option<Instant>,
    given_up: u32,
    relay_pending: bool,
    /// When the end that offered looks whether a stream of bytes is needed; and whether one is there.
    pipe_due: Option<Instant>,
    piped: bool,
    pipe_asked: Instant,
    /// The far end has no path, whatever we have.
    far_lost: bool,
    look_at: Instant,
    restart_at: Option<Instant>,
    /// When the end that offered looks for a better path than the relay's, and how often it has done so in vain.
    upgrade_at: Option<Instant>,
    upgrades: u32,
    second_tries: u32,
    second_try_at: Instant,
    effects: VecDeque<Effect>,
    /// Starts in a row that found nothing.
    in_vain: u32,
}

impl Machine {
    /// Paths for `call`. `controlling`: this end offered it.
    pub(super) fn new(call: CallId, controlling: bool, loopback: bool, now: Instant) -> Machine {
        Machine {
            call,
            controlling,
            loopback,
            generation: 0,
            agent: Agent::new(controlling, now),
            before: None,
            guard: Guard::default(),
            gather: Gather::default(),
            servers: Vec::new(),
            locals: Vec::new(),
            relay: None,
            told: Vec::new(),
            untold: Vec::new(),
            greeted: false,
            done: false,
            named: Vec::new(),
            paths: Vec::new(),
            chosen: None,
            chosen_at: now,
            // What the far end names takes longer to come to the end that offers than that end may wait.
            relay_due: Some(if controlling { now } else { now + RELAY_AFTER }),
            relay_doubt: None,
            given_up: 0,
            relay_pending: false,
            pipe_due: controlling.then_some(now + PIPE_AFTER),
            piped: false,
            pipe_asked: now,
            far_lost: false,
            look_at: now + LOOK,
            restart_at: Some(now + FIRST_CHANCE),
            upgrade_at: None,
            upgrades: 0,
            second_tries: 0,
            second_try_at: now + restart::UPGRADE,
            effects: VecDeque::new(),
            in_vain: 0,
        }
    }

    /// Servers that say which address they see. The first that become known are asked at once.
    pub(super) fn set_servers(&mut self, mut servers: Vec<SocketAddr>, now: Instant) {
        servers.retain(|server| message::is_possible(*server, self.loopback));
        let first = std::mem::replace(&mut self.servers, servers).is_empty();
        for local in self.locals.iter().filter(|_| first) {
            self.gather.ask(*local, &self.servers, now);
        }
    }

    /// A socket of ours, from the first one on in the order of preference.
    pub(super) fn add_local(&mut self, address: SocketAddr, now: Instant) {
        if self.locals.contains(&address) {
            return;
        }
        if !self.locals.is_empty() {
            self.guard.begin_anew();
        }
        self.locals.push(address);
        self.offer_local(address, now);
        self.drain(now);
    }

    /// The interface of a socket is gone.
    pub(super) fn remove_local(&mut self, address: SocketAddr, now: Instant) {
        self.locals.retain(|local| *local != address);
        self.agent.remove_local(address);
        if let Some(before) = &mut self.before {
            before.remove_local(address);
        }
        self.paths.retain(|path| path.local != address);
        if self.chosen.is_some_and(|chosen| chosen.local == address) {
            self.look(now);
        }
        self.drain(now);
    }

    /// A relay gave us two ports, or (`None`) there is none.
    pub(super) fn handle_relay(&mut self, relay: Option<(SocketAddr, Vec<SocketAddr>)>, now: Instant) {
        self.relay_pending = false;
        let possible = |address: &SocketAddr| message::is_possible(*address, self.loopback);
        self.relay = relay.filter(|(ours, theirs)| possible(ours) && theirs.iter().all(possible));
        self.relay_doubt = self.relay.as_ref().map(|_| now + RELAY_CHANCE);
        self.offer_relay();
        self.drain(now);
    }

    /// A stream of bytes to the far end is there, or has ended, or (`false`) cannot be had.
    pub(super) fn handle_pipe(&mut self, there: bool, now: Instant) {
        self.piped = there;
        // One that went with its connection is replaced at once, and attempts are paced.
        let due = now.max(self.pipe_asked + PIPE_AGAIN);
        self.pipe_due = Some(due).filter(|_| !there && self.controlling);
    }

    /// The far end said something: how many things in it could not be used.
    pub(super) fn handle_message(&mut self, bytes: &Bytes, now: Instant) -> usize {
        let unusable = match Message::read(bytes, self.loopback) {
            Ok(message) if message.call == self.call && message.generation <= MOST_GENERATIONS => {
                message.skipped + self.hear(message, now)
            }
            Ok(_) | Err(_) => 1,
        };
        self.drain(now);
        unusable
    }

    fn hear(&mut self, message: Message, now: Instant) -> usize {
        if message.generation > self.generation {
            if self.controlling || self.chosen.is_none() {
                // It would not do so if it had a path: a better one is looked for by the end that offered.
                self.far_lost = true;
                self.want_pipe(now);
            }
            self.begin(message.generation, now);
        }
        let first = !self.agent.has_remote();
        if message.generation < self.generation || !self.agent.set_remote(&message.ufrag, &message.pwd) {
            return 1;
        }
        if first {
            self.try_again(now);
        }
        let mut unusable = 0;
        for candidate in message.candidates {
            let known = self.named.iter().any(|named| named.address == candidate.address);
            if known || self.named.len() >= MAX_CANDIDATES || !self.guard.admit(candidate.address) {
                unusable += usize::from(!known);
                continue;
            }
            self.named.push(candidate);
            self.agent.add_remote(&candidate);
        }
        unusable
    }

    /// STUN came to our socket `to`. `false`: it proves nothing.
    pub(super) fn handle_packet(&mut self, from: SocketAddr, to: SocketAddr, packet: &[u8], now: Instant) -> bool {
        if let Some(mapped) = self.gather.handle_packet(from, to, packet) {
            self.offer_reflexive(mapped, to);
        } else {
            let proof = self.agent.handle_packet((from, to), packet, &mut self.guard, now);
            let by_this = proof.is_some();
            let mut ask_before = || self.before.as_mut()?.handle_packet((from, to), packet, &mut self.guard, now);
            match proof.or_else(&mut ask_before) {
                Some(Proof::Answered) => self.answered(to, from, by_this, now),
                Some(Proof::Asked) => self.asked(to, from, by_this, now),
                None => return false,
            }
        }
        self.drain(now);
        true
    }

    /// A genuine packet of the stream came to our socket `to`: where from is proved by nothing, but who has answered a
    /// check there before is still there.
    pub(super) fn handle_media(&mut self, from: SocketAddr, to: SocketAddr, now: Instant) {
        if let Some(path) = self.paths.iter_mut().find(|path| (path.local, path.remote) == (to, from)) {
            path.hear(now);
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.agent.handle_timeout(now);
        if let Some(before) = &mut self.before {
            before.handle_timeout(now);
        }
        if now >= self.look_at {
            self.look(now);
        }
        if self.restart_at.is_some_and(|at| now >= at) {
            self.restart_at = None;
            if self.chosen.is_none() && self.generation < MOST_GENERATIONS {
                // Who does not look for paths will not look for others.
                match self.is_met() {
                    true => self.begin(self.generation + 1, now),
                    false => self.restart_at = Some(now + FIRST_CHANCE),
                }
            }
        }
        if self.upgrade_at.take_if(|at| now >= *at).is_some() {
            self.upgrade(now);
        }
        if self.pipe_due.take_if(|due| now >= *due).is_some() && !self.piped {
            match self.is_met() {
                true if self.chosen.is_none() || self.far_lost => {
                    self.pipe_asked = now;
                    self.effects.push_back(Effect::AskPipe);
                }
                true => {}
                false => self.pipe_due = Some(now + PIPE_AGAIN),
            }
        }
        if self.relay_doubt.take_if(|at| now >= *at).is_some() {
            self.doubt_relay(now);
        }
        if self.relay_due.is_some_and(|due| now >= due) {
            self.relay_due = None;
            if self.chosen.is_none_or(|chosen| chosen.relayed) && self.relay.is_none() && !self.relay_pending {
                self.relay_pending = true;
                self.effects.push_back(Effect::AskRelay);
            }
        }
        self.drain(now);
    }

    pub(super) fn poll_timeout(&mut self) -> Option<Instant> {
        let (agent, gather) = (self.agent.poll_timeout(), self.gather.poll_timeout());
        let before = self.before.as_mut().and_then(Agent::poll_timeout);
        let dues =
            [agent, before, gather, self.relay_due, self.restart_at, self.pipe_due, self.upgrade_at, self.relay_doubt];
        dues.into_iter().flatten().chain([self.look_at]).min()
    }

    pub(super) fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    pub(super) fn chosen(&self) -> Option<Chosen> {
        self.chosen
    }

    /// Our sockets, and the hosts that the far end named.
    pub(super) fn locals(&self) -> Vec<SocketAddr> {
        self.locals.clone()
    }

    pub(super) fn named(&self) -> Vec<IpAddr> {
        self.named.iter().map(|candidate| candidate.address.ip()).collect()
    }

    /// Whether the far end looks for paths as well.
    pub(super) fn is_met(&self) -> bool {
        self.generation > 0 || self.agent.has_remote()
    }

    fn offer_local(&mut self, address: SocketAddr, now: Instant) {
        if let Some(candidate) = self.agent.add_local(address)
            && message::is_possible(address, self.loopback)
        {
            self.offer(candidate);
            self.gather.ask(address, &self.servers, now);
            self.done = false;
        }
    }

    fn offer_reflexive(&mut self, mapped: SocketAddr, local: SocketAddr) {
        if mapped != local && message::is_possible(mapped, self.loopback) {
            self.offer(Candidate::own(mapped, Kind::Reflexive, self.told.len()));
        }
    }

    fn offer_relay(&mut self) {
        let Some((ours, theirs)) = self.relay.clone() else { return };
        // It is ours to use: it passes nothing on to who did not ask for it.
        self.guard.consented(ours);
        self.agent.add_remote(&Candidate::own(ours, Kind::Relayed, 0));
        for (rank, theirs) in theirs.into_iter().enumerate() {
            self.offer(Candidate::own(theirs, Kind::Relayed, rank));
        }
    }

    fn offer(&mut self, candidate: Candidate) {
        if !self.told.contains(&candidate.address) && self.told.len() < MAX_CANDIDATES {
            tracing::debug!(call = ?self.call, kind = ?candidate.kind, "an address of ours");
            self.told.push(candidate.address);
            self.untold.push(candidate);
        }
    }

    /// Turns what the parts have to say into effects.
    fn drain(&mut self, now: Instant) {
        while let Some(transmit) = self.gather.poll_transmit(now) {
            self.effects.push_back(Effect::Send(transmit));
        }
        for agent in [Some(&mut self.agent), self.before.as_mut()].into_iter().flatten() {
            while let Some(transmit) = agent.poll_transmit(&mut self.guard) {
                self.effects.push_back(Effect::Send(transmit));
            }
        }
        if let Some(before) = &mut self.before {
            // What it agrees upon is what was in use before.
            before.poll_nominated();
        }
        if let Some((local, remote)) = self.agent.poll_nominated()
            && self.guard.has_consented(remote)
        {
            self.choose(local, remote, now);
        }
        let complete = self.gather.is_done() && self.relay_due.is_none() && !self.relay_pending;
        if !self.untold.is_empty() || !self.greeted || (complete && !self.done) {
            self.greeted = true;
            self.done = complete;
            let message = Message {
                call: self.call,
                generation: self.generation,
                ufrag: self.agent.ufrag().to_owned(),
                pwd: self.agent.pwd().to_owned(),
                candidates: std::mem::take(&mut self.untold),
                done: complete,
                skipped: 0,
            };
            self.effects.push_back(Effect::Tell(message.write()));
        }
    }
}
