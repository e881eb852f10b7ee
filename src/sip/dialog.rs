//! A dialog (RFC 3261 §12) and the leg that lives in it. Each leg has its own Call-ID, tags, CSeq and Contact: nothing of
//! one side is seen on the other.

use super::address::{NameAddr, UriParts, clean_uri, param, quoted, quoted_display};
use super::flow::Flow;
use super::message::{Message, Writer};
use super::{Cause, LegId, Presented, TrunkId};
use bytes::Bytes;
use std::time::Instant;

/// What we put into Via and Contact on a trunk: there is no address, and RFC 2606 keeps this name out of DNS.
const TRUNK_HOST: &str = "peerline.invalid";
/// Route headers kept from a peer.
const MAX_ROUTES: usize = 16;

/// Peer state of RFC 3261 §12 plus the flow that requests go to.
#[derive(Clone, Debug)]
pub(super) struct Dialog {
    pub flow: Flow,
    pub call_id: String,
    pub local_tag: String,
    /// Empty until the far end has one.
    pub remote_tag: String,
    /// From of our requests, without tag.
    pub local: String,
    /// To of our requests, without tag.
    pub remote: String,
    pub local_cseq: u32,
    pub remote_cseq: Option<u32>,
    /// Request URI of requests inside the dialog.
    pub target: String,
    pub routes: Vec<String>,
    /// Our Contact value.
    pub contact: String,
}

/// `<sip:peerline@our socket>`, or the user's own URI on a trunk.
pub(super) fn contact_for(flow: &Flow, trunk_uri: Option<&str>) -> String {
    match (flow, trunk_uri) {
        (Flow::Udp { local, .. }, _) => format!("<sip:peerline@{local}>"),
        (Flow::Tcp { local, .. }, _) => format!("<sip:peerline@{local};transport=tcp>"),
        (Flow::Trunk(_), Some(uri)) => format!("<{uri}>"),
        (Flow::Trunk(_), None) => format!("<sip:{TRUNK_HOST}>"),
    }
}

/// The Via of our requests (RFC 3581: always ask for rport).
pub(super) fn via_for(flow: &Flow, branch: &str) -> String {
    match flow {
        Flow::Udp { local, .. } => format!("SIP/2.0/UDP {local};rport;branch={branch}"),
        Flow::Tcp { local, .. } => format!("SIP/2.0/TCP {local};rport;branch={branch}"),
        Flow::Trunk(_) => format!("SIP/2.0/TCP {TRUNK_HOST};branch={branch}"),
    }
}

/// `"Display" <uri>` of who is presented; `None` when the URI could not stand in a header.
pub(super) fn presented(who: &Presented) -> Option<String> {
    Some(format!("{}<{}>", quoted_display(who.display.as_deref()), clean_uri(&who.uri)?))
}

/// RFC 3326: why a call ends, for people and for phones that show missed calls.
pub(super) fn reason(cause: &Cause) -> String {
    format!("SIP;cause={};text={}", cause.status, quoted(&super::address::clean_words(&cause.words)))
}

/// The Reason of a BYE or CANCEL, when it names a SIP status.
pub(super) fn cause_of(message: &Message) -> Option<Cause> {
    message.list("Reason").find_map(|value| {
        let (protocol, params) = value.split_once(';')?;
        let status = param(params, "cause")?.parse().ok().filter(|status| (100..700).contains(status))?;
        let words = super::address::clean_words(param(params, "text").unwrap_or_default());
        protocol.trim().eq_ignore_ascii_case("SIP").then_some(Cause { status, words })
    })
}

fn without_tag(value: &str) -> String {
    match NameAddr::parse(value) {
        Some(address) => format!("{}<{}>", quoted_display(address.display.as_deref()), address.uri),
        None => "<sip:anonymous@anonymous.invalid>".to_owned(),
    }
}

impl Dialog {
    /// The side that was called (§12.1.1).
    pub(super) fn accepting(invite: &Message, flow: Flow, local_tag: String, contact: String) -> Self {
        Self {
            flow,
            call_id: invite.call_id().to_owned(),
            local_tag,
            remote_tag: invite.tag_of_from().unwrap_or_default().to_owned(),
            local: without_tag(invite.get("To").unwrap_or_default()),
            remote: without_tag(invite.get("From").unwrap_or_default()),
            local_cseq: 0,
            remote_cseq: Some(invite.cseq()),
            target: invite.contact_uri().unwrap_or_default().to_owned(),
            routes: invite.list("Record-Route").take(MAX_ROUTES).map(str::to_owned).collect(),
            contact,
        }
    }

    /// What a response to our INVITE says about the dialog (§12.1.2).
    pub(super) fn learn(&mut self, response: &Message) {
        if let Some(tag) = response.tag_of_to() {
            self.remote_tag = tag.to_owned();
        }
        self.retarget(response);
        self.routes = response.list("Record-Route").take(MAX_ROUTES).map(str::to_owned).collect();
        self.routes.reverse();
    }

