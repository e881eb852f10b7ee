//! The calling side of a leg (RFC 3261 §13.2): INVITE out, its responses, CANCEL.

use super::{Core, Effect};
use crate::sip::address::{clean_uri, clean_words};
use crate::sip::dialog::{Cancel, Dialog, Leg, Reoffer, State, contact_for, presented, reason};
use crate::sip::flow::Flow;
use crate::sip::message::{ALLOW, Message};
use crate::sip::transaction::{ClientTx, Purpose, T1X64, Verdict, derive};
use crate::sip::{Cause, DialTarget, LegId, Presented, SipEvent};
use bytes::Bytes;
use std::time::Duration;

/// A phone that says nothing at all for this long is not there (timer B, shortened: 5 transmissions on UDP; the caller
/// should not listen to silence for 32 s).
const SILENT_PHONE: Duration = Duration::from_secs(8);

/// A target that can be called now.
struct Reached {
    flow: Flow,
    target: String,
    account: Option<String>,
}

impl Core {
    pub(in crate::sip) fn dial(
        &mut self,
        id: LegId,
        target: &DialTarget,
        from: &Presented,
        to_uri: &str,
        offer: &Bytes,
    ) {
        if self.legs.contains_key(&id) {
            return;
        }
        if let Err(cause) = self.try_dial(id, target, from, to_uri, offer) {
            self.counts.refuse("dial-failed");
            self.event(SipEvent::Failed { leg: id, cause });
        }
    }

    fn try_dial(
        &mut self,
        id: LegId,
        target: &DialTarget,
        from: &Presented,
        to_uri: &str,
        offer: &Bytes,
    ) -> Result<(), Cause> {
        let cause = |status, words: &str| Cause { status, words: words.to_owned() };
        if self.legs.len() >= self.settings.limits.max_legs {
            return Err(cause(503, "Too Many Calls"));
        }
        let reached = self.reach(target, to_uri)?;
        let local = presented(from).ok_or_else(|| cause(500, "Bad Caller Address"))?;
        let to = clean_uri(to_uri).ok_or_else(|| cause(484, "Bad Address"))?;
        let trunk = if let DialTarget::Trunk(trunk) = target { Some(*trunk) } else { None };
        let contact = contact_for(&reached.flow, trunk.and_then(|trunk| self.trunk_uri(trunk)));
        let mut dialog = Dialog {
            flow: reached.flow,
            call_id: self.secret("call-id"),
            local_tag: self.secret("tag"),
            remote_tag: String::new(),
            local: local.clone(),
            remote: format!("<{to}>"),
            local_cseq: 0,
            remote_cseq: None,
            target: reached.target,
            routes: Vec::new(),
            contact,
        };
        let cseq = dialog.next_cseq();
        let branch = format!("z9hG4bK{}", self.secret("branch"));
        let headers = [("Allow", ALLOW), ("P-Asserted-Identity", local.as_str())];
        let invite = dialog.request("INVITE", cseq, &branch, &headers, Some(("application/sdp", offer)));
        let tx = self
            .open_client(reached.flow, id, Purpose::Invite, branch, invite, SILENT_PHONE)
            .ok_or_else(|| cause(480, "The Phone's Connection Is Gone"))?;
        if let Some(tx) = self.clients.get_mut(&tx) {
            tx.dialog = Some(Box::new(dialog.clone()));
        }
        let mut leg = Leg::new(id, dialog, State::Calling { invite: tx, provisional: false, cancel: Cancel::No });
        leg.trunk = trunk;
        leg.account = reached.account;
        self.keep_leg(leg);
        Ok(())
    }

    fn reach(&self, target: &DialTarget, to_uri: &str) -> Result<Reached, Cause> {
        match target {
            DialTarget::Trunk(trunk) => {
                let flow = Flow::Trunk(*trunk);
                if !self.trunks.contains_key(trunk) {
                    return Err(Cause { status: 503, words: "The other node is gone".into() });
                }
                Ok(Reached { flow, target: to_uri.to_owned(), account: None })
            }
            DialTarget::Contact(id) => {
                let gone = || Cause { status: 480, words: "The Phone Is Not Registered".into() };
                let contact = self.registrar.contact(*id).ok_or_else(gone)?;
                let target = clean_uri(&contact.uri).ok_or_else(gone)?.to_owned();
                Ok(Reached { flow: self.current(contact.flow), target, account: Some(contact.account) })
            }
        }
    }

    /// A flow from before a restart names our old UDP port.
    pub(super) fn current(&self, flow: Flow) -> Flow {
        match (flow, self.settings.udp_port) {
            (Flow::Udp { mut local, remote }, Some(port)) => {
                local.set_port(port);
                Flow::Udp { local, remote }
            }
            (flow, _) => flow,
        }
    }

