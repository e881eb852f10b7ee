//! Brings what nodes tell each other of the paths between them to the leg that it is about, and gives legs what they
//! need to find paths.

use super::Shared;
use crate::clock::UnixMillis;
use crate::identity::NodeKey;
use crate::media::{self, BoxDuplex, CallId, MediaLeg, Paths, Relay, Surroundings};
use crate::overlay::{Allocation, LinkId, Overlay};
use crate::wire::AddressScope;
use bytes::Bytes;
use futures::future::BoxFuture;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::task::AbortOnDropHandle;

/// What came before its INVITE was looked at: of one link, of all, and how long it is kept. A fork sends a few of each.
const EARLY_PER_LINK: usize = 8;
const EARLY: usize = 256;
const EARLY_KEPT: Duration = Duration::from_secs(10);

/// However little time a relay grants.
const RENEW_AT_MOST_EVERY: Duration = Duration::from_secs(15);

/// Which leg a call of a link is.
#[derive(Default)]
pub(super) struct Meetings {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    open: HashMap<(LinkId, CallId), (Paths, NodeKey)>,
    early: VecDeque<(LinkId, CallId, Bytes, Instant)>,
}

/// A leg that is told of paths; no more once this is dropped.
pub(super) struct Meeting {
    meetings: Arc<Meetings>,
    key: (LinkId, CallId),
}

impl Meetings {
    /// The call of this leg, which has had its first description, is on `link`.
    pub(super) fn meet(self: &Arc<Self>, link: LinkId, node: NodeKey, media: &MediaLeg) -> Option<Meeting> {
        let key = (link, media.call()?);
        let paths = media.paths();
        let early = {
            let mut table = self.lock();
            // Two calls of one name are the far end's mistake: the first keeps it.
            if table.open.contains_key(&key) {
                return None;
            }
            table.open.insert(key, (paths.clone(), node));
            let (early, rest) =
                std::mem::take(&mut table.early).into_iter().partition(|(link, call, ..)| (*link, *call) == key);
            table.early = rest;
            let early: VecDeque<(LinkId, CallId, Bytes, Instant)> = early;
            early
        };
        early.iter().for_each(|(_, _, bytes, _)| paths.deliver(bytes));
        Some(Meeting { meetings: self.clone(), key })
    }

    /// Something came on `link`. Never waits.
    pub(super) fn deliver(&self, link: LinkId, bytes: Bytes) {
        let Some(call) = CallId::of(&bytes) else { return };
        let paths = {
            let mut table = self.lock();
            let paths = table.open.get(&(link, call)).map(|(paths, _)| paths.clone());
            if paths.is_none() {
                table.keep(link, call, bytes.clone(), Instant::now());
            }
            paths
        };
        if let Some(paths) = paths {
            paths.deliver(&bytes);
        }
    }

    /// `node` opened a stream of bytes for a call. It goes to nobody if that is no call with this node.
    pub(super) fn take_pipe(&self, node: NodeKey, call: CallId, pipe: BoxDuplex) {
        let paths = {
            let table = self.lock();
            let mut open = table.open.iter();
            open.find(|((_, of), (_, with))| *of == call && *with == node).map(|(_, (paths, _))| paths.clone())
        };
        if let Some(paths) = paths {
            paths.take_pipe(pipe);
        }
    }

    /// The link is gone.
    pub(super) fn down(&self, link: LinkId) {
        self.lock().early.retain(|(of, ..)| *of != link);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn keep(&mut self, link: LinkId, call: CallId, bytes: Bytes, now: Instant) {
        self.early.retain(|(.., at)| now.saturating_duration_since(*at) < EARLY_KEPT);
        if self.early.iter().filter(|(of, ..)| *of == link).count() < EARLY_PER_LINK && self.early.len() < EARLY {
            self.early.push_back((link, call, bytes, now));
        }
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        self.meetings.lock().open.remove(&self.key);
    }
}

/// What a leg on `link` finds paths with.
struct OnLink {
    overlay: Overlay,
    link: LinkId,
    node: NodeKey,
}

impl Surroundings for OnLink {
    fn tell(&self, message: Bytes) {
        if let Err(error) = self.overlay.send_ice(self.link, message) {
            // The link is gone, and with it the call, or the overlay is too busy: the next one may pass.
            tracing::debug!(%error, "paths of a call were not told");
        }
    }

