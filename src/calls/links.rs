//! Links to other nodes as trunks of `sip`, one to one, and who uses them. The task waits for `sip`, so a slow `sip`
//! holds the overlay back rather than filling memory.

use super::cause;
use super::paths::Meetings;
use super::reach::Way;
use crate::identity::NodeKey;
use crate::locator::Locator;
use crate::media::CallId;
use crate::overlay::{LinkId, Overlay, OverlayEvent};
use crate::record::VerifiedPeerUser;
use crate::sip::{Sip, TrunkId};
use crate::uri::{IdHash, UserUri};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};
use tokio_util::task::AbortOnDropHandle;

/// How long a link without a call stays open: the next call to the same person rings at once.
const IDLE: Duration = Duration::from_secs(60);
/// And one that came up over a circuit: relays give each node few of them.
const IDLE_RELAYED: Duration = Duration::from_secs(4);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Links that went down, remembered for calls that were given them a moment before; as many as the overlay has at a time.
const MAX_GONE: usize = 1_024;

/// A call of which nothing was heard for this long is not taken for one that goes on without its signalling.
const HEARD: Duration = Duration::from_secs(4);

#[derive(Clone, Copy, Debug)]
pub(super) struct LinkInfo {
    pub local: IdHash,
    pub remote: IdHash,
    pub node: NodeKey,
    pub local_ip: IpAddr,
    pub remote_ip: IpAddr,
}

struct Open {
    info: LinkInfo,
    uses: usize,
    idle_since: Instant,
    /// When a call on it was last known to be heard, and whether the overlay has been told so.
    heard_at: Option<Instant>,
    held: bool,
    /// Looks where the far end is now.
    looking: Option<AbortOnDropHandle<()>>,
}

/// The open links; a link is here once its trunk is up. Bounded by the overlay's own limit.
#[derive(Default)]
pub(super) struct Links {
    open: Mutex<HashMap<LinkId, Open>>,
    gone: Mutex<BTreeSet<LinkId>>,
    changed: Notify,
    /// Who finds paths over them.
    pub(super) meetings: Arc<Meetings>,
}

/// A call uses the link: it stays open.
pub(super) struct LinkUse {
    links: Arc<Links>,
    link: LinkId,
}

impl LinkUse {
    /// The call on it is heard.
    pub(super) fn is_heard(&self, now: Instant) {
        self.links.is_heard(self.link, now);
    }
}

impl Links {
    pub(super) fn hold(self: &Arc<Self>, link: LinkId) -> Option<(LinkInfo, LinkUse)> {
        let mut open = self.lock();
        let entry = open.get_mut(&link)?;
        entry.uses += 1;
        Some((entry.info, LinkUse { links: self.clone(), link }))
    }

    /// Who is at the far end.
    pub(super) fn node(&self, link: LinkId) -> Option<NodeKey> {
        self.lock().get(&link).map(|entry| entry.info.node)
    }

    /// A call on this link is heard.
    pub(super) fn is_heard(&self, link: LinkId, now: Instant) {
        if let Some(entry) = self.lock().get_mut(&link) {
            entry.heard_at = Some(now);
        }
    }

    /// Links that are to be held from now on, or no more.
    fn held(&self, now: Instant) -> Vec<(LinkId, bool)> {
        let mut changed = Vec::new();
        for (link, entry) in self.lock().iter_mut() {
            let held = entry.heard_at.is_some_and(|at| now.saturating_duration_since(at) < HEARD);
            if std::mem::replace(&mut entry.held, held) != held {
                changed.push((*link, held));
            }
        }
        changed
    }

    /// The overlay has lost a link: its far end may be reached elsewhere by now.
    fn lost(&self, link: LinkId, overlay: &Overlay, locator: &Locator) {
        let mut open = self.lock();
        let Some(entry) = open.get_mut(&link) else { return };
        if entry.looking.as_ref().is_some_and(|looking| !looking.is_finished()) {
            return;
        }
        let LinkInfo { local, remote, node, .. } = entry.info;
        let way = Way { overlay: overlay.clone(), locator: locator.clone(), local, remote };
        entry.looking = Some(AbortOnDropHandle::new(tokio::spawn(async move { way.look_again(node).await })));
    }

