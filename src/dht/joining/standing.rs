//! What the way in is made of, what its driver is asked to do, and how this node stands to the overlay.

use crate::identity::NodeKey;
use crate::reachability::Address;

/// Where a lead comes from, in the order in which they are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// The longest connected of the last session.
    Anchor,
    /// The tried table of the cache.
    Tried,
    /// The node that a contact was last seen at.
    Contact,
    /// Of the charter, or the configuration.
    Bootstrap,
    /// A list of a domain, unsigned: however many it names, they count as one network.
    Dns,
    /// Found in the local network: never evidence of the overlay beyond.
    Lan,
    /// The new table of the cache.
    New,
}

/// Tells a lead from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeadId(pub u32);

/// Somebody to dial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lead {
    pub id: LeadId,
    pub source: Source,
    pub node: Option<NodeKey>,
    /// Empty when only the driver knows how to dial it.
    pub addresses: Vec<Address>,
    /// The driver's own number for it, from [`super::Joining::add_lead`].
    pub index: usize,
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Dial; then [`super::Joining::reached`] or [`super::Joining::unreached`].
    Dial(Lead),
    /// Dial to see whether it is there, and hang up; the same answers.
    Feeler(Lead),
    /// Search for the own position, beginning at this node alone; then [`super::Joining::looked`]. What is found goes into the
    /// table.
    Look(NodeKey),
    /// Look up records that were there before, own ones and those of [`super::Contacts::some`], by a way that begins at
    /// this node alone, or anywhere; then [`super::Joining::checked`].
    Check(Option<NodeKey>),
}

/// How this node stands to the overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Standing {
    /// Nobody is known: the first node.
    #[default]
    Alone,
    /// Under way.
    Joining,
    /// Sources of as many networks as needed agree.
    Joined,
    /// It may see something else than the overlay.
    PossiblyIsolated(Doubt),
}

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Doubt {
    /// Nodes are known, and none of them can be reached.
    NobodyAnswers,
    /// Those that can be reached are in fewer networks than needed.
    FewNetworks,
    /// Sources show different overlays.
    SourcesDisagree,
    /// The overlay is less than a quarter of what it was.
    Shrunk,
    /// Records that were there before are not found.
    RecordsGone,
}

impl std::fmt::Display for Doubt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Doubt::NobodyAnswers => "none of the known nodes answers: is there a way to the Internet?",
            Doubt::FewNetworks => {
                "nodes answer from fewer networks than are known: what they show may not be the overlay"
            }
            Doubt::SourcesDisagree => {
                "the known nodes show different overlays: some of them lie, or the overlay is in parts"
            }
            Doubt::Shrunk => "the overlay is far smaller than it was: somebody may show a part, or a copy, of it",
            Doubt::RecordsGone => "none of the people who were found before is found now",
        })
    }
}

impl std::fmt::Display for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Standing::Alone => f.write_str("alone: no other node is known; name one with --bootstrap"),
            Standing::Joining => f.write_str("joining: looking for the overlay"),
            Standing::Joined => f.write_str("joined"),
            Standing::PossiblyIsolated(doubt) => write!(f, "possibly isolated: {doubt}"),
        }
    }
}
