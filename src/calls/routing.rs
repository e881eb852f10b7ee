//! What an incoming INVITE asks for: who calls, who is called, which phones ring here, and whether to look further.

use super::Shared;
use super::cause;
use super::floods::Ringing;
use super::links::LinkUse;
use super::machine::Plan;
use crate::directory::{Directory, Route};
use crate::media::LegKind;
use crate::overlay::LinkId;
use crate::sip::{Caller, Cause, ContactId, Presented};
use crate::uri::{IdHash, UserUri};
use std::net::IpAddr;

/// Everything that a call needs to know of its INVITE.
pub(super) struct Routed {
    pub plan: Plan,
    /// The caller, proven by password or key.
    pub from: String,
    pub to: String,
    /// Shown to the callee.
    pub presented: Presented,
    /// Whose link to use for devices elsewhere.
    pub local: Option<IdHash>,
    pub callee: Option<IdHash>,
    pub kind: LegKind,
    /// Our address towards the caller's media, and where the caller signals from.
    pub media_ips: Option<(IpAddr, IpAddr)>,
    pub link: Option<LinkUse>,
    pub ringing: Option<Ringing>,
}

impl Routed {
    fn refused(from: String, to: String, cause: Cause) -> Self {
        Self {
            plan: Plan::Refuse(cause),
            presented: Presented { uri: from.clone(), display: None },
            from,
            to,
            local: None,
            callee: None,
            kind: LegKind::Phone,
            media_ips: None,
            link: None,
            ringing: None,
        }
    }
}

pub(super) async fn route(shared: &Shared, caller: &Caller, dialled: &str) -> Routed {
    let directory = shared.directory.borrow().clone();
    match caller {
        Caller::Phone { account, local_ip, remote_ip } => {
            from_phone(shared, &directory, account, (*local_ip, *remote_ip), dialled).await
        }
        Caller::Trunk(trunk) => from_trunk(shared, &directory, LinkId(trunk.0)).await,
    }
}

async fn from_phone(
    shared: &Shared,
    directory: &Directory,
    account: &str,
    (local_ip, remote_ip): (IpAddr, IpAddr),
    dialled: &str,
) -> Routed {
    let own = directory.accounts.get(account).and_then(|own| own.user.parse::<IdHash>().ok().map(|id| (own, id)));
    let Some((own, user)) = own else {
        return Routed::refused(account.into(), dialled.into(), cause::no_user());
    };
    let from = uri(directory, user);
    let route = match directory.resolve(dialled) {
        Ok(route) => route,
        Err(error) => return Routed::refused(from, dialled.into(), cause::of_dialled(error)),
    };
    let (plan, callee) = match route {
        Route::Echo => (Plan::Echo, None),
        Route::Account(name) => {
            let callee = directory.accounts.get(&name).and_then(|account| account.user.parse().ok());
            let contacts = phones(shared, vec![name], Some((account, remote_ip))).await;
            (Plan::Ring { contacts, locate: false }, callee)
        }
        Route::User(callee) => {
            let contacts = phones(shared, names(directory, &callee), Some((account, remote_ip))).await;
            (Plan::Ring { contacts, locate: true }, Some(callee))
        }
    };
    Routed {
        plan,
        to: callee.map_or_else(|| dialled.to_owned(), |callee| uri(directory, callee)),
        presented: Presented { uri: from.clone(), display: own.display.clone() },
        from,
        local: Some(user),
        callee,
        kind: LegKind::Phone,
        media_ips: Some((local_ip, remote_ip)),
        link: None,
        ringing: None,
    }
}

/// A call over a link rings phones here and goes no further.
async fn from_trunk(shared: &Shared, directory: &Directory, link: LinkId) -> Routed {
    let Some((info, held)) = shared.links.hold(link) else {
        return Routed::refused(String::new(), String::new(), cause::lost());
    };
    let (from, to) = (uri(directory, info.remote), uri(directory, info.local));
    let known = directory.contacts.values().any(|contact| *contact == info.remote);
    let Some(ringing) = shared.floods.admit(info.remote, info.local, known) else {
        return Routed::refused(from, to, cause::too_many_rings());
    };
    let contacts = phones(shared, names(directory, &info.local), None).await;
    Routed {
        plan: Plan::Ring { contacts, locate: false },
        presented: Presented { display: Some(known_as(directory, &info.remote)), uri: from.clone() },
        from,
        to,
        local: Some(info.local),
        callee: Some(info.local),
        kind: LegKind::Peer,
        media_ips: Some((info.local_ip, info.remote_ip)),
        link: Some(held),
        ringing: Some(ringing),
    }
}

/// The registered phones of these accounts, without the one that calls: it is known by its account and address.
async fn phones(shared: &Shared, accounts: Vec<String>, calling: Option<(&str, IpAddr)>) -> Vec<ContactId> {
    let mut contacts = Vec::new();
    for account in accounts {
        for contact in shared.sip.contacts(&account).await {
            if let Some((_, calling_ip)) = calling.filter(|(calling, _)| *calling == account)
                && shared.sip.contact_ips(contact).await.is_none_or(|(_, remote)| remote == calling_ip)
            {
                continue;
            }
            contacts.push(contact);
        }
    }
    contacts
}

/// The accounts whose phones ring for a user.
fn names(directory: &Directory, user: &IdHash) -> Vec<String> {
    directory.accounts_of(user).into_iter().map(|account| account.name.clone()).collect()
}

fn uri(directory: &Directory, id: IdHash) -> String {
    UserUri { id, overlay: directory.overlay_name.clone() }.to_string()
}

/// How a caller is shown: the name that *this* node's owner gave to the number, else the ends of the number itself. What
/// the far end says of itself is never shown as who it is (SECURITY §5.2).
fn known_as(directory: &Directory, id: &IdHash) -> String {
    if let Some((name, _)) = directory.contacts.iter().find(|(_, contact)| *contact == id) {
        return name.clone();
    }
    let number = id.to_string();
    match (number.get(..5), number.len().checked_sub(5).and_then(|at| number.get(at..))) {
        (Some(first), Some(last)) => format!("{first}...{last} (not in contacts)"),
        _ => number,
    }
}