    /// Waits for the trunk of a link that the overlay has, or had a moment ago. `None`: it went down. Cancel safe.
    pub(super) async fn wait(self: &Arc<Self>, link: LinkId) -> Option<(LinkInfo, LinkUse)> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            if let Some(held) = self.hold(link) {
                return Some(held);
            }
            if self.lock_gone().contains(&link) {
                return None;
            }
            changed.await;
        }
    }

    /// Turns overlay events into trunks until the overlay stops.
    pub(super) async fn run(
        self: Arc<Self>,
        mut events: mpsc::Receiver<OverlayEvent>,
        (sip, overlay, locator): (Sip, Overlay, Locator),
        overlay_name: impl Fn() -> String + Send,
    ) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                _ = look.tick() => {
                    let now = Instant::now();
                    self.idle(now).into_iter().for_each(|link| overlay.close(link));
                    self.held(now).into_iter().for_each(|(link, held)| overlay.hold(link, held));
                    continue;
                }
            };
            match event {
                Some(OverlayEvent::LinkUp { link, local, remote, local_ip, remote_ip, .. }) => {
                    if !admitted(&locator, &remote) {
                        overlay.close(link);
                        continue;
                    }
                    let uri = |id| UserUri { id, overlay: overlay_name() }.to_string();
                    sip.trunk_up(TrunkId(link.0), uri(local), uri(remote.id)).await;
                    self.up(link, LinkInfo { local, remote: remote.id, node: remote.node, local_ip, remote_ip });
                }
                Some(OverlayEvent::LinkMessage { link, message }) => {
                    sip.trunk_receive(TrunkId(link.0), message).await;
                }
                Some(OverlayEvent::LinkIce { link, bytes }) => self.meetings.deliver(link, bytes),
                Some(OverlayEvent::MediaPipe { node, call, pipe }) => {
                    self.meetings.take_pipe(node, CallId(call), Box::pin(pipe));
                }
                Some(OverlayEvent::LinkLost { link }) => self.lost(link, &overlay, &locator),
                Some(OverlayEvent::LinkDown { link, reason, never }) => {
                    self.meetings.down(link);
                    tracing::debug!(link = link.0, %reason, "link down");
                    let open = self.down(link);
                    if let Some(open) = open.filter(|_| never.is_some()) {
                        // The record that led there may be an old one.
                        locator.forget(open.info.remote);
                    }
                    let cause = never.map_or_else(cause::gone, |error| cause::of_link(&error));
                    sip.trunk_down(TrunkId(link.0), cause).await;
                }
                Some(OverlayEvent::AddressesChanged(_)) => locator.addresses_changed(),
                None => return,
            }
        }
    }

    fn up(&self, link: LinkId, info: LinkInfo) {
        let idle_since = Instant::now();
        self.lock().insert(link, Open { info, uses: 0, idle_since, heard_at: None, held: false, looking: None });
        self.changed.notify_waiters();
    }

    fn down(&self, link: LinkId) -> Option<Open> {
        let mut gone = self.lock_gone();
        gone.insert(link);
        if gone.len() > MAX_GONE {
            gone.pop_first();
        }
        drop(gone);
        let open = self.lock().remove(&link);
        self.changed.notify_waiters();
        open
    }

    /// Links that nobody used for a while.
    fn idle(&self, now: Instant) -> Vec<LinkId> {
        let open = self.lock();
        let patience = |entry: &Open| if entry.info.remote_ip.is_unspecified() { IDLE_RELAYED } else { IDLE };
        let unused =
            |entry: &Open| entry.uses == 0 && now.saturating_duration_since(entry.idle_since) >= patience(entry);
        open.iter().filter(|(_, entry)| unused(entry)).map(|(link, _)| *link).collect()
    }

    fn lock_gone(&self) -> MutexGuard<'_, BTreeSet<LinkId>> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LinkId, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LinkUse {
    fn drop(&mut self) {
        if let Some(entry) = self.links.lock().get_mut(&self.link) {
            entry.uses = entry.uses.saturating_sub(1);
            entry.idle_since = Instant::now();
        }
    }
}

fn admitted(locator: &Locator, remote: &VerifiedPeerUser) -> bool {
    let admitted = locator.admits(remote);
    if !admitted {
        tracing::info!("a link was refused: its user's keys were replaced since");
    }
    admitted
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn info() -> LinkInfo {
        let local_ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        LinkInfo {
            local: IdHash([1; 22]),
            remote: IdHash([2; 22]),
            node: NodeKey([3; 32]),
            local_ip,
            remote_ip: local_ip,
        }
    }

    #[tokio::test]
    async fn a_waiting_call_has_the_link_once_its_trunk_is_up() {
        let links = Arc::new(Links::default());
        let waiting = tokio::spawn({
            let links = links.clone();
            async move { links.wait(LinkId(3)).await.unwrap().0.remote }
        });
        tokio::task::yield_now().await;
        links.up(LinkId(2), info());
        links.up(LinkId(3), info());
        assert_eq!(waiting.await.unwrap(), IdHash([2; 22]));
    }

    #[tokio::test]
    async fn nobody_waits_for_a_link_that_went_down() {
        let links = Arc::new(Links::default());
        let waiting = tokio::spawn({
            let links = links.clone();
            async move { links.wait(LinkId(2)).await.is_some() }
        });
        tokio::task::yield_now().await;
        links.up(LinkId(1), info());
        assert!(links.down(LinkId(1)).is_some() && links.down(LinkId(2)).is_none());
        assert!(links.wait(LinkId(1)).await.is_none() && !waiting.await.unwrap());
        (10..10_000).for_each(|n| drop(links.down(LinkId(n))));
        assert_eq!((links.lock_gone().len(), links.lock().len()), (MAX_GONE, 0));
    }

    #[test]
    fn only_unused_links_are_idle() {
        let links = Arc::new(Links::default());
        links.up(LinkId(1), info());
        let (_, held) = links.hold(LinkId(1)).unwrap();
        let later = Instant::now() + IDLE * 2;
        assert_eq!(links.idle(later), []);
        drop(held);
        assert_eq!(links.idle(later), [LinkId(1)]);
        assert_eq!(links.idle(Instant::now()), []);
    }
}
