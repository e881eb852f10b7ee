//! New starts with other passwords (RFC 8445 §2.4): when no path works any more, and, while a relay carries, to look for a
//! direct one. The path in use goes on until a better one has proved itself: the agent that keeps it up stays until the new
//! one does so, as the far end may hear of the new start much later, or never.

use super::super::agent::Agent;
use super::super::gather::Gather;
use super::{CHANCE, MOST_GENERATIONS, MOST_PATIENCE, Machine, RELAY_AFTER};
use std::time::{Duration, Instant};

/// How long a relay carries before a direct way is looked for again, doubling up to the other: routers forget what they
/// knew, and laptops come home.
pub(super) const UPGRADE: Duration = Duration::from_secs(5);
const MOST_UPGRADE: Duration = Duration::from_secs(300);
/// How often in a call addresses that never answered are tried once more while a relay carries it: each time a handful.
const MOST_SECOND_TRIES: u32 = 3;

impl Machine {
    /// Starts anew with other passwords. What works is used until something better is found.
    pub(super) fn begin(&mut self, generation: u32, now: Instant) {
        tracing::debug!(call = ?self.call, generation, "paths are looked for anew");
        self.generation = generation;
        let agent = std::mem::replace(&mut self.agent, Agent::new(self.controlling, now));
        match self.chosen {
            // The one before keeps the path up already, and this one did not come so far.
            Some(_) if self.before.is_some() => {}
            Some(_) => self.before = Some(agent),
            None => self.before = None,
        }
        self.gather = Gather::default();
        self.told.clear();
        self.untold.clear();
        self.named.clear();
        (self.greeted, self.done) = (false, false);
        for local in self.locals.clone() {
            self.offer_local(local, now);
        }
        self.offer_relay();
        if self.chosen.is_some() {
            return;
        }
        if self.relay.is_none() {
            self.relay_due = Some(now + RELAY_AFTER);
        }
        // Until the new checks have had their chance.
        self.in_vain = self.in_vain.saturating_add(1);
        self.restart_at = Some(now + CHANCE * (1 + self.in_vain / 10).min(MOST_PATIENCE));
    }

    /// Both ends look for paths anew: what never answered may do so now. By our own clock and count, as the far end shall have
    /// no say in how often strangers are tried.
    pub(super) fn try_again(&mut self, now: Instant) {
        let carried = self.chosen.is_some_and(|chosen| chosen.relayed);
        if carried && self.second_tries < MOST_SECOND_TRIES && now >= self.second_try_at {
            self.second_tries += 1;
            self.second_try_at = now + UPGRADE;
            self.guard.begin_anew();
        }
    }

    /// Looks for a direct way while a relay carries.
    pub(super) fn upgrade(&mut self, now: Instant) {
        if !self.chosen.is_some_and(|chosen| chosen.relayed) || self.generation >= MOST_GENERATIONS {
            return;
        }
        self.upgrades += 1;
        self.begin(self.generation + 1, now);
        self.plan_upgrade(now);
    }

    /// The path in use has become another one.
    pub(super) fn plan_upgrade(&mut self, now: Instant) {
        let relayed = self.chosen.is_some_and(|chosen| chosen.relayed);
        if self.chosen.is_some() && !relayed {
            self.upgrades = 0;
        }
        let pause = UPGRADE.saturating_mul(1 << self.upgrades.min(10)).min(MOST_UPGRADE);
        self.upgrade_at = (self.controlling && relayed).then_some(now + pause);
    }
}
