//! libp2p-kad 0.49's query iterators (`query/peers/closest.rs`, `closest/disjoint.rs`), written out for the simulator's
//! ids and clock; read beside the source, names kept. `Split` is S/Kademlia's: the contacts are dealt out to the paths,
//! and no peer is on two of them.

use std::collections::{BTreeMap, HashMap};

/// Microseconds.
pub type Time = u64;

/// A peer that does not answer stops holding up the query.
pub const PEER_TIMEOUT: Time = 10_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    NotContacted,
    Waiting(Time),
    Unresponsive,
    Failed,
    Succeeded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Iterating { no_progress: usize },
    Stalled,
    Finished,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Ask(u32),
    Waiting,
    AtCapacity,
    Finished,
}

#[derive(Clone, Debug)]
pub struct Closest {
    peers: BTreeMap<(u64, u32), Peer>,
    state: State,
    waiting: usize,
    parallelism: usize,
    results: usize,
    timeout: Time,
}

impl Closest {
    pub fn new(start: &[(u64, u32)], parallelism: usize, results: usize, timeout: Time) -> Self {
        Self {
            peers: start.iter().map(|key| (*key, Peer::NotContacted)).collect(),
            state: State::Iterating { no_progress: 0 },
            waiting: 0,
            parallelism,
            results,
            timeout,
        }
    }

    pub fn on_success(&mut self, key: (u64, u32), closer: &[(u64, u32)]) -> bool {
        if self.state == State::Finished {
            return false;
        }
        match self.peers.get_mut(&key) {
            Some(peer @ Peer::Waiting(_)) => {
                self.waiting -= 1;
                *peer = Peer::Succeeded;
            }
            Some(peer @ Peer::Unresponsive) => *peer = Peer::Succeeded,
            _ => return false,
        }
        let range = self.peers.keys().nth(self.results - 1).or(self.peers.keys().last()).map_or(key.0, |key| key.0);
        let mut progress = self.peers.len() < self.results;
        for key in closer {
            let first = !self.peers.contains_key(key);
            if first {
                self.peers.insert(*key, Peer::NotContacted);
            }
            progress |= first && key.0 < range;
        }
        self.state = match self.state {
            State::Iterating { no_progress } => {
                let no_progress = if progress { 0 } else { no_progress + 1 };
                if no_progress >= self.parallelism { State::Stalled } else { State::Iterating { no_progress } }
            }
            State::Stalled if progress => State::Iterating { no_progress: 0 },
            state => state,
        };
        true
    }

    pub fn on_failure(&mut self, key: (u64, u32)) -> bool {
        if self.state == State::Finished {
            return false;
        }
        match self.peers.get_mut(&key) {
            Some(peer @ Peer::Waiting(_)) => {
                self.waiting -= 1;
                *peer = Peer::Failed;
            }
            Some(peer @ Peer::Unresponsive) => *peer = Peer::Failed,
            _ => return false,
        }
        true
    }

    pub fn next(&mut self, now: Time) -> Next {
        if self.state == State::Finished {
            return Next::Finished;
        }
        let mut succeeded = Some(0);
        let at_capacity = match self.state {
            State::Stalled => self.waiting >= self.results.max(self.parallelism),
            State::Iterating { .. } => self.waiting >= self.parallelism,
            State::Finished => true,
        };
        for ((_, id), peer) in &mut self.peers {
            match peer {
                Peer::Waiting(timeout) if now >= *timeout => {
                    self.waiting -= 1;
                    *peer = Peer::Unresponsive;
                }
                Peer::Waiting(_) if at_capacity => return Next::AtCapacity,
                Peer::Waiting(_) => succeeded = None,
                Peer::Succeeded => {
                    if let Some(count) = &mut succeeded {
                        *count += 1;
                        if *count >= self.results {
                            self.state = State::Finished;
                            return Next::Finished;
                        }
                    }
                }
                Peer::NotContacted if at_capacity => return Next::AtCapacity,
                Peer::NotContacted => {
                    *peer = Peer::Waiting(now + self.timeout);
                    self.waiting += 1;
                    return Next::Ask(*id);
                }
                Peer::Unresponsive | Peer::Failed => {}
            }
        }
        if self.waiting > 0 {
            Next::Waiting
        } else {
            self.state = State::Finished;
            Next::Finished
        }
    }

