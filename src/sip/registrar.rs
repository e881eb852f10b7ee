//! The registrar (RFC 3261 §10.3): which phones are where, for the accounts of this node.
//!
//! Pure: time comes in, effects come out. A REGISTER goes `handle_register` → `Accepted` → (the account's user is bound
//! and the snapshot kept, elsewhere) → `confirm` → 200. Until then nothing that is seen from outside changes.
//! Not here: messages and sockets (`core`, `driver`), what a binding means to the overlay (`locator`).

mod account;
pub(super) mod address;
mod exchange;
mod request;
mod snapshot;
#[cfg(test)]
mod tests;

use super::digest::{Attempt, Authenticator, Refused, Verdict};
use super::flow::Flow;
use super::{Account, BindId, ContactId};
use crate::clock::UnixMillis;
use account::{Change, Contacts};
use address::{Address, SipUri, unescaped};
pub(super) use exchange::{AuthRequest, Authenticated, Changed, Contact, RegisterOutcome, RegisterRequest, Reply};
use request::{Ask, MIN_EXPIRES, Unasked};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest `+sip.instance`: a URN with a UUID has 47 bytes.
const MAX_INSTANCE_BYTES: usize = 128;
/// A REGISTER whose binding was not confirmed by then is forgotten; the phone asks again.
const CONFIRM_WITHIN: Duration = Duration::from_secs(10);
/// REGISTERs of one account waiting for their confirmation.
const MAX_PENDING: usize = 16;

/// A contact with what the registrar keeps about it.
#[derive(Clone, Debug)]
struct Bound {
    id: ContactId,
    uri: String,
    instance: Option<String>,
    /// Preference in thousandths.
    q: u16,
    flow: Flow,
    call_id: String,
    cseq: u32,
    refreshed: Instant,
    expires: Instant,
}

pub(super) struct Registrar {
    passwords: Authenticator,
    accounts: Arc<BTreeMap<String, Account>>,
    most: usize,
    bound: BTreeMap<String, Contacts>,
    /// Which account a contact is of.
    owners: BTreeMap<ContactId, String>,
    /// Contacts by when they end.
    ends: BTreeSet<(Instant, ContactId)>,
    /// Contacts by TCP connection.
    connections: BTreeSet<(u64, ContactId)>,
    waiting: BTreeMap<u64, (String, Instant)>,
    /// Accounts whose contacts changed by themselves.
    effects: BTreeSet<String>,
    refused: BTreeMap<&'static str, u64>,
    next_contact: u64,
    next_bind: u64,
    wall: (Instant, UnixMillis),
}

impl Registrar {
    /// `restored`: snapshots by account. `key`: 32 random bytes of this process.
    pub fn new(
        realm: String,
        accounts: Arc<BTreeMap<String, Account>>,
        most: usize,
        restored: Vec<(String, Vec<u8>)>,
        key: [u8; 32],
        now: Instant,
        wall: UnixMillis,
    ) -> Self {
        let mut this = Self {
            passwords: Authenticator::new(realm, &accounts, key, now),
            accounts,
            most: most.clamp(1, usize::from(u8::MAX)),
            bound: BTreeMap::new(),
            owners: BTreeMap::new(),
            ends: BTreeSet::new(),
            connections: BTreeSet::new(),
            waiting: BTreeMap::new(),
            effects: BTreeSet::new(),
            refused: BTreeMap::new(),
            next_contact: 1,
            next_bind: 1,
            wall: (now, wall),
        };
        for (account, bytes) in restored {
            this.restore(account, &bytes, now, wall);
        }
        this
    }

