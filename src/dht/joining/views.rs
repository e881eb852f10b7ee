//! What the sources show of the place around this node, and whether they agree.

use crate::dht::Network;
use crate::identity::NodeKey;

/// Networks whose sources must agree, where there are so many.
pub(super) const NEEDED: usize = 3;

/// Views kept; the oldest of them goes.
const MOST: usize = 32;

/// How a search for this node's own position ended that began at one source only.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) through: NodeKey,
    pub(super) network: Network,
    /// Nearest to this node that answered.
    pub(super) nearest: Vec<NodeKey>,
    pub(super) nodes: f64,
}

impl View {
    /// Half of the smaller set is in the other one too, and the sizes agree within a factor of two.
    fn agrees(&self, other: &View) -> bool {
        let common = self.nearest.iter().filter(|node| other.nearest.contains(node)).count();
        let smaller = self.nearest.len().min(other.nearest.len());
        let ratio = self.nodes.max(1.0) / other.nodes.max(1.0);
        common * 2 >= smaller && smaller > 0 && (0.5..=2.0).contains(&ratio)
    }
}

/// What the views say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Networks in the largest set of views that agree.
    pub(super) agree: usize,
    /// Networks in the largest set of those that do not agree with these.
    pub(super) dissent: usize,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Views {
    views: Vec<View>,
}

impl Views {
    pub(super) fn add(&mut self, view: View) {
        self.views.retain(|other| other.through != view.through);
        if self.views.len() >= MOST {
            self.views.remove(0);
        }
        self.views.push(view);
    }

    pub(super) fn forget(&mut self, through: &NodeKey) {
        self.views.retain(|view| view.through != *through);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &View> {
        self.views.iter()
    }

    pub(super) fn networks(&self) -> usize {
        networks(&self.views.iter().collect::<Vec<_>>())
    }

    pub(super) fn verdict(&self) -> Verdict {
        let all: Vec<&View> = self.views.iter().collect();
        let (agree, rest) = largest(&all);
        let (dissent, _) = largest(&rest);
        Verdict { agree, dissent }
    }

    /// Sources that do not agree with most.
    pub(super) fn dissenters(&self) -> Vec<NodeKey> {
        let all: Vec<&View> = self.views.iter().collect();
        largest(&all).1.into_iter().map(|view| view.through).collect()
    }

    /// What the sources that agree hold the overlay's size for: their median.
    pub(super) fn nodes(&self) -> Option<f64> {
        let all: Vec<&View> = self.views.iter().collect();
        let rest = largest(&all).1;
        let mut nodes: Vec<f64> =
            all.iter().filter(|v| rest.iter().all(|r| r.through != v.through)).map(|v| v.nodes).collect();
        nodes.sort_unstable_by(f64::total_cmp);
        nodes.get(nodes.len() / 2).copied()
    }
}

fn networks(views: &[&View]) -> usize {
    let mut systems: Vec<u64> = views.iter().map(|view| view.network.system).collect();
    systems.sort_unstable();
    systems.dedup();
    systems.len()
}

/// The views that agree with one of them, by networks; and the others.
fn largest<'a>(views: &[&'a View]) -> (usize, Vec<&'a View>) {
    let sides = |centre: &&View| views.iter().copied().partition::<Vec<&'a View>, _>(|view| centre.agrees(view));
    let best = views.iter().map(sides).max_by_key(|(with, _)| (networks(with), with.len()));
    best.map_or((0, Vec::new()), |(with, without)| (networks(&with), without))
}
