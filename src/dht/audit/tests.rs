use super::*;
use crate::dht::{Network, Position};
use crate::identity::NodeKey;
use bytes::Bytes;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

fn holder(n: u8) -> Arc<Card> {
    let node = NodeKey([n; 32]);
    let position = Position::of_node(&node);
    let network = Network::of([8, 8, n, 8].into());
    Arc::new(Card { node, position, network, addresses: Vec::new(), issued_at: NOW, signed: Bytes::new() })
}

#[test]
fn one_receipt_in_32_is_looked_after_later_and_not_too_often() {
    let mut audits = Audits::default();
    for n in 0..320 {
        audits.receipt(RecordKey([1; 32]), &holder(n as u8), n, 1_800, n * 1_000_003, NOW);
    }
    assert_eq!(audits.waiting.len(), 10);
    assert!(audits.poll(UnixMillis(NOW.0 + LATER_MS - 1)).is_none(), "not at once");
    let mut made: Vec<u64> = Vec::new();
    for second in 60..1_800 {
        let now = UnixMillis(NOW.0 + second * 1_000);
        if let Some(audit) = audits.poll(now) {
            assert!(audit.until > now && audit.sequence % 32 == 0);
            made.push(second);
        }
    }
    assert_eq!(made.len(), 10);
    assert!(made.windows(2).all(|pair| pair[1] - pair[0] >= 10), "{made:?}");
}

#[test]
fn a_gateway_remembers_little_and_nothing_that_was_not_promised() {
    let mut audits = Audits::default();
    for n in 0..100_000 {
        audits.receipt(RecordKey([1; 32]), &holder(n as u8), 1, 0, n * 32, NOW);
    }
    assert!(audits.waiting.is_empty());
    for n in 0..100_000 {
        audits.receipt(RecordKey([1; 32]), &holder(n as u8), 1, 1_800, n * 32, NOW);
    }
    assert_eq!(audits.waiting.len(), MAX_WAITING);
    assert!(audits.poll(UnixMillis(NOW.0 + 1_800_000)).is_none(), "over by then");
    assert!(audits.waiting.is_empty());
}

#[test]
fn only_what_breaks_a_promise_is_held_against_anybody() {
    let mut audits = Audits::default();
    audits.receipt(RecordKey([1; 32]), &holder(1), 50, 1_800, 0, NOW);
    let within = UnixMillis(NOW.0 + LATER_MS);
    let after = UnixMillis(NOW.0 + 1_800_000);
    let audit = audits.poll(within).unwrap();
    assert_eq!(audit.judge(Some(50), within), Some(Observation::Useful));
    assert_eq!(audit.judge(Some(51), after), Some(Observation::Useful));
    assert_eq!(audit.judge(Some(49), within), Some(Observation::Broken));
    assert_eq!(audit.judge(None, within), Some(Observation::Broken));
    assert_eq!(audit.judge(None, after), None);
}
