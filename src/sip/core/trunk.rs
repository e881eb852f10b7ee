//! Trunks: who may say what on them. The far end's user is proven by whoever opened the trunk; here its messages are held
//! to it.

use super::send::Answer;
use super::{Core, MAX_TRUNKS, Trunk};
use crate::clock::UnixMillis;
use crate::sip::address::{NameAddr, UriParts, clean_uri};
use crate::sip::dialog::State;
use crate::sip::flow::Flow;
use crate::sip::message::Message;
use crate::sip::{Cause, LegId, SipEvent, TrunkId};
use bytes::Bytes;
use std::collections::HashSet;
use std::time::Instant;

impl Core {
    pub(in crate::sip) fn trunk_up(&mut self, trunk: TrunkId, local_uri: &str, remote_uri: &str) {
        let (Some(local), Some(remote), Some(clean)) =
            (UriParts::parse(local_uri), UriParts::parse(remote_uri), clean_uri(local_uri))
        else {
            return self.counts.refuse("trunk-uri");
        };
        if self.trunks.len() >= MAX_TRUNKS && !self.trunks.contains_key(&trunk) {
            return self.counts.refuse("trunks-full");
        }
        let legs = self.trunks.remove(&trunk).map(|old| old.legs).unwrap_or_default();
        self.trunks.insert(trunk, Trunk { local, local_uri: clean.to_owned(), remote, legs });
    }

    pub(in crate::sip) fn trunk_receive(&mut self, trunk: TrunkId, message: &Bytes, now: Instant, wall: UnixMillis) {
        if self.trunks.contains_key(&trunk) {
            self.receive(Flow::Trunk(trunk), message, now, wall);
        } else {
            self.counts.refuse("unknown-trunk");
        }
    }

    pub(in crate::sip) fn trunk_down(&mut self, trunk: TrunkId, cause: &Cause) {
        let Some(Trunk { legs, .. }) = self.trunks.remove(&trunk) else { return };
        self.lose_legs(legs, cause);
    }

    /// Ends legs whose far end cannot be told.
    pub(super) fn lose_legs(&mut self, legs: HashSet<LegId>, cause: &Cause) {
        let mut legs: Vec<LegId> = legs.into_iter().collect();
        legs.sort_unstable();
        for id in legs {
            let Some(leg) = self.drop_leg(id) else { continue };
            match leg.state {
                State::Calling { invite, .. } => drop(self.forget_client(invite)),
                State::Ringing { invite } | State::Answered { invite, .. } => self.forget_server(invite),
                State::Up => {}
            }
            if leg.silent {
                continue;
            }
            let calling = matches!(leg.state, State::Calling { .. });
            self.event(if calling {
                SipEvent::Failed { leg: id, cause: cause.clone() }
            } else {
                SipEvent::Ended { leg: id, cause: Some(cause.clone()) }
            });
        }
    }

    pub(super) fn trunk_uri(&self, trunk: TrunkId) -> Option<&str> {
        self.trunks.get(&trunk).map(|trunk| trunk.local_uri.as_str())
    }

    /// Checks an INVITE of a trunk against what its hello proved; gives the user that is called. `None`: answered.
    pub(super) fn trunk_accepts(&mut self, trunk: TrunkId, uri: &str, message: &Message) -> Option<String> {
        let flow = Flow::Trunk(trunk);
        let known = self.trunks.get(&trunk)?;
        let from = message.get("From").and_then(NameAddr::parse).and_then(|from| UriParts::parse(from.uri));
        let asserted_fits = message.list("P-Asserted-Identity").all(|value| {
            let asserted = NameAddr::parse(value).and_then(|identity| UriParts::parse(identity.uri));
            asserted.is_some_and(|asserted| asserted.same_address(&known.remote))
        });
        if !from.is_some_and(|from| from.same_address(&known.remote)) || !asserted_fits {
            self.counts.refuse("altered-from");
            self.answer_stateless(message, &flow, &Answer::new(403, "From Is Not The Proven User"));
            return None;
        }
        let to = message.get("To").and_then(NameAddr::parse).and_then(|to| UriParts::parse(to.uri));
        let wanted = UriParts::parse(uri);
        if ![to, wanted].iter().all(|named| named.as_ref().is_some_and(|named| named.same_address(&known.local))) {
            self.counts.refuse("wrong-user");
            self.answer_stateless(message, &flow, &Answer::new(404, "No Such User Here"));
            return None;
        }
        Some(known.local.user.clone())
    }
}
