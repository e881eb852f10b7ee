//! How this node's clock stands to those of others, by the times in their replies: for people to be told. Nothing is
//! decided by it: whoever answers may state any time. Pure, bounded.

use crate::clock::UnixMillis;
use crate::identity::NodeKey;
use std::collections::VecDeque;

/// Nodes whose last word counts.
const MOST: usize = 32;
/// With fewer nothing is said: one wrong clock is not to be taken for ours.
const LEAST: usize = 3;

#[derive(Default)]
pub(super) struct Clocks {
    /// By how much ours was ahead, milliseconds; the latest last.
    heard: VecDeque<(NodeKey, i64)>,
}

impl Clocks {
    /// `node` stated `theirs` in an answer that came at `ours`: half a round trip is in it.
    pub(super) fn heard(&mut self, node: NodeKey, theirs: UnixMillis, ours: UnixMillis) {
        self.heard.retain(|(other, _)| *other != node);
        if self.heard.len() >= MOST {
            self.heard.pop_front();
        }
        let ahead = i128::from(ours.0) - i128::from(theirs.0);
        self.heard.push_back((node, i64::try_from(ahead).unwrap_or(if ahead < 0 { i64::MIN } else { i64::MAX })));
    }

    /// By how many milliseconds our clock is ahead of most others': the median.
    pub(super) fn ahead_ms(&self) -> Option<i64> {
        let mut all: Vec<i64> = self.heard.iter().map(|(_, ahead)| *ahead).collect();
        all.sort_unstable();
        (all.len() >= LEAST).then(|| all[all.len() / 2])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_decide_and_each_node_has_one_voice() {
        let (mut clocks, ours) = (Clocks::default(), UnixMillis(1_000_000));
        let node = |n: u8| NodeKey([n; 32]);
        clocks.heard(node(1), UnixMillis(999_900), ours);
        for _ in 0..50 {
            clocks.heard(node(2), UnixMillis(u64::MAX), ours);
        }
        assert_eq!(clocks.ahead_ms(), None, "two are not enough");
        clocks.heard(node(3), UnixMillis(999_800), ours);
        assert_eq!(clocks.ahead_ms(), Some(100));
        for n in 0..=255 {
            clocks.heard(node(n), UnixMillis(0), ours);
        }
        assert_eq!((clocks.heard.len(), clocks.ahead_ms()), (MOST, Some(1_000_000)));
    }
}
