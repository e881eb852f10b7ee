//! Registered, and staying so (RFC 3261 §10.2): half-way through each registration it is renewed, and after trouble it
//! is tried again, a little later each time.

use super::line::{Line, LineEvent, Purpose, refresh_after};
use super::message::{Message, Request};
use std::time::{Duration, Instant};

/// Asked for: short enough that a phone is found again soon after a node lost it.
const EXPIRES: u64 = 600;
/// First and longest pause after a failed renewal.
const RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Registration {
    call_id: String,
    tag: String,
    cseq: u32,
    expires: u64,
    /// Challenges answered in a row.
    tries: u32,
    failures: u32,
    /// When to register again.
    pub due: Option<Instant>,
    leaving: bool,
}

impl Registration {
    pub fn new(call_id: String, tag: String) -> Self {
        Self { call_id, tag, expires: EXPIRES, ..Self::default() }
    }
}

impl Line {
    /// Sends a REGISTER.
    pub fn register(&mut self, now: Instant) {
        self.registration.due = None;
        self.registration.cseq += 1;
        let uri = format!("sip:{}", self.config.server);
        let own = self.own_uri();
        let (contact, branch) = (self.contact(), self.branch());
        let authorization = self.authorization("REGISTER", &uri);
        let expires = if self.registration.leaving { 0 } else { self.registration.expires }.to_string();
        let request = Request {
            method: "REGISTER",
            uri: &uri,
            via: (&self.local.to_string(), &branch),
            from: &format!("<{own}>;tag={}", self.registration.tag),
            to: &format!("<{own}>"),
            call_id: &self.registration.call_id,
            cseq: self.registration.cseq,
        };
        let mut more = vec![("Contact", contact.as_str()), ("Expires", expires.as_str())];
        if let Some(value) = &authorization {
            more.push(("Authorization", value));
        }
        let bytes = request.encode(&more, None);
        self.send((branch, "REGISTER".to_owned()), bytes, Purpose::Register, now);
    }

    /// Takes the contact away.
    pub fn unregister(&mut self, now: Instant) {
        self.registration.leaving = true;
        self.registration.tries = 0;
        self.register(now);
    }

    /// `message` is `None` when there was no answer.
    pub(super) fn register_answered(&mut self, status: u16, message: Option<&Message>, now: Instant) {
        match (status, message) {
            (200..300, Some(message)) => {
                self.registration.tries = 0;
                self.registration.failures = 0;
                if self.registration.leaving {
                    return self.tell(LineEvent::Unregistered);
                }
                let ours = format!("@{}", self.local);
                let granted = message.all("Contact").filter(|value| value.contains(&ours)).find_map(expires_of);
                let granted = granted.or_else(|| message.get("Expires")?.parse().ok());
                let granted = Duration::from_secs(granted.unwrap_or(self.registration.expires).max(10));
                self.registration.due = Some(now + refresh_after(granted));
                self.tell(LineEvent::Registered);
            }
            (401 | 407, Some(message)) if self.challenged(message, self.registration.tries) => {
                self.registration.tries += 1;
                self.register(now);
            }
            (423, Some(message)) if self.registration.tries < 3 => {
                let least = message.get("Min-Expires").and_then(|least| least.parse().ok()).unwrap_or(EXPIRES);
                self.registration.expires = least.clamp(self.registration.expires + 1, 86_400);
                self.registration.tries += 1;
                self.register(now);
            }
            (_, _) if self.registration.leaving => self.tell(LineEvent::Unregistered),
            (status, _) => {
                let pause = RETRY.saturating_mul(1 << self.registration.failures.min(6)).min(LONGEST_RETRY);
                self.registration.tries = 0;
                self.registration.failures += 1;
                self.registration.due = Some(now + pause);
                self.tell(LineEvent::NotRegistered(status));
            }
        }
    }
}

fn expires_of(contact: &str) -> Option<u64> {
    let (_, after) = contact.split_once(";expires=")?;
    after.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}
