//! `contacts add|list|remove`.

use super::words::{print, print_json, say};
use super::{Common, Outcome};
use crate::clock::UnixMillis;
use crate::config::ChosenOverlay;
use crate::node::book::{Book, number_of};
use crate::record::{CARD_PREFIX, Judge, RejectReason, parse_card};
use crate::uri::IdHash;
use anyhow::Context;
use clap::Subcommand;
use serde::Serialize;

#[derive(Subcommand)]
pub(super) enum ContactsCommand {
    /// Give a number a short name
    Add {
        /// 1 to 32 of a-z 0-9 . _ -
        name: String,
        /// A number, an address, or a card (peerline:card/...)
        who: String,
    },
    /// List them
    List,
    /// Forget one
    Remove { name: String },
}

#[derive(Serialize)]
struct Shown {
    name: String,
    number: String,
    uri: String,
}

pub(super) fn contacts(common: &Common, command: ContactsCommand) -> anyhow::Result<Outcome> {
    let dir = common.dir()?;
    let book = Book::new(&dir);
    match command {
        ContactsCommand::Add { name, who } => {
            let user = if is_card(&who) {
                in_card(common, &who)?
            } else {
                number_of(&who).with_context(|| format!("`{who}`"))?
            };
            book.add_contact(&name, user)?;
            say(&format!("{name} is {}", user.grouped()));
        }
        ContactsCommand::Remove { name } => {
            book.remove_contact(&name)?;
            say(&format!("{name} is forgotten"));
        }
        ContactsCommand::List => {
            let overlay = ChosenOverlay::choose(&common.settings(None)?.overlay)?;
            let all: Vec<Shown> = book
                .contacts()?
                .into_iter()
                .map(|(name, user)| Shown {
                    name,
                    number: user.to_string(),
                    uri: format!("sip:{user}@{}", overlay.name),
                })
                .collect();
            if common.json {
                print_json(&all)?;
            } else {
                all.iter().for_each(|c| print(&format!("{:<16} {}", c.name, c.uri)));
            }
        }
    }
    Ok(Outcome::Done)
}

fn is_card(who: &str) -> bool {
    who.trim().get(..CARD_PREFIX.len()).is_some_and(|prefix| prefix.eq_ignore_ascii_case(CARD_PREFIX))
}

/// Whose card it is, once its signatures hold.
fn in_card(common: &Common, card: &str) -> anyhow::Result<IdHash> {
    let overlay = ChosenOverlay::choose(&common.settings(None)?.overlay)?;
    let judge = Judge { overlay: overlay.id, scope: overlay.scope, now: UnixMillis::now() };
    match parse_card(card, &judge) {
        Ok(card) => Ok(card.id),
        Err(RejectReason::WrongOverlay) => {
            anyhow::bail!("the card is for another overlay than {}: its owner cannot be called here", overlay.name)
        }
        Err(reason) => anyhow::bail!("the card is not valid ({reason}): ask for it again"),
    }
}
