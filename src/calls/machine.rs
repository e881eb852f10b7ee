//! One call as values: events in, effects out, time passed in. It knows no socket and holds no media; sides are named.
//!
//! ```text
//! Setup ──first answer──▶ Talking ──▶ Ended
//!   │   ──echo──────────▶ Echo ─────▶ Ended
//!   └──── nobody left, ring timeout, caller gone ──▶ Ended
//! ```
//!
//! Every pair of phase and event is written out, also those that are ignored. After [`Effect::Finished`] no effect comes.

use super::cause;
use super::setup::{Setup, Target};
use crate::locator::LocateError;
use crate::record::VerifiedDevice;
use crate::sip::{Cause, ContactId};
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// One of the legs that ring for this call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Branch(pub u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Side {
    Caller,
    Callee(Branch),
}

/// What the dialled string came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Ring these phones here, and the devices that a lookup finds.
    Ring {
        contacts: Vec<ContactId>,
        locate: bool,
    },
    Echo,
    Refuse(Cause),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Devices of the callee, best first; again when a fresher binding came.
    Found {
        devices: Vec<VerifiedDevice>,
    },
    Located(Result<(), LocateError>),
    Progress {
        branch: Branch,
        status: u16,
        sdp: Option<Bytes>,
    },
    Answered {
        branch: Branch,
        sdp: Bytes,
    },
    /// A branch ended without an answer, or was never reached.
    Failed {
        branch: Branch,
        cause: Cause,
    },
    Ended {
        side: Side,
        cause: Option<Cause>,
    },
    MediaFailed {
        side: Side,
        cause: Cause,
    },
    Reoffer {
        side: Side,
        offer: Bytes,
    },
    ReofferAnswered {
        side: Side,
        sdp: Bytes,
    },
    ReofferFailed {
        side: Side,
        cause: Cause,
    },
    Info {
        side: Side,
        content_type: String,
        body: Bytes,
    },
    /// From us: shutdown, or something is wrong with the call.
    Stop(Cause),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Locate,
    StopLocate,
    Dial {
        branch: Branch,
        target: Target,
    },
    /// 180 or 183 to the caller; with the description of a branch for early media.
    Ring {
        status: u16,
        early: Option<(Branch, Bytes)>,
    },
    /// The branch won: join media, 200 to the caller.
    Answer {
        branch: Branch,
        sdp: Bytes,
    },
    /// 200 to the caller, who hears himself.
    Echo,
    EchoReoffer {
        offer: Bytes,
    },
    /// The caller's leg ends: refused before an answer, hung up after it.
    EndCaller(Cause),
    HangUp {
        branch: Branch,
        cause: Cause,
    },
    FreeMedia(Side),
    Reoffer {
        from: Side,
        to: Side,
        offer: Bytes,
    },
    AnswerReoffer {
        from: Side,
        to: Side,
        sdp: Bytes,
    },
    RejectReoffer {
        to: Side,
        cause: Cause,
    },
    Info {
        to: Side,
        content_type: String,
        body: Bytes,
    },
    Finished(Ending),
}

/// How it went, for history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    pub cause: Cause,
    pub talked: Option<Duration>,
    pub lookup: Option<Duration>,
    pub ring: Option<Duration>,
    pub answer: Option<Duration>,
    /// Who answered.
    pub winner: Option<Branch>,
}

#[derive(Debug)]
enum Phase {
    Setup(Setup),
    Echo,
    Talking(Talking),
    Ended,
}

#[derive(Clone, Debug)]
struct Talking {
    winner: Branch,
    /// Whose re-INVITE waits for the other's answer.
    reoffer: Option<Side>,
}

impl Talking {
    fn other(&self, side: Side) -> Option<Side> {
        match side {
            Side::Caller => Some(Side::Callee(self.winner)),
            Side::Callee(branch) if branch == self.winner => Some(Side::Caller),
            Side::Callee(_) => None,
        }
    }
}

