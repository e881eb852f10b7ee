use super::*;
use proptest::prelude::*;

const OVERLAY: OverlayId = OverlayId([3; 32]);
const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

fn secret() -> NodeSecret {
    NodeSecret::from_bytes([5; 32])
}

fn voice() -> Voice {
    Voice::new(&secret(), OVERLAY, [7; 8])
}

fn question(ask: Ask) -> Question {
    Question { nonce: [1; 16], card: None, ask, stamp: Bytes::new() }
}

fn asks() -> [Ask; 5] {
    let bundle = Bytes::from(vec![9; MAX_BUNDLE_BYTES]);
    let entry = Bytes::from(vec![5; MAX_ENTRY_BYTES]);
    [
        Ask::Find(Position([1; 32])),
        Ask::Fetch(RecordKey([2; 32])),
        Ask::Store(RecordKey([3; 32]), bundle),
        Ask::List(RecordKey([4; 32])),
        Ask::Enlist(RecordKey([4; 32]), entry),
    ]
}

fn replies() -> Vec<(Question, Said)> {
    let [find, fetch, store, list, enlist] = asks().map(question);
    let entries: Vec<Bytes> = (0..MAX_ENTRIES as u8).map(|n| Bytes::from(vec![n; MAX_ENTRY_BYTES])).collect();
    let stored = |result| Said::Stored { result, sequence: 0 };
    let newer = Bytes::from(vec![8; MAX_BUNDLE_BYTES]);
    vec![
        (find.clone(), Said::Near),
        (fetch.clone(), Said::Held(None)),
        (fetch, Said::Held(Some(newer.clone()))),
        (store.clone(), Said::Stored { result: Stored::Kept { promise: 1_200 }, sequence: 77 }),
        (store.clone(), stored(Stored::Stale { newer })),
        (store.clone(), stored(Stored::NotMine)),
        (store.clone(), stored(Stored::Full)),
        (store.clone(), stored(Stored::Stamp { bits: 12 })),
        (store, stored(Stored::Invalid)),
        (find, Said::Busy),
        (list.clone(), Said::List(Vec::new())),
        (list, Said::List(entries)),
        (enlist.clone(), Said::Enlisted(Enlisted::Listed)),
        (enlist.clone(), Said::Enlisted(Enlisted::Trying)),
        (enlist.clone(), Said::Enlisted(Enlisted::NotMine)),
        (enlist.clone(), Said::Enlisted(Enlisted::Full)),
        (enlist, Said::Enlisted(Enlisted::Invalid)),
    ]
}

#[test]
fn questions_come_back_as_they_went() {
    for ask in asks() {
        let stores = matches!(ask, Ask::Store(..));
        let stamp = if stores { Bytes::from(vec![1; MAX_STAMP_BYTES]) } else { Bytes::new() };
        let full = Question { card: Some(Bytes::from(vec![4; MAX_CARD_BYTES])), stamp, ..question(ask) };
        let bytes = full.encode();
        assert!(bytes.len() <= MAX_QUESTION_BYTES);
        assert_eq!(Question::decode(bytes), Ok(full));
    }
}

#[test]
fn a_question_asks_one_thing() {
    let [find, fetch, store, list, enlist] = asks().map(|ask| question(ask).encode().to_vec());
    let fetch_only = &fetch[18..];
    assert_eq!(Question::decode([&find[..], fetch_only].concat().into()), Err(MessageError::Malformed));
    assert_eq!(Question::decode(find[..18].to_vec().into()), Err(MessageError::Malformed), "nothing");
    assert_eq!(Question::decode(find[18..].to_vec().into()), Err(MessageError::Malformed), "no nonce");
    assert_eq!(Question::decode(store[..18 + 34].to_vec().into()), Err(MessageError::Malformed), "no bundle");
    assert_eq!(Question::decode([&list[..], fetch_only].concat().into()), Err(MessageError::Malformed));
    let entry_only = [&fetch[..], &enlist[18 + 34..]].concat();
    assert_eq!(Question::decode(entry_only.into()), Err(MessageError::Malformed), "an entry for no list");
    let stamped = [&fetch[..], &[0x3a, 1, 1]].concat();
    assert_eq!(Question::decode(stamped.into()), Err(MessageError::Malformed), "a stamp on what needs none");
    assert_eq!(Question::decode(vec![0; MAX_QUESTION_BYTES + 1].into()), Err(MessageError::Malformed));
}

