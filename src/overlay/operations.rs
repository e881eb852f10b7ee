//! Publications, lookups and walks of the actor: the engine says whom to ask, the answers go back to it.

use super::actor::Actor;
use super::asking::Asker;
use super::listing::Errand;
use super::lookup::Lookup;
use super::publish::{Holders, Publication};
use super::*;
use crate::dht::{
    Answer, Ask, Card, Failure, Observation, Observations, Position, Progress, Published, Seeds, StepId, Walk,
    WalkConfig,
};
use crate::record::{self, RecordKey};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// Publications and lookups that run at once; more wait in line, and who comes when the line is full is turned away.
const MAX_RUNNING: usize = 64;
const MAX_WAITING: usize = 4096;

/// Who waits for time to pass is not woken more often.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(500);

/// A publication, a lookup or a walk.
pub(super) enum Operation {
    Publish(Box<Publication>),
    Lookup(Box<Lookup>),
    /// To know who is there.
    Walk(Box<Tour>),
    /// To be listed, or to read lists.
    Errand(Box<Errand>),
}

/// A walk to a place, and what it is worth for the estimate of the overlay's size.
pub(super) struct Tour {
    target: Position,
    walk: Walk,
    /// The region's radius; only where nobody else could know the place before.
    measures: Option<f64>,
    /// Only those are asked whom the table does not know, beside the few that it begins with.
    explores: bool,
    look: Option<Look>,
}

/// Seeds near and at random of a walk that explores: those who come last have told everybody of themselves.
const EXPLORERS: usize = 6;

/// A search for the own position through one node alone.
pub(super) struct Look {
    through: NodeKey,
    asked: HashMap<StepId, Arc<Card>>,
    answered: Vec<Arc<Card>>,
}

impl Actor {
    pub(super) fn publish(
        &mut self,
        bundle: ValidBundle,
        reply: oneshot::Sender<Result<PublishReport, PublishError>>,
        now: Instant,
    ) {
        let keys = record::replica_keys(&self.overlay, &bundle.id());
        let judge = self.judge();
        if let Err(reason) = record::validate(&bundle.encode(), &keys[0], &judge, None) {
            let _ = reply.send(Err(PublishError::Invalid(reason)));
            return;
        }
        self.keep_own(&bundle, &keys);
        self.enqueue(Operation::Publish(Box::new(Publication::new(bundle, keys, Some(reply), now))));
    }

    /// What is published here and belongs here.
    fn keep_own(&mut self, bundle: &ValidBundle, keys: &[RecordKey; 4]) {
        let (judge, region) = (self.judge(), self.region());
        for key in keys {
            if self.holding().is_mine(key, region) {
                // Full is no failure: it is one copy less.
                let _ = self.holding().keep(*key, bundle, region, &judge);
            }
        }
    }

    pub(super) fn lookup(&mut self, who: IdHash, events: mpsc::Sender<LookupEvent>, now: Instant) {
        let keys = record::replica_keys(&self.overlay, &who);
        self.enqueue(Operation::Lookup(Box::new(Lookup::new(who, keys, events, now))));
    }

    /// Most nodes of the overlay are in the table.
    fn knows_most(&self) -> bool {
        self.table.len() * 5 >= self.upkeep.estimate * 3
    }

    /// Looks who is around a position; what answers enters the table. `measures`: the place is a random one.
    pub(super) fn walk(&mut self, target: Position, measures: bool, now: Instant) {
        let (salt, radius) = (self.salt(), self.table.estimate().region());
        let mut seeds = self.seeds(&target, salt, now);
        let explores = self.knows_most();
        if explores {
            // Everybody would be asked who everybody is, by everybody, again and again.
            seeds.near.truncate(EXPLORERS);
            seeds.random.truncate(EXPLORERS);
        }
        let walk = Walk::new(target, seeds, radius, WalkConfig::default(), salt, now);
        let measures = (measures && !explores).then_some(radius);
        self.enqueue(Operation::Walk(Box::new(Tour { target, walk, measures, explores, look: None })));
    }

    /// Looks who is around this node, beginning at one node alone.
    pub(super) fn look_through(&mut self, card: Arc<Card>, now: Instant) {
        let (salt, radius) = (self.salt(), self.table.estimate().region());
        let look = Look { through: card.node, asked: HashMap::new(), answered: Vec::new() };
        let seeds = Seeds { near: vec![card], random: Vec::new() };
        let walk = Walk::new(self.position, seeds, radius, WalkConfig::look(), salt, now);
        let tour = Tour { target: self.position, walk, measures: None, explores: false, look: Some(look) };
        self.enqueue(Operation::Walk(Box::new(tour)));
    }

