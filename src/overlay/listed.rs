//! The list of nodes that a domain has in the DNS: bootstrap entries of the form `/dnsaddr/<domain>` stand for it. Text
//! records of `_dnsaddr.<domain>` as libp2p writes them, `dnsaddr=/ip4/.../udp/.../quic-v1/p2p/<peer id>`; names and
//! further lists in them are not followed. The DNS is not signed, so a list is hearsay with pinned peer ids: it may lead to
//! the overlay, and counts as one source however many it names (`dht::Joining`).

use super::actor::Actor;
use super::address::{node_of, split_peer, to_plain};
use crate::dht::Source;
use crate::identity::NodeKey;
use crate::reachability::Address;
use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Domains that are asked, text records of one that are looked at, and nodes that come of all.
const MAX_DOMAINS: usize = 4;
const MAX_RECORDS: usize = 64;
const MAX_NODES: usize = 16;

/// Addresses of a node.
const MAX_ADDRESSES: usize = 4;

/// Asked again after this; after a failure sooner, doubling up to it. A record's own life is not looked at.
const AGAIN: Duration = Duration::from_secs(3_600);
const FAILED_AGAIN: Duration = Duration::from_secs(10);

/// Patience with a resolver.
const PATIENCE: Duration = Duration::from_secs(10);

/// A node and where it is said to be.
pub(super) type Listed = Vec<(NodeKey, Vec<Address>)>;

/// What a node was told to begin with.
pub(super) type Bootstrap = Vec<(Multiaddr, Option<PeerId>)>;

/// Takes the domains out of the bootstrap nodes, and asks for their lists for as long as somebody receives them.
pub(super) fn watch(bootstrap: Bootstrap) -> (Bootstrap, mpsc::Receiver<Listed>) {
    let (lists, receiver) = mpsc::channel(1);
    let (mut nodes, mut domains) = (Vec::new(), Vec::new());
    for (address, peer) in bootstrap {
        match address.iter().next() {
            Some(Protocol::Dnsaddr(domain)) => domains.push(domain.into_owned()),
            _ => nodes.push((address, peer)),
        }
    }
    domains.truncate(MAX_DOMAINS);
    if !domains.is_empty() {
        tokio::spawn(ask(domains, lists));
    }
    (nodes, receiver)
}

/// Ends with the receiver.
async fn ask(domains: Vec<String>, lists: mpsc::Sender<Listed>) {
    let resolver = match TokioResolver::builder_tokio().and_then(|builder| builder.build()) {
        Ok(resolver) => resolver,
        Err(error) => {
            tracing::warn!(%error, "no name resolution: the lists of bootstrap domains are out of reach");
            return;
        }
    };
    let mut pause = FAILED_AGAIN;
    loop {
        let mut texts = Vec::new();
        for domain in &domains {
            let name = format!("_dnsaddr.{}.", domain.trim_end_matches('.'));
            match tokio::time::timeout(PATIENCE, resolver.txt_lookup(name)).await {
                Ok(Ok(answer)) => {
                    let text = |data: &RData| match data {
                        // An entry longer than 255 bytes is no address.
                        RData::TXT(text) => text.txt_data.first().map(|text| text.to_vec()),
                        _ => None,
                    };
                    texts.extend(answer.answers().iter().take(MAX_RECORDS).filter_map(|record| text(&record.data)));
                }
                Ok(Err(error)) => tracing::debug!(domain, %error, "no list"),
                Err(_) => tracing::debug!(domain, "the resolver does not answer"),
            }
        }
        let listed = read(&texts);
        pause = if listed.is_empty() { (pause * 2).min(AGAIN) } else { AGAIN };
        tokio::select! {
            sent = lists.send(listed) => if sent.is_err() { return },
            () = lists.closed() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = lists.closed() => return,
        }
    }
}

/// The nodes that text records name, by IP address and with a peer id.
fn read(texts: &[Vec<u8>]) -> Listed {
    let mut listed: Listed = Vec::new();
    for text in texts {
        let entry = std::str::from_utf8(text).ok().and_then(|text| text.strip_prefix("dnsaddr="));
        let Some(Ok(address)) = entry.map(str::parse::<Multiaddr>) else { continue };
        let (address, peer) = split_peer(address);
        let (Some(plain), Some(node)) = (to_plain(&address), peer.as_ref().and_then(node_of)) else { continue };
        let room = listed.len() < MAX_NODES;
        match listed.iter_mut().find(|(other, _)| *other == node) {
            Some((_, addresses)) if addresses.len() < MAX_ADDRESSES => addresses.push(plain),
            None if room => listed.push((node, vec![plain])),
            Some(_) | None => {}
        }
    }
    listed
}

impl Actor {
    /// A list came; an empty one, too, if there was no answer.
    pub(super) fn listed(&mut self, listed: Listed) {
        let now = Instant::now();
        if !listed.is_empty() {
            self.joining.engine.forget_unreached(Source::Dns);
        }
        for (node, addresses) in listed {
            self.joining.engine.add_lead(Source::Dns, Some(node), &addresses, None, 0, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::NodeSecret;
    use crate::overlay::peer_id_text;

    fn entry(node: &NodeKey, at: &str) -> Vec<u8> {
        format!("dnsaddr={at}/p2p/{}", peer_id_text(node)).into_bytes()
    }

    #[test]
    fn a_list_names_nodes_by_address_and_pinned_id() {
        let nodes: Vec<NodeKey> = (0..40).map(|n| NodeSecret::from_bytes([n; 32]).public()).collect();
        let mut texts = vec![
            b"v=spf1 -all".to_vec(),
            b"dnsaddr=".to_vec(),
            vec![0xff; 200],
            b"dnsaddr=/ip4/9.9.9.9/udp/4001/quic-v1".to_vec(),
            entry(&nodes[0], "/dns4/example.org/tcp/4001"),
            entry(&nodes[0], "/dnsaddr/example.org"),
            entry(&nodes[0], "/ip4/9.9.9.9/udp/4001/quic-v1"),
        ];
        texts.extend((1..9).map(|n| entry(&nodes[0], &format!("/ip4/9.9.9.{n}/tcp/4001"))));
        let listed = read(&texts);
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].0, listed[0].1.len()), (nodes[0], MAX_ADDRESSES));
        texts.extend(nodes.iter().map(|node| entry(node, "/ip4/9.9.9.9/tcp/4001")));
        assert_eq!(read(&texts).len(), MAX_NODES);
    }

    #[tokio::test]
    async fn domains_are_taken_out_of_the_bootstrap_nodes() {
        let plain: Multiaddr = "/dns4/example.org/tcp/4001".parse().unwrap();
        let list: Multiaddr = "/dnsaddr/list.invalid".parse().unwrap();
        let (nodes, lists) = watch(vec![(list, None), (plain.clone(), None)]);
        assert_eq!(nodes, [(plain, None)]);
        drop(lists);
    }
}
