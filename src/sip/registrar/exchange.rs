//! What goes in and out of the registrar: raw header values in, statuses and headers out.

use crate::sip::flow::Flow;
use crate::sip::{BindId, ContactId};
use std::time::Duration;

/// An answer: what is added to Via, From, To, Call-ID and CSeq.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sip) struct Reply {
    pub status: u16,
    pub words: &'static str,
    pub headers: Vec<(&'static str, String)>,
    /// Hold it back that long (a wrong password gets slower).
    pub delay: Duration,
}

impl Reply {
    pub(super) fn new(status: u16, words: &'static str) -> Self {
        Self { status, words, headers: Vec::new(), delay: Duration::ZERO }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }
}

/// A REGISTER, raw values.
#[derive(Clone, Debug)]
pub(in crate::sip) struct RegisterRequest<'a> {
    pub uri: &'a str,
    pub to: &'a str,
    pub call_id: &'a str,
    pub cseq: u32,
    /// One per header line.
    pub contacts: Vec<&'a str>,
    pub expires: Option<&'a str>,
    /// Authorization and Proxy-Authorization.
    pub authorization: Vec<&'a str>,
    pub flow: Flow,
}

/// Any other request of a phone outside a dialog, raw values.
#[derive(Clone, Debug)]
pub(in crate::sip) struct AuthRequest<'a> {
    pub method: &'a str,
    pub uri: &'a str,
    pub from: &'a str,
    pub authorization: Vec<&'a str>,
    pub flow: Flow,
}

/// What a REGISTER came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sip) enum RegisterOutcome {
    Reply(Reply),
    /// Keep `snapshot`, then `confirm`. `contacts` are those that there will be, best first.
    Accepted {
        bind: BindId,
        account: String,
        contacts: Vec<ContactId>,
        snapshot: Vec<u8>,
    },
    /// Drop it and its transaction.
    Silence,
}

/// Who sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sip) enum Authenticated {
    Account(String),
    Reply(Reply),
    Silence,
}

/// The contacts of an account changed by themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sip) struct Changed {
    pub account: String,
    pub contacts: Vec<ContactId>,
    /// Empty when no contact is left.
    pub snapshot: Vec<u8>,
}

/// A registered phone.
#[derive(Clone, Debug)]
pub(in crate::sip) struct Contact {
    pub account: String,
    /// Raw, without brackets and header parameters.
    pub uri: String,
    /// Where it registered from, and is reached.
    pub flow: Flow,
}