    fn stun_servers(&self) -> Vec<SocketAddr> {
        self.overlay.stun_servers()
    }

    fn relay(&self, call: CallId) -> BoxFuture<'static, Option<Relay>> {
        let (overlay, node) = (self.overlay.clone(), self.node);
        Box::pin(async move {
            let granted = overlay.media_relay(call.0, Some(node)).await;
            let granted = granted.inspect_err(|error| tracing::debug!(%error, "no relay for the sound of a call"));
            let Allocation { ours, theirs, theirs_too, .. } = *granted.as_ref().ok()?;
            let lease = Box::new(Lease::new(overlay, granted.ok()?));
            Some(Relay { ours, theirs: [theirs].into_iter().chain(theirs_too).collect(), lease })
        })
    }

    fn pipe(&self, call: CallId) -> BoxFuture<'static, Option<BoxDuplex>> {
        let (overlay, node) = (self.overlay.clone(), self.node);
        Box::pin(async move {
            let pipe = overlay.media_pipe(node, call.0).await;
            let pipe = pipe.inspect_err(|error| tracing::debug!(%error, "no stream for the sound of a call"));
            Some(Box::pin(pipe.ok()?) as BoxDuplex)
        })
    }

    fn loopback(&self) -> bool {
        self.overlay.scope() == AddressScope::Any
    }
}

/// Two ports of a relay, renewed while it lives and given back after.
struct Lease {
    overlay: Overlay,
    allocation: Arc<Mutex<Allocation>>,
    _renewing: AbortOnDropHandle<()>,
}

impl Lease {
    fn new(overlay: Overlay, allocation: Allocation) -> Lease {
        let allocation = Arc::new(Mutex::new(allocation));
        let renewing = AbortOnDropHandle::new(tokio::spawn(renew(overlay.clone(), allocation.clone())));
        Lease { overlay, allocation, _renewing: renewing }
    }
}

impl Lease {
    fn allocation(&self) -> Allocation {
        *self.allocation.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl media::Lease for Lease {
    fn blame(&self) {
        self.overlay.blame(self.allocation().relay);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.overlay.release(self.allocation());
    }
}

/// A relay that does not renew lets the allocation end: the call finds another path then.
async fn renew(overlay: Overlay, held: Arc<Mutex<Allocation>>) {
    loop {
        let allocation = *held.lock().unwrap_or_else(PoisonError::into_inner);
        let left = allocation.until.0.saturating_sub(UnixMillis::now().0);
        tokio::time::sleep(Duration::from_millis(left / 2).max(RENEW_AT_MOST_EVERY)).await;
        if let Ok(renewed) = overlay.renew(allocation).await {
            *held.lock().unwrap_or_else(PoisonError::into_inner) = renewed;
        }
    }
}

impl Shared {
    /// The leg finds paths to the node at the far end of `link`. Before its first description.
    pub(super) fn find_paths(&self, media: &mut MediaLeg, link: LinkId) {
        if let Some(node) = self.links.node(link) {
            media.find_paths(Arc::new(OnLink { overlay: self.overlay.clone(), link, node }));
        }
    }

    /// The leg, which has had its first description, hears what the far end of `link` says of paths.
    pub(super) fn meet(&self, media: &MediaLeg, link: LinkId) -> Option<Meeting> {
        self.links.meetings.meet(link, self.links.node(link)?, media)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(call: u8) -> Bytes {
        // Field 7, 16 bytes: the name of the call.
        [&[0x3a, 16][..], &[call; 16]].concat().into()
    }

    #[test]
    fn what_comes_early_is_bounded_by_link_and_in_all_and_forgotten() {
        let meetings = Meetings::default();
        for link in 0..100 {
            (0..100).for_each(|call| meetings.deliver(LinkId(link), message(call)));
        }
        assert_eq!(meetings.lock().early.len(), EARLY);
        meetings.down(LinkId(0));
        assert_eq!(meetings.lock().early.len(), EARLY - EARLY_PER_LINK);
        meetings.deliver(LinkId(0), Bytes::from_static(b"nonsense"));
        let later = Instant::now() + EARLY_KEPT;
        meetings.lock().keep(LinkId(0), CallId([1; 16]), message(1), later);
        assert_eq!(meetings.lock().early.len(), 1);
    }
}