    pub(super) fn client_response(&mut self, id: u64, status: u16, message: &Message) {
        let now = self.now;
        let Some(tx) = self.clients.get_mut(&id) else { return };
        let (purpose, leg, flow) = (tx.purpose, tx.leg, tx.flow);
        match tx.response(status, now) {
            Verdict::Ignore => {}
            Verdict::AckAgain(ack) => {
                self.send(&flow, ack);
            }
            Verdict::Pass => {
                if status >= 300
                    && matches!(purpose, Purpose::Invite | Purpose::Reinvite)
                    && let Some(ack) = derive(&tx.request, "ACK", message.get("To"), None)
                {
                    tx.keep_ack(ack.clone());
                    self.send(&flow, ack);
                }
                match (purpose, status) {
                    (_, 100) | (Purpose::Invite, 101..200) => self.provisional(id, leg, status, message),
                    (Purpose::Invite | Purpose::Reinvite, 200..300) => self.accepted(id, leg, purpose, message),
                    (Purpose::Invite, _) => self.invite_failed(leg, status, message),
                    (Purpose::Reinvite, 300..) => self.reinvite_failed(leg, response_cause(status, message)),
                    // 481 to an INFO: the far end has no such dialog any more.
                    (Purpose::Info, 481) => self.far_end_forgot(leg, status),
                    (Purpose::Reinvite | Purpose::Bye | Purpose::Info | Purpose::Cancel, _) => {}
                }
            }
        }
        if self.clients.get(&id).and_then(|tx| tx.due()).is_some_and(|due| due <= now) {
            self.forget_client(id);
        } else {
            self.arm_client(id);
        }
    }

    fn provisional(&mut self, tx: u64, id: LegId, status: u16, message: &Message) {
        let deadline = self.now + super::accept::LONGEST_RINGING;
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let State::Calling { invite, provisional, cancel } = &mut leg.state else { return };
        if *invite != tx {
            return;
        }
        let first = !*provisional;
        *provisional = true;
        let wanted = matches!(cancel, Cancel::Wanted(_));
        let silent = leg.silent;
        if first {
            leg.deadline = Some(deadline);
            self.arm_leg(id);
        }
        if wanted {
            return self.send_cancel(id);
        }
        if status > 100 && !silent {
            let words = match &message.start {
                crate::sip::message::Start::Response { words, .. } => words.clone(),
                crate::sip::message::Start::Request { .. } => String::new(),
            };
            self.event(SipEvent::Progress { leg: id, status, words, sdp: message.sdp().ok().flatten() });
        }
    }

    /// A 2xx: acknowledged at once, every time (§13.2.2.4). A second far end (fork) is sent home.
    fn accepted(&mut self, tx_id: u64, id: LegId, purpose: Purpose, message: &Message) {
        let Some(tx) = self.clients.get_mut(&tx_id) else { return };
        let flow = tx.flow;
        let tag = message.tag_of_to().unwrap_or_default();
        let Some(mut dialog) = tx.dialog.as_deref().cloned() else { return };
        if let Some((accepted, ack)) = &tx.accepted
            && accepted == tag
        {
            let ack = ack.clone();
            self.send(&flow, ack);
            return;
        }
        let forked = tx.accepted.is_some();
        if purpose == Purpose::Invite {
            dialog.learn(message)
        } else {
            dialog.retarget(message)
        }
        let branch = format!("z9hG4bK{}", self.secret("branch"));
        let ack = dialog.request("ACK", dialog.local_cseq, &branch, &[], None);
        if !forked && let Some(tx) = self.clients.get_mut(&tx_id) {
            tx.accepted = Some((tag.to_owned(), ack.clone()));
        }
        self.send(&flow, ack);
        if forked {
            self.counts.refuse("forked-2xx");
            return self.bye(id, dialog, &Cause { status: 200, words: "Call completed elsewhere".into() });
        }
        if purpose == Purpose::Reinvite {
            return self.reinvite_accepted(tx_id, id, dialog, message);
        }
        let Some(leg) = self.legs.get_mut(&id) else {
            return self.bye(id, dialog, &Cause { status: 487, words: "Cancelled".into() });
        };
        leg.dialog = dialog;
        // Our CANCEL and their 200 crossed: the call is up and must be ended (§15).
        if let State::Calling { cancel: Cancel::Wanted(_) | Cancel::Sent, .. } = leg.state {
            leg.state = State::Up;
            return self.say_bye(id, &Cause { status: 487, words: "Cancelled".into() });
        }
        leg.state = State::Up;
        leg.deadline = None;
        match message.sdp() {
            Ok(Some(sdp)) => self.event(SipEvent::Answered { leg: id, sdp }),
            _ => {
                let cause = Cause { status: 488, words: "Answer Without SDP".into() };
                self.say_bye(id, &cause);
                self.event(SipEvent::Failed { leg: id, cause });
            }
        }
    }

    fn invite_failed(&mut self, id: LegId, status: u16, message: &Message) {
        if let Some(leg) = self.drop_leg(id)
            && !leg.silent
        {
            self.event(SipEvent::Failed { leg: id, cause: response_cause(status, message) });
        }
    }

