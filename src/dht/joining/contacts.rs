//! Users who were called, and at which nodes they were met (SECURITY §4.7, source 2). A way into the overlay that nobody
//! chose but this node's users, and people of whom it is known that they are there: who shows an overlay without them
//! shows another one. Users of whom somebody else only said so, by calling in, do not come in here: strangers would fill it.

use super::cache::{MAX_ADDRESSES, read_addresses, write_addresses};
use crate::clock::UnixMillis;
use crate::identity::NodeKey;
use crate::reachability::Address;
use crate::uri::IdHash;

/// Users remembered, the latest called; 60 to 500 bytes each.
const MOST: usize = 256;

/// Nodes of a user, the latest met.
const NODES: usize = 3;

/// Nodes that are followed on the way in.
const LEADS: usize = 12;

const VERSION: u8 = 0xc1;

/// Bytes of a row's head: version, when.
const HEAD: usize = 9;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Contact {
    user: IdHash,
    /// Met last.
    at: UnixMillis,
    /// The latest first; with addresses each.
    nodes: Vec<(NodeKey, Vec<Address>)>,
}

/// The book. Bounded.
#[derive(Clone, Debug, Default)]
pub struct Contacts {
    /// The latest last.
    known: Vec<Contact>,
}

impl Contacts {
    /// Reads what [`Contacts::rows`] wrote; rows that make no sense are left out.
    pub fn from_rows<'a>(rows: impl IntoIterator<Item = (IdHash, &'a [u8])>) -> Self {
        let mut known: Vec<Contact> = rows.into_iter().filter_map(|(user, row)| decode(user, row)).collect();
        known.sort_by_key(|contact| (contact.at, contact.user.0));
        let surplus = known.len().saturating_sub(MOST);
        known.drain(..surplus);
        Self { known }
    }

    /// All, as rows that can be kept.
    pub fn rows(&self) -> Vec<(IdHash, Vec<u8>)> {
        self.known.iter().map(|contact| (contact.user, encode(contact))).collect()
    }

    /// A user of this node called `user`, who was there, at `node`.
    pub fn met(&mut self, user: IdHash, node: NodeKey, addresses: &[Address], now: UnixMillis) {
        let at = self.known.iter().position(|contact| contact.user == user);
        let mut contact = at.map_or_else(|| Contact { user, at: now, nodes: Vec::new() }, |at| self.known.remove(at));
        let known = contact.nodes.iter().position(|(other, _)| *other == node).map(|at| contact.nodes.remove(at).1);
        let mut addresses: Vec<Address> = addresses.iter().take(MAX_ADDRESSES).copied().collect();
        if addresses.is_empty() {
            // It came over a connection that was there: what was known holds.
            addresses = known.unwrap_or_default();
        }
        contact.at = contact.at.max(now);
        contact.nodes.insert(0, (node, addresses));
        contact.nodes.truncate(NODES);
        if self.known.len() >= MOST {
            self.known.remove(0);
        }
        self.known.push(contact);
    }

    /// Whether somebody whom users of this node called was met there.
    pub fn knows(&self, node: &NodeKey) -> bool {
        self.known.iter().any(|contact| contact.nodes.iter().any(|(other, _)| other == node))
    }

    /// Nodes to be followed on the way in: of those met last, the latest node of each first.
    pub fn leads(&self) -> Vec<(NodeKey, Vec<Address>)> {
        let ranks = (0..NODES).flat_map(|rank| self.known.iter().rev().filter_map(move |c| c.nodes.get(rank)));
        let mut leads: Vec<(NodeKey, Vec<Address>)> = Vec::new();
        for (node, addresses) in ranks.filter(|(_, addresses)| !addresses.is_empty()) {
            if leads.len() < LEADS && leads.iter().all(|(other, _)| other != node) {
                leads.push((*node, addresses.clone()));
            }
        }
        leads
    }

    /// Some users, by lot: `salt` is random.
    pub fn some(&self, count: usize, salt: u64) -> Vec<IdHash> {
        let mut all: Vec<(u64, IdHash)> =
            self.known.iter().map(|contact| (lot(salt, &contact.user), contact.user)).collect();
        all.sort_unstable_by_key(|(lot, user)| (*lot, user.0));
        all.into_iter().take(count).map(|(_, user)| user).collect()
    }

    pub fn len(&self) -> usize {
        self.known.len()
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

/// Spreads user and salt over all numbers; no secret.
fn lot(salt: u64, user: &IdHash) -> u64 {
    user.0.iter().fold(salt ^ 0xcbf2_9ce4_8422_2325, |lot, byte| {
        (lot ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23)
    })
}

/// Version, when (milliseconds, big-endian), then for each node: key, length of its addresses, addresses.
fn encode(contact: &Contact) -> Vec<u8> {
    let mut row = vec![VERSION];
    row.extend(contact.at.0.to_be_bytes());
    for (node, addresses) in &contact.nodes {
        let mut bytes = Vec::new();
        write_addresses(&mut bytes, addresses);
        row.extend(node.0);
        // Four addresses of 20 bytes.
        row.push(u8::try_from(bytes.len()).unwrap_or(0));
        row.extend(bytes);
    }
    row
}

fn decode(user: IdHash, row: &[u8]) -> Option<Contact> {
    let (head, mut rest) = row.split_first_chunk::<HEAD>()?;
    let [VERSION, at @ ..] = head else { return None };
    let at = UnixMillis(u64::from_be_bytes(*at));
    let mut nodes = Vec::new();
    while let Some((node, tail)) = rest.split_first_chunk::<32>() {
        let (length, tail) = tail.split_first()?;
        let (addresses, tail) = tail.split_at_checked(usize::from(*length))?;
        let addresses = read_addresses(addresses).filter(|addresses| addresses.len() <= MAX_ADDRESSES)?;
        nodes.push((NodeKey(*node), addresses));
        rest = tail;
    }
    (rest.is_empty() && (1..=NODES).contains(&nodes.len())).then_some(Contact { user, at, nodes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reachability::Transport;

    fn user(n: u32) -> IdHash {
        let mut id = [0; 22];
        id[..4].copy_from_slice(&n.to_be_bytes());
        IdHash(id)
    }

    fn at(n: u8) -> Address {
        Address { ip: [9, 9, 9, n].into(), transport: Transport::Quic, port: 4001 }
    }

    #[test]
    fn the_latest_nodes_of_the_latest_users_are_kept_and_come_back() {
        let mut book = Contacts::default();
        for n in 0..1_000_u32 {
            book.met(user(n), NodeKey([1; 32]), &[at(1)], UnixMillis(u64::from(n)));
        }
        assert_eq!(book.len(), MOST);
        for n in 2..6 {
            book.met(user(999), NodeKey([n; 32]), &[at(n)], UnixMillis(2_000));
        }
        book.met(user(999), NodeKey([4; 32]), &[], UnixMillis(3_000));
        let nodes = &book.known.last().unwrap().nodes;
        assert_eq!(*nodes, [4, 5, 3].map(|n| (NodeKey([n; 32]), vec![at(n)])));
        let rows = book.rows();
        let again = Contacts::from_rows(rows.iter().map(|(user, row)| (*user, row.as_slice())));
        assert_eq!(again.known, book.known);
        assert!(book.knows(&NodeKey([5; 32])) && !book.knows(&NodeKey([2; 32])), "the latest three of each");
        assert_eq!(book.leads().iter().map(|(node, _)| node.0[0]).collect::<Vec<_>>(), [4, 1, 5, 3]);
        let longest = rows.iter().map(|(_, row)| row).max_by_key(|row| row.len()).unwrap();
        for cut in 0..longest.len() {
            assert!(Contacts::from_rows([(user(1), &longest[..cut])]).len() <= 1, "no panic");
        }
    }

    #[test]
    fn some_are_chosen_by_lot() {
        let mut book = Contacts::default();
        (0..50).for_each(|n| book.met(user(n), NodeKey([1; 32]), &[at(1)], UnixMillis(1)));
        let mut seen = std::collections::HashSet::new();
        for salt in 0..200 {
            let some = book.some(3, salt);
            assert_eq!(some.len(), 3);
            seen.extend(some);
        }
        assert_eq!(seen.len(), 50);
        assert!(Contacts::default().some(3, 1).is_empty());
    }
}