    /// Target refresh (§12.2).
    pub(super) fn retarget(&mut self, message: &Message) {
        if let Some(uri) = message.contact_uri().and_then(clean_uri) {
            self.target = uri.to_owned();
        }
    }

    /// Request URI and Route values, with strict routers served as of §12.2.1.1.
    fn path(&self) -> (String, Vec<String>) {
        let target = clean_uri(&self.target).unwrap_or("sip:anonymous.invalid").to_owned();
        let first = self.routes.first().and_then(|route| NameAddr::parse(route));
        match first {
            Some(first) if param(first.uri.split_once(';').map_or("", |(_, p)| p), "lr").is_none() => {
                let mut rest: Vec<String> = self.routes[1..].to_vec();
                rest.push(format!("<{target}>"));
                (clean_uri(first.uri).unwrap_or("sip:anonymous.invalid").to_owned(), rest)
            }
            _ => (target, self.routes.clone()),
        }
    }

    /// A request inside the dialog (or the INVITE that starts it). `cseq` is what the caller took from `next_cseq`.
    pub(super) fn request(
        &self,
        method: &str,
        cseq: u32,
        branch: &str,
        headers: &[(&str, &str)],
        body: Option<(&str, &[u8])>,
    ) -> Bytes {
        let (uri, routes) = self.path();
        let mut out = Writer::request(method, &uri);
        out.header("Via", &via_for(&self.flow, branch));
        for route in &routes {
            out.header("Route", route);
        }
        out.header("Max-Forwards", "70");
        out.header("From", &format!("{};tag={}", self.local, self.local_tag));
        let to = if self.remote_tag.is_empty() {
            self.remote.clone()
        } else {
            format!("{};tag={}", self.remote, self.remote_tag)
        };
        out.header("To", &to);
        out.header("Call-ID", &self.call_id);
        out.header("CSeq", &format!("{cseq} {method}"));
        if method == "INVITE" || method == "ACK" || method == "INFO" {
            out.header("Contact", &self.contact);
        }
        for (name, value) in headers {
            out.header(name, value);
        }
        out.finish(body)
    }

    pub(super) fn next_cseq(&mut self) -> u32 {
        self.local_cseq = self.local_cseq.saturating_add(1);
        self.local_cseq
    }
}

/// Where a leg stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// They called; `invite` is the server transaction that waits for our answer.
    Ringing {
        invite: u64,
    },
    /// We answered 200 and wait for the ACK. `bye`: hung up in the meantime.
    Answered {
        invite: u64,
        bye: Option<Cause>,
    },
    /// We called.
    Calling {
        invite: u64,
        provisional: bool,
        cancel: Cancel,
    },
    Up,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cancel {
    No,
    /// Waits for a provisional response (§9.1).
    Wanted(Cause),
    Sent,
}

/// An offer in flight on an established leg. One at a time, in either direction (§14).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reoffer {
    None,
    /// Client transaction of our re-INVITE.
    Ours(u64),
    /// Server transaction of theirs, unanswered.
    Theirs(u64),
    /// Theirs, answered 2xx, waiting for the ACK.
    Acking(u64),
}

/// One side of a call.
#[derive(Debug)]
pub(super) struct Leg {
    pub id: LegId,
    pub dialog: Dialog,
    pub state: State,
    /// Hung up from above: no event of it goes up any more.
    pub silent: bool,
    pub reoffer: Reoffer,
    pub trunk: Option<TrunkId>,
    /// Account of the phone, to find it again when its connection is gone.
    pub account: Option<String>,
    pub merge_key: Option<(String, String, u32)>,
    /// CSeq of the INVITE that the next ACK must name.
    pub invite_cseq: u32,
    /// Longest ringing.
    pub deadline: Option<Instant>,
}

impl Leg {
    pub(super) fn new(id: LegId, dialog: Dialog, state: State) -> Self {
        let invite_cseq = dialog.remote_cseq.unwrap_or_default();
        Self {
            id,
            dialog,
            state,
            silent: false,
            reoffer: Reoffer::None,
            trunk: None,
            account: None,
            merge_key: None,
            invite_cseq,
            deadline: None,
        }
    }
}

/// What a phone dialled: the user part, with the host when that is not this node; a `tel:` number as it is.
pub(super) fn dialled(uri: &str, realm: &str, flow: &Flow) -> Option<String> {
    if let Some(number) = uri.strip_prefix("tel:") {
        return Some(number.split(';').next().unwrap_or_default().to_owned()).filter(|number| !number.is_empty());
    }
    let parts = UriParts::parse(uri)?;
    let here = parts.host.eq_ignore_ascii_case(realm)
        || parts.host == "localhost"
        || parts.host_ip().is_some_and(|ip| ip.is_loopback() || Some(ip) == flow.local_ip());
    // RFC 3261 §19.1.6: parameters inside the user part are not part of a number.
    Some(match (parts.user.is_empty(), here) {
        (true, _) => parts.host,
        (false, true) => parts.user,
        (false, false) => format!("{}@{}", parts.user, parts.host),
    })
}