    /// CANCEL as soon as it may be sent; until then it is remembered.
    pub(super) fn cancel_call(&mut self, id: LegId, cause: &Cause) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let State::Calling { provisional, cancel, .. } = &mut leg.state else { return };
        if *cancel != Cancel::No {
            return;
        }
        *cancel = Cancel::Wanted(cause.clone());
        if *provisional {
            self.send_cancel(id);
        }
    }

    fn send_cancel(&mut self, id: LegId) {
        let now = self.now;
        let Some(leg) = self.legs.get_mut(&id) else { return };
        leg.deadline = None;
        let State::Calling { invite, cancel, .. } = &mut leg.state else { return };
        let Cancel::Wanted(cause) = std::mem::replace(cancel, Cancel::Sent) else { return };
        let tx_id = *invite;
        let Some(tx) = self.clients.get_mut(&tx_id) else { return };
        tx.give_up_at(now + T1X64);
        let (flow, branch) = (tx.flow, format!("{}/CANCEL", tx.branch));
        let bytes = derive(&tx.request, "CANCEL", None, Some(&reason(&cause)));
        self.arm_client(tx_id);
        if let Some(bytes) = bytes {
            self.open_client(flow, id, Purpose::Cancel, branch, bytes, T1X64);
        }
    }

    /// Timers B and F.
    pub(super) fn client_unanswered(&mut self, tx: &ClientTx) {
        match tx.purpose {
            Purpose::Invite => {
                if let Some(leg) = self.drop_leg(tx.leg)
                    && !leg.silent
                {
                    let cause = Cause { status: 408, words: "The Phone Does Not Answer".into() };
                    self.event(SipEvent::Failed { leg: tx.leg, cause });
                }
            }
            Purpose::Reinvite => {
                self.reinvite_failed(tx.leg, Cause { status: 408, words: "The Phone Does Not Answer".into() });
            }
            // The leg is gone already, or another transaction decides about it.
            Purpose::Bye | Purpose::Cancel | Purpose::Info => {}
        }
    }

    /// BYE of a dialog that is in no table any more.
    pub(super) fn bye(&mut self, id: LegId, mut dialog: Dialog, cause: &Cause) {
        let cseq = dialog.next_cseq();
        let branch = format!("z9hG4bK{}", self.secret("branch"));
        let text = reason(cause);
        let bytes = dialog.request("BYE", cseq, &branch, &[("Reason", &text)], None);
        self.open_client(dialog.flow, id, Purpose::Bye, branch, bytes, T1X64);
    }

    /// BYE, and the leg is gone.
    pub(super) fn say_bye(&mut self, id: LegId, cause: &Cause) {
        self.refresh_flow(id);
        if let Some(leg) = self.drop_leg(id) {
            self.bye(id, leg.dialog, cause);
        }
    }

    /// A phone that came back on another connection is reached there.
    pub(super) fn refresh_flow(&mut self, id: LegId) {
        let Some(leg) = self.legs.get(&id) else { return };
        let old = leg.dialog.flow;
        let Flow::Tcp { connection, .. } = old else { return };
        if self.connections.contains_key(&connection) {
            return;
        }
        let Some(account) = leg.account.as_deref() else { return };
        let again = self.registrar.contacts(account).into_iter().find_map(|contact| {
            let flow = self.current(self.registrar.contact(contact)?.flow);
            let alive = match flow {
                Flow::Tcp { connection, .. } => self.connections.contains_key(&connection),
                Flow::Udp { .. } | Flow::Trunk(_) => true,
            };
            (alive && flow.same_peer(&old)).then_some(flow)
        });
        if let (Some(flow), Some(leg)) = (again, self.legs.get_mut(&id)) {
            leg.dialog.flow = flow;
            leg.dialog.contact = contact_for(&flow, None);
        }
    }

    fn far_end_forgot(&mut self, id: LegId, status: u16) {
        let silent = self.legs.get(&id).is_none_or(|leg| leg.silent);
        let cause = Cause { status, words: "The Phone Forgot The Call".into() };
        self.say_bye(id, &cause);
        if !silent {
            self.event(SipEvent::Ended { leg: id, cause: Some(cause) });
        }
    }

    fn reinvite_accepted(&mut self, tx: u64, id: LegId, dialog: Dialog, message: &Message) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        if leg.reoffer != Reoffer::Ours(tx) {
            return;
        }
        leg.reoffer = Reoffer::None;
        leg.dialog.target = dialog.target;
        let event = match message.sdp() {
            Ok(Some(sdp)) => SipEvent::ReofferAnswered { leg: id, sdp },
            _ => {
                let cause = Cause { status: 488, words: "Answer Without SDP".into() };
                SipEvent::ReofferFailed { leg: id, cause }
            }
        };
        self.effects.push_back(Effect::Event(event));
    }

    fn reinvite_failed(&mut self, id: LegId, cause: Cause) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        leg.reoffer = Reoffer::None;
        // §12.2.1.2: these two mean that the dialog is gone; anything else leaves the session as it was (§14.1).
        let over = matches!(cause.status, 408 | 481);
        self.event(SipEvent::ReofferFailed { leg: id, cause: cause.clone() });
        if over {
            self.far_end_forgot(id, cause.status);
        }
    }
}

fn response_cause(status: u16, message: &Message) -> Cause {
    let words = match &message.start {
        crate::sip::message::Start::Response { words, .. } => clean_words(words),
        crate::sip::message::Start::Request { .. } => String::new(),
    };
    Cause { status, words }
}
