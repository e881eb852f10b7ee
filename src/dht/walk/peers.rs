//! Everybody a walk has heard of: whether asked yet, by which cards, who named them, and how many requests each word
//! has caused.

use super::super::{Card, Distance, Network, Position};
use crate::clock::UnixMillis;
use crate::identity::NodeKey;
use std::collections::HashMap;
use std::sync::Arc;

/// A place in [`Peers`].
pub type Index = usize;

/// Different cards of one node that a walk keeps for later, and tries in all. A liar can name a node with an old card
/// of its own; with more than a few it would make us dial around.
const MAX_CARDS: usize = 4;
const MAX_TRIES: usize = 6;

/// Questions to one node that run at once, each by a later card than the one before.
const MAX_OPEN: usize = 3;

/// Sources remembered of one peer.
const MAX_SOURCES: usize = 4;

/// Open requests that the word of one source may cause at first; each named peer that answers allows one more, and three
/// that do not one less: who names only ghosts is not followed after the sixth.
const FIRST_CREDIT: u32 = 2;
const MOST_CREDIT: u32 = 10;
const PER_GONE: u32 = 3;

/// Named peers that were not there, before their namer is noted for it, and their share.
const GHOSTS: u32 = 5;
const GHOST_SHARE: f64 = 0.3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not asked, or not with the card that is next.
    New,
    Open,
    Answered,
    Failed,
}

#[derive(Debug)]
pub struct Peer {
    pub node: NodeKey,
    pub distance: Distance,
    pub state: State,
    /// In the region.
    pub member: bool,
    /// Known to us by this card, not hearsay.
    pub seed: Option<Arc<Card>>,
    /// Steps of hearsay inside the region: 0 was named from outside of it.
    pub level: u8,
    /// The line that heard of it first.
    pub line: usize,
    /// The line that asked it, if it was not the sweep.
    pub line_asked: Option<usize>,
    sources: Vec<Index>,
    /// `tried` of them were used up.
    cards: Vec<Arc<Card>>,
    tried: usize,
    /// Questions under way, and the time of the latest card that was tried.
    asked: usize,
    latest: UnixMillis,
    // As a source.
    open: u32,
    named_here: u32,
    named_gone: u32,
    named_slow: u32,
    noted: bool,
}

/// A network fact about a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// The first peer it named answered.
    Useful,
    /// It names peers that are not there.
    Ghosts,
}

#[derive(Debug, Default)]
pub struct Peers {
    all: Vec<Peer>,
    by_node: HashMap<NodeKey, Index>,
}

impl Peers {
    pub fn get(&self, at: Index) -> &Peer {
        &self.all[at]
    }

    pub fn get_mut(&mut self, at: Index) -> &mut Peer {
        &mut self.all[at]
    }

    /// Takes a card in. A peer that failed by other cards may be asked again by this one: a failure belongs to the
    /// address, not to the node.
    pub fn learn(&mut self, card: &Arc<Card>, target: &Position, source: Option<Index>, line: usize) -> Index {
        let at = *self.by_node.entry(card.node).or_insert_with(|| {
            self.all.push(Peer {
                node: card.node,
                distance: card.position.distance(target),
                state: State::New,
                member: false,
                seed: None,
                level: u8::MAX,
                line,
                line_asked: None,
                sources: Vec::new(),
                cards: Vec::new(),
                tried: 0,
                asked: 0,
                latest: UnixMillis(0),
                open: 0,
                named_here: 0,
                named_gone: 0,
                named_slow: 0,
                noted: false,
            });
            self.all.len() - 1
        });
        let peer = &mut self.all[at];
        if let Some(source) = source
            && peer.sources.len() < MAX_SOURCES
            && !peer.sources.contains(&source)
        {
            peer.sources.push(source);
        }
        peer.take_card(card);
        at
    }

    /// Somebody whose word has credit left, or nobody's word is needed: `Some(None)`.
    pub fn payer(&self, at: Index) -> Option<Option<Index>> {
        let peer = &self.all[at];
        if peer.seed.is_some() {
            return Some(None);
        }
        let credit = |source: &&Index| {
            let source = &self.all[**source];
            let earned = FIRST_CREDIT + source.named_here;
            source.open < earned.saturating_sub((source.named_gone + source.named_slow) / PER_GONE).min(MOST_CREDIT)
        };
        peer.sources.iter().find(credit).map(|source| Some(*source))
    }