    /// When somebody that it waits for has taken too long.
    pub fn timeout(&self, now: Time) -> Option<Time> {
        let waiting = |peer: &Peer| if let Peer::Waiting(until) = peer { Some(*until) } else { None };
        let finished = self.is_finished();
        self.peers.values().filter_map(waiting).filter(|until| !finished && *until > now).min()
    }

    pub fn is_finished(&self) -> bool {
        self.state == State::Finished
    }

    /// The nearest that answered.
    pub fn result(&self) -> Vec<(u64, u32)> {
        let succeeded = self.peers.iter().filter(|(_, peer)| **peer == Peer::Succeeded);
        succeeded.map(|(key, _)| *key).take(self.results).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Response {
    Waiting,
    Succeeded,
    Failed,
}

/// Several [`Closest`] side by side: what a peer says goes to the path that asked it.
#[derive(Clone, Debug)]
pub struct Disjoint {
    paths: Vec<Closest>,
    turn: usize,
    contacted: HashMap<u32, (usize, Response)>,
    /// S/Kademlia: who is on one path is on no other, and a failure counts for its path only.
    strict: bool,
}

impl Disjoint {
    /// As libp2p does it: all paths start from the same contacts.
    pub fn libp2p(start: &[(u64, u32)], paths: usize, results: usize, timeout: Time) -> Self {
        let path = Closest::new(start, paths, results, timeout);
        Self { paths: vec![path; paths], turn: 0, contacted: HashMap::new(), strict: false }
    }

    /// As S/Kademlia says: the contacts are dealt out.
    pub fn split(start: &[(u64, u32)], paths: usize, parallelism: usize, results: usize, timeout: Time) -> Self {
        let deal = |path: usize| start.iter().skip(path).step_by(paths).copied().collect::<Vec<_>>();
        let paths = (0..paths).map(|path| Closest::new(&deal(path), parallelism, results, timeout)).collect();
        Self { paths, turn: 0, contacted: HashMap::new(), strict: true }
    }

    pub fn on_success(&mut self, key: (u64, u32), closer: &[(u64, u32)]) {
        let Some((by, response)) = self.contacted.get_mut(&key.1) else { return };
        if self.paths[*by].on_success(key, closer) {
            *response = Response::Succeeded;
        }
        if !self.strict {
            let by = *by;
            for (_, path) in self.paths.iter_mut().enumerate().filter(|(i, _)| *i != by) {
                path.on_success(key, &[]);
            }
        }
    }

    pub fn on_failure(&mut self, key: (u64, u32)) {
        let Some((by, response)) = self.contacted.get_mut(&key.1) else { return };
        if self.paths[*by].on_failure(key) {
            *response = Response::Failed;
        }
        if !self.strict {
            let by = *by;
            for (_, path) in self.paths.iter_mut().enumerate().filter(|(i, _)| *i != by) {
                path.on_failure(key);
            }
        }
    }

    pub fn next(&mut self, now: Time, key: impl Fn(u32) -> (u64, u32)) -> Next {
        let mut state = Next::Finished;
        for _ in 0..self.paths.len() {
            let at = self.turn;
            self.turn = (self.turn + 1) % self.paths.len();
            loop {
                match self.paths[at].next(now) {
                    Next::Ask(id) => match self.contacted.get(&id) {
                        Some((_, Response::Succeeded)) if !self.strict => {
                            self.paths[at].on_success(key(id), &[]);
                        }
                        Some((_, Response::Waiting)) if !self.strict => {}
                        Some(_) => {
                            self.paths[at].on_failure(key(id));
                        }
                        None => {
                            self.contacted.insert(id, (at, Response::Waiting));
                            return Next::Ask(id);
                        }
                    },
                    Next::Finished => break,
                    Next::AtCapacity if state == Next::Finished => {
                        state = Next::AtCapacity;
                        break;
                    }
                    Next::AtCapacity => break,
                    Next::Waiting => {
                        state = Next::Waiting;
                        break;
                    }
                }
            }
        }
        state
    }

    pub fn timeout(&self, now: Time) -> Option<Time> {
        self.paths.iter().filter_map(|path| path.timeout(now)).min()
    }

    pub fn is_finished(&self) -> bool {
        self.paths.iter().all(Closest::is_finished)
    }

    /// The results of all paths, nearest first, each once.
    pub fn result(&self) -> Vec<(u64, u32)> {
        let mut all: Vec<(u64, u32)> = self.paths.iter().flat_map(Closest::result).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}