    fn restore(&mut self, account: String, bytes: &[u8], now: Instant, wall: UnixMillis) {
        let saved = snapshot::decode(bytes, self.most);
        let known = self.accounts.contains_key(&account);
        for contact in saved.into_iter().filter(|contact| known && contact.expires > wall) {
            let snapshot::SavedFlow::Udp { local, remote } = contact.flow else { continue };
            // A clock that was set back must not make a contact immortal.
            let left = Duration::from_millis(contact.expires.0 - wall.0).min(request::MAX_EXPIRES);
            let bound = Bound {
                id: self.new_contact(),
                uri: contact.uri,
                instance: contact.instance,
                q: contact.q,
                flow: Flow::Udp { local, remote },
                call_id: String::new(),
                cseq: 0,
                refreshed: now,
                expires: now + left,
            };
            self.apply(&account, vec![Change::Put(Box::new(bound))]);
        }
        self.effects.insert(account);
    }

    /// Other accounts: contacts of those that went, or whose password changed, are dropped.
    pub fn set_accounts(&mut self, accounts: Arc<BTreeMap<String, Account>>, now: Instant) {
        self.passwords.set_accounts(&accounts);
        let same = |name: &String| match (self.accounts.get(name), accounts.get(name)) {
            (Some(old), Some(new)) => old.password == new.password,
            (None, _) | (_, None) => false,
        };
        let gone: Vec<String> = self.bound.keys().filter(|name| !same(name)).cloned().collect();
        self.accounts = accounts;
        for account in gone {
            self.waiting.retain(|_, (waiting, _)| *waiting != account);
            let all = self.bound.get(&account).map(Contacts::ids).unwrap_or_default();
            self.apply(&account, all.into_iter().map(Change::Remove).collect());
            self.bound.remove(&account);
            self.effects.insert(account);
        }
        self.wall.1 = self.wall_at(now);
        self.wall.0 = now;
    }

    /// Every step of §10.3, in its order.
    pub fn handle_register(
        &mut self,
        request: &RegisterRequest<'_>,
        now: Instant,
        wall: UnixMillis,
    ) -> RegisterOutcome {
        self.wall = (now, wall);
        let named = user_of(request.to);
        let claimed = named.as_deref().unwrap_or("");
        let account = match self.check("REGISTER", request.uri, &request.authorization, claimed, request.flow, now) {
            Authenticated::Account(account) => account,
            Authenticated::Reply(reply) => return RegisterOutcome::Reply(reply),
            Authenticated::Silence => return RegisterOutcome::Silence,
        };
        if named.is_none_or(|named| named != account) {
            self.count("register_other_account");
            return RegisterOutcome::Reply(Reply::new(403, "Not Your Account"));
        }
        let ask = match request::read(request) {
            Ok(Ask::Fetch) => return RegisterOutcome::Reply(self.listing(&account, now)),
            Ok(ask) => ask,
            Err(Unasked::Malformed(words)) => {
                self.count("register_malformed");
                return RegisterOutcome::Reply(Reply::new(400, words));
            }
            Err(Unasked::TooBrief) => {
                let reply = Reply::new(423, "Interval Too Brief").with("Min-Expires", MIN_EXPIRES.as_secs());
                return RegisterOutcome::Reply(reply);
            }
        };
        let contacts = self.bound.entry(account.clone()).or_default();
        if contacts.pending.len() >= MAX_PENDING {
            return RegisterOutcome::Reply(Reply::new(503, "Registration Pending").with("Retry-After", 5));
        }
        let mut next = self.next_contact;
        let changes = contacts.changes(ask, request, self.most, now, || {
            next += 1;
            ContactId(next - 1)
        });
        self.next_contact = next;
        let changes = match changes {
            Ok(changes) if changes.is_empty() => return RegisterOutcome::Reply(self.listing(&account, now)),
            Ok(changes) => changes,
            Err(account::OutOfOrder) => {
                self.count("register_out_of_order");
                return RegisterOutcome::Reply(Reply::new(500, "CSeq Out Of Order"));
            }
        };
        let bind = BindId(self.next_bind);
        self.next_bind += 1;
        contacts.pending.push_back((bind, changes));
        let after = contacts.projected();
        let outcome = RegisterOutcome::Accepted {
            bind,
            account: account.clone(),
            contacts: account::best_first(&after),
            snapshot: snapshot::encode(&after, now, wall),
        };
        self.waiting.insert(bind.0, (account, now + CONFIRM_WITHIN));
        outcome
    }