#[test]
fn replies_come_back_and_are_verified() {
    let peers: Vec<Bytes> = (0..MAX_PEERS as u8 + 3).map(|n| Bytes::from(vec![n; MAX_CARD_BYTES])).collect();
    for (question, said) in replies() {
        let card = Some(peers[0].clone());
        let bytes = voice().reply(&question, said.clone(), peers.clone(), card.clone(), NOW);
        assert!(bytes.len() <= MAX_REPLY_BYTES, "{}", bytes.len());
        let reply = Reply::decode(bytes, &question).unwrap();
        assert_eq!(reply.said, said);
        assert_eq!((&reply.peers[..], reply.card.clone()), (&peers[..MAX_PEERS], card));
        assert_eq!((reply.time, reply.boot), (NOW, [7; 8]));
        assert_eq!(reply.verify(&secret().public(), &OVERLAY), Ok(()));
        if said != Said::Busy {
            assert!(reply.verify(&NodeSecret::from_bytes([6; 32]).public(), &OVERLAY).is_err());
            assert!(reply.verify(&secret().public(), &OverlayId([4; 32])).is_err());
        }
    }
}

#[test]
fn a_reply_is_to_its_question_only() {
    for (question, said) in replies() {
        let bytes = voice().reply(&question, said.clone(), Vec::new(), None, NOW);
        let later = Question { nonce: [2; 16], ..question.clone() };
        assert_eq!(Reply::decode(bytes.clone(), &later), Err(MessageError::WrongNonce), "a replay");
        // The same nonce for another key: the scope does not fit.
        let elsewhere = match question.ask.clone() {
            Ask::Find(_) => Ask::Find(Position([77; 32])),
            Ask::Fetch(_) => Ask::Fetch(RecordKey([77; 32])),
            Ask::Store(_, bundle) => Ask::Store(RecordKey([77; 32]), bundle),
            Ask::List(_) => Ask::List(RecordKey([77; 32])),
            Ask::Enlist(_, entry) => Ask::Enlist(RecordKey([77; 32]), entry),
        };
        let elsewhere = Question { ask: elsewhere, ..question.clone() };
        let reply = Reply::decode(bytes.clone(), &elsewhere).unwrap();
        assert_eq!(reply.verify(&secret().public(), &OVERLAY).is_ok(), said == Said::Busy);
        // Another kind of question.
        for ask in asks() {
            if std::mem::discriminant(&ask) != std::mem::discriminant(&question.ask) && said != Said::Busy {
                let other = Question { ask, ..question.clone() };
                assert_eq!(Reply::decode(bytes.clone(), &other), Err(MessageError::WrongKind));
            }
        }
    }
}

#[test]
fn a_receipt_is_for_what_was_sent() {
    let [_, _, store, ..] = asks().map(question);
    let said = Said::Stored { result: Stored::Kept { promise: 1_200 }, sequence: 77 };
    let bytes = voice().reply(&store, said, Vec::new(), None, NOW);
    let other = Question { ask: Ask::Store(RecordKey([3; 32]), Bytes::from_static(b"other")), ..store };
    assert_eq!(Reply::decode(bytes, &other), Err(MessageError::WrongHash));
}

