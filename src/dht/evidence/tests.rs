use super::*;
use crate::dht::message::{Question, Said};
use crate::dht::{Ask, Stored, Voice};
use crate::identity::NodeSecret;

const OVERLAY: OverlayId = OverlayId([3; 32]);
const KEY: RecordKey = RecordKey([7; 32]);
const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

struct Holder {
    secret: NodeSecret,
    voice: Voice,
}

impl Holder {
    fn new(n: u8) -> Self {
        let secret = NodeSecret::from_bytes([n; 32]);
        let voice = Voice::new(&secret, OVERLAY, [1; 8]);
        Self { secret, voice }
    }

    fn says(&self, ask: Ask, said: Said, at: u64) -> Signed {
        let question = Question { nonce: [9; 16], card: None, ask, stamp: Bytes::new() };
        let bytes = self.voice.reply(&question, said, Vec::new(), None, UnixMillis(NOW.0 + at));
        let reply = Reply::decode(bytes, &question).unwrap();
        Signed::from(&reply)
    }

    fn promises(&self, promise: u32, at: u64) -> Signed {
        let said = Said::Stored { result: Stored::Kept { promise }, sequence: 5 };
        self.says(Ask::Store(KEY, Bytes::from_static(b"bundle")), said, at)
    }

    fn denies(&self, at: u64) -> Signed {
        self.says(Ask::Fetch(KEY), Said::Held(None), at)
    }

    fn proof(&self, receipt: Signed, denial: Signed) -> Result<Evidence, EvidenceError> {
        Evidence::new(self.secret.public(), KEY, receipt, denial, &OVERLAY)
    }
}

#[test]
fn a_denial_within_the_promise_is_a_proof_for_anybody() {
    let holder = Holder::new(1);
    let evidence = holder.proof(holder.promises(600, 0), holder.denies(599_999)).unwrap();
    assert_eq!((evidence.node, evidence.at), (holder.secret.public(), UnixMillis(NOW.0 + 599_999)));
    let bytes = evidence.encode();
    assert_eq!(Evidence::decode(&bytes, &OVERLAY), Some(evidence));
    assert!(bytes.len() < 400, "{}", bytes.len());
    for at in 0..bytes.len() {
        let mut other = bytes.clone();
        other[at] ^= 1;
        assert_eq!(Evidence::decode(&other, &OVERLAY), None, "byte {at}");
        assert_eq!(Evidence::decode(&bytes[..at], &OVERLAY), None);
    }
    assert_eq!(Evidence::decode(&bytes, &OverlayId([4; 32])), None, "of another overlay");
}

#[test]
fn who_keeps_to_the_word_is_not_proven_guilty() {
    let (holder, other) = (Holder::new(1), Holder::new(2));
    let promise = || holder.promises(600, 10_000);
    assert_eq!(holder.proof(promise(), holder.denies(610_000)), Err(EvidenceError::Time), "the promise is over");
    assert_eq!(holder.proof(promise(), holder.denies(9_000)), Err(EvidenceError::Time), "before it");
    assert_eq!(holder.proof(holder.promises(0, 0), holder.denies(1)), Err(EvidenceError::Time), "promised nothing");
    let held = holder.says(Ask::Fetch(KEY), Said::Held(Some(Bytes::from_static(b"old"))), 20_000);
    assert_eq!(holder.proof(promise(), held), Err(EvidenceError::Kind));
    let near = holder.says(Ask::Find(crate::dht::Position(KEY.0)), Said::Near, 20_000);
    assert_eq!(holder.proof(promise(), near), Err(EvidenceError::Kind));
    assert_eq!(holder.proof(promise(), holder.promises(600, 20_000)), Err(EvidenceError::Kind));
    assert_eq!(holder.proof(promise(), other.denies(20_000)), Err(EvidenceError::Signature), "somebody else's");
    let moved = Evidence::new(holder.secret.public(), RecordKey([8; 32]), promise(), holder.denies(20_000), &OVERLAY);
    assert_eq!(moved, Err(EvidenceError::Signature), "of another key");
    // A crash, or a run that was begun anew because something promised had to go.
    let again = Holder { voice: Voice::new(&holder.secret, OVERLAY, [2; 8]), secret: holder.secret.clone() };
    assert_eq!(holder.proof(promise(), again.denies(20_000)), Err(EvidenceError::Run));
}

#[test]
fn proofs_are_found_kept_for_a_month_and_bounded() {
    let holder = Holder::new(1);
    let node = holder.secret.public();
    let mut proofs = Proofs::default();
    assert!(!proofs.denied(node, KEY, holder.denies(20_000), &OVERLAY, NOW), "nothing was promised");
    proofs.promised(node, KEY, holder.promises(600, 10_000));
    assert!(!proofs.denied(node, RecordKey([8; 32]), holder.denies(20_000), &OVERLAY, NOW));
    assert!(proofs.denied(node, KEY, holder.denies(20_000), &OVERLAY, NOW));
    assert!(!proofs.denied(node, KEY, holder.denies(20_000), &OVERLAY, NOW), "known");
    assert!(proofs.against(&node).is_some() && proofs.against(&Holder::new(2).secret.public()).is_none());
    for n in 2..=(MOST as u8 + 5) {
        let holder = Holder::new(n);
        proofs.promised(holder.secret.public(), KEY, holder.promises(600, 10_000));
        assert!(proofs.denied(holder.secret.public(), KEY, holder.denies(20_000), &OVERLAY, NOW));
    }
    assert_eq!((proofs.len(), proofs.against(&node)), (MOST, None));
    let rows = proofs.rows();
    let read = |now| Proofs::from_rows(rows.iter().map(|(_, row)| row.as_slice()), &OVERLAY, now);
    assert_eq!(read(NOW).rows(), rows);
    assert!(read(UnixMillis(NOW.0 + KEPT_MS)).is_empty());
    for n in 0..2 * RECEIPTS as u32 {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&n.to_be_bytes());
        proofs.promised(node, RecordKey(key), holder.promises(600, 0));
    }
    assert_eq!(proofs.receipts.len(), RECEIPTS);
}
