//! What may be dialled, below everything that dials: kad takes addresses from any peer's answer and dials them by itself
//! (K11), so nothing above the transport can hold it back.
//!
//! Under scope `global` only global addresses are dialled, and each host and network a few times a minute: nobody's
//! answer sends us into our own LAN or makes us knock at a stranger's door again and again. Addresses that this node has
//! reached, or was told by those whom it trusts for that (configuration, mDNS, a user who calls), are free.

use super::address::{ip_of, to_plain};
use crate::admission::{PerSource, Rate, Subnet};
use crate::reachability::Transport as Over;
use crate::wire::{AddressScope, is_global};
use futures::future::BoxFuture;
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::{Multiaddr, Transport};
use std::collections::{HashSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

/// Dials of hearsay to one address and to one network: a household of nodes is reached within two minutes, and nobody
/// is flooded (SECURITY §3.8).
const PER_ADDRESS: Rate = Rate { per_second: 8.0 / 60.0, burst: 8.0 };
const PER_SUBNET: Rate = Rate { per_second: 30.0 / 60.0, burst: 30.0 };

/// Dials of what records say, to one address that was never reached: a call to a household of three nodes with two ways
/// each. Anybody may write anybody's address into a record, and have ten thousand people call it.
const PER_CALLED: Rate = Rate { per_second: 1.0 / 30.0, burst: 6.0 };

/// Destinations that are counted by themselves.
const MAX_COUNTED: usize = 4_096;

/// Calls that wait for their dial.
const MAX_GRANTED: usize = 256;

/// Addresses that are free, at most; the oldest goes.
const MAX_FREE: usize = 4_096;

/// Where something listens.
type Place = (IpAddr, Over, u16);

/// The rules, shared between who dials and who tells. Cloneable; all clones are one.
#[derive(Clone)]
pub(super) struct Dialling {
    table: Arc<Mutex<Table>>,
}

struct Table {
    scope: AddressScope,
    free: HashSet<Place>,
    order: VecDeque<Place>,
    addresses: PerSource<IpAddr>,
    subnets: PerSource<Subnet>,
    called: PerSource<IpAddr>,
    /// May be dialled once more, whatever is counted.
    granted: VecDeque<Place>,
}

impl Dialling {
    pub(super) fn new(scope: AddressScope) -> Self {
        let table = Table {
            scope,
            free: HashSet::new(),
            order: VecDeque::new(),
            addresses: PerSource::new(PER_ADDRESS, MAX_COUNTED),
            subnets: PerSource::new(PER_SUBNET, MAX_COUNTED),
            called: PerSource::new(PER_CALLED, MAX_COUNTED),
            granted: VecDeque::new(),
        };
        Self { table: Arc::new(Mutex::new(table)) }
    }

    /// `address` was reached, or is said by somebody whom we trust for that.
    pub(super) fn free(&self, address: &Multiaddr) {
        let Some(place) = place_of(address) else { return };
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.free.insert(place) {
            table.order.push_back(place);
            if table.order.len() > MAX_FREE
                && let Some(oldest) = table.order.pop_front()
            {
                table.free.remove(&oldest);
            }
        }
    }

    /// A callee's signed record says `address`, and a person waits: whether that host may be called now, once. By its own
    /// count, or who fills the one for hearsay could keep anybody from being called.
    pub(super) fn call(&self, address: &Multiaddr, now: Instant) -> bool {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(place) = place_of(address) else { return false };
        let (ip, ..) = place;
        if !is_global(ip) || table.free.contains(&place) {
            return true;
        }
        let allowed = table.called.take(ip, now);
        if allowed {
            table.granted.push_back(place);
            if table.granted.len() > MAX_GRANTED {
                table.granted.pop_front();
            }
        }
        allowed
    }

    /// # Errors
    /// Why `address` is not dialled now.
    fn admit(&self, address: &Multiaddr, now: Instant) -> Result<(), &'static str> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(ip) = ip_of(address).map(|ip| ip.to_canonical()) else { return Err("not an address of a host") };
        if place_of(address).is_some_and(|place| table.free.contains(&place)) {
            return Ok(());
        }
        let granted = |place: Place| table.granted.iter().position(|other| *other == place);
        if let Some(index) = place_of(address).and_then(granted) {
            table.granted.remove(index);
            return Ok(());
        }
        if !is_global(ip) {
            let here = table.scope == AddressScope::Any;
            return if here { Ok(()) } else { Err("hearsay of an address that is not global") };
        }
        // Both are counted, so that one address does not use up what its network has.
        if !table.addresses.take(ip, now) || !table.subnets.take(Subnet::of(ip), now) {
            return Err("hearsay of a host that was dialled often enough");
        }
        Ok(())
    }
}

fn place_of(address: &Multiaddr) -> Option<Place> {
    to_plain(address).map(|plain| (plain.ip.to_canonical(), plain.transport, plain.port))
}