    /// The binding is kept (200, and the contacts are there), or it is not (500, and they are not). `None` for one that
    /// is not waiting (any more).
    pub fn confirm(&mut self, bind: BindId, kept: bool, now: Instant) -> Option<Reply> {
        let (account, _) = self.waiting.remove(&bind.0)?;
        let changes = self.bound.get_mut(&account)?.settle(bind)?;
        if kept {
            self.apply(&account, changes);
            return Some(self.listing(&account, now));
        }
        self.count("register_not_kept");
        self.effects.insert(account);
        Some(Reply::new(500, "Registration Not Kept"))
    }

    /// Authenticates any request but REGISTER.
    pub fn authenticate(&mut self, request: &AuthRequest<'_>, now: Instant) -> Authenticated {
        let named = user_of(request.from).unwrap_or_default();
        self.check(request.method, request.uri, &request.authorization, &named, request.flow, now)
    }

    fn check(
        &mut self,
        method: &str,
        uri: &str,
        authorization: &[&str],
        claimed: &str,
        flow: Flow,
        now: Instant,
    ) -> Authenticated {
        let attempt = Attempt { method, uri, authorization, source: flow.remote_ip(), claimed };
        match self.passwords.verify(&attempt, now) {
            Verdict::Account(account) => Authenticated::Account(account),
            Verdict::Silence => {
                self.refused(Refused::Blocked);
                Authenticated::Silence
            }
            Verdict::Challenge { value, delay, reason } => {
                self.refused(reason);
                let reply = Reply::new(401, "Unauthorized").with("WWW-Authenticate", value);
                Authenticated::Reply(Reply { delay, ..reply })
            }
        }
    }

    /// The contacts of an account, best first.
    pub fn contacts(&self, account: &str) -> Vec<ContactId> {
        self.bound.get(account).map(|contacts| account::best_first(contacts.now())).unwrap_or_default()
    }

    pub fn contact(&self, id: ContactId) -> Option<Contact> {
        let account = self.owners.get(&id)?;
        let bound = self.bound.get(account)?.get(id)?;
        Some(Contact { account: account.clone(), uri: bound.uri.clone(), flow: bound.flow })
    }

    /// A TCP connection is gone, and with it the way to the phones behind it: they register again on a new one.
    pub fn flow_closed(&mut self, connection: u64) {
        let range = (connection, ContactId(0))..=(connection, ContactId(u64::MAX));
        let lost: Vec<ContactId> = self.connections.range(range).map(|(_, id)| *id).collect();
        self.drop_contacts(lost);
    }

    /// For people: account → "uri, seconds left".
    pub fn shown(&self, now: Instant) -> BTreeMap<String, Vec<String>> {
        let line = |bound: &Bound| format!("{}, {} s", bound.uri, bound.left(now));
        let some = self.bound.iter().filter(|(_, contacts)| !contacts.now().is_empty());
        some.map(|(name, contacts)| (name.clone(), contacts.now().iter().map(line).collect())).collect()
    }

