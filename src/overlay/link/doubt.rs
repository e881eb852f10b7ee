//! Doubt: a connection that looks open may lead to nobody. A node that was killed or unplugged says no goodbye, and a
//! dead connection takes long to show it. So what is not answered soon is tried over a new connection as well, dialled
//! beside the old one; and a node that is known to have been started anew has none of our sessions any more.

use super::behaviour::Behaviour;
use super::table::Phase;
use crate::overlay::LinkId;
use libp2p::PeerId;
use libp2p::swarm::ConnectionId;
use std::time::Instant;

impl Behaviour {
    /// The far end of `peer` is another process than on the connections `older`: what it knew of us is gone. Links that
    /// were up are down, links that are being opened go on elsewhere.
    pub fn restarted(&mut self, peer: PeerId, older: &[ConnectionId]) {
        let now = Instant::now();
        for id in self.links.of_peer(peer) {
            let Some(link) = self.links.get_mut(id) else { continue };
            if !link.is_opening() {
                if link.current.is_none_or(|stream| older.contains(&stream.connection)) {
                    self.drop_link(id, "the far end was started anew");
                }
                continue;
            }
            link.tried.extend_from_slice(older);
            if let Some(attempt) = link.attempt.take_if(|attempt| older.contains(&attempt.stream.connection)) {
                self.reset(attempt.stream);
            }
            self.advance(id, now);
        }
        self.wake();
    }

    /// Whether a link is carried by this connection, or about to be.
    pub fn uses(&self, connection: ConnectionId) -> bool {
        self.streams.keys().any(|stream| stream.connection == connection)
    }

    /// Dials although a connection is there, once until somebody answers.
    pub(super) fn dial_beside(&mut self, id: LinkId, now: Instant) {
        if self.links.get(id).is_some_and(|link| link.dial.is_none() && !link.dialled) {
            tracing::debug!(link = id.0, "no answer yet, dialled beside");
            self.dial(id, now);
        }
    }

    /// A new connection to the far end: an attempt that is in doubt moves there, and so does a link in doubt.
    pub(super) fn take_over(&mut self, id: LinkId, connection: ConnectionId, now: Instant) {
        let doubt = self.config.doubt;
        let Some(link) = self.links.get_mut(id) else { return };
        match link.attempt {
            Some(attempt) if attempt.stream.connection != connection && now >= attempt.doubted_at => {
                // Not counted among those that failed: should the new one fail, it has another chance.
                link.attempt = None;
                if link.phase == Phase::Up {
                    link.session.go_on();
                }
                self.reset(attempt.stream);
                self.open_stream(id, connection, now);
            }
            None if link.opener && link.phase == Phase::Up && link.is_unanswered(doubt, now) => {
                self.open_stream(id, connection, now);
            }
            Some(_) | None => {}
        }
    }
}