/// A transport that keeps to the rules. Names are resolved above it: what they come to is judged.
pub(super) struct Guarded<O> {
    inner: Boxed<O>,
    rules: Dialling,
}

impl<O> Guarded<O> {
    pub(super) fn new(inner: Boxed<O>, rules: Dialling) -> Self {
        Self { inner, rules }
    }
}

impl<O: 'static> Transport for Guarded<O> {
    type Output = O;
    type Error = io::Error;
    type ListenerUpgrade = BoxFuture<'static, io::Result<O>>;
    type Dial = BoxFuture<'static, io::Result<O>>;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, opts: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        if let Err(why) = self.rules.admit(&address, Instant::now()) {
            tracing::trace!(%address, why, "not dialled");
            return Err(TransportError::Other(io::Error::new(io::ErrorKind::PermissionDenied, why)));
        }
        Ok(Box::pin(self.inner.dial(address, opts)?))
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        let event = std::task::ready!(Pin::new(&mut self.inner).poll(cx));
        Poll::Ready(event.map_upgrade(|upgrade| Box::pin(upgrade) as Self::ListenerUpgrade))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn hearsay_leads_to_no_private_network_under_global_scope() {
        let (rules, now) = (Dialling::new(AddressScope::Global), Instant::now());
        for private in
            ["/ip4/127.0.0.1/tcp/22", "/ip4/192.168.1.1/tcp/80", "/ip6/::1/tcp/1", "/ip6/::ffff:10.0.0.1/tcp/1"]
        {
            assert!(rules.admit(&at(private), now).is_err(), "{private}");
            assert!(Dialling::new(AddressScope::Any).admit(&at(private), now).is_ok());
        }
        assert!(rules.admit(&at("/ip4/8.8.8.8/tcp/1"), now).is_ok());
        assert!(rules.admit(&at("/dns4/example.org/tcp/1"), now).is_err(), "names are resolved above");
        rules.free(&at("/ip4/192.168.1.1/tcp/4001"));
        assert!(rules.admit(&at("/ip4/192.168.1.1/tcp/4001"), now).is_ok(), "a neighbour found by mDNS");
        assert!(rules.admit(&at("/ip4/192.168.1.1/tcp/80"), now).is_err(), "and nothing else there");
    }

    #[test]
    fn nobody_is_knocked_at_again_and_again() {
        let (rules, now) = (Dialling::new(AddressScope::Global), Instant::now());
        let dialled = |ip: &str, now| {
            (1..200).filter(|port| rules.admit(&at(&format!("/ip4/{ip}/tcp/{port}")), now).is_ok()).count()
        };
        assert_eq!(dialled("8.8.8.8", now), 8);
        assert_eq!((9..40).map(|host| dialled(&format!("8.8.8.{host}"), now)).sum::<usize>(), 22, "30 in the network");
        assert_eq!(dialled("8.8.9.8", now), 8);
        assert!(dialled("8.8.8.8", now + Duration::from_secs(60)) >= 7);
        rules.free(&at("/ip4/8.8.8.8/tcp/4001"));
        assert!((0..100).all(|_| rules.admit(&at("/ip4/8.8.8.8/tcp/4001"), now).is_ok()), "a server that we know");
    }

    /// E7: a record of eight devices with eight addresses each, all of them somebody's who has nothing to do with it.
    #[test]
    fn a_record_does_not_make_its_callers_a_flood() {
        let now = Instant::now();
        let victim = |port: u16| at(&format!("/ip4/8.8.8.8/tcp/{port}"));
        let rules = Dialling::new(AddressScope::Global);
        let dialled = |now| {
            let may_call = (1..=64).filter(|port| rules.call(&victim(*port), now));
            may_call.filter(|port| rules.admit(&victim(*port), now).is_ok()).count()
        };
        assert_eq!(dialled(now), 6);
        let hour = (1..=120).map(|n| now + Duration::from_secs(30 * n));
        assert_eq!(hour.map(dialled).sum::<usize>(), 120, "who calls it every 30 seconds for an hour");
        assert_eq!(
            (1..=64).filter(|port| rules.admit(&victim(*port), now).is_ok()).count(),
            8,
            "a grant is for one dial"
        );
        assert!(rules.call(&at("/ip4/8.8.9.9/tcp/1"), now), "others can be called");
        rules.free(&victim(4_001));
        assert!((0..100).all(|_| rules.call(&victim(4_001), now)), "and who was reached, always");
        assert!(
            (1..100).all(|port| Dialling::new(AddressScope::Any).call(&at(&format!("/ip4/10.0.0.1/tcp/{port}")), now))
        );
    }

    #[test]
    fn what_is_free_is_bounded() {
        let rules = Dialling::new(AddressScope::Global);
        (1..=u16::MAX).for_each(|port| rules.free(&at(&format!("/ip4/10.0.0.1/tcp/{port}"))));
        let table = rules.table.lock().unwrap();
        assert_eq!((table.free.len(), table.order.len()), (MAX_FREE, MAX_FREE));
    }
}
