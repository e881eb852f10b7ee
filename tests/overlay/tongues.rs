//! Hostile words on `store/1`: questions that are none, replies that are not to the question, receipts of nobody
//! (docs/protocol.md "store/1"; SECURITY §4.8, §4.10).

use super::harness::{OVERLAY, PATIENCE, Setup, User, lookup, node, reaches};
use super::stranger::Stranger;
use bytes::Bytes;
use libp2p::Multiaddr;
use peerline::clock::UnixMillis;
use peerline::dht::{Ask, MAX_QUESTION_BYTES, Position, Question, Reply, Said, Stamp, Stored, Voice};
use peerline::identity::NodeSecret;
use peerline::overlay::Overlay;
use peerline::record::RecordKey;
use std::time::Duration;
use tokio::time::timeout;

async fn server(bootstrap: &[String]) -> Overlay {
    node(bootstrap, Setup::default()).await.overlay
}

fn question(ask: Ask) -> Question {
    Question { nonce: [3; 16], card: None, ask, stamp: Bytes::new() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_question_is_not_answered_and_counted() {
    let honest = server(&[]).await;
    let address: Multiaddr = honest.status().borrow().listen[0].parse().unwrap();
    let mut stranger = Stranger::client().await;
    let target = stranger.connect(address).await;
    let good = question(Ask::Find(Position([5; 32]))).encode();
    let wrong: Vec<(&str, Bytes)> = vec![
        ("nothing", Bytes::new()),
        ("noise", Bytes::from(vec![0x5a; 400])),
        ("cut", good.slice(..good.len() - 1)),
        ("two questions", [&good[..], &[0x22, 32], &[1; 32]].concat().into()),
        ("an unknown field", [&good[..], &[0x42, 1, 1]].concat().into()),
        ("oversized", vec![0; MAX_QUESTION_BYTES + 1].into()),
    ];
    for (n, (what, bytes)) in wrong.into_iter().enumerate() {
        // Once more, if it went over the dial-back just as that was closed.
        let counted = async {
            loop {
                let answer = timeout(PATIENCE, stranger.ask(&target, bytes.clone())).await.unwrap();
                assert_eq!(answer, None, "{what}");
                let more = |refused: Option<&u64>| refused.is_some_and(|count| *count > n as u64);
                let seen = reaches(&honest, |status| more(status.refused.get("question: malformed")));
                if timeout(Duration::from_secs(3), stranger.drive(seen)).await.is_ok() {
                    break;
                }
            }
        };
        timeout(PATIENCE, counted).await.expect("counted");
    }
    let ask = question(Ask::Find(Position([5; 32])));
    let answer = timeout(PATIENCE, stranger.ask(&target, good)).await.unwrap().expect("it still answers");
    let reply = Reply::decode(answer, &ask).unwrap();
    assert_eq!(reply.verify(&honest.node(), &OVERLAY), Ok(()));
    assert!(reply.card.is_some(), "a server shows its card");
}

/// A stranger that is let in, and then answers as `lie` says: a lie for what the honest answer would be.
async fn liar(lie: impl Fn(&Question, &Voice, Said) -> Option<Bytes> + Send + 'static) -> (Overlay, String) {
    let stranger = Stranger::new().await;
    let (voice, card) = (stranger.voice(), stranger.card.signed.clone());
    let (peer, address) = (stranger.swarm.local_peer_id().to_string(), stranger.address.to_string());
    // Ends with the test's runtime.
    stranger.answer(move |question| match &question.ask {
        Ask::Find(_) => Some(voice.reply(&question, Said::Near, Vec::new(), Some(card.clone()), UnixMillis::now())),
        Ask::Fetch(_) => lie(&question, &voice, Said::Held(None)),
        Ask::Store(..) => lie(&question, &voice, Said::Stored { result: Stored::Kept { promise: 1_000 }, sequence: 1 }),
        Ask::List(_) | Ask::Enlist(..) => None,
    });
    let reader = server(&[address]).await;
    reaches(&reader, |status| status.estimate >= 2).await;
    (reader, peer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_of_somebody_else_counts_for_nothing() {
    let (publisher, _) = liar(|question, _, honest| {
        let somebody = Voice::new(&NodeSecret::from_bytes([1; 32]), OVERLAY, [7; 8]);
        Some(somebody.reply(question, honest, Vec::new(), None, UnixMillis::now()))
    })
    .await;
    let user = User::new();
    let published = publisher.publish(user.bundle()).await;
    assert!(published.is_err(), "{published:?}");
    reaches(&publisher, |status| status.refused.contains_key("reply: forged receipt")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_to_another_question_is_none() {
    let (reader, liar) = liar(|question, voice, honest| {
        let other = Question { nonce: [0xee; 16], ..question.clone() };
        Some(voice.reply(&other, honest, Vec::new(), None, UnixMillis::now()))
    })
    .await;
    let user = User::new();
    assert!(reader.publish(user.bundle()).await.is_err());
    let answer = lookup(&reader, User::new().identity.id).await;
    assert!(answer.bundle.is_none() && !answer.report.holders.contains(&liar));
    assert_eq!(answer.report.asked, 0, "{:?}", answer.report);
    reaches(&reader, |status| status.refused.contains_key("reply: a reply to another question")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_what_was_signed_is_no_reply() {
    let (reader, _) = liar(|question, voice, honest| {
        let other = Question { ask: Ask::Fetch(RecordKey([1; 32])), ..question.clone() };
        let carried = Said::Held(Some(Bytes::from_static(b"something")));
        let mut bytes = match honest {
            Said::Held(_) => voice.reply(&other, carried, Vec::new(), None, UnixMillis::now()).to_vec(),
            other => voice.reply(question, other, Vec::new(), None, UnixMillis::now()).to_vec(),
        };
        *bytes.last_mut()? ^= 1;
        Some(bytes.into())
    })
    .await;
    let answer = lookup(&reader, User::new().identity.id).await;
    assert_eq!((answer.report.asked, answer.report.refused.len()), (0, 0), "{:?}", answer.report);
    reaches(&reader, |status| status.refused.contains_key("reply: a reply that is not what was signed")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_under_load_is_paid_once_for_a_key_and_a_greedy_one_is_not() {
    // 22 bits are half a second's work, and no second holder wants as much.
    for (bits, paid) in [(8, true), (22, false), (60, false)] {
        let (publisher, _) = liar(move |question, voice, honest| {
            let Ask::Store(key, _) = &question.ask else { return None };
            let worth = Stamp::decode(&question.stamp).is_some_and(|s| s.is_worth(key, bits, UnixMillis::now()));
            let said = if worth { honest } else { Said::Stored { result: Stored::Stamp { bits }, sequence: 0 } };
            Some(voice.reply(question, said, Vec::new(), None, UnixMillis::now()))
        })
        .await;
        let published = publisher.publish(User::new().bundle()).await;
        assert_eq!(published.is_ok(), paid, "{bits} bits: {published:?}");
    }
}
