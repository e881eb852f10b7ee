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

/// Sources remembered of one card.
const MAX_SOURCES: usize = 8;

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

/// A card, and who named the node by it: the word of each counts for its own card alone.
#[derive(Debug)]
struct Known {
    card: Arc<Card>,
    sources: Vec<Index>,
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
    /// The first `tried` of them were used up; then the latest first.
    cards: Vec<Known>,
    tried: usize,
    /// Dates of the cards by which it is being asked, and is not overdue.
    waiting: Vec<UnixMillis>,
    asked: usize,
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
                cards: Vec::new(),
                tried: 0,
                waiting: Vec::new(),
                asked: 0,
                open: 0,
                named_here: 0,
                named_gone: 0,
                named_slow: 0,
                noted: false,
            });
            self.all.len() - 1
        });
        self.all[at].take_card(card, source);
        at
    }

    /// By which card it can be asked now, and on whose word: nobody's is needed for a card of our own.
    fn next_card(&self, at: Index) -> Option<(usize, Option<Index>)> {
        let peer = &self.all[at];
        let credit = |source: &&Index| {
            let source = &self.all[**source];
            let earned = FIRST_CREDIT + source.named_here;
            source.open < earned.saturating_sub((source.named_gone + source.named_slow) / PER_GONE).min(MOST_CREDIT)
        };
        peer.askable().find_map(|at| {
            let known = &peer.cards[at];
            if peer.seed.as_ref().is_some_and(|card| same(card, &known.card)) {
                return Some((at, None));
            }
            known.sources.iter().find(credit).map(|source| (at, Some(*source)))
        })
    }

    /// Whether it can be asked, and somebody's word for it has credit left.
    pub fn is_open_to(&self, at: Index) -> bool {
        self.next_card(at).is_some()
    }

    pub fn next_network(&self, at: Index) -> Option<Network> {
        self.next_card(at).map(|(card, _)| self.all[at].cards[card].card.network)
    }

    /// Those no farther than this who do not count as members yet.
    pub fn within(&self, radius: Distance) -> Vec<Index> {
        let near = |peer: &Peer| !peer.member && peer.distance <= radius;
        self.all.iter().enumerate().filter(|(_, peer)| near(peer)).map(|(at, _)| at).collect()
    }

    /// It is asked: by which card, and whose word caused it.
    pub fn ask(&mut self, at: Index) -> Option<(Arc<Card>, Option<Index>)> {
        let (chosen, payer) = self.next_card(at)?;
        let peer = &mut self.all[at];
        let known = peer.cards.remove(chosen);
        let card = known.card.clone();
        peer.cards.insert(peer.tried, known);
        peer.tried += 1;
        peer.asked += 1;
        peer.waiting.push(card.issued_at);
        peer.state = State::Open;
        if let Some(payer) = payer {
            self.all[payer].open += 1;
        }
        Some((card, payer))
    }

    /// The request does not count against its source any more.
    pub fn release(&mut self, payer: Option<Index>) {
        if let Some(payer) = payer {
            self.all[payer].open = self.all[payer].open.saturating_sub(1);
        }
    }

    fn sources_of(&self, at: Index, card: &Card) -> Vec<Index> {
        self.all[at].cards.iter().find(|known| same(&known.card, card)).map_or(Vec::new(), |k| k.sources.clone())
    }

    /// It does not answer in time at this card's address: whoever named it so is followed less.
    pub fn is_slow(&mut self, at: Index, card: &Card, mut note: impl FnMut(NodeKey, Word)) {
        self.all[at].waits_no_more(card);
        for source in self.sources_of(at, card) {
            let source = &mut self.all[source];
            source.named_slow += 1;
            source.weigh(&mut note);
        }
    }

    fn settle(&mut self, at: Index, card: &Card, overdue: bool) {
        let peer = &mut self.all[at];
        peer.asked = peer.asked.saturating_sub(1);
        if !overdue {
            peer.waits_no_more(card);
            return;
        }
        for source in self.sources_of(at, card) {
            let source = &mut self.all[source];
            source.named_slow = source.named_slow.saturating_sub(1);
        }
    }

    /// It answered: who named it by this card spoke true. False if it had answered already.
    pub fn is_here(&mut self, at: Index, card: &Card, overdue: bool, mut note: impl FnMut(NodeKey, Word)) -> bool {
        self.settle(at, card, overdue);
        for source in self.sources_of(at, card) {
            let source = &mut self.all[source];
            source.named_here += 1;
            if source.named_here == 1 {
                note(source.node, Word::Useful);
            }
        }
        std::mem::replace(&mut self.all[at].state, State::Answered) != State::Answered
    }

    /// It is not where the card says. Whether another card is left to try.
    pub fn is_gone(&mut self, at: Index, card: &Card, overdue: bool, mut note: impl FnMut(NodeKey, Word)) -> bool {
        self.settle(at, card, overdue);
        for source in self.sources_of(at, card) {
            let source = &mut self.all[source];
            source.named_gone += 1;
            source.weigh(&mut note);
        }
        let peer = &mut self.all[at];
        if peer.asked == 0 && peer.state == State::Open {
            peer.state = if peer.has_more() { State::New } else { State::Failed };
        }
        peer.is_askable()
    }

    /// Who named it, by any card.
    pub fn sources(&self, at: Index) -> impl Iterator<Item = &Peer> {
        self.all[at].cards.iter().flat_map(|known| &known.sources).map(|source| &self.all[*source])
    }
}

impl Peer {
    /// The card by which it was asked last, if it has answered.
    pub fn answered_by(&self) -> Option<Arc<Card>> {
        let last = self.tried.checked_sub(1).and_then(|last| self.cards.get(last));
        last.filter(|_| self.state == State::Answered).map(|known| known.card.clone())
    }

    fn take_card(&mut self, card: &Arc<Card>, source: Option<Index>) {
        let at = self.cards.iter().position(|known| same(&known.card, card)).unwrap_or_else(|| {
            // Its latest word first, among those not tried.
            let later = self.cards[self.tried..].iter().position(|known| known.card.issued_at < card.issued_at);
            let at = later.map_or(self.cards.len(), |at| self.tried + at);
            self.cards.insert(at, Known { card: card.clone(), sources: Vec::new() });
            at
        });
        let sources = &mut self.cards[at].sources;
        if let Some(source) = source
            && sources.len() < MAX_SOURCES
            && !sources.contains(&source)
        {
            sources.push(source);
        }
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

    fn waits_no_more(&mut self, card: &Card) {
        if let Some(at) = self.waiting.iter().position(|date| *date == card.issued_at) {
            self.waiting.swap_remove(at);
        }
    }

    /// Cards by which it can be asked: those not tried, and while it is being asked those that are later: whoever was
    /// named by an old card must not be out of reach while we wait at a dead address.
    fn askable(&self) -> impl Iterator<Item = usize> {
        let open = match self.state {
            State::New => true,
            State::Open => self.asked < MAX_OPEN,
            State::Answered | State::Failed => false,
        };
        let latest = self.waiting.iter().max().copied();
        let cards = if open && self.has_more() { self.tried..self.cards.len() } else { 0..0 };
        cards.filter(move |at| latest.is_none_or(|latest| self.cards[*at].card.issued_at > latest))
    }

    pub fn is_askable(&self) -> bool {
        self.askable().next().is_some()
    }
}

/// Cards that lead to the same place, signed by the same hand.
fn same(one: &Card, other: &Card) -> bool {
    one.addresses == other.addresses && one.signed == other.signed
}