    /// How often what was refused.
    pub fn refusals(&self) -> &BTreeMap<&'static str, u64> {
        &self.refused
    }

    /// When to call `handle_timeout`.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let contact = self.ends.first().map(|(at, _)| *at);
        let bind = self.waiting.first_key_value().map(|(_, (_, at))| *at);
        [contact, bind].into_iter().flatten().min()
    }

    /// Ends what is over.
    pub fn handle_timeout(&mut self, now: Instant, wall: UnixMillis) {
        self.wall = (now, wall);
        let over: Vec<ContactId> = self.ends.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id).collect();
        self.drop_contacts(over);
        while let Some(first) = self.waiting.first_entry().filter(|first| first.get().1 <= now) {
            let (bind, (account, _)) = first.remove_entry();
            if let Some(contacts) = self.bound.get_mut(&account) {
                contacts.settle(BindId(bind));
            }
            self.count("register_not_confirmed");
            self.effects.insert(account);
        }
    }

    /// Drain to `None` after each call.
    pub fn poll_effect(&mut self) -> Option<Changed> {
        let account = self.effects.pop_first()?;
        let empty = Contacts::default();
        let contacts = self.bound.get(&account).unwrap_or(&empty);
        let (ids, after) = (account::best_first(contacts.now()), contacts.projected());
        let changed = Changed { contacts: ids, snapshot: snapshot::encode(&after, self.wall.0, self.wall.1), account };
        if contacts.is_idle() {
            self.bound.remove(&changed.account);
        }
        Some(changed)
    }

    fn drop_contacts(&mut self, ids: Vec<ContactId>) {
        for id in ids {
            let Some(account) = self.owners.get(&id).cloned() else { continue };
            self.apply(&account, vec![Change::Remove(id)]);
            self.effects.insert(account);
        }
    }

    /// Makes changes visible, and keeps the indexes in step.
    fn apply(&mut self, account: &str, changes: Vec<Change>) {
        let contacts = self.bound.entry(account.to_owned()).or_default();
        for change in changes {
            let id = change.id();
            if let Some(old) = contacts.get(id) {
                self.ends.remove(&(old.expires, id));
                self.connections.remove(&(connection(old.flow), id));
                self.owners.remove(&id);
            }
            if let Change::Put(new) = &change {
                self.ends.insert((new.expires, id));
                self.owners.insert(id, account.to_owned());
                if let Flow::Tcp { connection, .. } = new.flow {
                    self.connections.insert((connection, id));
                }
            }
            contacts.apply(change);
        }
    }

    /// 200 with all contacts (§10.3 step 8).
    fn listing(&mut self, account: &str, now: Instant) -> Reply {
        let mut reply = Reply::new(200, "OK");
        for bound in self.bound.get(account).map(Contacts::now).unwrap_or_default() {
            let mut value = format!("<{}>;expires={}", bound.uri, bound.left(now));
            if bound.q < 1000 {
                value.push_str(&format!(";q=0.{:03}", bound.q));
            }
            if let Some(instance) = &bound.instance {
                value.push_str(&format!(";+sip.instance=\"{instance}\""));
            }
            reply = reply.with("Contact", value);
        }
        if self.bound.get(account).is_some_and(Contacts::is_idle) {
            self.bound.remove(account);
        }
        reply
    }

    fn new_contact(&mut self) -> ContactId {
        self.next_contact += 1;
        ContactId(self.next_contact - 1)
    }

    fn wall_at(&self, now: Instant) -> UnixMillis {
        let passed = now.saturating_duration_since(self.wall.0).as_millis();
        UnixMillis(self.wall.1.0.saturating_add(u64::try_from(passed).unwrap_or(0)))
    }

    fn refused(&mut self, reason: Refused) {
        if let Some(name) = reason.counted_as() {
            self.count(name);
        }
    }

    fn count(&mut self, name: &'static str) {
        *self.refused.entry(name).or_default() += 1;
    }
}

impl Bound {
    /// Whole seconds left, rounded up: a phone never hears 0 for what is there.
    fn left(&self, now: Instant) -> u64 {
        let left = self.expires.saturating_duration_since(now);
        left.as_secs() + u64::from(left.subsec_nanos() > 0)
    }
}

fn connection(flow: Flow) -> u64 {
    match flow {
        Flow::Tcp { connection, .. } => connection,
        Flow::Udp { .. } | Flow::Trunk(_) => 0,
    }
}

/// The account that a To or From value names, in lower case.
fn user_of(value: &str) -> Option<String> {
    let address = Address::parse(value)?;
    let user = SipUri::parse(address.uri)?.user?;
    Some(unescaped(user.split(':').next().unwrap_or(user)).to_ascii_lowercase())
}

/// Text that can stand between quotes in a header.
fn plain(text: &str) -> bool {
    text.bytes().all(|byte| (byte.is_ascii_graphic() || byte == b' ') && byte != b'"' && byte != b'\\')
}