/// One call.
#[derive(Debug)]
pub(super) struct Call {
    phase: Phase,
    started: Instant,
    looked: Option<Instant>,
    rang: Option<Instant>,
    answered: Option<Instant>,
    effects: VecDeque<Effect>,
}

impl Call {
    pub(super) fn new(plan: Plan, ring_timeout: Duration, now: Instant) -> Self {
        let mut call = Self {
            phase: Phase::Ended,
            started: now,
            looked: None,
            rang: None,
            answered: None,
            effects: VecDeque::new(),
        };
        match plan {
            Plan::Refuse(cause) => call.finish(cause, None, now),
            Plan::Echo => {
                call.phase = Phase::Echo;
                call.answered = Some(now);
                call.effects.push_back(Effect::Echo);
            }
            Plan::Ring { contacts, locate } => {
                let mut setup = Setup::new(ring_timeout, locate, now);
                if locate {
                    call.effects.push_back(Effect::Locate);
                }
                for contact in contacts {
                    setup.dial(Target::Contact(contact), &mut call.effects);
                }
                call.go_on(setup, now);
            }
        }
        call
    }

    pub(super) fn handle(&mut self, event: Event, now: Instant) {
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Setup(setup) => self.in_setup(setup, event, now),
            Phase::Echo => self.in_echo(event, now),
            Phase::Talking(talking) => self.in_talk(talking, event, now),
            Phase::Ended => self.in_ended(&event),
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Setup(setup) => Some(setup.due()),
            Phase::Echo | Phase::Talking(_) | Phase::Ended => None,
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::Setup(mut setup) => {
                if setup.no_answer(now) {
                    setup.note(cause::no_answer());
                    self.give_up(setup, cause::no_answer(), now);
                } else {
                    setup.dial_due(now, &mut self.effects);
                    self.go_on(setup, now);
                }
            }
            same @ (Phase::Echo | Phase::Talking(_) | Phase::Ended) => self.phase = same,
        }
    }

    pub(super) fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Nobody has answered yet (and nobody hung up).
    pub(super) fn is_setup(&self) -> bool {
        matches!(self.phase, Phase::Setup(_))
    }

    fn in_setup(&mut self, mut setup: Setup, event: Event, now: Instant) {
        match event {
            Event::Found { devices } => {
                self.looked.get_or_insert(now);
                setup.found(devices, now, &mut self.effects);
                self.go_on(setup, now);
            }
            Event::Located(result) => {
                self.looked.get_or_insert(now);
                setup.located(result);
                self.go_on(setup, now);
            }
            Event::Progress { branch, status, sdp } => {
                if setup.progress(branch, status, sdp, now, &mut self.effects) {
                    self.rang.get_or_insert(now);
                }
                self.phase = Phase::Setup(setup);
            }
            Event::Answered { branch, sdp } => {
                if !setup.is_live(branch) {
                    self.effects.push_back(Effect::HangUp { branch, cause: cause::elsewhere() });
                    self.phase = Phase::Setup(setup);
                    return;
                }
                self.answered = Some(now);
                setup.end_all_but(Some(branch), &cause::elsewhere(), &mut self.effects);
                self.effects.push_back(Effect::Answer { branch, sdp });
                self.phase = Phase::Talking(Talking { winner: branch, reoffer: None });
            }
            Event::Failed { branch, cause } => self.branch_gone(setup, branch, cause, now),
            Event::Ended { side: Side::Callee(branch), cause } => {
                self.branch_gone(setup, branch, cause.unwrap_or_else(cause::lost), now);
            }
            Event::Ended { side: Side::Caller, cause: _ } => {
                setup.end_all_but(None, &cause::cancelled(), &mut self.effects);
                self.effects.push_back(Effect::FreeMedia(Side::Caller));
                self.finished(cause::cancelled(), None, now);
            }
            Event::MediaFailed { side: Side::Callee(branch), cause } => {
                if setup.is_live(branch) {
                    self.effects.push_back(Effect::HangUp { branch, cause: cause.clone() });
                }
                self.branch_gone(setup, branch, cause, now);
            }
            Event::MediaFailed { side: Side::Caller, cause } | Event::Stop(cause) => self.give_up(setup, cause, now),
            // No dialog is established on either side yet: `sip` answers such requests itself (RFC 3261 §14.2), and
            // what a race brings up here is refused.
            Event::Reoffer { side, offer: _ } => {
                self.effects.push_back(Effect::RejectReoffer { to: side, cause: cause::glare() });
                self.phase = Phase::Setup(setup);
            }
            // We have sent no re-INVITE. Keys pressed before the answer lead nowhere.
            Event::ReofferAnswered { .. } | Event::ReofferFailed { .. } | Event::Info { .. } => {
                self.phase = Phase::Setup(setup);
            }
        }
    }

    fn in_talk(&mut self, mut talking: Talking, event: Event, now: Instant) {
        let winner = talking.winner;
        match event {
            Event::Ended { side: Side::Caller, cause } => {
                let cause = cause.unwrap_or_else(cause::ordinary);
                self.effects.push_back(Effect::HangUp { branch: winner, cause: cause.clone() });
                self.free_both(winner);
                self.finished(cause, Some(winner), now);
            }
            Event::Ended { side: Side::Callee(branch), cause } if branch == winner => {
                let cause = cause.unwrap_or_else(cause::ordinary);
                self.effects.push_back(Effect::EndCaller(cause.clone()));
                self.free_both(winner);
                self.finished(cause, Some(winner), now);
            }
            // A failure after the answer: the leg is gone.
            Event::Failed { branch, cause } if branch == winner => {
                self.effects.push_back(Effect::EndCaller(cause.clone()));
                self.free_both(winner);
                self.finished(cause, Some(winner), now);
            }
            Event::Stop(cause) => self.end_both(winner, cause, now),
            Event::MediaFailed { side, cause } if talking.other(side).is_some() => self.end_both(winner, cause, now),
            Event::Answered { branch, sdp: _ } if branch != winner => {
                self.effects.push_back(Effect::HangUp { branch, cause: cause::elsewhere() });
                self.phase = Phase::Talking(talking);
            }
            Event::Reoffer { side, offer } => {
                match talking.other(side) {
                    Some(to) if talking.reoffer.is_none() => {
                        talking.reoffer = Some(side);
                        self.effects.push_back(Effect::Reoffer { from: side, to, offer });
                    }
                    Some(_) => self.effects.push_back(Effect::RejectReoffer { to: side, cause: cause::glare() }),
                    None => {}
                }
                self.phase = Phase::Talking(talking);
            }
            Event::ReofferAnswered { side, sdp } => {
                if let Some(to) = talking.reoffer.filter(|asked| talking.other(*asked) == Some(side)) {
                    talking.reoffer = None;
                    self.effects.push_back(Effect::AnswerReoffer { from: side, to, sdp });
                }
                self.phase = Phase::Talking(talking);
            }
            Event::ReofferFailed { side, cause } => {
                if let Some(to) = talking.reoffer.filter(|asked| talking.other(*asked) == Some(side)) {
                    talking.reoffer = None;
                    self.effects.push_back(Effect::RejectReoffer { to, cause });
                }
                self.phase = Phase::Talking(talking);
            }
            Event::Info { side, content_type, body } => {
                if let Some(to) = talking.other(side) {
                    self.effects.push_back(Effect::Info { to, content_type, body });
                }
                self.phase = Phase::Talking(talking);
            }
            // Late news of the search and of branches that lost; a second 200 of the winner.
            Event::Found { .. }
            | Event::Located(_)
            | Event::Progress { .. }
            | Event::Answered { .. }
            | Event::Failed { .. }
            | Event::Ended { side: Side::Callee(_), .. }
            | Event::MediaFailed { .. } => self.phase = Phase::Talking(talking),
        }
    }

    fn in_echo(&mut self, event: Event, now: Instant) {
        match event {
            Event::Ended { side: Side::Caller, cause } => {
                self.effects.push_back(Effect::FreeMedia(Side::Caller));
                self.finished(cause.unwrap_or_else(cause::ordinary), None, now);
            }
            Event::MediaFailed { side: Side::Caller, cause } | Event::Stop(cause) => self.finish(cause, None, now),
            Event::Reoffer { side: Side::Caller, offer } => {
                self.effects.push_back(Effect::EchoReoffer { offer });
                self.phase = Phase::Echo;
            }
            // There is no other side, and nothing was looked up.
            Event::Found { .. }
            | Event::Located(_)
            | Event::Progress { .. }
            | Event::Answered { .. }
            | Event::Failed { .. }
            | Event::Ended { side: Side::Callee(_), .. }
            | Event::MediaFailed { side: Side::Callee(_), .. }
            | Event::Reoffer { side: Side::Callee(_), .. }
            | Event::ReofferAnswered { .. }
            | Event::ReofferFailed { .. }
            | Event::Info { .. } => self.phase = Phase::Echo,
        }
    }

    /// All legs were ended with the call: `sip` answers whatever still comes.
    fn in_ended(&mut self, event: &Event) {
        match event {
            Event::Found { .. }
            | Event::Located(_)
            | Event::Progress { .. }
            | Event::Answered { .. }
            | Event::Failed { .. }
            | Event::Ended { .. }
            | Event::MediaFailed { .. }
            | Event::Reoffer { .. }
            | Event::ReofferAnswered { .. }
            | Event::ReofferFailed { .. }
            | Event::Info { .. }
            | Event::Stop(_) => self.phase = Phase::Ended,
        }
    }

    fn branch_gone(&mut self, mut setup: Setup, branch: Branch, why: Cause, now: Instant) {
        if !setup.gone(branch, &mut self.effects) {
            self.phase = Phase::Setup(setup);
            return;
        }
        // A 6xx speaks for the user, wherever the phone is (RFC 3261 §16.7).
        let final_for_all = (600..700).contains(&why.status);
        setup.note(why.clone());
        if final_for_all {
            setup.end_all_but(None, &cause::declined_elsewhere(), &mut self.effects);
            self.finish(why, None, now);
        } else {
            self.go_on(setup, now);
        }
    }

    /// Still somebody to wait for, or the end.
    fn go_on(&mut self, mut setup: Setup, now: Instant) {
        setup.dial_if_idle(&mut self.effects);
        match setup.over() {
            None => self.phase = Phase::Setup(setup),
            Some(cause) => self.give_up(setup, cause, now),
        }
    }

    fn give_up(&mut self, mut setup: Setup, cause: Cause, now: Instant) {
        setup.end_all_but(None, &cause, &mut self.effects);
        self.finish(cause, None, now);
    }

    fn end_both(&mut self, winner: Branch, cause: Cause, now: Instant) {
        self.effects.push_back(Effect::HangUp { branch: winner, cause: cause.clone() });
        self.effects.push_back(Effect::FreeMedia(Side::Callee(winner)));
        self.finish(cause, Some(winner), now);
    }

    fn free_both(&mut self, winner: Branch) {
        self.effects.push_back(Effect::FreeMedia(Side::Callee(winner)));
        self.effects.push_back(Effect::FreeMedia(Side::Caller));
    }

    /// Ends the caller's leg and the call.
    fn finish(&mut self, cause: Cause, winner: Option<Branch>, now: Instant) {
        self.effects.push_back(Effect::EndCaller(cause.clone()));
        self.effects.push_back(Effect::FreeMedia(Side::Caller));
        self.finished(cause, winner, now);
    }

    fn finished(&mut self, cause: Cause, winner: Option<Branch>, now: Instant) {
        self.phase = Phase::Ended;
        let since = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(self.started));
        self.effects.push_back(Effect::Finished(Ending {
            cause,
            talked: self.answered.map(|at| now.saturating_duration_since(at)),
            lookup: since(self.looked),
            ring: since(self.rang),
            answer: since(self.answered),
            winner,
        }));
    }
}

#[cfg(test)]
mod tests;