#[test]
fn what_was_signed_is_what_is_carried() {
    let [find, fetch, _, list, _] = asks().map(question);
    let peers = vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")];
    let swap = |question: &Question, said: Said, change: &dyn Fn(&mut pb::Reply)| {
        let bytes = voice().reply(question, said, peers.clone(), None, NOW);
        let mut message = pb::Reply::decode(bytes).unwrap();
        change(&mut message);
        Reply::decode(message.encode_to_vec().into(), question)
    };
    let held = || Said::Held(Some(Bytes::from_static(b"record")));
    assert!(swap(&fetch, held(), &|_| ()).is_ok());
    for change in [
        (&|m: &mut pb::Reply| m.peers.swap(0, 1)) as &dyn Fn(&mut pb::Reply),
        &|m| m.peers.clear(),
        &|m| m.peers[0] = Bytes::from_static(b"onetwo"),
        &|m| m.bundle = Bytes::new(),
        &|m| m.bundle = Bytes::from_static(b"recore"),
    ] {
        assert_eq!(swap(&fetch, held(), change), Err(MessageError::WrongHash));
    }
    let entries = || Said::List(vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")]);
    assert!(swap(&list, entries(), &|_| ()).is_ok());
    for change in [(&|m: &mut pb::Reply| m.entries.swap(0, 1)) as &dyn Fn(&mut pb::Reply), &|m| m.entries.truncate(1)] {
        assert_eq!(swap(&list, entries(), change), Err(MessageError::WrongHash));
    }
    let extra = &|m: &mut pb::Reply| m.entries.push(Bytes::from_static(b"one"));
    assert_eq!(swap(&fetch, held(), extra), Err(MessageError::WrongKind), "entries beside a record");
    let unsigned = |m: &mut pb::Reply| m.signature = Bytes::new();
    assert_eq!(swap(&find, Said::Near, &unsigned), Err(MessageError::Malformed));
    let bundle = |m: &mut pb::Reply| m.bundle = Bytes::from_static(b"x");
    assert_eq!(swap(&find, Said::Near, &bundle), Err(MessageError::WrongKind));
}

proptest! {
    #[test]
    fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Question::decode(bytes.clone().into());
        let _ = Reply::decode(bytes.into(), &question(Ask::Find(Position([1; 32]))));
    }

    /// Whatever is changed, it is refused, or the signature does not hold, or the change was in what is not signed (the
    /// answerer's own card, which has a signature of its own).
    #[test]
    fn a_flipped_bit_never_verifies(at in 0usize..10_000, bit in 0u8..8, which in 0usize..9) {
        let (question, said) = replies().swap_remove(which);
        let mut bytes = voice().reply(&question, said, vec![Bytes::from_static(b"peer")], None, NOW).to_vec();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        if let Ok(reply) = Reply::decode(bytes.into(), &question) {
            prop_assert!(reply.verify(&secret().public(), &OVERLAY).is_err() || reply.said == Said::Busy);
        }
    }
}

/// `cargo test --release --lib what_a_reply_costs -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn what_a_reply_costs() {
    const ROUNDS: u32 = 2_000;
    let question = question(Ask::Fetch(RecordKey([2; 32])));
    let peers: Vec<Bytes> = (0..20).map(|n| Bytes::from(vec![n; 160])).collect();
    let said = Said::Held(Some(Bytes::from(vec![1; 600])));
    let voice = voice();
    let time = |what: &str, work: &mut dyn FnMut()| {
        let begun = std::time::Instant::now();
        (0..ROUNDS).for_each(|_| work());
        println!("{what}: {:?}", begun.elapsed() / ROUNDS);
    };
    let mut bytes = Bytes::new();
    time("sign and encode", &mut || bytes = voice.reply(&question, said.clone(), peers.clone(), None, NOW));
    let mut reply = None;
    time("decode and compare hashes", &mut || reply = Reply::decode(bytes.clone(), &question).ok());
    let (reply, node) = (reply.unwrap(), secret().public());
    time("verify", &mut || assert!(reply.verify(&node, &OVERLAY).is_ok()));
}