    /// It is asked; `None` when there is no card left.
    pub fn ask(&mut self, at: Index, payer: Option<Index>) -> Option<Arc<Card>> {
        let peer = &mut self.all[at];
        let card = peer.cards.get(peer.tried)?.clone();
        peer.tried += 1;
        peer.asked += 1;
        peer.latest = peer.latest.max(card.issued_at);
        peer.state = State::Open;
        if let Some(payer) = payer {
            self.all[payer].open += 1;
        }
        Some(card)
    }

    /// The request does not count against its source any more.
    pub fn release(&mut self, payer: Option<Index>) {
        if let Some(payer) = payer {
            self.all[payer].open = self.all[payer].open.saturating_sub(1);
        }
    }

    /// It does not answer in time: whoever named it is followed less.
    pub fn is_slow(&mut self, at: Index, mut note: impl FnMut(NodeKey, Word)) {
        for source in self.all[at].sources.clone() {
            let source = &mut self.all[source];
            source.named_slow += 1;
            source.weigh(&mut note);
        }
    }

    fn was_slow(&mut self, at: Index) {
        for source in self.all[at].sources.clone() {
            let source = &mut self.all[source];
            source.named_slow = source.named_slow.saturating_sub(1);
        }
    }

    /// It answered: its sources spoke true. False if it had answered already.
    pub fn is_here(&mut self, at: Index, overdue: bool, mut note: impl FnMut(NodeKey, Word)) -> bool {
        if overdue {
            self.was_slow(at);
        }
        let peer = &mut self.all[at];
        peer.asked = peer.asked.saturating_sub(1);
        if std::mem::replace(&mut peer.state, State::Answered) == State::Answered {
            return false;
        }
        for source in peer.sources.clone() {
            let source = &mut self.all[source];
            source.named_here += 1;
            if source.named_here == 1 {
                note(source.node, Word::Useful);
            }
        }
        true
    }

    /// It is not where the card says. Whether another card is left to try.
    pub fn is_gone(&mut self, at: Index, overdue: bool, mut note: impl FnMut(NodeKey, Word)) -> bool {
        if overdue {
            self.was_slow(at);
        }
        let peer = &mut self.all[at];
        peer.asked = peer.asked.saturating_sub(1);
        if peer.state == State::Answered {
            return false;
        }
        for source in peer.sources.clone() {
            let source = &mut self.all[source];
            source.named_gone += 1;
            source.weigh(&mut note);
        }
        let peer = &mut self.all[at];
        if peer.asked == 0 {
            peer.state = if peer.has_more() { State::New } else { State::Failed };
        }
        peer.is_askable()
    }

    pub fn sources(&self, at: Index) -> &[Index] {
        &self.all[at].sources
    }
}

impl Peer {
    fn take_card(&mut self, card: &Arc<Card>) {
        let same = |known: &Arc<Card>| known.addresses == card.addresses && known.signed == card.signed;
        if self.cards.iter().any(same) {
            return;
        }
        // Its latest word first, among those not tried.
        let later = self.cards[self.tried..].iter().position(|known| known.issued_at < card.issued_at);
        self.cards.insert(later.map_or(self.cards.len(), |at| self.tried + at), card.clone());
        self.cards.truncate(self.tried + MAX_CARDS);
        if self.state == State::Failed && self.has_more() {
            self.state = State::New;
        }
    }

    /// Whether too many of those that it named are not there.
    fn weigh(&mut self, note: &mut impl FnMut(NodeKey, Word)) {
        let missing = self.named_gone + self.named_slow;
        let share = f64::from(missing) / f64::from(missing + self.named_here);
        if missing >= GHOSTS && share > GHOST_SHARE && !self.noted {
            self.noted = true;
            note(self.node, Word::Ghosts);
        }
    }

    fn has_more(&self) -> bool {
        self.tried < self.cards.len().min(MAX_TRIES)
    }

    /// Not asked yet, or being asked by an older card than the one that is next: whoever was named by an old card must
    /// not be out of reach while we wait at a dead address.
    pub fn is_askable(&self) -> bool {
        match self.state {
            State::New => self.has_more(),
            State::Open => {
                self.has_more()
                    && self.asked < MAX_OPEN
                    && self.cards.get(self.tried).is_some_and(|card| card.issued_at > self.latest)
            }
            State::Answered | State::Failed => false,
        }
    }

    /// Of the card that is next.
    pub fn next_network(&self) -> Option<Network> {
        self.cards.get(self.tried).map(|card| card.network)
    }
}
