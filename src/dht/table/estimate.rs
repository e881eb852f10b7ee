//! How large the overlay is (SECURITY §4.4). Positions are hashes, so how dense the peers lie around this node tells how
//! many there are; where a small overlay is known as a whole they are counted.
//!
//! Fooling it is made dear, not impossible. Only what is complete is looked at: the largest ball around this node in
//! which nobody was turned away. It is cut into eight equal slices, and when one of them stands out (ids ground to lie
//! next to this node, or a part that somebody hides), the middle four decide. What crowds in from one network does not
//! count. And one neighbourhood is one voice: searches for random places, which nobody could foresee, tell of others,
//! and the median decides. To double the result with only the own neighbourhood takes about sixty ids in as many
//! networks next to this node; with [`VOICES`] others, as many in half of all places.

use super::bucket::{Bucket, Standing};
use std::collections::VecDeque;

/// Slices of the ball.
const SLICES: usize = 8;

/// Other places that are remembered, and from how many on they have a voice.
pub(super) const PLACES: usize = 15;
pub(super) const VOICES: usize = 4;

/// Nobody's overlay is larger: a cluster at no distance must not make us believe in more.
const MOST: f64 = 1e9;

/// Tables up to this size count everybody, crowds or not: an office, a test on one machine.
const COUNT_ALL: usize = 64;

/// With fewer peers than this outside of crowds, the overlay lives in a few networks, and crowds count.
const FEW_NETWORKS: usize = 32;

/// What other places said, newest last.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    said: VecDeque<f32>,
}

impl Places {
    pub(super) fn add(&mut self, nodes: f64) {
        if self.said.len() == PLACES {
            self.said.pop_front();
        }
        self.said.push_back(nodes as f32);
    }

    /// The median of all places and the own one.
    pub(super) fn with_own(&self, own: f64) -> f64 {
        if self.said.len() < VOICES {
            return own;
        }
        let mut voices: Vec<f64> = self.said.iter().map(|said| f64::from(*said)).chain([own]).collect();
        voices.sort_unstable_by(f64::total_cmp);
        let middle = voices.len() / 2;
        if voices.len() % 2 == 1 { voices[middle] } else { f64::midpoint(voices[middle - 1], voices[middle]) }
    }
}

/// Members, and those of them who are no crowd.
fn count(buckets: &[Bucket]) -> (usize, usize) {
    let members = || buckets.iter().flat_map(|bucket| &bucket.members);
    (members().count(), members().filter(|entry| entry.standing != Standing::Crowd).count())
}

/// Whether peers count who crowd in from one network: where there is little else.
pub(super) fn crowds_count(buckets: &[Bucket]) -> bool {
    let (all, quiet) = count(buckets);
    all <= COUNT_ALL || quiet < FEW_NETWORKS
}

/// Of the own neighbourhood. `here`: first 64 bits of the own position.
pub(super) fn own(buckets: &[Bucket], here: u64) -> f64 {
    let members = || buckets.iter().flat_map(|bucket| &bucket.members);
    let (all, quiet) = count(buckets);
    let everybody = crowds_count(buckets);
    // Bits that this node shares with everybody in the ball.
    let bits = buckets.iter().rposition(|bucket| bucket.overflown).map_or(0, |last| last + 1);
    if bits == 0 {
        return (if everybody { all } else { quiet } + 1) as f64;
    }
    let shift = 64 - u32::try_from(bits).unwrap_or(64).min(60);
    let mut slices = [0_usize; SLICES];
    for entry in members().filter(|entry| everybody || entry.standing != Standing::Crowd) {
        let distance = entry.head ^ here;
        if distance >> shift == 0 {
            slices[(distance >> (shift - 3)) as usize & (SLICES - 1)] += 1;
        }
    }
    let scale = 2_f64.powi(64 - i32::try_from(shift).unwrap_or(0));
    (inside(slices) * scale + 1.0).clamp(1.0 + quiet as f64, MOST)
}

/// Peers in the ball, from the counts of its slices: all of them, unless the slices differ by more than chance makes
/// them differ (a Poisson count at 4 standard deviations), then by the middle ones.
fn inside(slices: [usize; SLICES]) -> f64 {
    let mut sorted = slices;
    sorted.sort_unstable();
    let sum: usize = slices.iter().sum();
    let middle = sorted[2..6].iter().sum::<usize>() as f64 / 4.0;
    let deviation = 4.0 * middle.max(1.0).sqrt();
    let strange = |count: usize| (count as f64 - middle).abs() > deviation;
    if strange(sorted[0]) || strange(sorted[SLICES - 1]) { middle * SLICES as f64 } else { sum as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_strange_slice_has_no_voice() {
        assert!((inside([5, 4, 6, 5, 5, 3, 7, 5]) - 40.0).abs() < 1e-9);
        assert!((inside([200, 4, 6, 5, 5, 3, 7, 5]) - 42.0).abs() < 1e-9);
        assert!(inside([0, 40, 38, 41, 44, 39, 40, 40]) > 300.0);
    }

    #[test]
    fn the_median_of_places_decides() {
        let mut places = Places::default();
        assert!((places.with_own(7.0) - 7.0).abs() < 1e-9);
        for said in [900.0, 1_000.0, 1_100.0, 1_200.0] {
            places.add(said);
        }
        assert!((places.with_own(1e8) - 1_100.0).abs() < 1.0);
    }
}
