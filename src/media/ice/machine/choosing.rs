//! Which of the paths that work carries the stream: the first one, then better ones, another one when it falls silent, and
//! from a relay back to a direct one.

use super::super::message::Kind;
use super::super::pair::Pair;
use super::{Chosen, Effect, LOOK, MOST_GIVEN_UP, Machine, RELAY_AFTER, RELAY_CHANCE};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A direct path that has worked for so long is better than a relay.
const PROVEN: Duration = Duration::from_secs(2);
/// A relay is given back when the direct path has carried the call for so long.
const RELAY_KEPT: Duration = Duration::from_secs(20);
/// Pairs that have worked, the latest.
const MOST_PATHS: usize = 32;

impl Machine {
    /// The far end has seen what we sent it on this path.
    /// `by_this`: of this generation.
    pub(super) fn answered(&mut self, local: SocketAddr, remote: SocketAddr, by_this: bool, now: Instant) {
        if by_this && self.chosen.is_some_and(|chosen| (chosen.local, chosen.remote) == (local, remote)) {
            // The new agent keeps the path up.
            self.before = None;
        }
        if let Some(path) = self.paths.iter_mut().find(|path| (path.local, path.remote) == (local, remote)) {
            path.answered = now;
            path.hear(now);
        } else {
            if self.paths.len() >= MOST_PATHS
                && let Some(oldest) = (0..self.paths.len()).min_by_key(|at| self.paths[*at].heard)
            {
                self.paths.swap_remove(oldest);
            }
            let relayed = self.is_relayed(remote);
            self.paths.push(Pair { local, remote, relayed, since: now, heard: now, answered: now });
        }
        // The first that works carries; the one that both ends agree upon comes a round trip later.
        if self.chosen.is_none() && self.guard.has_consented(remote) {
            self.choose(local, remote, now);
        }
    }

    /// The far end has sent a check on this path. What our relay passes on it passes back: the answer to our own check
    /// need not be waited for, but it must come in its time.
    pub(super) fn asked(&mut self, local: SocketAddr, remote: SocketAddr, by_this: bool, now: Instant) {
        let known = self.paths.iter().any(|path| (path.local, path.remote) == (local, remote));
        match !known && self.relay.as_ref().is_some_and(|(ours, _)| *ours == remote) {
            true => self.answered(local, remote, by_this, now),
            false => self.handle_media(remote, local, now),
        }
    }

    /// Whether the path in use still works; if not, the best other one. From a relay back to a direct one.
    pub(super) fn look(&mut self, now: Instant) {
        self.look_at = now + LOOK;
        let Some(Chosen { local, remote, relayed }) = self.chosen else { return };
        let in_use = |path: &Pair| (path.local, path.remote) == (local, remote);
        let proven = |path: &Pair| !path.relayed && now.saturating_duration_since(path.since) >= PROVEN;
        let works = self.paths.iter().any(|path| in_use(path) && path.works(now));
        if works && !relayed && self.relay.is_some() && now.saturating_duration_since(self.chosen_at) >= RELAY_KEPT {
            self.relay = None;
            self.effects.push_back(Effect::ReleaseRelay);
        }
        let others = self.paths.iter().filter(|path| !in_use(path) && path.works(now));
        let better = others.filter(|path| !works || (relayed && proven(path)));
        let best = better.max_by_key(|path| (!path.relayed, path.heard)).map(|path| (path.local, path.remote));
        match best {
            Some((local, remote)) => self.choose(local, remote, now),
            None if works => {}
            None => {
                tracing::debug!(call = ?self.call, "the path fell silent");
                (self.chosen, self.upgrade_at) = (None, None);
                self.effects.push_back(Effect::Choose(None));
                if self.relay.take().is_some() {
                    // It may be what is gone: another one is asked for.
                    self.effects.push_back(if relayed { Effect::GiveUpRelay } else { Effect::ReleaseRelay });
                }
                self.restart_at = Some(now);
                self.want_pipe(now);
            }
        }
    }

    /// A relay that gives ports and passes nothing on must not cost a call its voice.
    pub(super) fn doubt_relay(&mut self, now: Instant) {
        if self.chosen.is_some() || self.relay.is_none() || self.given_up >= MOST_GIVEN_UP {
            return;
        }
        if !self.is_met() {
            // Nobody there yet whom it could lead to.
            self.relay_doubt = Some(now + RELAY_CHANCE);
            return;
        }
        tracing::debug!(call = ?self.call, "nothing comes through the relay");
        self.given_up += 1;
        self.relay = None;
        self.effects.push_back(Effect::GiveUpRelay);
        // After it was given back: there may be no other.
        self.relay_due = Some(now + RELAY_AFTER);
    }

    pub(super) fn want_pipe(&mut self, now: Instant) {
        if self.controlling && !self.piped {
            self.pipe_due = Some(now);
        }
    }

    pub(super) fn choose(&mut self, local: SocketAddr, remote: SocketAddr, now: Instant) {
        let known = self.paths.iter().find(|path| (path.local, path.remote) == (local, remote));
        let relayed = known.map_or_else(|| self.is_relayed(remote), |path| path.relayed);
        let chosen = Chosen { local, remote, relayed };
        (self.far_lost, self.in_vain) = (false, 0);
        self.restart_at = None;
        if self.chosen != Some(chosen) {
            tracing::debug!(call = ?self.call, relayed = chosen.relayed, "another path");
            self.chosen = Some(chosen);
            self.chosen_at = now;
            self.plan_upgrade(now);
            self.effects.push_back(Effect::Choose(Some(chosen)));
        }
    }

    pub(super) fn is_relayed(&self, remote: SocketAddr) -> bool {
        let named = self.named.iter().any(|named| named.address == remote && named.kind == Kind::Relayed);
        named || self.relay.as_ref().is_some_and(|(ours, _)| *ours == remote)
    }
}
