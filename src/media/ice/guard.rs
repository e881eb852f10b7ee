//! Whom checks may be sent to. The far end names addresses, and shows others by what it sends from; any of them may be
//! somebody else's. So an address gets a handful of packets until it has answered one that only it can have seen, and
//! there are so many such addresses and no more in the life of a call, however often it starts anew (RFC 8445 §19.5.1). Pure.

use std::collections::HashMap;
use std::net::SocketAddr;

/// Packets to an address that has not answered. 8: with growing pauses they last some 3 s, longer than two ends need to
/// open their routers for each other.
pub(super) const HANDFUL: u32 = 8;
/// Addresses of a call that have not answered. Twice what the far end may name in a generation, and some that only its
/// packets show.
pub(super) const MOST_ADDRESSES: usize = 32;
/// Those that have: of a laptop that changes its network every few minutes for hours.
const MOST_ANSWERED: usize = 128;

#[derive(Debug, Default)]
pub(super) struct Guard {
    /// Packets sent to who has not answered; `None`: has.
    addresses: HashMap<SocketAddr, Option<u32>>,
}

impl Guard {
    /// Whether there is room for `address`, and from now on there is.
    pub(super) fn admit(&mut self, address: SocketAddr) -> bool {
        if self.addresses.contains_key(&address) {
            return true;
        }
        let room = self.addresses.values().flatten().count() < MOST_ADDRESSES;
        if room {
            self.addresses.insert(address, Some(0));
        }
        room
    }

    /// One packet to `to`.
    pub(super) fn may_send(&mut self, to: SocketAddr) -> bool {
        match self.addresses.get_mut(&to) {
            Some(Some(sent)) if *sent < HANDFUL => {
                *sent += 1;
                true
            }
            Some(None) => true,
            Some(Some(_)) | None => false,
        }
    }

    /// `from` answered what was sent to it, or is ours to use.
    pub(super) fn consented(&mut self, from: SocketAddr) {
        let answered = self.addresses.values().filter(|sent| sent.is_none()).count();
        if answered < MOST_ANSWERED && self.admit(from) {
            self.addresses.insert(from, None);
        }
    }

    pub(super) fn has_consented(&self, address: SocketAddr) -> bool {
        self.addresses.get(&address) == Some(&None)
    }

    /// Our own network is another one: what did not answer may do so now.
    pub(super) fn begin_anew(&mut self) {
        self.addresses.values_mut().flatten().for_each(|sent| *sent = 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([9, 9, 9, host], port))
    }

    #[test]
    fn a_stranger_gets_a_handful_and_who_answered_all() {
        let mut guard = Guard::default();
        assert!(!guard.may_send(at(1, 1)), "never named");
        assert!(guard.admit(at(1, 1)) && guard.admit(at(2, 1)));
        guard.consented(at(2, 1));
        let sent = |guard: &mut Guard, to| (0..1_000).filter(|_| guard.may_send(to)).count();
        assert_eq!((sent(&mut guard, at(1, 1)), sent(&mut guard, at(2, 1))), (HANDFUL as usize, 1_000));
        assert!(guard.admit(at(1, 1)) && !guard.may_send(at(1, 1)), "named again");
        guard.begin_anew();
        assert!(guard.may_send(at(1, 1)));
    }

    #[test]
    fn the_addresses_of_a_call_are_counted() {
        let mut guard = Guard::default();
        assert_eq!((1..=60_000).filter(|port| guard.admit(at(1, *port))).count(), MOST_ADDRESSES);
        guard.consented(at(7, 7));
        assert!(!guard.has_consented(at(7, 7)) && guard.addresses.len() == MOST_ADDRESSES);
        guard.consented(at(1, 1));
        assert!(guard.admit(at(7, 7)) && !guard.admit(at(7, 8)), "who has answered is not counted");
    }
}
