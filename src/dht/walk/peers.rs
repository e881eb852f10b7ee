//! Everybody a walk has heard of: whether asked yet, by which cards, who named them, and how many requests each word
//! has caused.

use super::super::{Card, Distance, Network, Position};
use crate::identity::NodeKey;
use std::collections::HashMap;
use std::sync::Arc;

/// A place in [`Peers`].
pub type Index = usize;

/// Different cards of one node that a walk keeps. A liar can name a node with an old card of its own; with more than
/// a few it would make us dial around.
const MAX_CARDS: usize = 4;

/// Sources remembered of one peer.
const MAX_SOURCES: usize = 4;

/// Open requests that the word of one source may cause at first; each named peer that answers allows one more.
const FIRST_CREDIT: u32 = 2;
const MOST_CREDIT: u32 = 10;

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
    /// Known to us, not hearsay.
    pub seed: bool,
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
    // As a source.
    open: u32,
    named_here: u32,
    named_gone: u32,
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
                seed: false,
                level: u8::MAX,
                line,
                line_asked: None,
                sources: Vec::new(),
                cards: Vec::new(),
                tried: 0,
                open: 0,
                named_here: 0,
                named_gone: 0,
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
        if peer.seed {
            return Some(None);
        }
        let credit = |source: &&Index| {
            let source = &self.all[**source];
            source.open < (FIRST_CREDIT + source.named_here).min(MOST_CREDIT)
        };
        peer.sources.iter().find(credit).map(|source| Some(*source))
    }

    /// It is asked; `None` when there is no card left.
    pub fn ask(&mut self, at: Index, payer: Option<Index>) -> Option<Arc<Card>> {
        let peer = &mut self.all[at];
        let card = peer.cards.get(peer.tried)?.clone();
        peer.tried += 1;
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

    /// It answered: its sources spoke true.
    pub fn is_here(&mut self, at: Index, mut note: impl FnMut(NodeKey, Word)) {
        self.all[at].state = State::Answered;
        for source in self.all[at].sources.clone() {
            let source = &mut self.all[source];
            source.named_here += 1;
            if source.named_here == 1 {
                note(source.node, Word::Useful);
            }
        }
    }

    /// It is not where the card says. Whether another card is left to try.
    pub fn is_gone(&mut self, at: Index, mut note: impl FnMut(NodeKey, Word)) -> bool {
        for source in self.all[at].sources.clone() {
            let source = &mut self.all[source];
            source.named_gone += 1;
            let share = f64::from(source.named_gone) / f64::from(source.named_gone + source.named_here);
            if source.named_gone >= GHOSTS && share > GHOST_SHARE && !source.noted {
                source.noted = true;
                note(source.node, Word::Ghosts);
            }
        }
        let peer = &mut self.all[at];
        let more = peer.tried < peer.cards.len();
        peer.state = if more { State::New } else { State::Failed };
        more
    }

    pub fn named_ghosts(&self, at: Index) -> bool {
        self.all[at].noted
    }

    pub fn sources(&self, at: Index) -> &[Index] {
        &self.all[at].sources
    }
}

impl Peer {
    fn take_card(&mut self, card: &Arc<Card>) {
        let same = |known: &Arc<Card>| known.addresses == card.addresses && known.signed == card.signed;
        if self.cards.len() >= MAX_CARDS || self.cards.iter().any(same) {
            return;
        }
        // Its latest word first, among those not tried.
        let later = self.cards[self.tried..].iter().position(|known| known.issued_at < card.issued_at);
        self.cards.insert(later.map_or(self.cards.len(), |at| self.tried + at), card.clone());
        if self.state == State::Failed {
            self.state = State::New;
        }
    }

    /// Of the card that is next.
    pub fn next_network(&self) -> Option<Network> {
        self.cards.get(self.tried).map(|card| card.network)
    }

    /// Of the card that was asked last.
    pub fn network(&self) -> Option<Network> {
        self.cards.get(self.tried.checked_sub(1)?).map(|card| card.network)
    }
}