    pub(super) fn enqueue(&mut self, operation: Operation) {
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(operation);
        } else {
            // Its channel closes with it: `Stopped` for the one, the end of events for the other.
            self.meter.refuse("own: too many operations".into());
        }
    }

    /// Answers that came since, new operations, and everything that is due now.
    pub(super) fn operations(&mut self, now: Instant) {
        while let Some((asker, outcome)) = self.outcomes.pop_front() {
            self.came(asker, outcome, now);
        }
        self.asking_dials(now);
        while self.running.len() < MAX_RUNNING {
            let Some(operation) = self.waiting.pop_front() else { break };
            let id = self.next_operation;
            self.next_operation += 1;
            self.go_on(id, operation, now);
        }
        if now < self.operations_at {
            return;
        }
        let ids: Vec<u64> = self.running.keys().copied().collect();
        for id in ids {
            let due = |operation: &Operation| operation.timeout().is_none_or(|at| at <= now) || operation.waits();
            if self.running.get(&id).is_some_and(due)
                && let Some(operation) = self.running.remove(&id)
            {
                self.go_on(id, operation, now);
            }
        }
        let next = self.running.values().filter_map(Operation::timeout).min().unwrap_or(now + LONGEST);
        self.operations_at = next.clamp(now + SHORTEST, now + LONGEST);
    }

    fn came(&mut self, asker: Asker, outcome: Result<Answer, Failure>, now: Instant) {
        let id = match asker {
            Asker::Request(id, _) | Asker::Step(id, _) | Asker::Neighbour(id) => id,
            Asker::Acquaintance => return,
        };
        let Some(mut operation) = self.running.remove(&id) else { return };
        self.tell_outcome(&mut operation, asker, outcome, now);
        self.go_on(id, operation, now);
    }

    fn tell_outcome(
        &mut self,
        operation: &mut Operation,
        asker: Asker,
        outcome: Result<Answer, Failure>,
        now: Instant,
    ) {
        let judge = self.judge();
        match (operation, asker) {
            (Operation::Lookup(lookup), Asker::Request(_, request)) => match (&mut lookup.engine, outcome) {
                (Some(engine), Ok(answer)) => engine.answered(request, answer, &judge, now),
                (Some(engine), Err(why)) => engine.failed(request, why, now),
                (None, _) => {}
            },
            (Operation::Publish(publication), Asker::Request(_, request)) => match (&mut publication.engine, outcome) {
                (Some(engine), Ok(answer)) => engine.answered(request, answer, &judge, now),
                (Some(engine), Err(why)) => engine.failed(request, why, now),
                (None, _) => {}
            },
            (Operation::Walk(tour), Asker::Step(_, step)) => match outcome {
                Ok(Answer::Found { mut peers, .. }) => {
                    if tour.explores {
                        let same = |card: &Card, known: &Card| known.addresses == card.addresses;
                        peers.retain(|card| self.table.get(&card.node).is_none_or(|known| !same(card, known)));
                    }
                    if let Some(look) = &mut tour.look {
                        look.answered.extend(look.asked.remove(&step));
                    }
                    tour.walk.answered(step, &peers, now);
                }
                Ok(_) => tour.walk.failed(step, Failure::Malformed, now),
                Err(why) => tour.walk.failed(step, why, now),
            },
            (Operation::Errand(errand), Asker::Step(_, step)) => errand.walked(step, outcome, now),
            (Operation::Errand(errand), Asker::Request(..)) => errand.answered(outcome),
            (Operation::Lookup(lookup), Asker::Neighbour(_)) => {
                if let Ok(Answer::Found { bundle: Some(bytes), .. }) = outcome {
                    match record::validate(&bytes, &lookup.keys[0], &judge, None) {
                        Ok(bundle) => lookup.held_near(bundle),
                        Err(reason) => self.meter.refuse(format!("answer: {reason}")),
                    }
                }
            }
            // An operation asks questions of its own kind only.
            (Operation::Walk(_) | Operation::Errand(_), _)
            | (_, Asker::Step(..) | Asker::Neighbour(_) | Asker::Acquaintance) => {}
        }
    }

    /// Begins it if that was not done, sends what it wants sent, passes on what it says; keeps it unless it is over.
    fn go_on(&mut self, id: u64, mut operation: Operation, now: Instant) {
        self.begin(&mut operation, now);
        while let Some((asker, to, ask)) = operation.poll(id, now) {
            if let Err(why) = self.ask(asker, &to, ask, now) {
                self.tell_outcome(&mut operation, asker, Err(why), now);
            }
        }
        let observations = self.progress(&mut operation, now);
        self.observe(observations, now);
        let over = match &operation {
            Operation::Publish(publication) => publication.is_over(),
            Operation::Lookup(lookup) => lookup.is_over(),
            Operation::Walk(tour) => tour.walk.is_over(now),
            Operation::Errand(errand) => errand.is_over(now),
        };
        if over {
            self.ended(operation, now);
        } else {
            let near = match &mut operation {
                Operation::Lookup(lookup) => lookup.asks_near(now).then_some(lookup.keys[0]),
                Operation::Publish(_) | Operation::Walk(_) | Operation::Errand(_) => None,
            };
            if let Some(at) = operation.timeout() {
                self.operations_at = self.operations_at.min(at);
            }
            self.running.insert(id, operation);
            if let Some(key) = near {
                self.ask_neighbours(id, key, now);
            }
        }
    }

    /// Operations begin when there is anybody to ask, or nobody is waited for any more.
    fn begin(&mut self, operation: &mut Operation, now: Instant) {
        let servers = self.table.len();
        match operation {
            Operation::Lookup(lookup) if lookup.engine.is_none() => {
                let local = lookup.keys.iter().find_map(|key| self.held_now(key)).or(lookup.near.take());
                let counters = self.swarm.network_info().connection_counters().clone();
                let hopeful = counters.num_established() + counters.num_pending_outgoing() > 0;
                if servers == 0 && local.is_none() && lookup.waits(hopeful, now) {
                    return;
                }
                let coming = counters.num_pending_outgoing() > 0 || self.peers.connected_count() > servers;
                if local.is_none() && self.upkeep.is_new(now) && lookup.waits_for_more(servers, coming, now) {
                    return;
                }
                let (salt, radius) = (self.salt(), self.table.estimate().region());
                let seeds = lookup.keys.map(|key| self.seeds(&Position::of_key(&key), salt, now));
                lookup.begin(seeds, radius, salt, local, now);
            }
            Operation::Publish(publication) if publication.engine.is_none() && !publication.is_over() => {
                if servers == 0 {
                    let served_here = self.upkeep.server && self.peers.connected_count() > 0;
                    publication.alone(served_here, now);
                    return;
                }
                let (salt, radius) = (self.salt(), self.table.estimate().region());
                let seeds = publication.keys.map(|key| self.seeds(&Position::of_key(&key), salt, now));
                let (holders, walk) =
                    self.remembered.recall(&publication.bundle.id(), self.upkeep.estimate as f64, now);
                publication.begin(holders, seeds, radius, walk, salt, now);
            }
            Operation::Lookup(_) | Operation::Publish(_) | Operation::Walk(_) | Operation::Errand(_) => {}
        }
    }

    fn progress(&mut self, operation: &mut Operation, now: Instant) -> Observations {
        match operation {
            Operation::Lookup(lookup) => {
                let mut observations = Vec::new();
                while let Some(engine) = &mut lookup.engine {
                    observations.extend(engine.take_observations());
                    match engine.poll_progress() {
                        Some(Progress::Found(bundle)) => {
                            self.swarm.behaviour_mut().link.set_pin(lookup.who, bundle.pin());
                            lookup.found(bundle, now);
                        }
                        Some(Progress::Done(outcome)) => {
                            outcome.refused.values().for_each(|why| self.meter.refuse(format!("answer: {why}")));
                            lookup.done(outcome, now);
                        }
                        None => break,
                    }
                }
                observations
            }
            Operation::Publish(publication) => {
                let mut observations = Vec::new();
                while let Some(engine) = &mut publication.engine {
                    observations.extend(engine.take_observations());
                    match engine.poll_progress() {
                        Some(Published::Good { .. }) => {
                            let copies = distinct(engine.holders());
                            publication.answer(Ok(copies), now);
                        }
                        Some(Published::Newer(newer)) => publication.newer(newer),
                        Some(Published::Done { good, copies, wanted, .. }) => {
                            let result = if good { Ok(copies) } else { Err(PublishError::TooFew { copies, wanted }) };
                            publication.done(result, now);
                        }
                        None => break,
                    }
                }
                observations
            }
            Operation::Walk(tour) => tour.walk.take_observations(),
            Operation::Errand(errand) => errand.take_observations(),
        }
    }

    fn ended(&mut self, operation: Operation, now: Instant) {
        match operation {
            Operation::Publish(mut publication) => {
                if publication.was_good() {
                    self.meter.publish_seconds.observe(publication.took().as_secs_f64());
                }
                if let Some(engine) = &publication.engine {
                    let id = publication.bundle.id();
                    match publication.was_good() {
                        true => self.remembered.keep(id, engine.holders().clone(), publication.walked(), now),
                        false => self.remembered.forget(&id),
                    }
                }
                if let Some(next) = publication.successor() {
                    self.keep_own(&next.bundle, &next.keys);
                    self.enqueue(Operation::Publish(Box::new(next)));
                }
            }
            Operation::Lookup(lookup) => {
                if let Some(after) = lookup.first_valid_after() {
                    self.joining.found(lookup.who);
                    self.meter.lookup_seconds.observe(after.as_secs_f64());
                }
            }
            Operation::Walk(tour) => {
                if let Some(look) = tour.look {
                    self.looked(&look.through, look.answered, now);
                }
                if let Some(radius) = tour.measures {
                    self.table.observed(tour.walk.region(), radius);
                }
                self.upkeep.changed = true;
            }
            Operation::Errand(errand) => self.errand_ended(*errand, now),
        }
    }

    /// Facts that the engine saw go to the ledger.
    fn observe(&mut self, observations: Observations, now: Instant) {
        for (node, observation) in observations {
            let Some(peer) = super::address::peer_named(&node) else { continue };
            if observation == Observation::Silent && self.is_in_line(&peer) {
                continue;
            }
            self.ledger.note(peer, observation.fact(), now);
            if observation != Observation::Useful && self.ledger.shuns(&peer, now) {
                self.evict(&peer);
            }
        }
    }

    pub(super) fn seeds(&self, target: &Position, salt: u64, now: Instant) -> Seeds {
        let avoided =
            |node: &NodeKey| super::address::peer_named(node).is_none_or(|peer| self.ledger.avoids(&peer, now));
        self.table.seeds(target, salt, &avoided)
    }

    pub(super) fn salt(&self) -> u64 {
        u64::from_be_bytes(crate::identity::random())
    }

    fn held_now(&mut self, key: &RecordKey) -> Option<ValidBundle> {
        let judge = self.judge();
        self.holding().bundle(key, &judge)
    }
}

