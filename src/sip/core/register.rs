//! REGISTER to the registrar and back, and who a phone is.

use super::send::Answer;
use super::{Core, ServerKey};
use crate::clock::UnixMillis;
use crate::sip::flow::Flow;
use crate::sip::message::Message;
use crate::sip::registrar::{AuthRequest, Authenticated, RegisterOutcome, RegisterRequest, Reply};
use crate::sip::{BindId, SipEvent};

fn credentials(message: &Message) -> Vec<&str> {
    message.all("Authorization").chain(message.all("Proxy-Authorization")).collect()
}

fn borrowed(reply: &Reply) -> Vec<(&str, &str)> {
    reply.headers.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

impl Core {
    pub(super) fn register(&mut self, flow: Flow, key: ServerKey, uri: &str, message: &Message, wall: UnixMillis) {
        if matches!(flow, Flow::Trunk(_)) {
            self.counts.refuse("register-on-trunk");
            return self.answer_stateless(message, &flow, &Answer::new(405, "Method Not Allowed"));
        }
        let request = RegisterRequest {
            uri,
            to: message.get("To").unwrap_or_default(),
            call_id: message.call_id(),
            cseq: message.cseq(),
            contacts: message.all("Contact").collect(),
            expires: message.get("Expires"),
            authorization: credentials(message),
            flow,
        };
        match self.registrar.handle_register(&request, self.now, wall) {
            RegisterOutcome::Reply(reply) => self.reply(&flow, message, &reply),
            RegisterOutcome::Silence => self.counts.refuse("register-dropped"),
            RegisterOutcome::Accepted { bind, account, contacts, snapshot } => {
                let tag = self.secret("tag");
                let Some(id) = self.open_server(key, message, &tag, None) else {
                    self.registrar.confirm(bind, false, self.now);
                    return;
                };
                self.binds.insert(bind, id);
                self.event(SipEvent::Contacts { account, bind: Some(bind), contacts, snapshot });
            }
        }
        self.registrar_changes();
    }

    fn reply(&mut self, flow: &Flow, message: &Message, reply: &Reply) {
        let headers = borrowed(reply);
        self.answer_later(message, flow, &Answer::new(reply.status, reply.words).with(&headers), reply.delay);
    }

    /// The binding of a REGISTER was kept, or not.
    pub(in crate::sip) fn confirm_bind(&mut self, bind: BindId, kept: bool) {
        let reply = self.registrar.confirm(bind, kept, self.now);
        if let Some(id) = self.binds.remove(&bind) {
            match reply {
                Some(reply) => {
                    let headers = borrowed(&reply);
                    self.respond(id, &Answer::new(reply.status, reply.words).with(&headers));
                }
                // Too late: the phone has asked again or will.
                None => self.forget_server(id),
            }
        }
        self.registrar_changes();
    }

    /// The account that a request outside a dialog is from; `None` when it has been answered or dropped.
    pub(super) fn authenticate(&mut self, flow: Flow, method: &str, uri: &str, message: &Message) -> Option<String> {
        let from = message.get("From").unwrap_or_default();
        let request = AuthRequest { method, uri, from, authorization: credentials(message), flow };
        match self.registrar.authenticate(&request, self.now) {
            Authenticated::Account(account) => Some(account),
            Authenticated::Reply(reply) => {
                self.reply(&flow, message, &reply);
                None
            }
            Authenticated::Silence => {
                self.counts.refuse("authentication-dropped");
                None
            }
        }
    }

    /// Passes on what changed by itself: expiry, removed accounts, closed connections.
    pub(in crate::sip) fn registrar_changes(&mut self) {
        while let Some(changed) = self.registrar.poll_effect() {
            self.event(SipEvent::Contacts {
                account: changed.account,
                bind: None,
                contacts: changed.contacts,
                snapshot: changed.snapshot,
            });
        }
    }
}
