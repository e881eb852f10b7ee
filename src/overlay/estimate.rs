//! How large the overlay is: pure. Ids are hashes, so distances to a node's nearest peers tell how dense they lie.

/// Nearest peers looked at.
const NEAREST: usize = 20;

/// Estimated number of nodes, this one included. `distances` are XOR distances (big-endian) from this node to the
/// servers that it knows. While they are fewer than fit into one bucket, the count is better than any estimate.
pub(super) fn nodes(mut distances: Vec<[u8; 32]>) -> usize {
    let known = distances.len() + 1;
    if distances.len() < NEAREST {
        return known;
    }
    distances.sort_unstable();
    // The k-th nearest of n uniform points lies at k/(n+1) of the space on average.
    let fraction = |distance: &[u8; 32]| {
        let (head, _) = distance.split_at(8);
        head.iter().fold(0.0, |sum, byte| sum * 256.0 + f64::from(*byte)) / 256_f64.powi(8)
    };
    let farthest = fraction(&distances[NEAREST - 1]).max(f64::MIN_POSITIVE);
    let estimate = (NEAREST - 1) as f64 / farthest;
    // A ground cluster of ids beside ours must not make us believe in a planet of nodes.
    known.max(estimate.min(100_000_000.0) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    fn known_of(all: usize) -> Vec<[u8; 32]> {
        let mut all: Vec<[u8; 32]> = (0..all as u64).map(|n| Sha256::digest(n.to_be_bytes()).into()).collect();
        all.sort_unstable();
        all.truncate(100);
        all
    }

    #[test]
    fn counts_small_overlays() {
        assert_eq!(nodes(Vec::new()), 1);
        assert_eq!(nodes(known_of(9)), 10);
    }

    #[test]
    fn estimates_large_ones_within_a_factor_of_two() {
        for size in [200, 1_000, 10_000, 50_000] {
            let estimate = nodes(known_of(size));
            assert!((size / 2..size * 2).contains(&estimate), "{size}: {estimate}");
        }
    }

    #[test]
    fn survives_neighbours_at_no_distance() {
        assert_eq!(nodes(vec![[0; 32]; 30]), 100_000_000);
    }
}
