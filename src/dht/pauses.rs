//! How long the searches of a node at rest may wait, by the size of the overlay.
//!
//! In a large overlay a search costs more, as each of its questions is a dial to somebody new, and less changes between two
//! of them for each node. At 10^5 nodes a walk costs 0.36 MB, a lookup 1.5 MB and a publication with its search 1.7 MB
//! (docs/measurements/overlay.md "A node at rest"): each hour, that is more than all the rest.

use std::time::Duration;

const HOUR: Duration = Duration::from_secs(3_600);

/// Between the walks to the own position and to a far corner: 5 minutes up to 33 nodes (a client: 8), then in proportion to
/// their number up to an hour (a client: 12). A walk among 100 nodes costs as much as one among 10^5, and what a table has
/// is kept fresh by its probes, not by walks; newcomers show themselves. A client is asked by nobody, so it needs no
/// complete neighbourhood.
pub fn between_walks(nodes: f64, server: bool) -> Duration {
    let (per_node, most) = if server { (9.0, HOUR) } else { (36.0, 12 * HOUR) };
    in_proportion(nodes, per_node, Duration::from_secs(300), most)
}

/// Between searches for new holders of an own record: an hour up to 2,000 nodes, at most a day. Holders that go are noticed
/// without: a refresh goes to each of them, and searches when too few give receipts (SECURITY "cheap refresh").
pub fn between_searches(nodes: f64) -> Duration {
    in_proportion(nodes, 1.8, HOUR, 24 * HOUR)
}

/// Between checks whether this node has been parted from the overlay: an hour up to 2,000 nodes, at most twelve. The first
/// comes soon after each start, and any doubt is followed at once, however large the overlay is.
pub fn between_checks(nodes: f64) -> Duration {
    in_proportion(nodes, 1.8, HOUR, 12 * HOUR)
}

/// `per_node`: seconds.
fn in_proportion(nodes: f64, per_node: f64, least: Duration, most: Duration) -> Duration {
    let nodes = if nodes.is_nan() { 0.0 } else { nodes.clamp(0.0, 1e9) };
    Duration::from_secs_f64(per_node * nodes).clamp(least, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [f64; 5] = [1.0, 100.0, 400.0, 4_000.0, 100_000.0];

    #[test]
    fn grow_with_the_overlay() {
        let minutes = |pause: fn(f64) -> Duration| SIZES.map(|nodes| pause(nodes).as_secs() / 60);
        assert_eq!(minutes(|nodes| between_walks(nodes, true)), [5, 15, 60, 60, 60]);
        assert_eq!(minutes(|nodes| between_walks(nodes, false)), [5, 60, 240, 720, 720]);
        assert_eq!(minutes(between_searches), [60, 60, 60, 120, 1_440]);
        assert_eq!(minutes(between_checks), [60, 60, 60, 120, 720]);
    }

    #[test]
    fn stay_in_their_bounds_whatever_the_estimate() {
        for nodes in [f64::NAN, f64::NEG_INFINITY, -1.0, 0.0] {
            assert_eq!(between_searches(nodes), HOUR);
        }
        assert_eq!(between_walks(1e300, false), 12 * HOUR);
    }
}
