//! Who is believed to speak for a user, and who is not.

use super::node::entry;
use super::*;
use peerline::identity::{Grant, UserIdentity, rights};
use peerline::record::{RejectReason, sign_owner_statement};

/// `liar` calls and is called; neither may come to a link.
async fn nobody_believes(mut liar: Node) -> RejectReason {
    let mut honest = Node::start().await;
    liar.call(&honest).await;
    assert!(matches!(liar.refused_link().await, LinkError::Refused(_)));
    let Refusal::NotProven(reason) = honest.refusal().await else { panic!("refused for another reason") };

    honest.call(&liar).await;
    let error = honest.event().await;
    assert!(matches!(error, Event::Refused { reason: Refusal::NotProven(other), .. } if other == reason), "{error:?}");
    let error = honest.refused_link().await;
    assert!(matches!(error, LinkError::NotProven(other) if other == reason), "{error}");
    assert_eq!(honest.links().await, 0);
    reason
}

#[tokio::test]
async fn refuses_the_certificate_of_another_user() {
    let (secret, alice, mallory) = (NodeSecret::generate(), user(), user());
    let bundle = bundle(&mallory, &secret, 1, UnixMillis::now());
    let local = LocalUser { id: alice.id, bundle };
    nobody_believes(Node::start_as(secret, local, Config::default(), TCP).await).await;
}

#[tokio::test]
async fn refuses_the_right_certificate_from_the_wrong_device() {
    // What a node in between could do with a hello that it saw: pass it on over its own channel.
    let (hers, other, alice) = (NodeSecret::generate(), NodeSecret::generate(), user());
    let local = LocalUser { id: alice.id, bundle: bundle(&alice, &hers, 1, UnixMillis::now()) };
    nobody_believes(Node::start_as(other, local, Config::default(), TCP).await).await;
}

#[tokio::test]
async fn refuses_an_expired_certificate() {
    let (secret, alice) = (NodeSecret::generate(), user());
    let long_ago = UnixMillis::from_seconds(UnixMillis::now().seconds() - 100 * 24 * 3600);
    let local = LocalUser { id: alice.id, bundle: bundle(&alice, &secret, 1, long_ago) };
    let reason = nobody_believes(Node::start_as(secret, local, Config::default(), TCP).await).await;
    assert!(matches!(reason, RejectReason::Expired | RejectReason::BadCertificate), "{reason}");
}

/// A node of `alice` that shows this bundle.
async fn showing(secret: NodeSecret, alice: &UserIdentity, bundle: impl Into<Bytes>) -> Node {
    let local = LocalUser { id: alice.id, bundle: bundle.into() };
    Node::start_as(secret, local, Config::default(), TCP).await
}

#[tokio::test]
async fn refuses_a_device_that_may_not_call() {
    let (secret, alice) = (NodeSecret::generate(), user());
    let grant = Grant { rights: rights::PUBLISH | rights::TOMBSTONE, ..Grant::device(1) };
    let certificate = alice.certify_with(secret.public(), &OVERLAY, grant, UnixMillis::now());
    let bytes = entry(&alice, &certificate, &secret, &OVERLAY, 1, UnixMillis::now());
    let reason = nobody_believes(showing(secret, &alice, bytes).await).await;
    assert_eq!(reason, RejectReason::NotCertified);
}

#[tokio::test]
async fn refuses_the_certificate_of_another_overlay() {
    let (secret, alice, other, now) = (NodeSecret::generate(), user(), OverlayId([8; 32]), UnixMillis::now());
    let certificate = alice.certify(secret.public(), &other, 1, now);
    let bytes = entry(&alice, &certificate, &secret, &other, 1, now);
    nobody_believes(showing(secret, &alice, bytes).await).await;
}

#[tokio::test]
async fn refuses_a_device_that_its_owner_revoked() {
    let (secret, alice, now) = (NodeSecret::generate(), user(), UnixMillis::now());
    let until = UnixMillis(now.0 + 100 * 24 * 3_600_000);
    let statement = sign_owner_statement(&alice, &OVERLAY, 2, &[], now.0, until);
    let owner = pb::Bundle::decode(statement.as_slice()).unwrap().owner;
    let own = bundle(&alice, &secret, 1, now);
    let both = pb::Bundle { owner, ..pb::Bundle::decode(own).unwrap() }.encode_to_vec();
    nobody_believes(showing(secret, &alice, both).await).await;
}

#[tokio::test]
async fn refuses_an_epoch_below_the_pin() {
    let (mut a, mut b) = (Node::start().await, Node::start().await);
    let who = a.user;
    assert!(b.swarm.with(move |s| s.behaviour_mut().set_pin(who, Pin { rotation: 0, epoch: 2 })).await);
    assert!(b.swarm.with(move |s| s.behaviour_mut().set_pin(who, Pin { rotation: 0, epoch: 1 })).await);
    a.call(&b).await;
    assert!(matches!(a.refused_link().await, LinkError::Refused(_)));
    assert!(matches!(b.refusal().await, Refusal::NotProven(_)));
}

#[tokio::test]
async fn refuses_bytes_that_were_altered() {
    let (secret, alice) = (NodeSecret::generate(), user());
    let mut bytes = bundle(&alice, &secret, 1, UnixMillis::now()).to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let local = LocalUser { id: alice.id, bundle: bytes.into() };
    nobody_believes(Node::start_as(secret, local, Config::default(), TCP).await).await;
}

#[tokio::test]
async fn says_which_clock_is_wrong() {
    let fast = Config { clock: || UnixMillis(UnixMillis::now().0 + 400_000), ..Config::default() };
    let (mut a, mut b) = (Node::start_with(fast, TCP).await, Node::start().await);
    a.call(&b).await;
    let error = a.refused_link().await;
    assert!(matches!(&error, LinkError::Refused(words) if words.contains("ahead of mine")), "{error}");
    assert_eq!(b.refusal().await, Refusal::Clock);
}