impl Operation {
    fn poll(&mut self, id: u64, now: Instant) -> Option<(Asker, Arc<Card>, Ask)> {
        let request = match self {
            Operation::Lookup(lookup) => lookup.engine.as_mut()?.poll_request(now),
            Operation::Publish(publication) => publication.engine.as_mut()?.poll_request(now),
            Operation::Walk(tour) => {
                let step = tour.walk.poll(now)?;
                if let Some(look) = &mut tour.look {
                    look.asked.insert(step.id, step.to.clone());
                }
                return Some((Asker::Step(id, step.id), step.to, Ask::Find(tour.target)));
            }
            Operation::Errand(errand) => return errand.poll(id, now),
        }?;
        Some((Asker::Request(id, request.id), request.to, request.ask))
    }

    /// Not begun, for want of somebody to ask.
    fn waits(&self) -> bool {
        match self {
            Operation::Lookup(lookup) => lookup.engine.is_none(),
            Operation::Publish(publication) => publication.engine.is_none(),
            Operation::Walk(_) | Operation::Errand(_) => false,
        }
    }

    fn timeout(&self) -> Option<Instant> {
        match self {
            Operation::Lookup(lookup) => lookup.timeout(),
            Operation::Publish(publication) => publication.timeout(),
            Operation::Walk(tour) => tour.walk.poll_timeout(),
            Operation::Errand(errand) => errand.timeout(),
        }
    }
}

/// Nodes that gave receipts, each once however many keys it keeps.
fn distinct(holders: &Holders) -> usize {
    holders.iter().flatten().map(|card| card.node).collect::<std::collections::HashSet<_>>().len()
}
